"""Which rows have their line in the output, and from which input line each was made.

Rows are kept by number in pages of 4,096, nine bytes a row, so that memory follows the rows that are there and not
their highest number. Does not read files.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["FAILED", "MAX_ROW", "SUCCESS", "Ledger", "Verified"]

MAX_ROW: Final = 10**10
"""The highest row number taken: an input of so many lines does not exist, a foreign file with such a number does."""

SUCCESS: Final = 1
FAILED: Final = 2

_PAGE_BITS = 12
_PAGE_ROWS = 1 << _PAGE_BITS
_IN_PAGE = _PAGE_ROWS - 1
# Pages that may be touched before they must be filled: bounds what a file of far scattered numbers can allocate.
_SPARE_PAGES = 4096
_LEAST_ROWS_A_PAGE = 16


@dataclass(frozen=True, slots=True)
class Verified:
    """An input file of which every finished row was compared with its hash.

    ``identity`` tells the file and its state (device, inode, size, time of change). Its first ``lines`` lines, which
    take ``size_bytes``, are all finished.
    """

    identity: tuple[int, ...]
    lines: int
    size_bytes: int


class _Page:
    __slots__ = ("hashes", "marks")

    def __init__(self) -> None:
        self.marks = bytearray(_PAGE_ROWS)
        self.hashes = array("Q", bytes(8 * _PAGE_ROWS))


class Ledger:
    """The finished rows. One writer; not safe between threads. Every call takes constant time a row.

    ``last`` is the highest row number. ``verified`` is the input that was compared with the hashes, so that nobody
    needs to do it again (see :func:`~llmbatch.files.reader.verify_finished`).
    """

    def __init__(self) -> None:
        self.success = 0
        self.failed = 0
        self.last = 0
        self.verified: Verified | None = None
        self._pages: dict[int, _Page] = {}

    def __len__(self) -> int:
        return self.success + self.failed

    def __repr__(self) -> str:
        return f"<Ledger {self.success} success, {self.failed} failed, last row {self.last}>"

    def add(self, number: int, digest: str, status: Literal["success", "failed"]) -> bool:
        """Enter a row with its hash (16 hex digits); False, and nothing changed, if it is there already.

        Raises:
            ValueError: the number is no row number, or too far from the others to come from one of our files.
        """
        if number < 1:
            raise ValueError(f"{number} is not a row number")
        mark = SUCCESS if status == "success" else FAILED
        return self.add_all((number,), (int(digest, 16),), (mark,)) == 1

    def add_all(self, numbers: Sequence[int], digests: Sequence[int], marks: Sequence[int]) -> int:
        """Enter rows (numbers from 1) until one is there already; gives how many. Marks: ``SUCCESS``, ``FAILED``.

        Raises:
            ValueError: as :meth:`add`; the rows before it are entered.
        """
        key = -1
        entered = 0
        try:
            for number, digest, mark in zip(numbers, digests, marks, strict=True):
                if number >> _PAGE_BITS != key:
                    page = self._pages.get(number >> _PAGE_BITS) or self._new_page(number)
                    key, page_marks, page_hashes = number >> _PAGE_BITS, page.marks, page.hashes
                at = number & _IN_PAGE
                if page_marks[at]:
                    break
                page_marks[at] = mark
                page_hashes[at] = digest
                entered += 1
        finally:
            failed = marks[:entered].count(FAILED)
            self.failed += failed
            self.success += entered - failed
            self.last = max(self.last, *numbers[:entered], 0)
        return entered

    def is_done(self, number: int) -> bool:
        """Whether the row has its line."""
        page = self._pages.get(number >> _PAGE_BITS)
        return page is not None and page.marks[number & _IN_PAGE] != 0

    def hash_of(self, number: int) -> str | None:
        """The hash that a finished row was made from, as 16 hex digits; None for a row that is not finished."""
        page = self._pages.get(number >> _PAGE_BITS)
        at = number & _IN_PAGE
        return None if page is None or not page.marks[at] else f"{page.hashes[at]:016x}"

    def are_done(self, first: int, count: int) -> bool:
        """Whether *count* rows from *first* on all have their lines."""
        for key, start, end in _page_ranges(first, count):
            page = self._pages.get(key)
            if page is None or page.marks.count(0, start, end):
                return False
        return True

    def hashes_of(self, first: int, count: int) -> bytes:
        """The hashes of *count* rows from *first* on, eight bytes each; zeros for rows that are not finished."""
        parts: list[bytes] = []
        for key, start, end in _page_ranges(first, count):
            page = self._pages.get(key)
            hashes = page.hashes[start:end] if page is not None else array("Q", bytes(8 * (end - start)))
            if sys.byteorder == "little":
                hashes.byteswap()
            parts.append(hashes.tobytes())
        return b"".join(parts)

    def _new_page(self, number: int) -> _Page:
        if number > MAX_ROW:
            raise ValueError(f"{number} is not a row number")
        if len(self._pages) > _SPARE_PAGES + len(self) // _LEAST_ROWS_A_PAGE:
            raise ValueError(f"row {number} is too far from the rows before it")
        page = self._pages[number >> _PAGE_BITS] = _Page()
        return page


def _page_ranges(first: int, count: int) -> list[tuple[int, int, int]]:
    """The pages that *count* rows from *first* on lie in, each with where the rows start and end in it."""
    ranges = []
    at, end = first, first + count
    while at < end:
        key = at >> _PAGE_BITS
        stop = min(end, (key + 1) << _PAGE_BITS)
        ranges.append((key, at & _IN_PAGE, ((stop - 1) & _IN_PAGE) + 1))
        at = stop
    return ranges
