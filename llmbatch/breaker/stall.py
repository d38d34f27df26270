"""Notice a provider that answers nobody: calls that are overdue while no other call is answered.

A call that its caller gives up once it is overdue (``wait_for`` around it) counts like one that still hangs, until the
next answer. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Hashable

from llmbatch.breaker.permit_state import PermitState

__all__ = ["StallWatch"]


class StallWatch:
    """Calls of one closed circuit that are unanswered. Not safe for concurrent use.

    *timeout*: seconds after which a call is overdue. *calls*: how many callers' overdue calls are a stall. Memory: one
    entry per call in flight, and at most *calls* of those that were given up.
    """

    __slots__ = ("_answered_at", "_calls", "_given_up", "_in_flight", "_timeout")

    def __init__(self, timeout: float, calls: int) -> None:
        self._timeout = timeout
        self._calls = calls
        self._in_flight: dict[PermitState, float] = {}
        """Admission times of calls in flight, oldest first."""
        self._given_up: set[Hashable] = set()
        """Callers whose overdue calls were released since the last answer."""
        self._answered_at = float("-inf")

    def admit(self, permit: PermitState, now: float) -> None:
        """Watch the call of *permit*, which begins now."""
        self._in_flight[permit] = now

    def remove(self, permit: PermitState) -> None:
        """Watch a call no more: it has ended."""
        self._in_flight.pop(permit, None)

    def answer(self, now: float) -> None:
        """Note that the provider answered a call."""
        self._answered_at = now
        self._given_up.clear()

    def give_up(self, permit: PermitState, now: float) -> bool:
        """Note that *permit* was released without an answer; return whether its call was overdue."""
        at = self._in_flight.pop(permit, now)
        if now - at <= self._timeout:
            return False
        if len(self._given_up) < self._calls:
            self._given_up.add(_caller(permit))
        return True

    def is_overdue(self, permit: PermitState, now: float) -> bool:
        """Whether the call of *permit* has taken longer than the timeout, without a part of its answer."""
        return permit.longest_wait is None and now - permit.at > self._timeout

    def clear(self) -> None:
        """Forget all calls: the circuit has changed its state."""
        self._in_flight.clear()
        self._given_up.clear()

    def reason_to_open(self, now: float) -> str:
        """Say why the circuit should open: enough overdue calls, and none answered for as long. Empty: it should not.

        O(overdue calls).
        """
        if now - self._answered_at <= self._timeout:
            return ""
        callers = set(self._given_up)
        for permit, at in self._in_flight.items():
            if len(callers) >= self._calls or now - at <= self._timeout:
                break
            callers.add(_caller(permit))
        if len(callers) < self._calls:
            return ""
        what = "a call has" if self._calls == 1 else f"{self._calls} calls have"
        return f"{what} been unanswered for {self._timeout:g} s"


def _caller(permit: PermitState) -> Hashable:
    """Who made the call. A call without a key is a caller of its own."""
    return permit if permit.key is None else permit.key
