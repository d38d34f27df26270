"""Decide by the failure rate and the slow-call rate of a window of calls whether a circuit should open.

Every recorded call is looked at, also a success: it may complete ``minimum_calls``, and in a window of time older
successes may have left. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Hashable

from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.window import CountWindow, TimeWindow

__all__ = ["Rates"]


class Rates:
    """Window and rates of one closed circuit. Not safe for concurrent use."""

    __slots__ = ("_failure_rate", "_minimum_calls", "_policy", "_slow_call_rate", "_window")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        # Read for every call: attributes of their own are quicker than those of a policy.
        self._minimum_calls = policy.minimum_calls
        self._failure_rate = policy.failure_rate
        self._slow_call_rate = policy.slow_call_rate
        self._window = (
            CountWindow(policy.rate_window) if policy.rate_seconds is None else TimeWindow(policy.rate_seconds)
        )

    @property
    def awaits_calls(self) -> bool:
        """Whether successes alone would open the circuit, by completing ``minimum_calls`` in a window of calls.

        In a window of time each success is looked at anyway.
        """
        window = self._window
        return (
            isinstance(window, CountWindow)
            and self._failure_rate is not None
            and window.calls < self._minimum_calls
            and window.failed / self._minimum_calls >= self._failure_rate
        )

    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls in the window at *now*, how many of them failed, and how many were slow."""
        window = self._window
        window.forget(now)
        return window.calls, window.failed, window.slow

    def clear(self) -> None:
        """Drop all calls."""
        self._window.clear()

    def add_successes(self, count: int) -> bool:
        """Record *count* successes at once, if that can open nothing; else return False and record none."""
        if not isinstance(self._window, CountWindow) or self.awaits_calls:
            return False
        self._window.add_successes(count)
        return True

    def add(self, now: float, key: Hashable, *, failed: bool, slow: bool) -> str:
        """Record a call that ended at *now*; return why the circuit should open. Empty: it should not."""
        window = self._window
        window.add(now, key, failed=failed, slow=slow)
        calls = window.calls
        if calls < self._minimum_calls:
            return ""
        # The quotients, not `failed >= rate * calls`: 0.07 * 100 is above 7.
        if self._failure_rate is not None and window.failed / calls >= self._failure_rate:
            return f"{window.failed} of {self._span()} failed"
        if self._slow_call_rate is not None and window.slow / calls >= self._slow_call_rate:
            return f"{window.slow} of {self._span()} took over {self._policy.slow_call_duration:g} s"
        return ""

    def _span(self) -> str:
        calls, seconds = self._window.calls, self._policy.rate_seconds
        return f"the last {calls} calls" if seconds is None else f"{calls} calls in {seconds:g} s"
