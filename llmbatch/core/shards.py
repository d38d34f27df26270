"""Shards: which rows of an input belong to one of several processes. Pure.

Row ``r`` belongs to shard ``((r - 1) mod N) + 1`` of ``N``: rows that are appended later change no other row's shard,
shards are equally large, and nothing about the input has to be known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd
from typing import Final

__all__ = ["MOST_SHARDS", "WHOLE", "Shard"]

MOST_SHARDS: Final = 99_999
"""The most shards of an input: five digits in the name of a part."""

_read = re.compile(r"(any|[0-9]{1,9})/([0-9]{1,9})").fullmatch


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard *index* (from 1) of *count*. Immutable; numbers of rows count from 1, and so do *places* in a shard.

    Index 0 is "any": a shard that is chosen when the run begins; it owns no rows.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not (1 <= self.count <= MOST_SHARDS and 0 <= self.index <= self.count):
            raise ValueError(f"{self.index}/{self.count} is not a shard")

    def __str__(self) -> str:
        return f"{self.index or 'any'}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``3/64`` or ``any/64`` names.

        Raises:
            ValueError: it names none.
        """
        found = _read(text)
        if found is None or found[1] == "0":
            raise ValueError(f"{text} is not a shard")
        return cls(0 if found[1] == "any" else int(found[1]), int(found[2]))

    @property
    def is_any(self) -> bool:
        """Whether the shard is yet to be chosen."""
        return not self.index

    def owns(self, number: int) -> bool:
        """Whether row *number* belongs to the shard."""
        return (number - self.index) % self.count == 0

    def place(self, number: int) -> int:
        """Which row of the shard row *number* is: 1 for the first."""
        return (number - self.index) // self.count + 1

    def number(self, place: int) -> int:
        """The number of the row at *place* in the shard."""
        return (place - 1) * self.count + self.index

    def skip(self, first: int) -> int:
        """How many rows, from number *first* on, come before the next row of the shard."""
        return (self.index - first) % self.count

    def overlaps(self, other: Shard) -> bool:
        """Whether there can be rows that belong to both."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0


WHOLE: Final = Shard(1, 1)
"""The shard that is the whole input."""
