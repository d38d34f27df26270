"""The set of finished rows, with four bytes of each row's hash, in memory.

Rows are kept by number in pages of 4,096, so that memory depends on the number of rows and not on the highest number;
rows of a shard by their place in it, and those of other shards are only counted.
The four bytes are the start of the row's hash: the chance that an edited row passes for the old one is one in four
billion.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal

from llmbatch.core.calls import record
from llmbatch.core.shards import WHOLE, Shard

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


@record
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
    """The finished rows of *shard*. One writer; not thread-safe. Every call takes constant time per row.

    Rows that are named by the first and their count are those of the shard from the first on. ``last`` is the highest
    row number, ``others`` counts rows of other shards that were added, and not kept. ``verified`` is the input that was
    compared with the hashes, so that this need not be done again (see
    :func:`~llmbatch.inputs.source.verify_finished`).
    """

    def __init__(self, shard: Shard = WHOLE) -> None:
        self.shard = shard
        self.success = 0
        self.failed = 0
        self.others = 0
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

        A row of another shard is only counted.

        Raises:
            ValueError: not a row number, or too far from the others to be in an output of llmbatch.
        """
        if number < 1:
            raise ValueError(f"{number} is not a row number")
        code = SUCCESS if status == "success" else FAILED
        return self.add_all((number,), (fingerprint(digest),), (code,)) == 1

    def add_all(self, numbers: Sequence[int], fingerprints: Sequence[int], statuses: Sequence[int]) -> int:
        """Add rows (numbers from 1) until one is already in the set; return how many were added.

        *statuses*: ``SUCCESS`` or ``FAILED`` for each row. Rows of other shards count as added.

        Raises:
            ValueError: as :meth:`add`; the rows before it have been added.
        """
        if self.shard.count == 1:
            return self._add_all(numbers, numbers, fingerprints, statuses)
        own = [at for at, number in enumerate(numbers) if self.shard.owns(number)]
        rows = [numbers[at] for at in own]
        places = list(map(self.shard.place, rows))
        entered = self._add_all(rows, places, [fingerprints[at] for at in own], [statuses[at] for at in own])
        added = own[entered] if entered < len(own) else len(numbers)
        self.others += added - entered
        return added

    def _add_all(
        self, numbers: Sequence[int], places: Sequence[int], fingerprints: Sequence[int], statuses: Sequence[int]
    ) -> int:
        key = -1
        entered = 0
        try:
            for place, kept in zip(places, fingerprints, strict=True):
                if place >> _PAGE_BITS != key:
                    page = self._pages.get(place >> _PAGE_BITS) or self._new_page(place)
                    key = place >> _PAGE_BITS
                at = place & _IN_PAGE
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

    def include(self, other: FinishedRows) -> int | None:
        """Add the rows that *other* keeps; None, or the number of the first one that is in both, and then no further.

        Every row of *other* belongs to this shard. Cost: as :meth:`add_all`.
        """
        success, failed = self.success + other.success, self.failed + other.failed
        for key, page in sorted(other._pages.items()):
            start = key << _PAGE_BITS
            numbers = [other.shard.number(start + at) for at, kept in enumerate(page) if kept]
            places = numbers if self.shard.count == 1 else list(map(self.shard.place, numbers))
            entered = self._add_all(numbers, places, [kept for kept in page if kept], ())
            if entered < len(numbers):
                return numbers[entered]
        self.success, self.failed = success, failed
        return None

    @property
    def lines(self) -> int:
        """How many rows were added, those of other shards too."""
        return self.success + self.failed + self.others

    def is_done(self, number: int) -> bool:
        """Whether the row is finished; of a row of another shard this is not known: False."""
        return self._kept(number) != 0

    def matches(self, number: int, digest: str) -> bool:
        """Whether a finished row was made from a line with this hash (16 hex digits)."""
        return self._kept(number) == fingerprint(digest)

    def _kept(self, number: int) -> int:
        if self.shard.count > 1:
            if not self.shard.owns(number):
                return 0
            number = self.shard.place(number)
        page = self._pages.get(number >> _PAGE_BITS)
        return 0 if page is None else page[number & _IN_PAGE]

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
        shard = self.shard
        after = shard.place(number)
        for key in sorted(self._pages):
            start = key << _PAGE_BITS
            if start + _IN_PAGE > after:
                page = enumerate(self._pages[key])
                yield from (shard.number(start + at) for at, kept in page if kept and start + at > after)

    def remove(self, numbers: Iterable[int], *, status: Literal["success", "failed"] = "failed") -> None:
        """Remove rows of one *status* whose lines were removed from the output, so that they are sent again."""
        removed = 0
        for number in numbers:
            if self.is_done(number):
                place = self.shard.place(number)
                self._pages[place >> _PAGE_BITS][place & _IN_PAGE] = 0
                removed += 1
        if status == "failed":
            self.failed -= removed
        else:
            self.success -= removed
        pages = ((key, page) for key, page in sorted(self._pages.items(), reverse=True) if any(page))
        key, page = next(pages, (0, array("I")))
        last = max((at for at, kept in enumerate(page) if kept), default=0) + (key << _PAGE_BITS)
        self.last = self.shard.number(last) if last else 0
        self.verified = None

    def are_done(self, first: int, count: int) -> bool:
        """Whether *count* rows from *first* on are all finished."""
        for key, start, end in _page_ranges(self.shard.place(first), count):
            page = self._pages.get(key)
            if page is None or 0 in page[start:end]:
                return False
        return True

    def fingerprints_of(self, first: int, count: int) -> array[int]:
        """The stored parts of the hashes of *count* rows from *first* on; 0 for rows that are not finished."""
        fingerprints = array("I")
        for key, start, end in _page_ranges(self.shard.place(first), count):
            page = self._pages.get(key)
            fingerprints += page[start:end] if page is not None else array("I", bytes(4 * (end - start)))
        return fingerprints

    def _new_page(self, place: int) -> array[int]:
        number = self.shard.number(place)
        if number > MAX_ROW:
            raise ValueError(f"{number} is not a row number")
        if len(self._pages) > _SPARE_PAGES + len(self) // _LEAST_ROWS_A_PAGE:
            raise ValueError(f"row {number} is too far from the rows before it")
        page = self._pages[place >> _PAGE_BITS] = array("I", bytes(4 * _PAGE_ROWS))
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

    def include(self, other: RowSet) -> None:
        """Add all rows of *other*."""
        for key, page in other._pages.items():
            mine = self._pages.get(key)
            self._pages[key] = bytearray(page if mine is None else map(int.__or__, mine, page))

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _SET_PAGE_BITS)
        return page is not None and bool(page[(number & _IN_SET_PAGE) >> 3] >> (number & 7) & 1)


class FailedRows:
    """The failed rows of an output: ``all`` of them, and those with an ``input_`` error (``input_errors``)."""

    def __init__(self) -> None:
        self.all = RowSet()
        self.input_errors = RowSet()

    def include(self, other: FailedRows) -> None:
        """Add all rows of *other*."""
        self.all.include(other.all)
        self.input_errors.include(other.input_errors)

    def add(self, number: int, *, is_input_error: bool) -> None:
        """Add a failed row."""
        self.all.add(number)
        if is_input_error:
            self.input_errors.add(number)


def _page_ranges(first: int, count: int) -> list[tuple[int, int, int]]:
    """The pages that hold *count* places from *first* on, each with the start and end of the places in it."""
    ranges = []
    at, end = first, first + count
    while at < end:
        key = at >> _PAGE_BITS
        stop = min(end, (key + 1) << _PAGE_BITS)
        ranges.append((key, at & _IN_PAGE, ((stop - 1) & _IN_PAGE) + 1))
        at = stop
    return ranges
