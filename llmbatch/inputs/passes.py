"""What a source remembers over its passes: which rows are finished, and where the next pass begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmbatch.core.calls import record
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.verify import compare, compare_line
from llmbatch.storage.finished_rows import FinishedRows, RowSet

__all__ = ["FinishedInput", "Mark", "Passes"]


@record
class Mark:
    """Position and hash of a row when it was read."""

    number: int
    offset: int
    size: int
    hash: str

    @classmethod
    def of(cls, row: Row) -> Mark:
        """Where and what *row* was."""
        return cls(row.number, row.offset, row.size, row.hash)


class FinishedInput:
    """Rows that have their output line: those of earlier runs (*before*), and this run's, at one bit per row.

    ``is_verified``: the hashes of the former are known to be right.
    """

    __slots__ = ("_now", "before", "is_verified")

    def __init__(self, before: FinishedRows | None) -> None:
        self.before = before or None
        self.is_verified = False
        self._now = RowSet()

    def __contains__(self, number: int) -> bool:
        return number in self._now or (self.before is not None and self.before.is_done(number))

    def add(self, number: int) -> None:
        """Note a row of this run. Constant time."""
        self._now.add(number)

    def none_from(self, first: int) -> bool:
        """Whether no row from number *first* on has its line from an earlier run."""
        return self.before is None or self.before.last < first

    def check(self, name: str, first: int, lines: Sequence[bytes | LongLine]) -> None:
        """Compare the rows of earlier runs among *lines* with their hashes, unless those are known to be right.

        Raises:
            InputError: one has changed.
        """
        if self.before is not None and not self.is_verified:
            compare(name, first, lines, self.before)

    def check_line(self, name: str, number: int, line: bytes | LongLine) -> None:
        """The same, of one line, which is known to be a row of an earlier run.

        Raises:
            InputError: it has changed.
        """
        if self.before is not None and not self.is_verified:
            compare_line(name, number, line, self.before)


class Passes:
    """The passes after the first: ``rows`` of the one under way, and where the ``first`` row of the next one stands.

    ``skipped``: rows that were left for the next one. ``first_has_ended``: the first pass had read all.
    """

    __slots__ = ("_place", "first", "first_has_ended", "rows", "skipped")

    def __init__(self) -> None:
        self.rows: Iterator[Row | Malformed | None] | None = None
        self.skipped = 0
        self.first: Mark | None = None
        self.first_has_ended = False
        self._place = 0

    def skip(self, row: Row, place: int) -> None:
        """Leave *row* for the next pass, in which it stands at *place*."""
        self.skipped += 1
        if self.first is None or place < self._place:
            self.first, self._place = Mark.of(row), place

    def begin(self, rows: Iterator[Row | Malformed | None], *, is_exhausted: bool) -> None:
        """Start a pass over *rows*. *is_exhausted*: whether the one before it has read all."""
        self.first_has_ended = self.first_has_ended or (is_exhausted and self.rows is None)
        self.rows = rows
        self.first = None
        self.skipped = 0
