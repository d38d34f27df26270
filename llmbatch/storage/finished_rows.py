"""The set of finished rows, with four bytes of each row's hash, in memory.

Rows are kept by number in pages of 4,096, so that memory depends on the number of rows and not on the highest number.
The four bytes are the start of the row's hash: the chance that an edited row passes for the old one is one in four
billion.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["FAILED", "MAX_ROW", "SUCCESS", "FailedRows", "FinishedRows", "RowSet", "Verified", "fingerprint"]

MAX_ROW: Final = 10**10
"""The highest row number accepted: no input has so many lines, but a file of another program may have such a number."""

SUCCESS: Final = 1
FAILED: Final = 2

_PAGE_BITS = 12
_PAGE_ROWS = 1 << _PAGE_BITS
_IN_PAGE = _PAGE_ROWS - 1
_SET_PAGE_BITS: Final = 15
_SET_PAGE_BYTES: Final = (1 << _SET_PAGE_BITS) // 8
_IN_SET_PAGE: Final = (1 << _SET_PAGE_BITS) - 1
# Pages that may be touched before they must be filled: bounds the memory that a file of scattered numbers can use.
_SPARE_PAGES = 4096
_LEAST_ROWS_A_PAGE = 16


@dataclass(frozen=True, slots=True)
class Verified:
    """An input file whose finished rows have all been compared with their hashes.

    ``identity`` is the file and its state (device, inode, size, time of change). Its first ``lines`` lines
    (``size_bytes`` bytes) are all finished.
    """

    identity: tuple[int, ...]
    lines: int
    size_bytes: int


def fingerprint(digest: str) -> int:
    """The stored part of a hash (16 hex digits): its first four bytes in native order; never 0."""
    return int.from_bytes(bytes.fromhex(digest[:8]), sys.byteorder) or 1


class FinishedRows:
    """The finished rows. One writer; not thread-safe. Every call takes constant time per row.

    ``last`` is the highest row number. ``verified`` is the input that was compared with the hashes, so that this need
    not be done again (see :func:`~llmbatch.inputs.source.verify_finished`).
    """

    def __init__(self) -> None:
        self.success = 0
        self.failed = 0
        self.last = 0
        self.verified: Verified | None = None
        self.failed_rows: Callable[[], FailedRows] | None = None
        """Reads the failed rows of the output; called once, if a row has changed. None: no row may change."""
        self.corrected: list[int] = []
        """Changed rows whose lines hold only an ``input_`` error; their lines are removed and they are sent."""
        self.resent: RowSet | None = None
        """Rows whose lines are removed before anything is sent, so that they may change; None: none."""
        self._failed_rows: FailedRows | None = None
        self._pages: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return self.success + self.failed

    def __repr__(self) -> str:
        return f"<FinishedRows {self.success} success, {self.failed} failed, last row {self.last}>"

    def add(self, number: int, digest: str, status: Literal["success", "failed"]) -> bool:
        """Add a row with its hash (16 hex digits); False, and no change, if it is already in the set.

        Raises:
            ValueError: not a row number, or too far from the others to be in an output of llmbatch.
        """
        if number < 1:
            raise ValueError(f"{number} is not a row number")
        code = SUCCESS if status == "success" else FAILED
        return self.add_all((number,), (fingerprint(digest),), (code,)) == 1

    def add_all(self, numbers: Sequence[int], fingerprints: Sequence[int], statuses: Sequence[int]) -> int:
        """Add rows (numbers from 1) until one is already in the set; return how many were added.

        *statuses*: ``SUCCESS`` or ``FAILED`` for each row.

        Raises:
            ValueError: as :meth:`add`; the rows before it have been added.
        """
        key = -1
        entered = 0
        try:
            for number, kept in zip(numbers, fingerprints, strict=True):
                if number >> _PAGE_BITS != key:
                    page = self._pages.get(number >> _PAGE_BITS) or self._new_page(number)
                    key = number >> _PAGE_BITS
                at = number & _IN_PAGE
                if page[at]:
                    break
                page[at] = kept or 1
                entered += 1
        finally:
            failed = statuses[:entered].count(FAILED)
            self.failed += failed
            self.success += entered - failed
            self.last = max(self.last, *numbers[:entered], 0)
        return entered

    def is_done(self, number: int) -> bool:
        """Whether the row is finished."""
        page = self._pages.get(number >> _PAGE_BITS)
        return page is not None and page[number & _IN_PAGE] != 0

    def matches(self, number: int, digest: str) -> bool:
        """Whether a finished row was made from a line with this hash (16 hex digits)."""
        page = self._pages.get(number >> _PAGE_BITS)
        return page is not None and page[number & _IN_PAGE] == fingerprint(digest)

    def may_change(self, number: int) -> bool:
        """Whether a changed row may be sent: it is resent anyway, or its line holds only an ``input_`` error.

        Adds the latter to ``corrected``.
        """
        if self.resent is not None and number in self.resent:
            return True
        rows = self._failed()
        if rows is None or number not in rows.input_errors:
            return False
        self.corrected.append(number)
        return True

    def has_failed(self, number: int) -> bool:
        """Whether the row is known to have failed, for the hint of a message."""
        rows = self._failed()
        return rows is not None and number in rows.all

    def _failed(self) -> FailedRows | None:
        if self._failed_rows is None and self.failed_rows is not None:
            self._failed_rows = self.failed_rows()
        return self._failed_rows

    def done_after(self, number: int) -> Iterator[int]:
        """The finished rows above *number*, in order."""
        for key in sorted(self._pages):
            start = key << _PAGE_BITS
            if start + _IN_PAGE > number:
                yield from (start + at for at, kept in enumerate(self._pages[key]) if kept and start + at > number)

    def remove(self, numbers: Iterable[int], *, status: Literal["success", "failed"] = "failed") -> None:
        """Remove rows of one *status* whose lines were removed from the output, so that they are sent again."""
        removed = 0
        for number in numbers:
            if self.is_done(number):
                self._pages[number >> _PAGE_BITS][number & _IN_PAGE] = 0
                removed += 1
        if status == "failed":
            self.failed -= removed
        else:
            self.success -= removed
        pages = ((key, page) for key, page in sorted(self._pages.items(), reverse=True) if any(page))
        key, page = next(pages, (0, array("I")))
        self.last = max((at for at, kept in enumerate(page) if kept), default=0) + (key << _PAGE_BITS)
        self.verified = None

    def are_done(self, first: int, count: int) -> bool:
        """Whether *count* rows from *first* on are all finished."""
        for key, start, end in _page_ranges(first, count):
            page = self._pages.get(key)
            if page is None or 0 in page[start:end]:
                return False
        return True

    def fingerprints_of(self, first: int, count: int) -> array[int]:
        """The stored parts of the hashes of *count* rows from *first* on; 0 for rows that are not finished."""
        fingerprints = array("I")
        for key, start, end in _page_ranges(first, count):
            page = self._pages.get(key)
            fingerprints += page[start:end] if page is not None else array("I", bytes(4 * (end - start)))
        return fingerprints

    def _new_page(self, number: int) -> array[int]:
        if number > MAX_ROW:
            raise ValueError(f"{number} is not a row number")
        if len(self._pages) > _SPARE_PAGES + len(self) // _LEAST_ROWS_A_PAGE:
            raise ValueError(f"row {number} is too far from the rows before it")
        page = self._pages[number >> _PAGE_BITS] = array("I", bytes(4 * _PAGE_ROWS))
        return page


class RowSet:
    """A set of row numbers, one bit per row, in pages of 4 KiB. Not thread-safe; every call takes constant time."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> None:
        """Add the row; no change if it is already in the set."""
        page = self._pages.get(number >> _SET_PAGE_BITS)
        if page is None:
            page = self._pages[number >> _SET_PAGE_BITS] = bytearray(_SET_PAGE_BYTES)
        page[(number & _IN_SET_PAGE) >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _SET_PAGE_BITS)
        return page is not None and bool(page[(number & _IN_SET_PAGE) >> 3] >> (number & 7) & 1)


class FailedRows:
    """The failed rows of an output: ``all`` of them, and those with an ``input_`` error (``input_errors``)."""

    def __init__(self) -> None:
        self.all = RowSet()
        self.input_errors = RowSet()

    def add(self, number: int, *, is_input_error: bool) -> None:
        """Add a failed row."""
        self.all.add(number)
        if is_input_error:
            self.input_errors.add(number)


def _page_ranges(first: int, count: int) -> list[tuple[int, int, int]]:
    """The pages that hold *count* rows from *first* on, each with the start and end of the rows in it."""
    ranges = []
    at, end = first, first + count
    while at < end:
        key = at >> _PAGE_BITS
        stop = min(end, (key + 1) << _PAGE_BITS)
        ranges.append((key, at & _IN_PAGE, ((stop - 1) & _IN_PAGE) + 1))
        at = stop
    return ranges
