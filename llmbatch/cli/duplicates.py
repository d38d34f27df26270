"""Names that were seen before, in 8 bytes each.

Names are kept as 64-bit hashes in one array: a million take 17 MB, in a set of integers 82 MB. Two different names fall
together once in 10^5 inputs of ten million rows.
"""

from __future__ import annotations

from array import array

__all__ = ["SeenNames"]

_MASK = (1 << 64) - 1


class SeenNames:
    """A set of names with a fixed upper bound of memory. Not safe between threads."""

    def __init__(self, most_slots: int = 1 << 24) -> None:
        """Hold at most two thirds of *most_slots*, a power of two; 16,777,216 slots take 128 MiB."""
        self._most_slots = most_slots
        self._slots = array("Q", bytes(8 * min(1024, most_slots)))
        self._used = 0
        self.is_full = False
        """Whether names had to be left out: a name seen twice may then have gone unnoticed."""

    def __len__(self) -> int:
        return self._used

    def add(self, name: str) -> bool:
        """Enter *name*; False where it was there already. About a microsecond."""
        digest = hash(name) & _MASK or 1
        at = self._find(digest)
        if self._slots[at] == digest:
            return False
        if 3 * (self._used + 1) > 2 * len(self._slots):
            if len(self._slots) >= self._most_slots:
                self.is_full = True
                return True
            self._grow()
            at = self._find(digest)
        self._slots[at] = digest
        self._used += 1
        return True

    def _find(self, digest: int) -> int:
        slots, most = self._slots, len(self._slots) - 1
        at = digest & most
        while slots[at] and slots[at] != digest:
            at = (at + 1) & most
        return at

    def _grow(self) -> None:
        old = self._slots
        self._slots = array("Q", bytes(16 * len(old)))
        for digest in old:
            if digest:
                self._slots[self._find(digest)] = digest
