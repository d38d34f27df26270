"""Opens the output: locks the file, removes a torn last line, and reads which rows are finished.

Nothing is changed in a file that is not an output of llmbatch, is in use, or is the input itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmbatch.core.errors import OutputError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.outputs.file import Output
from llmbatch.outputs.lines import lines_without
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.scan import scan
from llmbatch.outputs.take_in import remove_parts, take_in
from llmbatch.storage.atomic_replace import remove_leftover, replace_file, sync_directory
from llmbatch.storage.filesystem import (
    FILESYSTEM,
    Filesystem,
    is_unsupported,
    is_writable,
    write_all,
    write_error,
)
from llmbatch.storage.finished_rows import FinishedRows

if TYPE_CHECKING:
    from llmbatch.outputs.other_parts import OtherParts

__all__ = ["open_output"]

_COMPRESSED: Final = (".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".zip")
_EXPORTED: Final = (".csv", ".tsv", ".parquet")
_TABLES: Final = (".csv", ".tsv", ".xls", ".xlsx", ".parquet")


def open_output(
    path: str | Path,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    retry_up_to: int | None = None,
    input_path: str | Path | None = None,
    shard: Shard = WHOLE,
    elsewhere: Callable[[], OtherParts] | None = None,
    disk: Filesystem = FILESYSTEM,
) -> Output:
    """Open *path* for appending; ``-`` is standard output, and devices and pipes are streams too.

    What ``--workers`` of an earlier run left beside it is taken in first. A file is created with mode 0600 where there
    is none. *overwrite* empties it, *retry_failed* drops the lines of
    failed rows (of the rows up to number *retry_up_to*, if given), both only once it is locked. *input_path* is refused
    as the output. Of the finished rows, those of *shard* are kept; *elsewhere* finds other files that have some, once
    this one is locked: *retry_failed* drops lines there too, and *overwrite* all lines of the shard. Cost: one pass
    over the file's bytes, three with *retry_failed* where rows failed.

    Raises:
        OutputError: the file is in use by another run, is not an output of llmbatch, or cannot be opened.
        WriteError: the repair could not be written; the old file is unchanged.
    """
    name = str(path)
    if name == "-":
        from llmbatch.outputs.stream import open_stream_output

        return open_stream_output(_duplicate_stdout(), "standard output")
    if "\0" in name:
        raise OutputError(f"{name!r}: a path cannot have a NUL", hint="name a file to write to (-o)")
    if not Path(name).name or name.endswith("/"):
        raise OutputError(f"{name or 'the path'}: names no file", hint="name a file to write to (-o)")
    if _is_stream(name, disk):
        from llmbatch.outputs.stream import open_stream

        return open_stream(name)
    if name.endswith(_COMPRESSED):
        plain = shlex.quote(str(Path(name).with_suffix("")))
        hint = f"a compressed file cannot be appended to and resumed; write to {plain}, and compress it afterwards"
        raise OutputError(f"{name}: results are written uncompressed", hint=hint)
    _refuse_other_format(name, disk)
    # A link stays a link: the file that it names is the one that is locked and, on a rewrite, replaced.
    real = disk.real_path(name)
    is_new = not _exists(real, disk)
    fd = open_locked(real, name, disk)
    try:
        _refuse_input(fd, name, input_path, disk)
        remove_leftover(real, disk)
        if overwrite:
            disk.truncate(fd, 0)
            remove_parts(real, disk)
        finished = _repaired(fd, name, disk, shard)
        if shard == WHOLE:
            _take_in(fd, real, finished, disk)
        if retry_failed and finished.failed:
            most = math.inf if retry_up_to is None else retry_up_to
            lines = lines_without(fd, disk.fstat(fd).st_size, disk, lambda number: number <= most)
            old_fd, fd = fd, -1  # which is closed there
            fd = replace_file(real, lines, disk, old_fd=old_fd)
            finished = scan(fd, name, disk, shard=shard).finished
        # Lines of a killed run may be in memory only, and this run will take their rows for finished.
        if finished.lines:
            _sync_if_possible(fd, disk)
        sync_directory(real, disk)
    except BaseException as error:
        if fd >= 0:
            if is_new:
                _remove_if_empty(fd, real, disk)
            disk.close(fd)
        if isinstance(error, OSError):
            raise write_error(name, error) from error
        raise
    output = Output(fd, name, finished, disk, path=real)
    output.is_new = is_new
    if elsewhere is not None:
        try:
            output.join(elsewhere())
            if retry_failed or overwrite:
                output.drop_elsewhere(None if overwrite else retry_up_to, only_failed=not overwrite)
        except BaseException:
            output.remove_if_new()
            output.close()
            raise
    return output


def _refuse_other_format(name: str, disk: Filesystem) -> None:
    """Refuse a new output whose name says that it is a table; one that is there is read, whatever its name."""
    path = Path(name)
    if path.suffix.lower() not in _TABLES or _exists(name, disk):
        return
    lines = shlex.quote(str(path.with_suffix(".jsonl")))
    suffix = path.suffix.lower() if path.suffix.lower() in _EXPORTED else ".csv"
    table = shlex.quote(str(path.with_suffix(suffix)))
    hint = f"write to {lines} (-o), and export it afterwards: llmbatch export {lines} -o {table}"
    raise OutputError(f"{name}: results are written as JSON Lines, not as {path.suffix[1:]}", hint=hint)


def _exists(path: str, disk: Filesystem) -> bool:
    try:
        disk.stat(path)
    except (OSError, ValueError):  # what is wrong with it is found where it is opened
        return False
    return True


def _sync_if_possible(fd: int, disk: Filesystem) -> None:
    try:
        disk.sync(fd)
    except OSError as error:
        if not is_unsupported(error):  # check_room reports it
            raise


def _remove_if_empty(fd: int, path: str, disk: Filesystem) -> None:
    """Remove the file that was made here, unless it has lines by now."""
    with contextlib.suppress(OSError):
        if disk.fstat(fd).st_size == 0:
            disk.unlink(path)


def _take_in(fd: int, path: str, finished: FinishedRows, disk: Filesystem) -> None:
    """Append what the processes of an earlier run, which was killed, have left beside the output."""

    def write(data: bytes) -> None:
        write_all(fd, data, disk)

    take_in(path, finished, write, lambda: _sync_if_possible(fd, disk), disk)


def _repaired(fd: int, name: str, disk: Filesystem, shard: Shard) -> FinishedRows:
    found = scan(fd, name, disk, shard=shard)
    if disk.fstat(fd).st_size > found.end_bytes:
        disk.truncate(fd, found.end_bytes)
    if found.lacks_newline:
        disk.write(fd, b"\n")
    return found.finished


def _is_stream(path: str, disk: Filesystem) -> bool:
    try:
        mode = disk.stat(path).st_mode
    except (OSError, ValueError):
        return False  # opening creates it, or reports what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _duplicate_stdout() -> int:
    try:
        # A closed standard stream's number is taken by a descriptor that cannot be written to.
        if is_writable(1):
            return os.dup(1)
    except OSError:
        pass
    raise OutputError("standard output is closed", hint="write to a file (-o)")


def _refuse_input(fd: int, name: str, input_path: str | Path | None, disk: Filesystem) -> None:
    if input_path is None:
        return
    try:
        about = os.fstat(0) if str(input_path) == "-" else disk.stat(str(input_path))
    except OSError:
        return  # reading it reports what is wrong
    if os.path.samestat(about, disk.fstat(fd)):
        raise OutputError(f"{name}: is the input itself", hint="write to another file (-o)")
