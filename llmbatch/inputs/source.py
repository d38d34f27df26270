"""Row sources for files and streams; :mod:`.iterable` has the one for Python iterables.

A source reads only on demand, holds at most a block and one line, and never blocks the event loop for long: files are
read inline, streams only when the kernel reports data. Finished rows are skipped by their number without parsing; only
their hash is compared.

Rows that cannot be sent now need not stay in memory. ``skip(row)`` leaves a row for another pass over the input,
``keep(row)`` allows its fields to be dropped until ``reread(row)``:

==================  ===========================  ============================
source              another pass                 one row again
==================  ===========================  ============================
plain file          from the first skipped row   by its offset
.gz, .zst           decompressed again           from a file of rows that were kept
CSV, JSON array …   read again                   from a file of rows that were kept
pipe, socket        from a file of rows that     from the same file
                    were skipped or kept
Python iterable     no (``can_skip`` is False)   no
==================  ===========================  ============================
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.byte_source import (
    BATCHES_A_TURN,
    ByteSource,
    changed_while_running,
    digest_of,
    unreadable_row,
)
from llmbatch.inputs.compression import HEAD_BYTES, is_compressed
from llmbatch.inputs.formats import JSON_LINES, RecordFormat
from llmbatch.inputs.late_spool import LateSpool
from llmbatch.inputs.open import blocks_between, file_blocks, open_input, read_exactly
from llmbatch.inputs.parallel_hash import identity
from llmbatch.inputs.passes import Mark
from llmbatch.inputs.pipe import open_pipe
from llmbatch.inputs.rows import line_digest, strip_bom
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.tables import TableFormat
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows, Verified

__all__ = ["FileSource", "StreamSource", "open_source"]

_SPOOLED_ROWS_A_TURN: Final = 1024


class FileSource(ByteSource):
    """Rows of a regular file, plain, gzip or zstd, read inline. Holds a block and one line, whatever its length.

    ``limit``: only the first so many rows, of which those of ``shard``. ``fd``: read this descriptor (from its
    position, and close it at the end) instead of opening *path*. ``spool``: see :func:`open_source`. ``keeps_torn``: a
    last line that is cut off is a malformed row, not ``torn_line``.
    """

    def __init__(
        self,
        path: str | Path,
        form: RecordFormat = JSON_LINES,
        *,
        finished: FinishedRows | None = None,
        limit: int | None = None,
        shard: Shard = WHOLE,
        fd: int | None = None,
        spool: str | Path | None = None,
        keeps_torn: bool = True,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        self._spool = LateSpool(spool, disk, str(path))
        fd = open_input(path, disk) if fd is None else fd
        super().__init__(
            fd, str(path), form, finished=finished, limit=limit, shard=shard, keeps_torn=keeps_torn, disk=disk
        )
        self._start = start = disk.seek(fd, 0, os.SEEK_CUR)
        self._consumed_bytes = 0
        self._is_plain = form.unit == "line"
        about = disk.fstat(fd)
        self._total_bytes = about.st_size - start
        verified = finished.verified if finished is not None and not start else None
        if verified is not None and verified.identity == identity(about):
            self._finished.is_verified = True
            if limit is None or (limit > verified.lines and self._own is None):
                self._start_after(fd, verified)

    @property
    def fraction(self) -> float | None:
        """Fraction of the file's bytes that was consumed, 0 to 1."""
        if self.exhausted or self._passes.first_has_ended or self._total_bytes <= 0:
            return 1.0
        return min(1.0, self._consumed_bytes / self._total_bytes)

    async def wait(self) -> None:
        """Yield to the event loop once: a file always has data, or has ended."""
        await asyncio.sleep(0)

    @property
    def can_reread(self) -> bool:
        """Whether the file has lines and is not compressed."""
        return self._is_plain

    def keep(self, row: Row) -> bool:
        """Write a row without an offset of its own to the spool; False if there is no room for it."""
        if self._is_plain:
            return True
        try:
            row.offset = self._spool.keep(row)
        except WriteError:
            return False
        return True

    def finished(self, number: int) -> None:
        """See :class:`~llmbatch.inputs.byte_source.ByteSource`."""
        super().finished(number)
        self._spool.finished(number)

    def reread(self, row: Row) -> Row:
        """Read the whole row again, by its offset. Cost: one read of its line.

        Raises:
            InputError: its line has changed, or cannot be read.
        """
        if not self._is_plain:
            return row if row.offset < 0 else self._spool.get().get(row.offset)
        again = self._file.parse(row.number, self._line_at(Mark.of(row))) if row.offset >= 0 else row
        if not isinstance(again, Row):
            raise changed_while_running(self._file.name, row.number)
        again.offset, again.size = row.offset, row.size
        return again

    def close(self) -> None:
        """Close the file and the spool; idempotent."""
        super().close()
        self._spool.close()

    def _line_at(self, mark: Mark) -> bytes:
        file = self._file
        if file.fd is None:
            raise InputError(f"{file.name}: is closed")
        line = read_exactly(file.fd, mark.size, mark.offset, file.name, file.disk)
        if line_digest(line) != mark.hash:
            raise changed_while_running(self._file.name, mark.number)
        return line

    def _pass(self, first: Mark, last: int) -> Iterator[Row | Malformed | None]:
        file = self._file
        if file.fd is None:
            return
        number, batches = self._batches_again(file.fd, first)
        offset = first.offset
        for count, batch in enumerate(batches):
            if count % BATCHES_A_TURN == BATCHES_A_TURN - 1:
                yield None
            for line in batch or ():
                number += 1
                at, offset = offset, offset + len(line) + 1
                row = self._again_row(first, number, line)
                if row is not None:
                    if isinstance(row, Row):
                        row.offset, row.size = at if self._is_plain else -1, len(line)
                    yield row
                if number == last:
                    return
        raise changed_while_running(self._file.name, number)

    def _batches_again(self, fd: int, first: Mark) -> tuple[int, Iterator[Sequence[bytes | LongLine] | None]]:
        """The records for a pass that begins with *first* or before it, and the number of the row before them."""
        file = self._file
        number, offset = 0, self._start
        if self._is_plain:
            # If the first and the last row returned are unchanged, so are the lines between.
            self._line_at(first)
            if self._last is not None:
                self._line_at(Mark.of(self._last))
            number, offset = first.number - 1, first.offset
        # Bytes appended since the first pass are left to another run: the last line may be torn.
        blocks = blocks_between(fd, offset, self._start + self._consumed_bytes, file.name, file.disk)
        return number, file.form.records(blocks, file.name, from_start=not self._is_plain)

    def _again_row(self, first: Mark, number: int, line: bytes | LongLine) -> Row | Malformed | None:
        if number < first.number or number == self.torn_line:
            return None
        if self._own is not None and not self._own.shard.owns(number):
            return None
        if number == first.number and digest_of(line) != first.hash:
            raise changed_while_running(self._file.name, number)
        if number in self._finished:
            return None
        return unreadable_row(number, line) if isinstance(line, LongLine) else self._file.parse(number, line)

    def _start_after(self, fd: int, verified: Verified) -> None:
        if not verified.lines:
            return
        self._consumed_bytes = self._offset = self._file.disk.seek(fd, verified.size_bytes)
        self._number = self.rows_read = verified.lines
        if self._own is not None:
            self._own.number, self._own.offset = verified.lines, verified.size_bytes
            self.rows_read = self._own.shard.place(verified.lines)
        self._batches = self._file.form.records(self._blocks(fd), self._file.name, from_start=False)

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        for block in file_blocks(fd, self._file.name, self._file.disk):
            if not self._consumed_bytes:
                head = block[:HEAD_BYTES]
                self._is_plain = self._file.form.unit == "line" and not is_compressed(head)
                self._offset = self._start + len(head) - len(strip_bom(head))
            self._consumed_bytes += len(block)
            yield block


