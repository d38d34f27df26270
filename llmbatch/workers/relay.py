"""One process of ``--workers``: it tells its parent what it counts and what happens, and obeys its commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO, Final, Protocol

from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    Event,
    LimitLearned,
    Notice,
    OutageEnded,
    OutageStarted,
    RetryPlanned,
    RowMoved,
    RowParked,
    RowsRequeued,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.report.fold import ProcessStats
from llmbatch.workers.messages import Happened, Message, Told, pack

__all__ = ["Relay", "Stoppable", "obey", "sender"]

_TELL_EVERY_S: Final = 0.5
_MOST_FAILURES_PER_TURN: Final = 20
_TOLD: Final = (
    RunStarted,
    RunStopping,
    Notice,
    CircuitChanged,
    OutageStarted,
    OutageEnded,
    LimitLearned,
    Throttled,
)
_DETAILS: Final = (RetryPlanned, RowParked, RowMoved, RowsRequeued)


class Stoppable(Protocol):
    """What runs rows."""

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop reading and let requests in flight finish; with *now*, stop at once. From any thread."""
        ...


class Relay:
    """An observer that tells the parent, by *send*, what *stats* count and what changes.

    Failed calls are told as examples: at most some in each turn. With *verbose* also what happens to single rows.
    """

    def __init__(self, send: Callable[[Message], None], stats: ProcessStats, *, verbose: int) -> None:
        self.send = send
        self._stats = stats
        self._verbose = verbose
        self._told_at = -1.0
        self._failures = 0

    def observe(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, CallEnded):
            if event.verdict in (None, "success") or self._failures >= _MOST_FAILURES_PER_TURN:
                return
            self._failures += 1
            self.send(Happened(event))
        elif isinstance(event, _TOLD) or (self._verbose and isinstance(event, _DETAILS)):
            self.send(Happened(event))

    def tell(self) -> None:
        """Tell what was counted, if anything has happened since."""
        self._failures = 0
        if self._stats.started is not None and self._stats.at != self._told_at:
            self._told_at = self._stats.at
            self.send(Told(self._stats.state()))

    @contextlib.asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tell what is counted twice a second, and at the end."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def again() -> None:
            nonlocal timer
            self.tell()
            timer = loop.call_later(_TELL_EVERY_S, again)

        timer = loop.call_later(_TELL_EVERY_S, again)
        try:
            yield
        finally:
            timer.cancel()
            self.tell()


def sender(fd: int) -> Callable[[Message], None]:
    """A function that sends messages through the descriptor *fd*.

    Without a parent, nothing: its end of the other pipe tells that it has gone.
    """

    def send(message: Message) -> None:
        data = memoryview(pack(message))
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(fd, data) :]

    return send


def obey(commands: BinaryIO, run: Stoppable, leave: Callable[[], object]) -> None:
    """Stop *run* when the parent says so, from a thread of its own; if the parent has gone, stop at once.

    *leave* is called if the run does not end then.
    """

    def read() -> None:
        for line in commands:
            word, _, number = line.decode(errors="replace").partition(" ")
            run.stop(signal=int(number) or None, now=word == "now")
        run.stop(now=True)
        if not ended.wait(_LEAVE_AFTER_S):
            leave()

    ended = threading.Event()
    threading.Thread(target=read, name="llmbatch-parent", daemon=True).start()


_LEAVE_AFTER_S: Final = 20.0
