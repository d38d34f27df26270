"""The displays that say little: errors only, or nothing.

What they do not do: count. A run's summary is there without them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from llmbatch.core.events import ROW_EVENTS, Event, Notice
from llmbatch.display.phrases import shown
from llmbatch.display.safe_stream import write_line
from llmbatch.report.stats import RunStats

__all__ = ["NoDisplay", "QuietDisplay"]


class NoDisplay:
    """Shows nothing but what is asked for."""

    skips = ROW_EVENTS

    def __init__(self, stream: TextIO | None = None, *, verbose: int = 0, stats: RunStats | None = None) -> None:
        self._stream = stream

    def observe(self, event: Event) -> None:
        """Ignore *event*."""

    def show(self, text: str) -> None:
        """Print *text*, which somebody has asked for."""
        if self._stream is not None:
            write_line(self._stream, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None


class QuietDisplay(NoDisplay):
    """Shows notices that are errors, each with its hint."""

    def observe(self, event: Event) -> None:
        """Print *event* if it is an error that a person should read."""
        if isinstance(event, Notice) and event.level == "error" and self._stream is not None:
            write_line(self._stream, f"error: {shown(event.message)}")
            if event.hint:
                write_line(self._stream, f"hint: {shown(event.hint)}")
