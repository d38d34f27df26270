"""Reads rows from the blocks of a file descriptor, in one or several passes over the input.

The first pass compares finished rows with their hashes and counts rows. A later pass returns skipped rows.
Subclasses define how bytes are read and reread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from operator import length_hint
from typing import Final

from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.decode import Unterminated
from llmbatch.inputs.formats import RecordFormat
from llmbatch.inputs.passes import FinishedInput, Mark, Passes
from llmbatch.inputs.rows import line_digest, too_long
from llmbatch.inputs.shard_lines import ShardLines
from llmbatch.inputs.splitter import BadRecord, LongLine
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["ByteSource", "changed_while_running", "digest_of", "unreadable_row"]

# How many batches of lines, and single lines, a call may skip (finished rows, blank lines) before it yields to the
# event loop: a few milliseconds.
BATCHES_A_TURN: Final = 4
LINES_A_TURN: Final = 10_000

_TORN_CODES: Final = ("input_bad_json", "input_bad_utf8", "input_bad_csv")


class InputFile:
    """A descriptor that a source owns, its format, and its name in messages. ``fd`` is None once it is closed."""

    __slots__ = ("disk", "fd", "form", "keeps_torn", "name", "parse")

    def __init__(self, fd: int, name: str, form: RecordFormat, disk: Filesystem, *, keeps_torn: bool) -> None:
        self.fd: int | None = fd
        self.form = form
        self.parse = form.parse
        self.name = name
        self.disk = disk
        self.keeps_torn = keeps_torn

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd is not None:
            self.disk.close(self.fd)
            self.fd = None


class ByteSource:
    """Reads the rows of *shard* from the blocks of one file descriptor, which it owns.

    *limit* counts the rows of all shards.
    """

    can_skip: bool = True

    def __init__(
        self,
        fd: int,
        name: str,
        form: RecordFormat,
        *,
        finished: FinishedRows | None,
        limit: int | None,
        shard: Shard = WHOLE,
        keeps_torn: bool = True,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        self.exhausted = limit is not None and limit <= 0
        self.rows_read = 0
        self._file = InputFile(fd, name, form, disk, keeps_torn=keeps_torn)
        self._finished = FinishedInput(finished)
        self._passes = Passes()
        self._own = ShardLines(shard, limit) if shard.count > 1 else None
        self._limit = limit if self._own is None else None
        self._number = 0
        self._offset = 0  # of the next line
        self._is_plain = False  # whether a row's offset is that in the file
        self._last: Row | None = None  # returned in the first pass, of a plain file
        self._batches = self._open_batches(fd)
        self._lines: Iterator[bytes | LongLine] = iter(())
        self.torn_line: int | None = None
        """The last line, where it has no line end and cannot be parsed: somebody is still writing it."""
        self._is_unterminated = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file.name} {'exhausted' if self.exhausted else f'line {self._number}'}>"

    @property
    def name(self) -> str:
        """What the input is called in messages, also by the run that reads it: its path, or "standard input"."""
        return self._file.name

    @property
    def unit(self) -> str:
        """What a row's number counts, in messages: lines or records."""
        return self._file.form.unit

    @property
    def skipped(self) -> int:
        """Rows left for a later pass."""
        return self._passes.skipped

    @property
    def can_reread(self) -> bool:
        """Whether every row can be read again by its offset alone."""
        return False

    def take(self) -> Row | Malformed | None:
        """Return the next row; None if none is available yet, or at the end (``exhausted``).

        Raises:
            InputError: the input cannot be read, a finished row has changed, or, in a later pass, the input has.
        """
        if self.exhausted:
            return None
        if self._passes.rows is not None:
            return self._take_again(self._passes.rows)
        for _ in range(BATCHES_A_TURN):
            # Both are iterators that continue where the last call stopped.
            for line in islice(self._lines, LINES_A_TURN):
                row = self._next_row(line)
                if row is not None or self.exhausted:
                    return row
            if length_hint(self._lines):
                return None
            if self._own is not None and self._own.has_ended:
                self.exhausted = True
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
            if self._own is not None:
                batch = self._own_lines(self._own, batch)
            self._is_unterminated = isinstance(batch, Unterminated)
            if not self._passed_over(batch):
                self._lines = iter(batch)
        return None

    def skip(self, row: Row) -> None:
        """Leave the row for a later pass: it cannot be sent now, and the caller drops it.

        Raises:
            WriteError: the row had to be kept on disk, and there is no room.
        """
        self._passes.skip(row, row.number)

    def rewind(self) -> bool:
        """Start another pass from the first row that was skipped since the last one; False if none was.

        It ends at the furthest row read; a first pass that has not ended continues from there.
        """
        first = self._passes.first
        if first is None or self._file.fd is None:
            return False
        self._passes.begin(self._pass(first, self._number), is_exhausted=self.exhausted)
        self.exhausted = False
        return True

    def finished(self, number: int) -> None:
        """Mark the row as finished: later passes skip it. One bit per row, constant time."""
        self._finished.add(number)

    def keep(self, row: Row) -> bool:
        """Make the row available to :meth:`reread`; False if that is not possible."""
        return self.can_reread

    def reread(self, row: Row) -> Row:
        """Read the whole row again; its ``fields`` may have been dropped since :meth:`keep`.

        Raises:
            InputError: its line has changed, or cannot be read.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the file; idempotent."""
        self.exhausted = True
        self._passes.rows = None
        self._file.close()

    async def aclose(self) -> None:
        """Close the file, as :meth:`close`."""
        self.close()

    def _blocks(self, fd: int) -> Iterator[bytes | None]:
        raise NotImplementedError

    def _open_batches(self, fd: int) -> Iterator[Sequence[bytes | LongLine] | None]:
        return self._file.form.records(self._blocks(fd), self._file.name)

    def _pass(self, first: Mark, last: int) -> Iterator[Row | Malformed | None]:
        """Reread the unfinished rows from *first* to line *last*; None to yield to the event loop."""
        raise NotImplementedError

    def _take_again(self, rows: Iterator[Row | Malformed | None]) -> Row | Malformed | None:
        try:
            return next(rows)
        except StopIteration:
            self._passes.rows = None
            self.exhausted = self._passes.first_has_ended
            return None
        except InputError:
            self.exhausted = True
            raise

    def _own_lines(self, own: ShardLines, batch: Sequence[bytes | LongLine]) -> Sequence[bytes | LongLine]:
        if not own.number:
            own.offset = self._offset  # behind a byte order mark
        lines = own.of(batch)
        self._number = own.first - own.shard.count
        return lines

    def _passed_over(self, batch: Sequence[bytes | LongLine]) -> bool:
        """Skip a batch whose rows are all finished (the usual case in a resumed run) or whose lines are all empty."""
        step = 1 if self._own is None else self._own.shard.count
        first, count = self._number + step, len(batch)
        if not any(batch) and self._finished.none_from(first):
            self._number += count * step
            self._offset += count
            return True
        if self._finished.before is None or not self._finished.before.are_done(first, count):
            return False
        if self._limit is not None and self.rows_read + count >= self._limit:
            return False
        self._finished.check(self._file.name, first, batch)
        self._number += count * step
        self.rows_read += count
        self._offset += sum(map(len, batch)) + count
        return True

    def _is_torn(self, row: Malformed) -> bool:
        return self._is_unterminated and not self._file.keeps_torn and row.code in _TORN_CODES

    def _next_row(self, line: bytes | LongLine) -> Row | Malformed | None:
        size = len(line)
        if self._own is None:
            self._number = number = self._number + 1
            at = self._offset
            self._offset = at + size + 1
        else:
            self._number = number = self._number + self._own.shard.count
            at = self._own.offset_of(number)
        row: Row | Malformed | None = None
        before = self._finished.before
        if before is not None and before.is_done(number):
            self._finished.check_line(self._file.name, number, line)
        else:
            row = unreadable_row(number, line) if isinstance(line, LongLine) else self._file.parse(number, line)
            if row is None:
                return None
            if isinstance(row, Malformed) and self._is_torn(row):
                self.torn_line = number
                return None
            if isinstance(row, Row):
                row.size = size
                if self._is_plain:
                    row.offset = at
                    self._last = row
        self.rows_read += 1
        if self.rows_read == self._limit:
            self.exhausted = True
        return row


def digest_of(line: bytes | LongLine) -> str:
    """The hash of a line's row."""
    return line.hash if isinstance(line, LongLine) else line_digest(line)


def unreadable_row(number: int, record: LongLine) -> Malformed:
    """The malformed row for a record that is too long to hold, or cannot be read."""
    if isinstance(record, BadRecord):
        return Malformed(number, record.hash, f'"row-{number}"', record.code, record.message)
    return too_long(number, record.hash)


def changed_while_running(name: str, number: int) -> InputError:
    """The error for a line that has changed since it was first read."""
    hint = "restore the input, then run the same command again: finished rows are kept"
    return InputError(f"{name}:{number}: the input has changed during the run", hint=hint, line=number)
