"""Reads the lines of an output in the order of the rows: an index of offsets, then batches of lines by offset.

The index takes 12 bytes per row, and no line is in memory twice. The file is not changed.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from llmbatch.core.errors import OutputError
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.scan import match_line
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["IndexedLine", "RowIndex", "index_rows", "lines_in_order"]

_PAGE_BITS: Final = 12
_PAGE_ROWS: Final = 1 << _PAGE_BITS
_IN_PAGE: Final = _PAGE_ROWS - 1
_MOST_SIZE: Final = (1 << 32) - 1
_BATCH_BYTES: Final = 1 << 19
_BATCH_ROWS: Final = 4096
_GAP_BYTES: Final = 4096
"""Lines of a batch that are so near to each other are read in one call."""


class IndexedLine(NamedTuple):
    """One line of an output: its row, the hash of the row (16 hex digits), and the line without its line end."""

    row: int
    hash: str
    line: bytes


class RowIndex:
    """Where the line of each row is, by row number. Rows are numbered from 1."""

    def __init__(self) -> None:
        self._offsets: dict[int, array[int]] = {}
        self._sizes: dict[int, array[int]] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, row: int, offset: int, size: int) -> None:
        """Add the line of *row*, which has none yet: *size* bytes from *offset* on.

        Raises:
            ValueError: the line is longer than 4 GiB.
        """
        if size > _MOST_SIZE:
            raise ValueError("the line is longer than 4 GiB")
        key = row >> _PAGE_BITS
        sizes = self._sizes.get(key)
        if sizes is None:
            sizes = self._sizes[key] = array("I", bytes(4 * _PAGE_ROWS))
            self._offsets[key] = array("Q", bytes(8 * _PAGE_ROWS))
        sizes[row & _IN_PAGE] = size
        self._offsets[key][row & _IN_PAGE] = offset
        self._rows += 1

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Row, offset and size of each line, in the order of the rows."""
        for key in sorted(self._sizes):
            start = key << _PAGE_BITS
            for at, (offset, size) in enumerate(zip(self._offsets[key], self._sizes[key], strict=True)):
                if size:
                    yield start + at, offset, size


def index_rows(
    fd: int, end_bytes: int, name: str, disk: Filesystem = FILESYSTEM, *, statuses: Collection[str]
) -> RowIndex:
    """Index the lines of *statuses* (``success``, ``failed``) in the first *end_bytes* bytes of a scanned file.

    Cost: one pass over the file, about a microsecond per line.

    Raises:
        OSError: the file cannot be read.
        OutputError: the file has changed since it was scanned.
    """
    wanted = {status.encode() for status in statuses}
    index = RowIndex()
    offset = 0
    for line in read_lines(fd, end_bytes, disk):
        found = match_line(line)
        if found is None:
            raise _changed(name)
        if found[3] in wanted:
            index.add(int(found[1]), offset, len(line))
        offset += len(line) + 1
    return index


def lines_in_order(fd: int, index: RowIndex, name: str, disk: Filesystem = FILESYSTEM) -> Iterator[IndexedLine]:
    """The lines of *index* in the order of the rows. Memory: twice 512 KiB, or twice the longest line.

    Lines that are near to each other in the file, as those of a run are, are read in one call.

    Raises:
        OSError: the file cannot be read.
        OutputError: the file has changed since it was indexed.
    """
    batch: list[tuple[int, int, int]] = []
    size = 0
    for entry in index:
        if batch and (size + entry[2] > _BATCH_BYTES or len(batch) == _BATCH_ROWS):
            yield from _read_batch(fd, batch, name, disk)
            batch, size = [], 0
        batch.append(entry)
        size += entry[2]
    yield from _read_batch(fd, batch, name, disk)


def _read_batch(fd: int, batch: list[tuple[int, int, int]], name: str, disk: Filesystem) -> Iterator[IndexedLine]:
    lines: dict[int, IndexedLine] = {}
    by_offset = sorted(range(len(batch)), key=lambda at: batch[at][1])
    first = 0
    while first < len(by_offset):
        start = end = batch[by_offset[first]][1]
        last = first
        while last < len(by_offset):
            _, offset, size = batch[by_offset[last]]
            if last > first and (offset - end > _GAP_BYTES or offset + size - start > _BATCH_BYTES):
                break
            end = offset + size
            last += 1
        block = _read(fd, end - start, start, name, disk)
        for at in by_offset[first:last]:
            row, offset, size = batch[at]
            lines[at] = _checked(block[offset - start : offset - start + size], row, name)
        first = last
    for at in range(len(batch)):
        yield lines[at]


def _read(fd: int, size: int, offset: int, name: str, disk: Filesystem) -> bytes:
    parts = []
    while size > 0:
        part = disk.pread(fd, size, offset)
        if not part:
            raise _changed(name)
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _checked(line: bytes, row: int, name: str) -> IndexedLine:
    found = match_line(line)
    if found is None or int(found[1]) != row:
        raise _changed(name)
    return IndexedLine(row, found[2].decode(), line)


def _changed(name: str) -> OutputError:
    return OutputError(f"{name}: has changed while it was read", hint="run the same command again")
