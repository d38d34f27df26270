"""Deadlines of all calls in flight, with one timer; a response that has already arrived wins over its deadline.

After a process was stopped (Ctrl-Z, a frozen container) or its event loop was blocked, deadlines have passed and
responses are waiting in the sockets. These responses are read.
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
"""Extra seconds for a call whose response is waiting in the socket at its deadline."""

STOPPED_SECONDS = 1.0
"""Seconds of delay of the timer from which this process counts as having been stopped."""

_TICK_SECONDS = 0.001
"""Seconds by which an event loop may fire a timer too early."""


class Deadlines:
    """The deadlines of the exchanges in flight, by their connections; belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[Connection, tuple[float, float]] = {}
        """The deadline of each, and its timeout, negative once it was extended."""
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, connection: Connection, when: float, *, seconds: float) -> None:
        """Fail the exchange of *connection* at *when*, *seconds* after it began, unless it is removed before."""
        self._calls[connection] = (when, seconds)
        if when < self._rings_at:
            self._set(when)

    def remove(self, connection: Connection) -> None:
        """Remove the exchange; it may have timed out already."""
        self._calls.pop(connection, None)

    def lateness(self, connection: Connection, now: float) -> float:
        """Seconds since the deadline of the exchange; negative before it, and if there is none."""
        call = self._calls.get(connection)
        return -math.inf if call is None else now - call[0]

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, when: float) -> None:
        self.close()
        # A deadline that had passed when it was set does not mean that this process was stopped.
        self._rings_at = max(when, self._loop.time())
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Fail the exchanges that are due. O(calls in flight) each time the earliest deadline passes."""
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
                words = f"no complete answer from {connection.place} within {abs(seconds):g} s"
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
    """The fault of a call whose deadline passed while this process was stopped for *seconds*."""
    words = f"this process was stopped, or its event loop blocked, for {seconds:.1f} s"
    return TransportError("local", words, sent=sent)


def _has_input(connection: Connection) -> bool:
    """Whether the socket has unread bytes, or has ended. One system call."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    if sys.platform == "win32":
        return bool(select.select([sock.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
