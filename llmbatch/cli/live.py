"""What a run offers while it goes on: the socket beside its output. An observer, as the run has to have its lock first.

What a command does to the run is the same wherever it comes from: the socket, or a key.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, Unpack

from llmbatch.cli.terminal import is_interactive
from llmbatch.control.protocol import Answer, Command
from llmbatch.control.server import ControlServer
from llmbatch.control.unix_socket import HAS_SOCKETS
from llmbatch.core.errors import UsageError
from llmbatch.core.events import ROW_EVENTS, Event, RunStarted
from llmbatch.display import Display, KeysDisplay
from llmbatch.display.phrases import plural
from llmbatch.outputs.deferred import control_path, is_stream
from llmbatch.report.stats import RunStats
from llmbatch.runner.control import parse_setting
from llmbatch.runner.options import RunOptions
from llmbatch.runs.controls import Settings
from llmbatch.runs.event_loop import raise_file_limit

__all__ = ["KEYS_HELP", "Controllable", "LiveControl", "keys_in_terminal"]

KEYS_HELP = """keys:
  p       pause: requests in flight end, and no new one begins
  r       resume
  + -     a tenth more, or fewer, requests in flight
  q       finish the requests in flight and stop, as Ctrl-C; the same command resumes
  Ctrl-C  the same; once more: stop at once
from elsewhere: llmbatch pause, resume, set concurrency=80, drain OUTPUT"""


class Controllable(Protocol):
    """What runs the rows: a :class:`~llmbatch.BatchRunner`, or what stands for it where several processes do."""

    @property
    def options(self) -> RunOptions:
        """The options in force."""
        ...

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        ...

    def pause(self) -> None:
        """Begin no call before :meth:`resume`."""
        ...

    def resume(self) -> None:
        """Go on after a pause."""
        ...

    def set(self, **settings: Unpack[Settings]) -> None:
        """Change options.

        Raises:
            UsageError: one cannot be changed so; none was.
        """
        ...


class LiveControl:
    """The control of one run; call :meth:`begin` before it, and :meth:`close` after it. Belongs to its event loop."""

    skips = ROW_EVENTS

    def __init__(self, output: str) -> None:
        self._path = None if is_stream(output) or not HAS_SOCKETS else control_path(output)
        self._server: ControlServer | None = None
        self._runner: Controllable
        self._stats: RunStats
        self._drain: Callable[[], None]
        self._say: Callable[[str], None]

    def begin(
        self, runner: Controllable, stats: RunStats, *, drain: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        """Control *runner*; *drain* does what a first Ctrl-C does, *say* tells people."""
        self._runner, self._stats, self._drain, self._say = runner, stats, drain, say

    def observe(self, event: Event) -> None:
        """Listen once the run has begun. Where that cannot be done it goes on without."""
        if not isinstance(event, RunStarted) or self._path is None or event.total_rows == _done(event):
            return
        self._server = ControlServer(self._path, self.obey)
        try:
            self._server.start()
        except OSError as error:
            self._server = None
            why = error.strerror or str(error)
            self._say(f"this run takes no commands (llmbatch pause): {self._path} could not be made: {why}")

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    def obey(self, command: Command) -> Answer:
        """Carry out *command*.

        Raises:
            UsageError: it cannot be done, and nothing was changed.
        """
        match command.name:
            case "pause":
                return Answer(True, self.pause())
            case "resume":
                return Answer(True, self.resume())
            case "set":
                return Answer(True, self.set(command.values))
            case "drain":
                return Answer(True, self.drain())
            case _:
                return Answer(False, f"{command.name} is no command", "llmbatch --help lists the commands")

    def keys(self, show: Callable[[str], None]) -> dict[str, Callable[[], None]]:
        """What each key does; *show* prints lines."""

        def press(do: Callable[[], str]) -> Callable[[], None]:
            return lambda: self._try(do)

        return {
            "p": press(self.pause),
            "r": press(self.resume),
            "+": press(lambda: self.step(1)),
            "=": press(lambda: self.step(1)),
            "-": press(lambda: self.step(-1)),
            "q": press(self.drain),
            "?": lambda: show(KEYS_HELP),
        }

    def _try(self, do: Callable[[], str]) -> None:
        try:
            do()
        except UsageError as error:
            self._say(f"{error.message}; {error.hint}")

    def step(self, sign: int) -> str:
        """Raise or lower the concurrency by a tenth, at least by 1; gives what to say.

        Raises:
            UsageError: it is as high as it may be.
        """
        now = self._runner.options.concurrency
        wanted = max(1, now + sign * max(1, round(now / 10)))
        return self.change({"concurrency": wanted}) if wanted != now else f"concurrency is {now}"

    def pause(self) -> str:
        """Pause the run; gives what to say."""
        if self._runner.paused:
            return "it is paused already"
        self._runner.pause()
        flying = self._stats.snapshot().in_flight
        return f"paused; {plural(flying, 'request')} in flight may end" if flying else "paused"

    def resume(self) -> str:
        """Let the run go on; gives what to say."""
        if not self._runner.paused:
            return "it is not paused"
        self._runner.resume()
        return "resumed"

    def drain(self) -> str:
        """Stop the run as a first Ctrl-C does; gives what to say."""
        self._drain()
        return "stopping: requests in flight may finish (30 s at most); the run's command resumes it"

    def set(self, values: Mapping[str, str]) -> str:
        """Change options, by name, as typed; gives what to say.

        Raises:
            UsageError: one of them cannot be changed so; none was.
        """
        return self.change(dict(parse_setting(name, text) for name, text in values.items()))

    def change(self, values: dict[str, object]) -> str:
        """Change options, by name; gives what to say.

        Raises:
            UsageError: one of them cannot be changed so; none was.
        """
        before = self._runner.options
        self._runner.set(**values)  # type: ignore[arg-type]  # it checks them
        after = self._runner.options
        if after.concurrency > before.concurrency:
            raise_file_limit(after.concurrency)
        facts = [f"{name.replace('_', '-')} is {_shown(getattr(after, name))} from now on" for name in values]
        return "; ".join(facts)


def keys_in_terminal(live: LiveControl, display: Display) -> AbstractContextManager[None]:
    """Let keys control the run while the block lasts, if *display* names them and a person can type them."""
    if sys.platform != "win32" and isinstance(display, KeysDisplay) and is_interactive():
        from llmbatch.cli.keys import read_keys

        return read_keys(sys.stdin.fileno(), live.keys(display.show), on_change=display.offer_keys)
    return contextlib.nullcontext()


def _shown(value: object) -> str:
    if value is None:
        return "unlimited"
    return f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, int) else str(value)


def _done(event: RunStarted) -> int:
    return event.done_success + event.done_failed
