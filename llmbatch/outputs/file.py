"""An open output file: appends whole lines, syncs them, and removes lines that are to be sent again.

After every failure the file ends with a whole line. :mod:`~llmbatch.outputs.open` opens and repairs the file,
:mod:`~llmbatch.outputs.writer` decides when to write and to sync, and :func:`llmbatch.core.rows.encode_line` builds the
lines.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.core.raw_json import dumps
from llmbatch.outputs.lines import cut_rows, failed_rows, first_success, lines_without, success_lines
from llmbatch.outputs.scan import match_line
from llmbatch.outputs.take_in import take_in
from llmbatch.outputs.torn import Torn, find_torn, whole_lines
from llmbatch.outputs.watch import FileChangedError, find_change, save_lines
from llmbatch.storage.atomic_replace import replace_file, write_beside
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem, is_unsupported, write_error
from llmbatch.storage.finished_rows import FailedRows, FinishedRows, RowSet

if TYPE_CHECKING:
    from llmbatch.outputs.other_parts import OtherParts

__all__ = ["Output"]

_PROBE: Final = bytes(range(256)) * 64
"""Written to test for disk space: 16 KiB, about a group of lines, not one repeated byte (which may take no space)."""

_LONG_NAME: Final = "the name is too long: files beside it have longer ones"
_NO_SYNC_HINT: Final = "let the system decide when lines are on the disk (--fsync off), or write to a local disk (-o)"


class Output:
    """An output file that is open, locked and ends with a whole line.

    ``finished`` holds the rows that had a line when it was opened; ``lines_written`` counts lines appended since.
    :meth:`sync` may run in another thread than :meth:`write`, everything else in one. After a failed write or sync
    the output stays failed: every further call raises :class:`~llmbatch.core.errors.WriteError`. *path* is the file's
    path; without it the file is not watched for changes by others.
    """

    is_resumable: bool = True

    def __init__(
        self, fd: int, name: str, finished: FinishedRows, disk: Filesystem = FILESYSTEM, *, path: str | None = None
    ) -> None:
        self.name = name
        self._path = path
        self.finished = finished
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
        self._cut_rows: list[int] = []
        self._elsewhere: OtherParts | None = None
        finished.failed_rows = self._failed_rows

    def __repr__(self) -> str:
        state = "failed" if self._failure else "open" if self._open else "closed"
        return f"<{type(self).__name__} {self.name} {state}, {self._lines()} lines>"

    def _lines(self) -> int:
        elsewhere = 0 if self._elsewhere is None else self._elsewhere.rows
        return self.finished.lines - elsewhere + self.lines_written

    def join(self, elsewhere: OtherParts) -> None:
        """Count the finished rows in other files too.

        Raises:
            OutputError: as :meth:`OtherParts.enter <llmbatch.outputs.other_parts.OtherParts.enter>`.
        """
        elsewhere.enter(self.finished, self.name)
        self._elsewhere = elsewhere

    def file_of(self, number: int) -> str:
        """The name of the file that has the line of the finished row *number*."""
        found = None if self._elsewhere is None else self._elsewhere.file_of(number)
        return found or self.name

    def has_success(self, model: str) -> bool:
        """Whether a successful line names *model* (``provider/model``). Reads the file until it finds one.

        Also False if the file cannot be read: then a run that needs to know stops, and nothing is lost.
        """
        # The members on both sides distinguish our own model from the one that the provider's answer names.
        named = f',"model":{dumps(model)},"attempts":'.encode()
        try:
            if any(named in line for line in success_lines(self._fd, self._size, self._disk)):
                return True
        except OSError:
            return False
        return self._elsewhere is not None and self._elsewhere.has_success(model)

    def first_success(self) -> tuple[int, str, str] | None:
        """The row of the first successful line, its model (``provider/model``) and settings, if it names a model.

        Raises:
            WriteError: the file cannot be read.
        """
        try:
            return first_success(self._fd, self._size, self.name, self._disk)
        except OSError as error:
            raise self._failed(error) from error

    def earlier_success(self) -> tuple[str, tuple[int, str, str]] | None:
        """As :meth:`first_success`, also of other files: the name of the file, and what that says.

        Raises:
            OutputError: a line is damaged, or another file cannot be read.
            WriteError: this file cannot be read.
        """
        found = self.first_success()
        if found is not None:
            return self.name, found
        return None if self._elsewhere is None else self._elsewhere.first_success()

    def good_rows(self, most: int) -> dict[int, str]:
        """Number and hash of the first *most* rows that succeeded.

        Raises:
            OSError: the file cannot be read now.
        """
        found = [match_line(line) for line in islice(success_lines(self._fd, self._size, self._disk), most)]
        good = {int(match[1]): match[2].decode() for match in found if match is not None}
        if not good and self._elsewhere is not None:
            good = self._elsewhere.good_rows(most)
        return good

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

    def take_in_parts(self) -> int:
        """Append the lines of the parts that processes wrote beside this output, and remove the parts; how many rows.

        Raises:
            InUseError: a process is still writing one.
            OutputError: a part is damaged, or holds another result of a row.
            WriteError: there is no room, or an I/O error; the parts that are left stay.
        """
        if self._path is None:
            return 0
        try:
            rows = take_in(self._path, self.finished, self.write, lambda: self._disk.sync(self._fd), self._disk)
        except OSError as error:
            raise self._failed(error) from error
        self.lines_written -= rows  # which `finished` counts
        return rows

    def drop_corrected(self, up_to: int | None = None) -> None:
        """Remove the lines of rows with an ``input_`` error that have changed since, so that they are sent.

        *up_to*: the last row number; rows beyond it keep their lines. None: all rows.

        Raises:
            WriteError: the file could not be rewritten; the old one is still there.
        """
        self.finished.failed_rows = None  # a row that changes from here on changes during the run
        rows = [number for number in self.finished.corrected if up_to is None or number <= up_to]
        self.finished.corrected.clear()
        self._drop(rows)

    def drop_input_errors(self, up_to: int | None = None) -> None:
        """Remove the lines of all rows with an ``input_`` error, for an input that cannot be compared before the run.

        No call was made for them; rows that are still malformed get the same line again. *up_to*: as
        :meth:`drop_corrected`.

        Raises:
            WriteError: the file could not be rewritten; the old one is still there.
        """
        if self.finished.failed:
            rows = self._failed_rows().input_errors
            numbers = self.finished.done_after(0)
            self._drop([number for number in numbers if number in rows and (up_to is None or number <= up_to)])
        self.finished.failed_rows = None

    def find_cut_answers(self, is_cut: Callable[[bytes], bool], up_to: int | None) -> None:
        """Note the rows whose answers were cut, for :meth:`drop_cut_answers`; until then they may change in the input.

        *is_cut* is asked about each line of a success. *up_to*: as :meth:`drop_corrected`. Changes nothing in the file.

        Raises:
            WriteError: the file cannot be read.
        """
        try:
            found = list(cut_rows(self._fd, self._size, self._disk, is_cut, up_to))
            if self._elsewhere is not None:
                found += self._elsewhere.cut_rows(is_cut, up_to)
            self._cut_rows = found
        except OSError as error:
            raise self._failed(error) from error
        self.finished.resent = RowSet()
        for number in self._cut_rows:
            self.finished.resent.add(number)

    def drop_cut_answers(self) -> None:
        """Remove the lines of the rows that :meth:`find_cut_answers` has noted, so that they are sent again.

        Raises:
            WriteError: the file could not be rewritten; the old one is still there.
        """
        rows, self._cut_rows, self.finished.resent = self._cut_rows, [], None
        self._drop(rows, status="success")

    def drop_elsewhere(self, up_to: int | None, *, only_failed: bool) -> None:
        """Remove the lines of rows up to *up_to* (None: all) from the other files, of all or of those that failed.

        Raises:
            OutputError: a file is in use by another run, or cannot be read.
            WriteError: one could not be rewritten.
        """
        if self._elsewhere is None or not self._elsewhere.rows:
            return
        failed = frozenset(self._elsewhere.failed_numbers(self.finished, up_to))
        self._drop_there(failed, status="failed")
        if not only_failed:  # the own file is empty
            self._drop_there(frozenset(self.finished.done_after(0)), status="success")

    def _drop_there(self, rows: frozenset[int], *, status: Literal["success", "failed"]) -> None:
        if rows and self._elsewhere is not None:
            self._elsewhere.drop(rows, status=status)
            self.finished.remove(rows, status=status)

    def _failed_rows(self) -> FailedRows:
        rows = failed_rows(self._fd, self._size, self._disk)
        if self._elsewhere is not None:
            self._elsewhere.add_failed(rows)
        return rows

    def _drop(self, rows: Sequence[int], *, status: Literal["success", "failed"] = "failed") -> None:
        if not rows or self._path is None:
            return
        if self._elsewhere is not None and self._elsewhere.rows:
            elsewhere = self._elsewhere.among(frozenset(rows))
            self._drop_there(elsewhere, status=status)
            rows = [row for row in rows if row not in elsewhere]
            if not rows:
                return
        dropped = frozenset(rows)
        old_fd, self._fd = self._fd, -1  # which is closed there
        lines = lines_without(old_fd, self._size, self._disk, dropped.__contains__, status=status)
        try:
            self._fd = without = replace_file(self._path, lines, self._disk, old_fd=old_fd)
        except OSError as error:
            self._open = False
            raise self._failed(error) from error
        self._size = self._synced_size = self._most_bytes = self._disk.fstat(without).st_size
        self.finished.remove(dropped, status=status)

    def check_room(self, *, sync: bool) -> None:
        """Test for disk space: write 16 KiB to a file next to this one, sync both if *sync*, before calls are paid for.

        Not to this file: others may be reading what is appended to it. If the process is killed, the next opening
        removes the file.

        Raises:
            OutputError: the file system cannot sync, or has no room for longer names than the file's.
            WriteError: there is no room, or an I/O error.
        """
        self._check()
        try:
            self._disk.check_limit(self._size + len(_PROBE))
            if self._path is not None:
                write_beside(self._path, _PROBE, self._disk, sync=sync)
            if sync:
                self._disk.sync(self._fd)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise OutputError(
                    f"{self.name}: {_LONG_NAME}", hint="write to a file with a shorter name (-o)"
                ) from error
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
            # A file system that cannot sync has lost nothing.
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
        """Save all lines under a name again, if possible; the output has then failed, with the error that is given.

        Where it was truncated in mid-line, what is left of that line is removed, so that the same command resumes.
        """
        lines, path = self._lines(), self._path or self.name
        damaged = self._mend(path) if error.change.kind == "truncated" else None
        self._failure = save_lines(self._fd, path, self.name, error.change, lines, self._disk, damaged=damaged)
        return self._failure

    def _mend(self, path: str) -> int | None:
        """Remove what is left of torn lines that others were appended to; the number of a line that stays damaged."""
        found = Torn(None, None)
        try:
            size = self._disk.fstat(self._fd).st_size
            found = find_torn(self._fd, size, self._disk)
            if found.mendable is not None:
                lines = whole_lines(self._fd, size, self._disk)
                old_fd, self._fd = self._fd, -1  # which is closed there
                self._fd = replace_file(path, lines, self._disk, old_fd=old_fd)
        except OSError:
            self._open = self._fd >= 0
            return found.mendable
        return found.damaged

    def cut_unsynced(self) -> None:
        """After a failed sync, remove the lines that may be lost, so that their rows are sent again.

        They can still be read, but only until the kernel drops its copy: the next run would take them for finished.
        """
        if self._is_unsafe and self._size > self._synced_size:
            self._size, self.lines_written = self._synced_size, self._synced_lines
            self._cut()

    def remove_if_new(self) -> None:
        """Remove a file that this run made and wrote nothing to, unless another file has taken its name."""
        if self.is_new and self._open and self._path is not None:
            with contextlib.suppress(OSError):
                mine = self._disk.fstat(self._fd)
                if mine.st_size == 0 and os.path.samestat(mine, self._disk.stat(self._path)):
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
