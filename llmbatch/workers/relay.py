"""One process of ``--workers``: it tells its parent what it counts and what happens, and obeys its commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO, Final, Protocol

from llmbatch.core.errors import UsageError
from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    Event,
    LimitLearned,
    Notice,
    OutageEnded,
    OutageStarted,
    RetryPlanned,
    RowJudged,
    RowMoved,
    RowParked,
    RowsRequeued,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.report.fold import ProcessStats
from llmbatch.runner.control import parse_setting
from llmbatch.workers.messages import Happened, Message, Told, pack

__all__ = ["Controllable", "Relay", "obey", "sender"]

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
_DETAILS: Final = (RetryPlanned, RowParked, RowMoved, RowJudged, RowsRequeued)


class Controllable(Protocol):
    """What runs rows, as :class:`~llmbatch.runs.controls.RunnerControls`; all of it from any thread."""

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop reading and let requests in flight finish; with *now*, stop at once."""
        ...

    def pause(self) -> None:
        """Begin no call before :meth:`resume`."""
        ...

    def resume(self) -> None:
        """Go on after a pause."""
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


def obey(
    commands: BinaryIO,
    run: Controllable,
    leave: Callable[[], object],
    change: Callable[[dict[str, Any]], object],
) -> None:
    """Do with *run* what the parent says, from a thread of its own; if the parent has gone, stop at once.

    *leave* is called if the run does not end then. *change* gives the run other options, by name.
    """

    def read() -> None:
        for line in commands:
            # The parent has checked what it sends; whatever that was, later commands must still be heard.
            with contextlib.suppress(UsageError):
                _carry_out(line.decode(errors="replace"), run, change)
        run.stop(now=True)
        if not ended.wait(_LEAVE_AFTER_S):
            leave()

    ended = threading.Event()
    threading.Thread(target=read, name="llmbatch-parent", daemon=True).start()


def _carry_out(line: str, run: Controllable, change: Callable[[dict[str, Any]], object]) -> None:
    word, _, rest = line.strip().partition(" ")
    match word:
        case "pause":
            run.pause()
        case "resume":
            run.resume()
        case "set":
            typed = (setting.partition("=") for setting in rest.split())
            change(dict(parse_setting(name, text) for name, _, text in typed))
        case _:
            run.stop(signal=int(rest) or None, now=word == "now")


_LEAVE_AFTER_S: Final = 20.0
