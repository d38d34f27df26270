"""When calls in flight are given up: one timer for all of them, which an answer that has come already outruns.

A process that was stopped (Ctrl-Z, a frozen container) or whose event loop was blocked finds deadlines that passed
meanwhile and answers that wait in its sockets. Those answers win. It reads and judges nothing.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from llmbatch.errors import TransportError

if TYPE_CHECKING:
    from llmbatch.providers.protocol import AnswerProtocol

__all__ = ["GRACE_SECONDS", "STOPPED_SECONDS", "Deadlines", "not_running"]

GRACE_SECONDS = 0.25
"""How much longer a call may take whose answer waits in the socket at its deadline."""

STOPPED_SECONDS = 1.0
"""A timer that fires so much too late tells that this process did not run."""

_TICK_SECONDS = 0.001
"""Event loops may fire a timer so much too early."""


class Deadlines:
    """The deadlines of the exchanges in flight, by their connections; belongs to one event loop.

    Each ends its exchange by :meth:`AnswerProtocol.give_up`, which wakes the waiting coroutine whatever has become of
    the socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[AnswerProtocol, tuple[float, str, float]] = {}
        """When each is given up, whose answer it waits for, and its time-out, negative once it was given longer."""
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, protocol: AnswerProtocol) -> bool:
        return protocol in self._calls

    def add(self, protocol: AnswerProtocol, when: float, *, place: str, seconds: float) -> None:
        """Give *protocol*'s exchange with *place* up at *when*, *seconds* after it began, unless it is removed."""
        self._calls[protocol] = (when, place, seconds)
        if when < self._rings_at:
            self._set(when)

    def remove(self, protocol: AnswerProtocol) -> None:
        """Forget the exchange; it may have been given up."""
        self._calls.pop(protocol, None)

    def lateness(self, protocol: AnswerProtocol, now: float) -> float:
        """Seconds since the exchange should have been given up; negative before, and where there is none."""
        call = self._calls.get(protocol)
        return -math.inf if call is None else now - call[0]

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A deadline that had passed when it was set does not tell that this process was stopped.
        self._rings_at = max(when, self._loop.time())
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Give up what is due. O(calls in flight), once each time that the next of them is due."""
        now = self._loop.time()
        stopped = now - self._rings_at
        for protocol, (when, place, seconds) in list(self._calls.items()):
            if when > now + _TICK_SECONDS:
                continue
            if seconds > 0 and (protocol.is_answered or protocol.has_input):
                self._calls[protocol] = (now + GRACE_SECONDS, place, -seconds)
                continue
            del self._calls[protocol]
            if stopped < STOPPED_SECONDS:
                words = f"no whole answer of {place} within {abs(seconds):g} s"
                protocol.give_up(TransportError("timeout", words, sent=True))
            else:
                protocol.give_up(not_running(stopped, sent=True))
        self._timer, self._rings_at = None, math.inf
        if self._calls:
            self._set(min(when for when, _, _ in self._calls.values()))


def not_running(seconds: float, *, sent: bool) -> TransportError:
    """The fault of a call whose time passed while this process did not run for *seconds*."""
    words = f"this process did not run for {seconds:.1f} s (it was stopped, or its event loop was blocked)"
    return TransportError("local", words, sent=sent)
