"""A spool that is made with its first row: most runs need none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.core.rows import Row
from llmbatch.storage.filesystem import Filesystem

if TYPE_CHECKING:
    from llmbatch.inputs.spool import Spool

__all__ = ["LateSpool"]


class LateSpool:
    """Makes the spool of a source when it is asked for. Arguments: see :class:`~llmbatch.inputs.spool.Spool`."""

    def __init__(self, path: str | Path | None, disk: Filesystem, name: str) -> None:
        self._path = path
        self._disk = disk
        self._name = name
        self._spool: Spool | None = None
        self._offsets: dict[int, int] = {}  # of rows that are not finished

    def get(self) -> Spool:
        """The spool, one and the same."""
        if self._spool is None:
            from llmbatch.inputs.spool import Spool

            self._spool = Spool(self._path, self._disk, self._name)
        return self._spool

    def keep(self, row: Row) -> int:
        """Write *row*, unless it was written in an earlier pass over the input; give its offset.

        Raises:
            WriteError: there is no room for it.
        """
        offset = self._offsets.get(row.number)
        if offset is None:
            offset = self._offsets[row.number] = self.get().put(row)
        return offset

    def finished(self, number: int) -> None:
        """Note that the row is not needed any more."""
        if self._offsets:
            self._offsets.pop(number, None)

    def close(self) -> None:
        """Close the spool, if there is one; idempotent."""
        if self._spool is not None:
            self._spool.close()
