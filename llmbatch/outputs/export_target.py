"""Where an export goes: a file that appears whole or not at all, or a stream; compressed if its name says so."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, Protocol

from llmbatch.core.errors import OutputError, UsageError
from llmbatch.storage.atomic_replace import is_being_replaced, replace_file
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem, is_writable, write_error

__all__ = ["FORMATS", "Compression", "ExportFormat", "check_target", "format_of", "write_target"]

ExportFormat = Literal["jsonl", "csv", "tsv", "parquet", "openai"]
FORMATS: Final[tuple[ExportFormat, ...]] = ("jsonl", "csv", "tsv", "parquet", "openai")

Compression = Literal["", "gzip", "zstd"]

_COMPRESSIONS: Final[dict[str, Compression]] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_FORMAT_OF: Final[dict[str, ExportFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_LACKING: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR})
_NAME_A_FILE: Final = "name a file to write to (-o)"
_ALL_FORMATS: Final = ", ".join(FORMATS)


def format_of(path: str, wanted: str | None) -> tuple[ExportFormat, Compression]:
    """The format of an export to *path*, by its name unless *wanted* names one (``-``: JSON Lines), and compression.

    Raises:
        UsageError: the format is not known, or Parquet is to be compressed once more.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression = _COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    known = suffixes[:-1] if compression else suffixes
    if wanted is None:
        found = "jsonl" if path == "-" else _FORMAT_OF.get(known[-1] if known else "")
        if found is None:
            hint = f"name the file .jsonl, .csv, .tsv or .parquet, or give --format ({_ALL_FORMATS})"
            raise UsageError(f"{path}: its name does not say which format to write", hint=hint)
    elif wanted in FORMATS:
        found = wanted
    else:
        raise UsageError(f"--format {wanted}: there is no such format", hint=f"there are {_ALL_FORMATS}")
    if found == "parquet" and compression:
        hint = f"write to {shlex.quote(str(Path(path).with_suffix('')))}"
        raise UsageError(f"{path}: Parquet files are compressed already", hint=hint)
    return found, compression


def check_target(
    path: str, others: Mapping[str, str], *, overwrite: bool, is_binary: bool, disk: Filesystem = FILESYSTEM
) -> None:
    """Check before anything is read that *path* can be written; ``-`` is standard output.

    *others*: what files are that may not be overwritten, by path.

    Raises:
        OutputError: it cannot be, or *overwrite* is not given and it exists.
    """
    if path == "-":
        if not _stdout_is_open():
            raise OutputError("standard output is closed", hint="write to a file (-o)")
        if is_binary and os.isatty(1):
            raise OutputError("the terminal cannot show a binary file", hint="write to a file (-o)")
        return
    if not path:
        raise OutputError("the path is empty", hint=_NAME_A_FILE)
    if path.endswith("/"):
        raise OutputError(f"{path}: is a directory", hint=_NAME_A_FILE)
    try:
        about = disk.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        _check_folder(path)
        _refuse_busy(path, disk)
        return
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if stat.S_ISDIR(about.st_mode):
        raise OutputError(f"{path}: is a directory", hint=_NAME_A_FILE)
    for other, what in others.items():
        if _is_same(other, about, disk):
            raise OutputError(f"{path}: is {what}", hint="write to another file (-o)")
    if not stat.S_ISREG(about.st_mode):
        return
    if not overwrite:
        raise OutputError(f"{path}: exists already", hint="write to another file (-o), or replace it (--overwrite)")
    _refuse_locked(path, disk)
    _refuse_busy(path, disk)


def write_target(
    path: str, blocks: Iterable[bytes], compression: Compression, *, overwrite: bool, disk: Filesystem = FILESYSTEM
) -> None:
    """Write *blocks* to *path*, which :func:`check_target` has checked. A file is replaced once all are written.

    Raises:
        OutputError: the file may not be written, or, without *overwrite*, exists by now.
        WriteError: the disk is full, an I/O error, or a pipe whose reader has gone.
    """
    blocks = _Source(_compressed(blocks, compression))
    name = "standard output" if path == "-" else path
    try:
        if path == "-" or _is_stream(path, disk):
            _write_stream(path, blocks, disk)
        else:
            real = disk.real_path(path)
            disk.close(replace_file(real, _unless_there(path, blocks, disk, overwrite=overwrite), disk))
    except OSError as error:
        if blocks.failure is error:
            raise  # from reading, not from writing
        if error.errno in _LACKING or isinstance(error, FileNotFoundError):
            raise _unwritable(path, error) from error
        raise write_error(name, error) from error


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Source:
    """Iterates over blocks, and keeps the error that making them raised."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._blocks)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise


def _unless_there(path: str, blocks: Iterable[bytes], disk: Filesystem, *, overwrite: bool) -> Iterator[bytes]:
    """*blocks*, refused at their end if another process has made *path* meanwhile."""
    yield from blocks
    if not overwrite and _exists(path, disk):
        hint = "write to another file (-o), or replace it (--overwrite)"
        raise OutputError(f"{path}: was made by another program meanwhile", hint=hint)


def _write_stream(path: str, blocks: Iterable[bytes], disk: Filesystem) -> None:
    from llmbatch.outputs.stream import open_stream, open_stream_output  # with asyncio, which few exports need

    stream = open_stream_output(os.dup(1), "standard output") if path == "-" else open_stream(path, disk)
    try:
        for block in blocks:
            stream.write(block)
    finally:
        stream.close()


def _compressed(blocks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    if not compression:
        yield from blocks
        return
    packer: _Packer
    if compression == "gzip":
        packer = zlib.compressobj(6, wbits=31)
    else:
        import zstandard  # loaded only if an export needs it

        packer = zstandard.ZstdCompressor().compressobj()
    for block in blocks:
        packed = packer.compress(block)
        if packed:
            yield packed
    yield packer.flush()


def _check_folder(path: str) -> None:
    folder = Path(path).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}", hint=f"make it: mkdir -p {shlex.quote(str(folder))}")


def _refuse_locked(path: str, disk: Filesystem) -> None:
    """Refuse to replace the output of a run that goes on."""
    try:
        fd = disk.open(path, os.O_RDONLY | O_CLOEXEC)
    except OSError:
        return
    try:
        if disk.is_locked(fd):
            raise OutputError(f"{path}: a run is writing it", hint="write to another file (-o)")
    finally:
        disk.close(fd)


def _refuse_busy(path: str, disk: Filesystem) -> None:
    if is_being_replaced(disk.real_path(path), disk):
        raise OutputError(f"{path}: another export is writing it", hint="wait for its end, or write to another file")


def _is_same(other: str, about: os.stat_result, disk: Filesystem) -> bool:
    try:
        return os.path.samestat(disk.stat(other), about)
    except (OSError, ValueError):
        return False


def _is_stream(path: str, disk: Filesystem) -> bool:
    try:
        return not stat.S_ISREG(disk.stat(path).st_mode)
    except OSError:
        return False


def _exists(path: str, disk: Filesystem) -> bool:
    try:
        disk.stat(path)
    except OSError:
        return False
    return True


def _stdout_is_open() -> bool:
    try:
        return is_writable(1)
    except OSError:
        return False


def _unwritable(path: str, error: Exception) -> OutputError:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return OutputError(f"{path}: cannot be written ({why})", hint="check the path, and who may write there (ls -ld)")
