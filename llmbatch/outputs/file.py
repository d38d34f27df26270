"""Opens, repairs, appends to and syncs the output file.

Opening locks the file, removes a torn last line, and reads which rows are finished; then whole lines are appended.
After every failure the file ends with a whole line. :mod:`~llmbatch.outputs.writer` decides when to write and to sync;
:func:`llmbatch.core.rows.encode_line` builds the lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.core.raw_json import dumps
from llmbatch.outputs.lines import failed_rows, result_lines
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.scan import START_AFRESH, match_line, scan
from llmbatch.outputs.watch import FileChangedError, find_change, save_lines
from llmbatch.storage.atomic_replace import remove_leftover, replace_file, sync_directory, write_beside
from llmbatch.storage.filesystem import (
    FILESYSTEM,
    O_CLOEXEC,
    O_NOCTTY,
    Filesystem,
    is_unsupported,
    is_writable,
    write_error,
)
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["Output", "open_output"]

_BLOCK_BYTES: Final = 1024 * 1024
_PROBE: Final = bytes(range(256)) * 64
"""Written to test for disk space: 16 KiB, about a group of lines, not one repeated byte (which may take no space)."""

_COMPRESSED: Final = (".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".zip")
_NO_SYNC_HINT: Final = "let the system decide when lines are on the disk (--fsync off), or write to a local disk (-o)"


class Output:
    """An output file that is open, locked and ends with a whole line.

    ``ledger`` has the rows that were finished when it was opened; ``lines_written`` counts lines appended since.
    :meth:`sync` may run in another thread than :meth:`write`, everything else in one. After a failed write or sync
    the output stays failed: every further call raises :class:`~llmbatch.core.errors.WriteError`. *path* is the file's
    path; without it the file is not watched for changes by others.
    """

    is_resumable: bool = True

    def __init__(
        self, fd: int, name: str, ledger: FinishedRows, disk: Filesystem = FILESYSTEM, *, path: str | None = None
    ) -> None:
        self.name = name
        self._path = path
        self.ledger = ledger
        self.lines_written = 0
        self.is_new = False
        """Whether there was no such file before."""
        self._fd = fd
        self._disk = disk
        self._open = True
        self._failure: WriteError | None = None
        self._size = self._synced_size = self._most_bytes = disk.fstat(fd).st_size
        self._synced_lines = 0
        self._is_unsafe = False
        ledger.failed_rows = lambda: failed_rows(self._fd, self._disk)

    def __repr__(self) -> str:
        state = "failed" if self._failure else "open" if self._open else "closed"
        return f"<{type(self).__name__} {self.name} {state}, {len(self.ledger) + self.lines_written} lines>"

    def has_success(self, model: str) -> bool:
        """Whether a successful line names *model* (``provider/model``). Reads the file until it finds one.

        Also False if the file cannot be read: then a run that needs to know stops, and nothing is lost.
        """
        # The members on both sides distinguish our own model from the one that the provider's answer names.
        named = f',"model":{dumps(model)},"attempts":'.encode()
        try:
            return any(named in line for line in _success_lines(self._fd, self._disk))
        except OSError:
            return False

    def first_success(self) -> tuple[int, str, str] | None:
        """The row of the first successful line, its model (``provider/model``) and settings, if it names a model.

        Raises:
            WriteError: the file cannot be read.
        """
        try:
            line = next(_success_lines(self._fd, self._disk), None)
        except OSError as error:
            raise self._failed(error) from error
        if line is None:
            return None
        try:
            parsed = json.loads(line)
        except ValueError:
            raise OutputError(f"{self.name}:1: this result line is damaged", hint=START_AFRESH) from None
        model = parsed.get("model")
        return (parsed["row"], model, str(parsed.get("settings", ""))) if isinstance(model, str) else None

    def good_rows(self, most: int) -> dict[int, str]:
        """Number and hash of the first *most* rows that succeeded; none if the file cannot be read."""
        try:
            found = [match_line(line) for line in islice(_success_lines(self._fd, self._disk), most)]
        except OSError:
            return {}
        return {int(match[1]): match[2].decode() for match in found if match is not None}

    def write(self, data: bytes) -> None:
        r"""Append *data* (whole lines). On failure, the lines that fit stay and a torn line is removed.

        Raises:
            WriteError: disk full, quota, file size limit, I/O error.
        """
        self._check()
        written = 0
        self._most_bytes = self._size + len(data)
        try:
            while written < len(data):
                # After a short write, the next one reports why.
                written += self._disk.write(self._fd, data[written:] if written else data)
        except OSError as error:
            kept = data.rfind(b"\n", 0, written) + 1
            self.lines_written += data.count(b"\n", 0, kept)
            self._size += kept
            if written > kept:
                self._cut()
            raise self._failed(error) from error
        self.lines_written += data.count(b"\n")
        self._size += len(data)

    def drop_corrected(self, up_to: int | None = None) -> None:
        """Remove the lines of rows that were no requests and have been corrected since, to send them.

        *up_to*: only rows up to this number; those beyond it keep their lines.

        Raises:
            WriteError: the file could not be rewritten; the old one is still there.
        """
        self.ledger.failed_rows = None  # what changes from here on changes under the run
        rows = [number for number in self.ledger.corrected if up_to is None or number <= up_to]
        self.ledger.corrected.clear()
        self._drop(rows)

    def drop_input_errors(self, up_to: int | None = None) -> None:
        """Remove the lines of all rows that were no requests: those of an input that cannot be compared beforehand.

        Nothing is paid for them: those that have not been corrected get their lines again.

        Raises:
            WriteError: the file could not be rewritten; the old one is still there.
        """
        if self.ledger.failed:
            rows = failed_rows(self._fd, self._disk).input_errors
            numbers = self.ledger.done_after(0)
            self._drop([number for number in numbers if number in rows and (up_to is None or number <= up_to)])
        self.ledger.failed_rows = None

    def _drop(self, rows: Sequence[int]) -> None:
        if not rows or self._path is None:
            return
        dropped = frozenset(rows)
        old_fd, self._fd = self._fd, -1  # which is closed there
        lines = _lines_without(old_fd, self._disk, dropped.__contains__)
        try:
            self._fd = without = replace_file(self._path, lines, self._disk, old_fd=old_fd)
        except OSError as error:
            self._open = False
            raise self._failed(error) from error
        self._size = self._synced_size = self._most_bytes = self._disk.fstat(without).st_size
        self.ledger.remove_failed(dropped)

    def check_room(self, *, sync: bool) -> None:
        """Test for disk space: write 16 KiB to a file next to this one, sync both if *sync*, before calls are paid for.

        Not to this file: others may be reading what is appended to it. If the process is killed, the next opening
        removes the file.

        Raises:
            OutputError: the file system cannot sync.
            WriteError: there is no room, or an I/O error.
        """
        self._check()
        try:
            if self._path is not None:
                write_beside(self._path, _PROBE, self._disk, sync=sync)
            if sync:
                self._disk.sync(self._fd)
        except OSError as error:
            if sync and is_unsupported(error):
                message = f"{self.name}: its file system cannot sync ({error.strerror})"
                raise OutputError(message, hint=_NO_SYNC_HINT) from error
            raise self._failed(error) from error

    def sync(self) -> None:
        """Sync what has been written. Never retried after a failure: the kernel then reports lost pages as clean.

        Raises:
            WriteError: an I/O error (then :meth:`cut_unsynced`), or as :meth:`watch`.
        """
        self._check()
        size, lines = self._size, self.lines_written
        try:
            self._disk.sync(self._fd)
            self._synced_size, self._synced_lines = size, lines
        except OSError as error:
            # If sync is not supported, nothing was lost.
            self._is_unsafe = not is_unsupported(error)
            raise self._failed(error) from error
        self.watch()

    def watch(self) -> None:
        """Compare the file with what was written, and its path with the file.

        Raises:
            FileChangedError: another process has changed it; then call :meth:`save`.
        """
        self._check()
        if self._path is not None:
            change = find_change(self._fd, self._path, lambda: (self._size, self._most_bytes), self._disk)
            if change is not None:
                raise FileChangedError(self.name, change)

    def save(self, error: FileChangedError) -> WriteError:
        """Save all lines under a name again, if possible; the output has then failed, with the error that is given."""
        lines = len(self.ledger) + self.lines_written
        self._failure = save_lines(self._fd, self._path or self.name, self.name, error.change, lines, self._disk)
        return self._failure

    def cut_unsynced(self) -> None:
        """After a failed sync, remove the lines that may be lost, so that their rows are sent again.

        They can still be read, but only until the kernel drops its copy: the next run would take them for finished.
        """
        if self._is_unsafe and self._size > self._synced_size:
            self._size, self.lines_written = self._synced_size, self._synced_lines
            self._cut()

    def remove_if_new(self) -> None:
        """Remove a file that this run made and wrote nothing to: one that was refused leaves nothing behind."""
        if self.is_new and self._open and self._path is not None:
            with contextlib.suppress(OSError):
                if self._disk.fstat(self._fd).st_size == 0:
                    self._disk.unlink(self._path)

    def close(self) -> None:
        """Close the file, which releases the lock; idempotent."""
        if self._open:
            self._open = False
            self._disk.close(self._fd)

    def _check(self) -> None:
        if self._failure is not None:
            raise WriteError(self._failure.message, hint=self._failure.hint)
        if not self._open:
            raise WriteError(f"{self.name}: is closed")

    def _failed(self, error: OSError) -> WriteError:
        self._failure = write_error(self.name, error)
        return self._failure

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # then the next opening repairs it
            self._disk.truncate(self._fd, self._size)


def open_output(
    path: str | Path,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    retry_up_to: int | None = None,
    input_path: str | Path | None = None,
    disk: Filesystem = FILESYSTEM,
) -> Output:
    """Open *path* for appending; ``-`` is standard output, and devices and pipes are streams too.

    A file is created with mode 0600 where there is none. *overwrite* empties it, *retry_failed* drops the lines of
    failed rows (of the rows up to number *retry_up_to*, if given), both only once it is locked. *input_path* is refused
    as the output. Cost: one pass over the file's bytes, three with *retry_failed* where rows failed.

    Raises:
        OutputError: the file is in use by another run, is not an output of llmbatch, or cannot be opened.
        WriteError: the repair could not be written; the old file is unchanged.
    """
    from llmbatch.outputs.stream import open_stream_output  # which imports this module

    name = str(path)
    if name == "-":
        return open_stream_output(_duplicate_stdout(), "standard output")
    if not Path(name).name or name.endswith("/"):
        raise OutputError(f"{name or 'the path'}: names no file", hint="name a file to write to (-o)")
    if _is_stream(name, disk):
        return open_stream_output(_open_stream(name), name)
    if name.endswith(_COMPRESSED):
        plain = shlex.quote(str(Path(name).with_suffix("")))
        hint = f"a compressed file cannot be appended to and resumed; write to {plain}, and compress it afterwards"
        raise OutputError(f"{name}: results are written uncompressed", hint=hint)
    # A link stays a link: the file that it names is the one that is locked and, on a rewrite, replaced.
    real = disk.real_path(name)
    is_new = not _exists(real, disk)
    fd = open_locked(real, name, disk)
    try:
        _refuse_input(fd, name, input_path, disk)
        remove_leftover(real, disk)
        if overwrite:
            disk.truncate(fd, 0)
        ledger = _repaired(fd, name, disk)
        if retry_failed and ledger.failed:
            most = math.inf if retry_up_to is None else retry_up_to
            old_fd, fd = fd, -1  # which is closed there
            fd = replace_file(real, _lines_without(old_fd, disk, lambda number: number <= most), disk, old_fd=old_fd)
            ledger = scan(fd, name, disk).ledger
        # Lines of a killed run may be in memory only, and this run will take their rows for finished.
        if len(ledger):
            _sync_if_possible(fd, disk)
        sync_directory(real, disk)
    except BaseException as error:
        if fd >= 0:
            disk.close(fd)
        if isinstance(error, OSError):
            raise write_error(name, error) from error
        raise
    output = Output(fd, name, ledger, disk, path=real)
    output.is_new = is_new
    return output


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
        if not is_unsupported(error):  # then check_room reports it
            raise


def _repaired(fd: int, name: str, disk: Filesystem) -> FinishedRows:
    found = scan(fd, name, disk)
    if disk.fstat(fd).st_size > found.end_bytes:
        disk.truncate(fd, found.end_bytes)
    if found.lacks_newline:
        disk.write(fd, b"\n")
    return found.ledger


def _lines_without(fd: int, disk: Filesystem, is_dropped: Callable[[int], bool]) -> Iterator[bytes]:
    """The lines in blocks, but for those of failed rows that are dropped."""
    lines: list[bytes] = []
    size = 0
    for found, line in result_lines(fd, disk):
        if found[3] == b"failed" and is_dropped(int(found[1])):
            continue
        lines.append(line)
        size += len(line)
        if size > _BLOCK_BYTES:
            yield b"".join(lines)
            lines.clear()
            size = 0
    yield b"".join(lines)


def _success_lines(fd: int, disk: Filesystem) -> Iterator[bytes]:
    r"""The lines of rows that succeeded, each with its ``\n``, in the file's order."""
    return (line for found, line in result_lines(fd, disk) if found[3] == b"success")


def _is_stream(path: str, disk: Filesystem) -> bool:
    try:
        mode = disk.stat(path).st_mode
    except (OSError, ValueError):
        return False  # opening creates it, or reports what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _open_stream(path: str) -> int:
    try:
        return FILESYSTEM.open(path, os.O_WRONLY | os.O_APPEND | O_CLOEXEC | O_NOCTTY)
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened ({error.strerror})", hint="write to a file (-o)") from error


def _duplicate_stdout() -> int:
    try:
        # A place that is only held, so that nothing else gets it, cannot be written to.
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