class StreamSource(ByteSource):
    """Rows of a pipe, socket or device. Never blocks the event loop (see :mod:`llmbatch.inputs.pipe`).

    Rows that are skipped or kept go to a temporary file, *spool* (see :class:`~llmbatch.inputs.spool.Spool`); others
    cost no disk.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        form: RecordFormat = JSON_LINES,
        *,
        finished: FinishedRows | None = None,
        limit: int | None = None,
        shard: Shard = WHOLE,
        spool: str | Path | None = None,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        self._pipe = open_pipe(fd, name)
        self._spool = LateSpool(spool, disk, name)
        super().__init__(fd, name, form, finished=finished, limit=limit, shard=shard)

    @property
    def fraction(self) -> float | None:
        """None: the length of a stream is not known."""
        return None

    async def wait(self) -> None:
        """Return when the stream has something, or has ended."""
        if self.exhausted or self._file.fd is None or self._passes.rows is not None:
            await asyncio.sleep(0)
        else:
            await self._pipe.wait()

    def keep(self, row: Row) -> bool:
        """Write the row to the spool, unless it is already there; True.

        Raises:
            WriteError: there is no room for it.
        """
        if row.offset < 0:
            row.offset = self._spool.get().put(row)
        return True

    def skip(self, row: Row) -> None:
        """Skip the row, as for a file, but through the spool.

        Raises:
            WriteError: there is no room for it.
        """
        self.keep(row)
        self._passes.skip(row, row.offset)  # rows that were kept late lie behind later ones

    def reread(self, row: Row) -> Row:
        """Read the whole row again, from the spool.

        Raises:
            InputError: it cannot be read back.
        """
        return row if row.offset < 0 else self._spool.get().get(row.offset)

    def close(self) -> None:
        """Close the stream and the spool; idempotent."""
        self._pipe.close()
        super().close()
        self._spool.close()

    def _pass(self, first: Mark, last: int) -> Iterator[Row | Malformed | None]:
        spool = self._spool.get()
        at, end = first.offset, spool.size_bytes
        passed = 0
        while at < end:
            number, following = spool.head(at)
            if number not in self._finished:
                yield spool.get(at)
            else:
                passed += 1
                if passed % _SPOOLED_ROWS_A_TURN == 0:
                    yield None
            at = following

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        while (block := self._pipe.read()) != b"":
            yield block


def open_source(
    path: str | Path,
    form: RecordFormat = JSON_LINES,
    *,
    finished: FinishedRows | None = None,
    limit: int | None = None,
    shard: Shard = WHOLE,
    spool: str | Path | None = None,
    keeps_torn: bool = True,
    disk: Filesystem = FILESYSTEM,
) -> FileSource | StreamSource:
    """Open the rows of *path*; ``-`` is standard input. Rows in *finished* are skipped, *limit* bounds the rows.

    Of the first *limit* rows those of *shard* are given; the others are split, and not parsed.

    *spool* (see :func:`~llmbatch.outputs.deferred.spool_path`): where rows are kept that wait and have no offset of
    their own (those of a pipe, a compressed file, CSV, a JSON array, or a table); None: in the directory of temporary
    files. *keeps_torn*: see :class:`FileSource`; a stream that has ended is complete.

    Raises:
        InputError: the input cannot be opened.
    """
    name = "standard input" if str(path) == "-" else str(path)
    fd = open_input(path, disk)
    if stat.S_ISREG(disk.fstat(fd).st_mode):
        if isinstance(form, TableFormat):
            from llmbatch.inputs.table_source import TableSource

            return TableSource(name, form, finished=finished, limit=limit, shard=shard, fd=fd, spool=spool, disk=disk)
        return FileSource(
            *(name, form),
            finished=finished,
            limit=limit,
            shard=shard,
            fd=fd,
            spool=spool,
            keeps_torn=keeps_torn,
            disk=disk,
        )
    if spool is not None:
        with contextlib.suppress(OSError, ValueError):  # left by a process that was killed while creating it
            disk.unlink(str(spool))
    return StreamSource(fd, name, form, finished=finished, limit=limit, shard=shard, spool=spool, disk=disk)
