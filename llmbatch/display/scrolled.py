"""Where the lines of the live picture are after the window has changed its size.

A window made lower pushes the top of the picture into the terminal's history, and one made higher brings it back above
the next picture; a narrower one wraps lines. This module counts rows, pure: it writes nothing. It reckons as tmux and
the terminals based on VTE do. One that brings nothing back has nothing above the top row, so that going up too far does
no harm there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Erasure", "Scrolled"]

T = TypeVar("T")


@dataclass(slots=True)
class Erasure(Generic[T]):
    """What to do before the next picture is drawn: erase *rows* rows upwards, and print *lines* again."""

    rows: int = 0
    """Rows from the cursor's up to the first that belongs to an old picture; at least 1 where there is one."""
    lines: list[T] = field(default_factory=list)


class Scrolled(Generic[T]):
    """Follows one picture, which is always the last on the screen, and the lines printed above it.

    ``T`` is what a printed line is. Sizes are columns and rows; the length of a line is in columns.
    """

    def __init__(self) -> None:
        self._picture: list[int] = []
        self._size = (0, 0)
        self._above: list[tuple[int, T | None]] = []
        """From the first line of an old picture in the history up to the picture: lengths, and the line if printed."""
        self._top = 0
        """Rows of ``_above`` on the screen, while there are any lines in it."""

    def printed(self, line: T, length: int) -> None:
        """A line was printed above the picture, which moved down by it."""
        if self._above:
            self._above.append((length, line))
            self._top += _rows(length, self._size[0])

    def drawn(self, lengths: Sequence[int], size: tuple[int, int]) -> None:
        """The picture was drawn, for a window of *size*."""
        self._picture, self._size = list(lengths), size
        if self._above:
            self._top = max(0, min(self._top, size[1] - len(lengths)))

    def resized(self, size: tuple[int, int]) -> Erasure[T]:
        """What to erase and print again in a window of *size*, before the next call of :meth:`drawn`."""
        width, height = size
        if not self._picture or size == self._size or width < 1 or height < 1:
            return Erasure()
        old_width, old_height = self._size
        self._size = size
        below = 0
        if self._above:
            drawn = sum(_rows(length, old_width) for length in self._picture)
            # Lower: blank rows below the cursor go first. Higher: rows of the history come in at the top.
            below = max(0, old_height - self._top - drawn - max(0, old_height - height))
        rows = sum(_rows(length, width) for length in self._picture)
        room = height - below - rows
        if room < 0:
            self._lose(-room, width)
            self._top = 0
            return Erasure(rows + room)
        return self._regain(rows, room, width)

    def _lose(self, rows: int, width: int) -> None:
        """The picture's first *rows* rows are in the history."""
        for length in self._picture:
            if rows <= 0:
                break
            taken = _rows(length, width)
            self._above.append((length if taken <= rows else rows * width, None))
            rows -= taken

    def _regain(self, rows: int, room: int, width: int) -> Erasure[T]:
        """Above the picture of *rows* rows, *room* rows of the screen may have lines of old pictures.

        Printed lines are erased and printed again where such a line stands above them. Of a line that is only partly on
        the screen, the rest stays.
        """
        first, erased, at = len(self._above), 0, 0
        for place in range(first - 1, -1, -1):
            length, line = self._above[place]
            at += _rows(length, width)
            if at > room:
                if line is None and at - _rows(length, width) < room:
                    self._above.insert(place, ((at - room) * width, None))
                    first, erased = place + 1, room
                break
            if line is None:
                first, erased = place, at
        lines = [line for _, line in self._above[first:] if line is not None]
        del self._above[first:]
        self._top = min(room - erased, sum(_rows(length, width) for length, _ in self._above))
        return Erasure(rows + erased, lines)


def _rows(length: int, width: int) -> int:
    return 1 + max(0, length - 1) // max(1, width)
