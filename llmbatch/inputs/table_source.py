"""The source of rows of a table: a file whose positions are row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.passes import Mark
from llmbatch.inputs.source import FileSource
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.tables import TableFormat
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["TableSource"]


class TableSource(FileSource):
    """Rows of a Parquet or Arrow file; another pass begins at its first row. Arguments: see :class:`FileSource`."""

    def __init__(
        self,
        name: str | Path,
        form: TableFormat,
        *,
        finished: FinishedRows | None = None,
        limit: int | None = None,
        shard: Shard = WHOLE,
        fd: int | None = None,
        spool: str | Path | None = None,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        super().__init__(name, form, finished=finished, limit=limit, shard=shard, fd=fd, spool=spool, disk=disk)

    @property
    def fraction(self) -> float | None:
        """Fraction of the rows that was read, 0 to 1; None if their number is unknown."""
        return super().fraction if self._total_bytes >= 0 or self.exhausted else None

    @property
    def _table(self) -> TableFormat:
        return cast("TableFormat", self._file.form)

    def _open_batches(self, fd: int) -> Iterator[Sequence[bytes | LongLine] | None]:
        self._consumed_bytes = 0
        return self._read(fd)

    def _read(self, fd: int) -> Iterator[Sequence[bytes | LongLine] | None]:
        # Rows take the place of bytes: what of all was consumed is the same.
        count = self._table.count(fd, self._file.name, self._file.disk)
        self._total_bytes = -1 if count is None else count
        for batch in self._table.of_file(fd, self._file.name, self._file.disk):
            self._consumed_bytes += len(batch)
            yield batch

    def _batches_again(self, fd: int, first: Mark) -> tuple[int, Iterator[Sequence[bytes | LongLine] | None]]:
        return first.number - 1, self._table.of_file(fd, self._file.name, self._file.disk, first=first.number)
