"""The lines of one shard among those of a whole input: lines of other shards are split, and neither parsed nor hashed.

Pure, and without a position of its own in any file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from llmbatch.core.shards import Shard
from llmbatch.inputs.decode import Unterminated
from llmbatch.inputs.splitter import LongLine

__all__ = ["ShardLines", "count_filled"]


def count_filled(lines: Sequence[bytes | LongLine]) -> int:
    """How many of *lines* are not blank."""
    return sum(isinstance(line, LongLine) or not (line.isspace() or not line) for line in lines)


class ShardLines:
    """Takes the batches of an input in order, and gives the lines of *shard* among its first *limit* rows (None: all).

    ``number`` and ``offset`` are those of the last line so far, of any shard, and of the end of its line; set them to
    begin elsewhere. ``has_ended``: the limit is reached. Cost: a slice and the lengths of the lines per batch.
    """

    __slots__ = ("_left", "_offsets", "first", "has_ended", "number", "offset", "shard")

    def __init__(self, shard: Shard, limit: int | None = None) -> None:
        self.shard = shard
        self.number = 0
        self.offset = 0
        self.first = shard.index
        """The number of the first row of the last batch."""
        self.has_ended = limit is not None and limit <= 0
        self._left = limit
        self._offsets: list[int] = []

    def of(self, batch: Sequence[bytes | LongLine]) -> Sequence[bytes | LongLine]:
        """The shard's lines of the next *batch*; the first has the number ``first``."""
        if self._left is not None:
            batch = self._within(batch, self._left)
        start, count = self.number + 1, self.shard.count
        skip = self.shard.skip(start)
        self.first = start + skip
        own = batch[skip::count]
        starts = list(accumulate(map(len, batch), initial=self.offset))  # but for the line ends
        self._offsets = [starts[at] + at for at in range(skip, len(batch), count)]
        self.number += len(batch)
        self.offset = starts[-1] + len(batch)
        is_cut = isinstance(batch, Unterminated) and (len(batch) - 1 - skip) % count == 0
        return Unterminated(own) if is_cut else own

    def offset_of(self, number: int) -> int:
        """Where row *number*, one of the last batch, begins."""
        return self._offsets[(number - self.first) // self.shard.count]

    def _within(self, batch: Sequence[bytes | LongLine], left: int) -> Sequence[bytes | LongLine]:
        rows = count_filled(batch)
        if rows < left:
            self._left = left - rows
            return batch
        self.has_ended = True
        self._left = 0
        for at, line in enumerate(batch):
            left -= count_filled((line,))
            if not left:
                return batch[: at + 1]
        return batch
