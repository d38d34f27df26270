"""Progress displays (rich, plain, JSON, quiet), on standard error; the final summary; the texts of ``status``.

Everything it shows comes from events, through one
:class:`~llmbatch.report.stats.RunStats`. Importing this package loads neither rich nor any of the displays.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO, runtime_checkable

from llmbatch.core.events import Event
from llmbatch.report.stats import RunStats

__all__ = ["Display", "KeysDisplay", "ProgressKind", "make_display"]

ProgressKind = Literal["auto", "rich", "plain", "json", "none"]

DISPLAYS = {
    "rich": ("llmbatch.display.rich_display", "RichDisplay"),
    "plain": ("llmbatch.display.plain", "PlainDisplay"),
    "json": ("llmbatch.display.json_lines", "JsonDisplay"),
    "quiet": ("llmbatch.display.quiet", "QuietDisplay"),
    "none": ("llmbatch.display.quiet", "NoDisplay"),
}
"""Each kind's module and class, made as ``Class(stream, verbose=…, stats=…)``."""


class Display(Protocol):
    """A display: entered before the run, left after it, and fed every event in between.

    ``observe`` comes from one thread, the event loop's. Leaving gives the terminal back, whatever happened.
    """

    def observe(self, event: Event) -> None:
        """Take one event."""
        ...

    def show(self, text: str) -> None:
        """Print *text*, lines that are safe to show and that somebody has asked for; from any thread."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class KeysDisplay(Display, Protocol):
    """A display with a line that names the keys which control the run, while there are any."""

    def offer_keys(self, has_keys: bool) -> None:
        """Name the keys from now on, or no longer."""
        ...


def make_display(
    kind: ProgressKind,
    *,
    quiet: bool = False,
    verbose: int = 0,
    stream: TextIO | None = None,
    stats: RunStats | None = None,
) -> Display:
    """The display for *kind* on *stream* (default: standard error).

    ``auto`` is ``rich`` on a terminal and ``plain`` elsewhere, on a dumb terminal, and in CI; ``rich``
    needs UTF-8 and is ``plain`` without. ``quiet`` shows errors
    and nothing else. ``verbose`` 1 adds a line for each failed attempt, parked row and retry. *stats*: numbers that
    something else feeds, before this display sees the event; without it the display folds the events itself.
    """
    stream = sys.stderr if stream is None else stream
    name: str = kind
    if stream is None:
        name = "none"
    elif quiet:
        name = "quiet"
    elif kind == "auto":
        name = "rich" if is_live_terminal(stream, os.environ) else "plain"
    elif kind == "rich" and not is_utf8(stream):
        name = "plain"
    module, class_name = DISPLAYS[name]
    display: Callable[..., Display] = getattr(import_module(module), class_name)
    return display(stream, verbose=verbose, stats=stats)


def is_live_terminal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether lines on *stream* can be redrawn: a UTF-8 terminal that is neither dumb nor a CI job's log."""
    if environ.get("TERM", "").lower() in ("dumb", "unknown") or environ.get("CI", "").lower() not in (
        "",
        "0",
        "false",
    ):
        return False
    try:
        return stream.isatty() and is_utf8(stream)
    except ValueError:  # closed
        return False


def is_utf8(stream: TextIO) -> bool:
    """Whether *stream* takes every character; bars and marks need that."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
