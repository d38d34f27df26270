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
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from llmbatch.errors import InputError
from llmbatch.files.archive import HEAD_BYTES, is_archive
from llmbatch.files.iterable import IterableSource
from llmbatch.files.ledger import Ledger, Verified
from llmbatch.files.lines import line_digest, parse_line, strip_bom, too_long
from llmbatch.files.split import LongLine
from llmbatch.files.text import text_lines
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

BLOCK_BYTES: Final = 256 * 1024
_COUNTED_BYTES: Final = 256 * 1024 * 1024
# How many batches of lines one call may pass over (finished rows, blank lines) before the event loop gets its turn.
_BATCHES_A_TURN: Final = 4


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

    def __init__(self, fd: int, name: str, *, ledger: Ledger | None, limit: int | None) -> None:
        self.exhausted = limit is not None and limit <= 0
        self.rows_read = 0
        self.name = name
        self._fd: int | None = fd
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
            for line in self._at_hand:  # an iterator, taken up where the last call left it
                row = self._next_row(line)
                if row is not None or self.exhausted:
                    return row
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
            os.close(self._fd)
            self._fd = None

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        raise NotImplementedError

    def _passed_over(self, batch: Sequence[bytes | LongLine]) -> bool:
        """Pass over a batch of which every row is finished: what a resumed run does most, so at once."""
        first, count = self._number + 1, len(batch)
        if self._ledger is None or not self._ledger.are_done(first, count):
            return False
        if self._limit is not None and self.rows_read + count >= self._limit:
            return False
        if not self._verified:
            _compare(self.name, first, batch, self._ledger)
        self._number += count
        self.rows_read += count
        return True

    def _next_row(self, line: bytes | LongLine) -> Row | Malformed | None:
        self._number = number = self._number + 1
        row: Row | Malformed | None = None
        if self._ledger is not None and self._ledger.is_done(number):
            if not self._verified:
                _compare_line(self.name, number, line, self._ledger)
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
        self, path: str | Path, *, ledger: Ledger | None = None, limit: int | None = None, fd: int | None = None
    ) -> None:
        fd = _open(path) if fd is None else fd
        super().__init__(fd, str(path), ledger=ledger, limit=limit)
        start = os.lseek(fd, 0, os.SEEK_CUR)
        self._consumed_bytes = 0
        self._total_bytes = os.fstat(fd).st_size - start
        verified = ledger.verified if ledger is not None and not start else None
        if verified is not None and verified.identity == _identity(fd):
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
        self._consumed_bytes = os.lseek(fd, verified.size_bytes, os.SEEK_SET)
        self._number = self.rows_read = verified.lines
        self._batches = text_lines(self._blocks(fd), self.name, from_start=not verified.lines)

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        for block in _file_blocks(fd, self.name):
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
                block = _read(fd, self.name)
            except BlockingIOError:
                yield None
                continue
            if not block:
                return
            yield block


def open_source(
    path: str | Path, *, ledger: Ledger | None = None, limit: int | None = None
) -> FileSource | StreamSource:
    """The rows of *path*; ``-`` is standard input. Rows that *ledger* has are passed over, *limit* bounds the rows.

    Raises:
        InputError: the input cannot be opened.
    """
    name = "standard input" if str(path) == "-" else str(path)
    fd = _open(path)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileSource(name, ledger=ledger, limit=limit, fd=fd)
    return StreamSource(fd, name, ledger=ledger, limit=limit)


def count_rows(path: str | Path) -> int | None:
    """The lines of *path* that are not blank; None unless it is a plain regular file below 256 MiB. Raises nothing."""
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size >= _COUNTED_BYTES:
            return None
        with Path(path).open("rb", buffering=BLOCK_BYTES) as file:
            if is_archive(file.read(HEAD_BYTES)):
                return None
            file.seek(0)
            return sum(not line.isspace() for line in file)
    except OSError:
        return None


def verify_finished(path: str | Path, ledger: Ledger) -> None:
    """Compare every finished row of a regular file with the hash in its output line, before anything is sent.

    Reads up to the last finished row. Other inputs cannot be read twice: their source compares as it goes.

    Raises:
        InputError: a finished row has changed or is gone, or the input cannot be read.
    """
    if not ledger or str(path) == "-" or not _is_regular(path):
        return
    name = str(path)
    fd = _open(path)
    number = 0
    try:
        leading = _Leading(os.pread(fd, HEAD_BYTES, 0))
        for batch in text_lines(_file_blocks(fd, name), name):
            if batch:
                _compare(name, number + 1, batch, ledger)
                leading.add(batch, done=ledger.are_done(number + 1, len(batch)))
                number += len(batch)
            if number >= ledger.last:
                ledger.verified = Verified(_identity(fd), leading.lines, leading.size_bytes)
                return
    finally:
        os.close(fd)
    raise InputError(
        f"{name}: the file has {number} lines, but the output has a result for line {ledger.last}",
        hint="restore the input, or write to another output (-o), or start afresh (--overwrite)",
        line=number,
    )


class _Leading:
    """How far every line of a plain file is finished: reading can start after that."""

    def __init__(self, head: bytes) -> None:
        self.lines = 0
        self.size_bytes = len(head) - len(strip_bom(head))
        self._goes_on = not is_archive(head)

    def add(self, batch: Sequence[bytes | LongLine], *, done: bool) -> None:
        lines = [line for line in batch if isinstance(line, bytes)]
        self._goes_on = self._goes_on and done and len(lines) == len(batch)
        if self._goes_on:
            self.lines += len(lines)
            self.size_bytes += sum(map(len, lines)) + len(lines)


def _compare(name: str, first: int, lines: Sequence[bytes | LongLine], ledger: Ledger) -> None:
    """Compare the finished ones of *lines*, the first of which has the number *first*, with their hashes."""
    if ledger.are_done(first, len(lines)):
        digests = b"".join([sha256(line).digest()[:8] for line in lines if isinstance(line, bytes)])
        if digests == ledger.hashes_of(first, len(lines)):
            return
    # Some are not finished, end in a carriage return, are too long, or have changed.
    for number, line in enumerate(lines, first):
        if ledger.is_done(number):
            _compare_line(name, number, line, ledger)


def _compare_line(name: str, number: int, line: bytes | LongLine, ledger: Ledger) -> None:
    digest = line.hash if isinstance(line, LongLine) else line_digest(line)
    if digest != ledger.hash_of(number):
        raise InputError(
            f"{name}:{number}: this row has changed since its result was written",
            hint="restore the row, or write to another output (-o), or start afresh (--overwrite)",
            line=number,
        )


def _identity(fd: int) -> tuple[int, ...]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _is_regular(path: str | Path) -> bool:
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return True  # opening says what is wrong


def _open(path: str | Path) -> int:
    try:
        if str(path) == "-":
            return os.dup(0)
        if not str(path):
            raise InputError("the input's path is empty", hint="name a file, or - for standard input")
        # Without O_NONBLOCK, opening a FIFO would block until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint="check the path and the current directory") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it", hint=f"ls -l {path} shows who may") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({_why(error)})", hint="name a readable file") from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"{path}: is a directory", hint="name one file of rows in it")
    return fd


def _file_blocks(fd: int, name: str) -> Iterator[bytes]:
    while block := _read(fd, name):
        yield block


def _read(fd: int, name: str) -> bytes:
    try:
        return os.read(fd, BLOCK_BYTES)
    except BlockingIOError:
        raise
    except OSError as error:
        hint = "run the same command again once it can be read: what is finished is kept"
        raise InputError(f"{name}: cannot be read ({_why(error)})", hint=hint) from error


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
