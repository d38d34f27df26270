"""Runs a user's command for each announcement of a run: one at a time, in order, beside the run.

What goes wrong with the command is told, and changes nothing of the run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from llmbatch.core.events import ROW_EVENTS, CircuitChanged, Event, RunEnded
from llmbatch.notify.announce import Announcement, Announcer
from llmbatch.notify.command import TIME_LIMIT_S, run_shell
from llmbatch.report.words import shown

__all__ = ["Notifier"]

_log = logging.getLogger("llmbatch.notify")

MOST_WAITING = 100


class Notifier:
    """An observer that notifies by the shell's *words*. Enter it within the run's event loop, around the run.

    Leaving waits for the commands that are left, each for 30 s at most; a cancellation ends them. *say* tells people of
    a command that failed. *environ* is what commands get, and must not hold keys.
    """

    skips = ROW_EVENTS

    def __init__(
        self,
        words: str,
        announcer: Announcer,
        environ: Mapping[str, str],
        *,
        say: Callable[[str], None],
        limit: float = TIME_LIMIT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._words = words
        self._announcer = announcer
        self._environ = environ
        self.say = say
        self._limit = limit
        self._wall = wall
        self._waiting: deque[Announcement] = deque()
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def observe(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, CircuitChanged | RunEnded):
            self._add(self._announcer.observe(event, self._wall()))
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self._announcer.due_at
        if due_at is not None:
            self._timer = self._loop.call_at(due_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        # Loops may fire a tick early; then the same timer is set again.
        self._add(self._announcer.due(self._loop.time(), self._wall()))
        self._set_timer()

    def _add(self, found: list[Announcement]) -> None:
        for announcement in found:
            if len(self._waiting) >= MOST_WAITING and announcement.event not in ("finished", "stopped"):
                _log.warning("left out, as too many wait: %s", announcement.text)
                continue
            self._waiting.append(announcement)
        if self._waiting and self._task is None:
            self._task = self._loop.create_task(self._notify(), name="llmbatch notify")

    async def _notify(self) -> None:
        try:
            while self._waiting:
                await self._run(self._waiting.popleft())
        finally:
            self._task = None

    async def _run(self, announcement: Announcement) -> None:
        exit_code = announcement.fields["exit_code"]
        environ = {
            **self._environ,
            "NOTIFY_EVENT": announcement.event,
            "NOTIFY_TEXT": announcement.text,
            "NOTIFY_OUTPUT": str(announcement.fields["output"]),
            "NOTIFY_EXIT_CODE": "" if exit_code is None else str(exit_code),
        }
        try:
            ran = await run_shell(self._words, announcement.encoded(), environ, limit=self._limit)
        except (OSError, ValueError) as error:
            self.say(f"--notify could not be run: {error}")
            return
        for line in ran.output.splitlines():
            _log.info("%s: %s", announcement.event, line)
        if ran.exit_code:
            self.say(f"--notify failed with exit code {ran.exit_code}{_last_line(ran.output)}")
        elif ran.exit_code is None:
            self.say(f"--notify was stopped, as it took longer than {self._limit:g} s{_last_line(ran.output)}")

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None:
            return
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            self._task.cancel()
        task = self._task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {shown(lines[-1], 300)}" if lines else ""
