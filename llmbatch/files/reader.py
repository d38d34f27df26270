"""Sources of rows, pulled one at a time: files and streams here, Python iterables in :mod:`.iterable`.

A source reads only when asked, holds at most a block and one line, and never keeps the event loop for long: files
are read inline, streams only when the kernel says that something is there. Finished rows are passed over by their
number without parsing; only their hash is compared. Nothing here decides what is sent, or when.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Final, Protocol

from llmbatch.errors import InputError
from llmbatch.files.disk import DISK, Disk
from llmbatch.files.iterable import IterableSource
from llmbatch.files.ledger import Ledger, Verified
from llmbatch.files.lines import parse_line, too_long
from llmbatch.files.opening import file_blocks, open_input, read_block
from llmbatch.files.split import LongLine
from llmbatch.files.text import text_lines
from llmbatch.files.verify import compare, compare_line, count_rows, identity, verify_finished
from llmbatch.records import Malformed, Row

__all__ = [
    "FileSource",
    "IterableSource",
    "Source",
    "StreamSource",
    "count_rows",
    "open_source",
    "verify_finished",
]

# How many batches of lines, and lines one by one, a call may pass over (finished rows, blank lines) before the event
# loop gets its turn: a few milliseconds.
_BATCHES_A_TURN: Final = 4
_LINES_A_TURN: Final = 10_000


class Source(Protocol):
    """Where rows come from. One consumer, on one event loop.

    ``exhausted``: nothing will come any more. ``rows_read``: rows handed out so far, malformed ones too, plus the
    finished ones that were passed over.
    """

    exhausted: bool
    rows_read: int

    @property
    def fraction(self) -> float | None:
        """The part of the input's bytes that is consumed, 0 to 1; None for streams and iterables."""
        ...

    def take(self) -> Row | Malformed | None:
        """The next row; None where there is nothing right now, or nothing any more.

        Raises:
            InputError: the input cannot be read, or a finished row has changed.
        """
        ...

    async def wait(self) -> None:
        """Return when :meth:`take` may give something, or nothing will come any more. Cancelling loses no row."""
        ...

    def close(self) -> None:
        """Let go of the input; idempotent."""
        ...

    async def aclose(self) -> None:
        """As :meth:`close`, and wait for a generator's own clean-up."""
        ...


class _ByteSource:
    """Rows out of the blocks of one file descriptor, which it owns."""

    def __init__(self, fd: int, name: str, *, ledger: Ledger | None, limit: int | None, disk: Disk = DISK) -> None:
        self.exhausted = limit is not None and limit <= 0
        self.rows_read = 0
        self.name = name
        self._fd: int | None = fd
        self._disk = disk
        self._ledger = ledger if ledger else None
        self._verified = False
        self._limit = limit
        self._number = 0
        self._batches = text_lines(self._blocks(fd), name)
        self._at_hand: Iterator[bytes | LongLine] = iter(())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {'exhausted' if self.exhausted else f'line {self._number}'}>"

    def take(self) -> Row | Malformed | None:
        """The next row; None where there is nothing right now, or nothing any more.

        Raises:
            InputError: the input cannot be read, or a finished row has changed.
        """
        if self.exhausted:
            return None
        for _ in range(_BATCHES_A_TURN):
            # Both are iterators, taken up where the last call left them.
            for line in islice(self._at_hand, _LINES_A_TURN):
                row = self._next_row(line)
                if row is not None or self.exhausted:
                    return row
            if length_hint(self._at_hand):
                return None
            try:
                batch = next(self._batches)
            except StopIteration:
                self.exhausted = True
                return None
            except InputError:
                self.exhausted = True
                raise
            if batch is None:
                return None
            if not self._passed_over(batch):
                self._at_hand = iter(batch)
        return None

    def close(self) -> None:
        """Close the file; idempotent."""
        self.exhausted = True
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        raise NotImplementedError

    def _passed_over(self, batch: Sequence[bytes | LongLine]) -> bool:
        """Pass over a batch of which every row is finished, what a resumed run does most, or every line empty."""
        first, count = self._number + 1, len(batch)
        if not any(batch) and (self._ledger is None or self._ledger.last < first):
            self._number += count
            return True
        if self._ledger is None or not self._ledger.are_done(first, count):
            return False
        if self._limit is not None and self.rows_read + count >= self._limit:
            return False
        if not self._verified:
            compare(self.name, first, batch, self._ledger)
        self._number += count
        self.rows_read += count
        return True

    def _next_row(self, line: bytes | LongLine) -> Row | Malformed | None:
        self._number = number = self._number + 1
        row: Row | Malformed | None = None
        if self._ledger is not None and self._ledger.is_done(number):
            if not self._verified:
                compare_line(self.name, number, line, self._ledger)
        else:
            row = too_long(number, line.hash) if isinstance(line, LongLine) else parse_line(number, line)
            if row is None:
                return None
        self.rows_read += 1
        if self.rows_read == self._limit:
            self.exhausted = True
        return row


