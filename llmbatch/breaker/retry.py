"""Retry inside one call of the breaker, so that exhausted retries count as one failure.

A retry loop around a breaker goes wrong twice: it keeps calling a circuit that has just opened, and one bad moment
counts as several failures. :class:`Retry` takes one permit for all attempts and gives up when its circuit changes.
Switch off the retries of the SDK (``max_retries=0``), or the two multiply.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from llmbatch.breaker.awaitables import UNSET, is_unawaitable, sync_in_async_error, wrong_result_error
from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.classify import Judgement
from llmbatch.breaker.permit import Permit

__all__ = ["Retry"]

P = ParamSpec("P")
T = TypeVar("T")


class Retry:
    """Calls through *breaker* with several attempts per call.

    ::

        retry = Retry(breaker, attempts=4)
        reply = await retry.async_call(ask, prompt)  # or retry.call(ask, prompt)

    Outcomes classified as ``failure`` or ``throttled`` are retried after a wait; others are not. The waits are
    exponential backoff with equal jitter (Brooker, "Exponential Backoff And Jitter", 2015): ``b/2 + uniform(0, b/2)``
    with ``b = min(longest_wait, first_wait · 2^(attempt - 1))``. A longer wait that the server names (``retry_after``)
    is obeyed, but if it is above *longest_wait*, the call fails at once. When the circuit changes its state, calls that
    wait fail at once with their last error. A probe gets one attempt.

    Has no state of its own and can be shared between threads and event loops. A cancellation during an attempt or a
    wait releases the permit.

    Args:
        breaker: the breaker whose circuit admits the calls.
        attempts: maximum attempts per call, the first included, at least 1. Default: 3.
        first_wait: base of the backoff in seconds, above 0. Default: 0.5.
        longest_wait: longest wait between attempts in seconds, at least *first_wait*. Default: 20.

    Raises:
        ValueError: an option is out of range.
    """

    __slots__ = ("attempts", "breaker", "first_wait", "longest_wait")

    def __init__(
        self, breaker: CircuitBreaker, *, attempts: int = 3, first_wait: float = 0.5, longest_wait: float = 20.0
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ValueError(f"attempts is {attempts!r}, must be a whole number of at least 1")
        if not (_is_seconds(first_wait) and first_wait > 0):
            raise ValueError(f"first_wait is {first_wait!r}, must be a finite number of seconds above 0")
        if not (_is_seconds(longest_wait) and longest_wait >= first_wait):
            raise ValueError(
                f"longest_wait is {longest_wait!r}, must be a finite number of seconds, "
                f"at least first_wait ({first_wait!r})"
            )
        self.breaker = breaker
        self.attempts = attempts
        self.first_wait = first_wait
        self.longest_wait = longest_wait

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *fn* until it succeeds, its outcome is not to be retried, or no attempt is left.

        Raises:
            CircuitOpenError: the call was refused; *fn* was not called.
        """
        breaker = self.breaker
        with breaker.acquire() as permit:
            attempt = 0
            while True:
                attempt += 1
                try:
                    result = fn(*args, **kwargs)
                except Exception as error:
                    judgement = _classify(permit, breaker.judge, error)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not permit.sleep(seconds):
                        permit.settle(judgement, error=error)
                        raise
                else:
                    if (wrong := wrong_result_error(fn, result)) is not None:
                        permit.release()
                        raise wrong
                    judgement = _classify(permit, breaker.judge_result, result)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not permit.sleep(seconds):
                        permit.settle(judgement)
                        return result

    async def async_call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await *fn* until it succeeds, its outcome is not to be retried, or no attempt is left.

        Raises:
            CircuitOpenError: the call was refused; *fn* was not called.
            TypeError: *fn* did not return an awaitable; use ``call``.
        """
        breaker = self.breaker
        with breaker.acquire() as permit:
            attempt = 0
            while True:
                attempt += 1
                awaitable: object = UNSET
                try:
                    awaitable = fn(*args, **kwargs)
                    result = await awaitable
                except Exception as error:
                    if is_unawaitable(awaitable):
                        permit.release()
                        raise sync_in_async_error(fn, awaitable) from None
                    judgement = _classify(permit, breaker.judge, error)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not await permit.sleep_async(seconds):
                        permit.settle(judgement, error=error)
                        raise
                else:
                    judgement = _classify(permit, breaker.judge_result, result)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not await permit.sleep_async(seconds):
                        permit.settle(judgement)
                        return result

    def _wait_after(self, attempt: int, judgement: Judgement, permit: Permit) -> float | None:
        """Seconds until the next attempt; None for no further attempt."""
        if judgement.verdict not in ("failure", "throttled") or attempt >= self.attempts or permit.is_probe:
            return None
        ceiling = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 1, 60))
        seconds = ceiling / 2 + random.uniform(0, ceiling / 2)
        named = judgement.retry_after
        if named is None or named <= seconds:
            return seconds
        return named if named <= self.longest_wait else None


def _classify(permit: Permit, judge: Callable[[T], Judgement], subject: T) -> Judgement:
    """Classify *subject* by *judge*. If that raises, the caller gets its exception and the call is not counted."""
    try:
        return judge(subject)
    except BaseException:
        permit.release()
        raise


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
