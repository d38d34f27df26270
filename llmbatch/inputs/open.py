"""Opens an input and reads its bytes, with errors that say what to try."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InputError
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, Filesystem, is_readable

__all__ = [
    "BLOCK_BYTES",
    "blocks_between",
    "file_blocks",
    "open_input",
    "read_block",
    "read_exactly",
    "read_head",
    "unreadable",
]

_URL: Final = re.compile(r"[a-z][a-z0-9+]{1,9}:/")

BLOCK_BYTES: Final = 64 * 1024
"""Block size: the lines of a block are in memory together, and larger blocks are not faster."""


def _where(path: str) -> str:
    """What to do about a *path* of nothing."""
    if _URL.match(path) is None:
        return "check the path and the current directory"
    return "only files of this machine are read: download it first, or pipe it: … | llmbatch run - -o results.jsonl"


def open_input(path: str | Path, disk: Filesystem = FILESYSTEM) -> int:
    """Open *path*, or standard input for ``-``; return a descriptor.

    Raises:
        InputError: it cannot be opened, or is a directory.
    """
    try:
        if str(path) == "-":
            return _duplicate_stdin()
        if not str(path):
            raise InputError("the input's path is empty", hint="name a file, or - for standard input")
        # Without O_NONBLOCK, opening a FIFO would block until somebody writes to it.
        fd = disk.open(str(path), os.O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint=_where(str(path))) from None
    except PermissionError:
        if Path(path).is_dir():  # which Windows does not open
            raise _is_directory(path) from None
        raise InputError(f"{path}: no permission to read it", hint=f"ls -l {path} shows who may") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({_why(error)})", hint="name a readable file") from error
    if stat.S_ISDIR(disk.fstat(fd).st_mode):
        disk.close(fd)
        raise _is_directory(path)
    return fd


def _is_directory(path: str | Path) -> InputError:
    return InputError(f"{path}: is a directory", hint="name one file of rows in it")


def _duplicate_stdin() -> int:
    # A closed standard stream's number is taken by a descriptor that cannot be read from.
    if not is_readable(0):
        raise InputError("standard input is closed", hint="name a file, or pipe rows in")
    return os.dup(0)


def file_blocks(fd: int, name: str, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """Read the blocks of a regular file, from the position of *fd* to its end.

    Raises:
        InputError: it cannot be read.
    """
    while block := read_block(fd, name, disk):
        yield block


def blocks_between(fd: int, start: int, end: int, name: str, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """Read the blocks of a regular file from *start* to *end*, whatever the position of *fd*.

    Raises:
        InputError: it cannot be read.
    """
    while start < end:
        block = _read_at(fd, min(BLOCK_BYTES, end - start), start, name, disk)
        if not block:
            return
        start += len(block)
        yield block


def read_exactly(fd: int, size: int, offset: int, name: str, disk: Filesystem = FILESYSTEM) -> bytes:
    """Read *size* bytes of a regular file from *offset* on, fewer at its end.

    Raises:
        InputError: it cannot be read.
    """
    block = _read_at(fd, size, offset, name, disk)
    if len(block) == size:
        return block
    return b"".join((block, *blocks_between(fd, offset + len(block), offset + size, name, disk)))


def read_head(fd: int, size: int, name: str, disk: Filesystem = FILESYSTEM) -> bytes:
    """Read the first *size* bytes of a regular file, whatever the position of *fd*.

    Raises:
        InputError: it cannot be read.
    """
    return _read_at(fd, size, 0, name, disk)


def _read_at(fd: int, size: int, offset: int, name: str, disk: Filesystem) -> bytes:
    try:
        return disk.pread(fd, size, offset)
    except OSError as error:
        raise unreadable(name, error) from error


def read_block(fd: int, name: str, disk: Filesystem = FILESYSTEM) -> bytes:
    """Read the next block, empty at the end.

    Raises:
        BlockingIOError: no data is available right now.
        InputError: it cannot be read.
    """
    try:
        return disk.read(fd, BLOCK_BYTES)
    except BlockingIOError:
        raise
    except OSError as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: OSError) -> InputError:
    """Convert *error*, raised while reading *name*, into an error for the user."""
    hint = "run the same command again once it can be read: what is finished is kept"
    return InputError(f"{name}: cannot be read ({_why(error)})", hint=hint)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
