"""Progress on a terminal: a dozen lines that redraw in place, and above them the lines that stay.

A thread of its own draws, five times a second at most, so that a terminal that hangs (Ctrl-S) stops the picture and
never the run. What is shown is decided in :mod:`llmbatch.display.frame`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self, TextIO

from rich.cells import cell_len
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from llmbatch.core.events import CallEnded, CallSent, Event, LimitChanged, Progress, RowFinished
from llmbatch.display.console import terminal_console
from llmbatch.display.frame import frame
from llmbatch.display.log_lines import LogLine, LogLines
from llmbatch.display.phrases import plural, stamp
from llmbatch.display.scrolled import Scrolled
from llmbatch.display.ticker import RunClock, Ticker
from llmbatch.report.stats import RunStats

__all__ = ["RichDisplay"]

_REDRAW_S = 0.2
_RESIZE_S = 0.4
"""Nothing is drawn for so long after each change of the size: tmux tells the second of two up to 0.25 s late, and
a picture that is higher than the window would scroll."""
_MOST_LINES_WAITING = 500
_MOST_BLOCKS_WAITING = 20
_FREQUENT = (CallSent, CallEnded, RowFinished, Progress, LimitChanged)
_LEVELS = {"info": "", "warning": "yellow", "error": "bold red"}


class RichDisplay:
    """The live display. ``observe`` comes from one thread and never writes; a daemon thread draws.

    Leaving erases the picture (the closing summary takes its place), prints what still waits, and gives back the
    cursor, standard error and the log handlers that wrote to it.
    """

    def __init__(self, stream: TextIO, *, verbose: int = 0, stats: RunStats | None = None) -> None:
        self._is_fed = stats is not None
        self._stats = RunStats() if stats is None else stats
        self._stream = stream
        self._passes_frequent = verbose > 0
        self._news = LogLines(verbose=verbose)
        self._lines: deque[tuple[float, LogLine]] = deque(maxlen=_MOST_LINES_WAITING)
        self._lost = 0
        self._blocks: deque[str] = deque(maxlen=_MOST_BLOCKS_WAITING)
        self._clock = RunClock()
        self._last = Text("")  # before Live, which asks for a picture when it is made
        self._scrolled: Scrolled[Text] = Scrolled()
        self._console = terminal_console(stream)
        self._size = self._console.size
        self._resized_at = float("-inf")
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            get_renderable=self._picture,
            redirect_stderr=stream is sys.stderr,
            # Results may go to standard output: only what a terminal shows is moved above the picture.
            redirect_stdout=stream is sys.stderr and sys.stdout is not None and sys.stdout.isatty(),
        )
        self._ticker = Ticker(self._redraw, interval_s=_REDRAW_S)
        self._moved: list[logging.StreamHandler[TextIO]] = []
        self._has_keys = False

    def offer_keys(self, has_keys: bool) -> None:
        """Name the keys that control the run in the last line, or no longer."""
        self._has_keys = has_keys

    def show(self, text: str) -> None:
        """Print *text* above the picture."""
        self._blocks.append(text)

    def observe(self, event: Event) -> None:
        """Take one event."""
        if not self._is_fed:
            self._stats.observe(event)
        if isinstance(event, _FREQUENT) and not self._passes_frequent:
            return
        line = self._news.line(event)
        if line is not None:
            if len(self._lines) == _MOST_LINES_WAITING:
                self._lost += 1
            self._lines.append((time.time(), line))

    def _picture(self) -> Text:
        # A frame that cannot be drawn, whatever the reason, leaves the one before in place.
        with contextlib.suppress(Exception):
            now = self._clock.now(self._stats.at)
            width, height = self._console.size
            self._last = frame(
                self._stats.snapshot(now),
                self._stats.history(30, now),
                width=width - 1,
                height=height - 1,
                has_keys=self._has_keys,
            )
            self._scrolled.drawn([cell_len(line) for line in self._last.plain.split("\n")], (width, height))
        return self._last

    def _redraw(self) -> None:
        size = self._console.size
        if size != self._size:
            self._size, self._resized_at = size, time.monotonic()
        if time.monotonic() - self._resized_at < _RESIZE_S:
            return
        self._erase_moved()
        self._print_lines()
        self._live.refresh()

    def _erase_moved(self) -> None:
        """After the window has changed its size, erase what rich, which goes up by the lines it drew, would not."""
        drawn = self._last.plain.count("\n") + 1
        erasure = self._scrolled.resized(self._console.size)
        more = erasure.rows - drawn
        if more > 0:
            erase, up = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase, *((up, erase) * more)))
        if erasure.rows:
            self._live.refresh()  # for a print draws the picture as it was, which may be higher than the window
            self._print_above(erasure.lines)

    def _print_lines(self) -> None:
        texts = []
        while self._lines:
            wall, line = self._lines.popleft()
            texts.append(Text.assemble((f"{stamp(wall)}  ", "dim"), (line.text, _LEVELS[line.level])))
        if self._lost:
            lost, self._lost = self._lost, 0
            texts.append(Text(f"({plural(lost, 'line')} left out)", style="dim"))
        while self._blocks:
            texts += [Text(line) for line in self._blocks.popleft().split("\n")]
        self._print_above(texts)

    def _print_above(self, texts: list[Text]) -> None:
        if not texts:
            return
        width = self._console.width
        texts = [line for text in texts for line in text.wrap(self._console, width, overflow="fold")]
        for text in texts:
            self._scrolled.printed(text, text.cell_len)
        # In one piece, since each print draws the picture anew.
        self._console.print(Text("\n").join(texts), overflow="fold")

    def __enter__(self) -> Self:
        self._live.start()
        self._move_log_handlers()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ticker.stop()
        self._erase_moved()
        self._print_lines()
        for handler in self._moved:
            handler.setStream(self._stream)
        self._moved.clear()
        self._live.stop()

    def _move_log_handlers(self) -> None:
        # A handler made before the picture holds the bare stream, and its lines would tear the picture.
        if sys.stderr is self._stream:
            return
        for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
            for handler in getattr(logger, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                    handler.setStream(sys.stderr)
                    self._moved.append(handler)
