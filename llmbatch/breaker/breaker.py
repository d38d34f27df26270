"""CircuitBreaker: one lock around await-free code, for threads and event loops alike.

The call itself always runs outside the lock. Retries belong inside the call: exhausted retries are one failure.
"""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from llmbatch.breaker.core import Circuit, Permit, State, Verdict
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.policy import BreakerPolicy

__all__ = ["CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")


class CircuitBreaker:
    """Stops calls to something that fails, and lets single probes find out when it works again.

    ::

        breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=60.0, name="openai")
        try:
            reply = breaker.call(ask, prompt)  # or: await breaker.async_call(ask, prompt)
        except CircuitOpenError as error:
            ...  # ask was not called; come back in error.retry_after seconds

    ``closed``: every call passes; ``failure_threshold`` failures with no success between open it. ``open``: every call
    is refused for ``recovery_timeout`` seconds. ``half_open``: one call at a time passes, the probe; a good one closes
    the circuit (``success_threshold`` of them), a failed one opens it again.

    One instance may be shared between any number of threads and event loops; calls overlap, for only the bookkeeping
    is locked. A cancelled or interrupted call counts as nothing and gives its permit back. A call that began before
    the circuit opened decides nothing when it ends after. A probe that hangs is replaced after ``recovery_timeout``
    seconds, the next one after twice that, and so on; what the replaced one says is ignored.

    What counts is how the outermost call ends, so put into *fn* what belongs to one attempt: retries (when they are
    exhausted, that is one failure) and the timeout (``asyncio.timeout`` inside *fn* is a failure, around
    ``async_call`` it is a cancellation, which counts as nothing). A generator that *fn* returns counts as a success
    before its first item: consume it inside *fn*.

    Args:
        failure_threshold: consecutive failures that open the circuit, at least 1.
        recovery_timeout: seconds that it stays open before a probe may go, and that a probe may take, above 0.
        success_threshold: good probes that close it, at least 1.
        name: for messages.
        policy: all options at once, in place of the three above.
        count_error: which exceptions are failures; the others are neutral: they neither end a streak of failures nor
            add to it, and three probes that end so close the circuit. Default: every :class:`Exception`. Runs outside
            the lock; what it raises goes to the caller, and the call counts as nothing.
        clock: seconds, monotonic.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout: float = 60.0,
        success_threshold: int = 1,
        *,
        name: str = "",
        policy: BreakerPolicy | None = None,
        count_error: Callable[[Exception], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy or BreakerPolicy(
            failure_threshold=failure_threshold,
            recovery_timeout=recovery_timeout,
            success_threshold=success_threshold,
            probe_lease=recovery_timeout,
        )
        self.name = name
        self._count_error = count_error
        self._clock = clock
        # Reentrant: the garbage collector may close an abandoned async_call while its own thread holds the lock, and a
        # signal handler may ask for the state.
        self._lock = threading.RLock()
        self._circuit = Circuit(self.policy, chance=random.random)

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half_open``; an open circuit whose time is over is half-open."""
        with self._lock:
            return self._circuit.state(self._clock())

    @property
    def failures(self) -> int:
        """Consecutive failures; those that opened the circuit stand until it closes."""
        with self._lock:
            return self._circuit.failures

    def is_open(self) -> bool:
        """Whether calls are refused until the open time is over."""
        return self.state == "open"

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *fn* if the circuit lets it through, and count how it ends.

        Raises:
            CircuitOpenError: refused; *fn* was not called.
            TypeError: *fn* is a coroutine function, or returned an awaitable: nothing has happened yet that could be
                counted, and nothing is. Use ``async_call``.
        """
        if inspect.iscoroutinefunction(fn):
            raise TypeError(f"call() got the coroutine function {fn!r}, which it cannot watch: use async_call()")
        permit = self._acquire()
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            self._fail(permit, error)
            raise
        except BaseException:
            self._release(permit)
            raise
        if hasattr(result, "__await__"):
            self._release(permit)
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"call() got {fn!r}, which returned an awaitable: use async_call()")
        self._settle(permit, "success")
        return result

    async def async_call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await *fn* if the circuit lets it through, and count how it ends. Cancellation counts as nothing.

        Raises:
            CircuitOpenError: refused; *fn* was not called.
            TypeError: *fn* returned nothing to await; that counts as nothing. Use ``call``.
        """
        permit = self._acquire()
        try:
            awaitable = fn(*args, **kwargs)
            # The attribute first, because it is cheap; generators made awaitable by types.coroutine lack it.
            is_awaitable = hasattr(awaitable, "__await__") or inspect.isawaitable(awaitable)
            if is_awaitable:
                result = await awaitable
        except Exception as error:
            self._fail(permit, error)
            raise
        except BaseException:
            self._release(permit)
            raise
        if not is_awaitable:
            self._release(permit)
            raise TypeError(f"async_call() got {fn!r}, which returned nothing to await: use call()")
        self._settle(permit, "success")
        return result

    def _acquire(self) -> Permit:
        with self._lock:
            now = self._clock()
            permit = self._circuit.acquire(now)
            if permit is not None:
                return permit
            retry_after = self._circuit.retry_after(now)
            reason = self._circuit.reason
        raise CircuitOpenError(retry_after, name=self.name, reason=reason)

    def _fail(self, permit: Permit, error: Exception) -> None:
        try:
            counts = self._count_error is None or self._count_error(error)
        except BaseException:
            self._release(permit)
            raise
        self._settle(permit, "failure" if counts else "neutral")

    def _settle(self, permit: Permit, verdict: Verdict) -> None:
        with self._lock:
            self._circuit.settle(permit, verdict, self._clock())

    def _release(self, permit: Permit) -> None:
        with self._lock:
            self._circuit.release(permit)

    def __repr__(self) -> str:
        with self._lock:
            now = self._clock()
            state = self._circuit.state(now)
            wait = f", retry in {self._circuit.retry_after(now):.1f} s" if state != "closed" else ""
        return f"<CircuitBreaker {self.name or 'unnamed'} {state}{wait}>"
