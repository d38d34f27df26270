"""Which shard a process takes next where nobody tells it: the first whose part nobody holds and that is not complete.

The lock of a part is the lease: it ends with the process that has it. Nothing is written here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llmbatch.core.errors import InUseError
from llmbatch.core.shards import Shard
from llmbatch.outputs.other_parts import OtherParts
from llmbatch.outputs.parts import part_name
from llmbatch.outputs.scan import scan
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["FreeParts"]


class FreeParts:
    """Chooses shards of *folder*; *rows* has how many rows each shard of the input has, the first one's first."""

    def __init__(self, folder: str, rows: Sequence[int], disk: Filesystem = FILESYSTEM) -> None:
        self._folder = folder
        self._rows = rows
        self._disk = disk
        self._left = [Shard(index, len(rows)) for index in range(1, len(rows) + 1)]
        self.held = 0
        """How many parts that are left others held when :meth:`next` last looked."""

    def next(self) -> Shard | None:
        """The first shard that has rows left and that nobody holds; None if there is none. The same until it is over.

        Cost: one pass over each part that may be complete, once.

        Raises:
            OutputError: a part is damaged, or cannot be read.
        """
        self.held = 0
        for shard in list(self._left):
            try:
                finished = self._finished(shard)
            except InUseError:
                finished = None
            if finished is None:
                self.held += 1
            elif len(finished) >= self._rows[shard.index - 1]:
                self.over(shard)
            else:
                return shard
        return None

    def over(self, shard: Shard) -> None:
        """*shard* is not to be chosen again: it is complete, or this process has done what it can."""
        if shard in self._left:
            self._left.remove(shard)

    def _finished(self, shard: Shard) -> FinishedRows | None:
        """The finished rows of *shard*; None if a run holds its part.

        Raises:
            InUseError: a run with another number of shards is writing some of its rows.
        """
        path = str(Path(self._folder, part_name(shard)))
        finished = FinishedRows(shard)
        try:
            fd = self._disk.open(path, os.O_RDONLY | O_CLOEXEC)
        except FileNotFoundError:
            pass
        else:
            try:
                if self._disk.is_locked(fd):
                    return None
                finished = scan(fd, path, self._disk, shard=shard).finished
            finally:
                self._disk.close(fd)
        OtherParts(path, shard, self._disk).enter(finished, path)
        return finished