class FileSource(_ByteSource):
    """Rows of a regular file, plain, gzip or zstd, read inline. Holds a block and one line, whatever its length.

    ``limit``: only the first so many rows. ``fd``: read this descriptor (from where it stands, and close it at the
    end) in place of opening *path*.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        ledger: Ledger | None = None,
        limit: int | None = None,
        fd: int | None = None,
        disk: Disk = DISK,
    ) -> None:
        fd = open_input(path, disk) if fd is None else fd
        super().__init__(fd, str(path), ledger=ledger, limit=limit, disk=disk)
        start = disk.seek(fd, 0, os.SEEK_CUR)
        self._consumed_bytes = 0
        about = disk.fstat(fd)
        self._total_bytes = about.st_size - start
        verified = ledger.verified if ledger is not None and not start else None
        if verified is not None and verified.identity == identity(about):
            self._verified = True
            if limit is None or limit > verified.lines:
                self._start_after(fd, verified)

    @property
    def fraction(self) -> float | None:
        """The part of the file's bytes that is consumed, 0 to 1."""
        if self.exhausted or self._total_bytes <= 0:
            return 1.0
        return min(1.0, self._consumed_bytes / self._total_bytes)

    async def wait(self) -> None:
        """Give the event loop its turn: a file always has something, or nothing any more."""
        await asyncio.sleep(0)

    def _start_after(self, fd: int, verified: Verified) -> None:
        self._consumed_bytes = self._disk.seek(fd, verified.size_bytes)
        self._number = self.rows_read = verified.lines
        self._batches = text_lines(self._blocks(fd), self.name, from_start=not verified.lines)

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        for block in file_blocks(fd, self.name, self._disk):
            self._consumed_bytes += len(block)
            yield block


class StreamSource(_ByteSource):
    """Rows of a pipe, socket or device. Never blocks the event loop, and starts no thread.

    The descriptor's own blocking mode is left alone, for it is shared with whoever else holds the stream.
    """

    def __init__(self, fd: int, name: str, *, ledger: Ledger | None = None, limit: int | None = None) -> None:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        super().__init__(fd, name, ledger=ledger, limit=limit)

    @property
    def fraction(self) -> float | None:
        """None: a stream's end is not known."""
        return None

    async def wait(self) -> None:
        """Return when the stream has something, or has ended."""
        # Devices that epoll refuses (/dev/null) are always ready for poll, so they never get past this line.
        fd = self._fd
        if self.exhausted or fd is None or self._poll.poll(0):
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        while True:
            if not self._poll.poll(0):
                yield None
                continue
            try:
                block = read_block(fd, self.name)
            except BlockingIOError:
                yield None
                continue
            if not block:
                return
            yield block


def open_source(
    path: str | Path, *, ledger: Ledger | None = None, limit: int | None = None, disk: Disk = DISK
) -> FileSource | StreamSource:
    """The rows of *path*; ``-`` is standard input. Rows that *ledger* has are passed over, *limit* bounds the rows.

    Raises:
        InputError: the input cannot be opened.
    """
    name = "standard input" if str(path) == "-" else str(path)
    fd = open_input(path, disk)
    if stat.S_ISREG(disk.fstat(fd).st_mode):
        return FileSource(name, ledger=ledger, limit=limit, fd=fd, disk=disk)
    return StreamSource(fd, name, ledger=ledger, limit=limit)
