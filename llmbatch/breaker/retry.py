"""Retry inside one call of the breaker, so that exhausted retries count as one failure.

A loop of its own around a breaker gets two things wrong: it hammers a circuit that has just opened, and one bad moment
counts several times. This one takes one permit for all attempts, and gives up as soon as its circuit changes.
Switch the retries of the SDK beneath off (``max_retries=0``), or they multiply with these.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from llmbatch.breaker.awaitables import UNSET, async_in_sync_error, is_unawaitable, sync_in_async_error
from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.classify import Judgement
from llmbatch.breaker.permit import Permit

__all__ = ["Retry"]

P = ParamSpec("P")
T = TypeVar("T")


class Retry:
    """Calls through *breaker*, several attempts to a call.

    ::

        retry = Retry(breaker, attempts=4)
        reply = await retry.async_call(ask, prompt)  # or retry.call(ask, prompt)

    What the breaker judges a ``failure`` or ``throttled`` is tried again after a wait; what is neutral, ignored or
    exhausted is not. The waits are exponential backoff with equal jitter (Brooker, "Exponential Backoff And Jitter",
    2015): ``b/2 + uniform(0, b/2)`` with ``b = min(longest_wait, first_wait · 2^(attempt - 1))``; a longer wait that
    the server names (``retry_after``) is kept to, unless it is over *longest_wait*: then the call fails at once. When
    the circuit changes, by opening or by hand, whoever waits wakes and fails at once with its last error. A probe gets
    one attempt.

    Holds no state of its own; may be shared between threads and loops as its breaker may. A cancellation during an
    attempt or a wait gives the permit back.

    Args:
        breaker: whose circuit this goes through.
        attempts: at most so many to a call, the first included, at least 1.
        first_wait: seconds, above 0.
        longest_wait: seconds, at least *first_wait*.

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
        """Call *fn* until it ends well, or there is no sense in trying it again.

        Raises:
            CircuitOpenError: refused; *fn* was not called.
        """
        breaker = self.breaker
        with breaker.acquire() as permit:
            for attempt in itertools.count(1):
                try:
                    result = fn(*args, **kwargs)
                except Exception as error:
                    judgement = _classify(permit, breaker.judge, error)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not permit.sleep(seconds):
                        permit.settle(judgement, error=error)
                        raise
                else:
                    if hasattr(result, "__await__"):
                        permit.release()
                        raise async_in_sync_error(fn, result)
                    judgement = _classify(permit, breaker.judge_result, result)
                    seconds = self._wait_after(attempt, judgement, permit)
                    if seconds is None or not permit.sleep(seconds):
                        permit.settle(judgement)
                        return result
            raise AssertionError  # the loop above ends by itself

    async def async_call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await *fn* until it ends well, or there is no sense in trying it again.

        Raises:
            CircuitOpenError: refused; *fn* was not called.
            TypeError: *fn* returned nothing to await; use ``call``.
        """
        breaker = self.breaker
        with breaker.acquire() as permit:
            for attempt in itertools.count(1):
                awaitable: object = UNSET
                try:
                    awaitable = fn(*args, **kwargs)
                    result = await awaitable
                except Exception as error:
                    if is_unawaitable(awaitable):
                        permit.release()
                        raise sync_in_async_error(fn) from None
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
            raise AssertionError  # the loop above ends by itself

    def _wait_after(self, attempt: int, judgement: Judgement, permit: Permit) -> float | None:
        """Seconds until the next attempt, None for no further one."""
        if judgement.verdict not in ("failure", "throttled") or attempt >= self.attempts or permit.is_probe:
            return None
        ceiling = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 1, 60))
        seconds = ceiling / 2 + random.uniform(0, ceiling / 2)
        named = judgement.retry_after
        if named is None or named <= seconds:
            return seconds
        return named if named <= self.longest_wait else None


def _classify(permit: Permit, judge: Callable[[T], Judgement], subject: T) -> Judgement:
    """What *judge* says; if it raises, that is the caller's trouble, and the call counts as nothing."""
    try:
        return judge(subject)
    except BaseException:
        permit.release()
        raise


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
