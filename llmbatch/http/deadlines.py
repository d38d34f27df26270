"""One timer for all calls in flight, which an answer that has come already outruns.

A process that was stopped (Ctrl-Z, a frozen container) or whose event loop was blocked finds deadlines that passed
meanwhile and answers that wait in its sockets. Those answers win.
"""

from __future__ import annotations

import asyncio
import math
import select
import sys

from llmbatch.core.errors import TransportError
from llmbatch.http.connection import Connection

__all__ = ["GRACE_SECONDS", "STOPPED_SECONDS", "Deadlines", "not_running"]

GRACE_SECONDS = 0.25
"""How much longer a call may take whose answer waits in the socket at its deadline."""

STOPPED_SECONDS = 1.0
"""A timer that fires so much too late tells that this process did not run."""

_TICK_SECONDS = 0.001
"""Event loops may fire a timer so much too early."""


class Deadlines:
    """The deadlines of the exchanges in flight, by their connections; belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[Connection, tuple[float, float]] = {}
        """When each is given up, and its time-out, negative once it was given longer."""
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, connection: Connection, when: float, *, seconds: float) -> None:
        """Fail *connection*'s exchange at *when*, *seconds* after it began, unless it is removed."""
        self._calls[connection] = (when, seconds)
        if when < self._rings_at:
            self._set(when)

    def remove(self, connection: Connection) -> None:
        """Forget the exchange; it may have been given up."""
        self._calls.pop(connection, None)

    def lateness(self, connection: Connection, now: float) -> float:
        """Seconds since the exchange should have been given up; negative before, and where there is none."""
        call = self._calls.get(connection)
        return -math.inf if call is None else now - call[0]

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, when: float) -> None:
        self.close()
        # A deadline that had passed when it was set does not tell that this process was stopped.
        self._rings_at = max(when, self._loop.time())
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Give up what is due. O(calls in flight), once each time that the next of them is due."""
        now = self._loop.time()
        stopped = now - self._rings_at
        for connection, (when, seconds) in list(self._calls.items()):
            if when > now + _TICK_SECONDS:
                continue
            if connection.is_answered:
                del self._calls[connection]
            elif seconds > 0 and _has_input(connection):
                self._calls[connection] = (now + GRACE_SECONDS, -seconds)
            elif stopped < STOPPED_SECONDS:
                words = f"no whole answer of {connection.place} within {abs(seconds):g} s"
                self._end(connection, TransportError("timeout", words, sent=connection.is_sent))
            else:
                self._end(connection, not_running(stopped, sent=connection.is_sent))
        self._timer, self._rings_at = None, math.inf
        if self._calls:
            self._set(min(when for when, _ in self._calls.values()))

    def _end(self, connection: Connection, error: TransportError) -> None:
        del self._calls[connection]
        connection.fail(error)


def not_running(seconds: float, *, sent: bool) -> TransportError:
    """The fault of a call whose time passed while this process did not run for *seconds*."""
    words = f"this process did not run for {seconds:.1f} s (it was stopped, or its event loop was blocked)"
    return TransportError("local", words, sent=sent)


def _has_input(connection: Connection) -> bool:
    """Whether bytes, or the end, wait in the socket. One system call."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    if sys.platform == "win32":
        return bool(select.select([sock.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
