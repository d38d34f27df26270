"""Writing to a terminal, a pipe or a log without ever failing a run.

What it does not do: escape what could steer a terminal; that is :func:`llmbatch.display.phrases.shown`.
"""

from __future__ import annotations

import io
from typing import TextIO

__all__ = ["SafeStream", "write_line"]


def write_line(stream: TextIO, line: str) -> None:
    """Write *line* and flush. What the encoding lacks is escaped; a reader that went away changes nothing."""
    _write(stream, line + "\n")


class SafeStream(io.TextIOBase):
    """Hands text on to *target* as :func:`write_line` does, and falls silent once that has failed."""

    def __init__(self, target: TextIO) -> None:
        self._target: TextIO | None = target
        self._encoding = target.encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The target's encoding."""
        return self._encoding

    def write(self, text: str) -> int:
        """Write *text* and flush, or forget it."""
        if self._target is not None and not _write(self._target, text):
            self._target = None
        return len(text)


def _write(stream: TextIO, text: str) -> bool:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        stream.flush()
    except (OSError, ValueError):
        return False
    return True
