"""Compares an input with the output made from it, to detect finished rows that have changed.

Also counts an input's rows for the progress bar. Parses nothing.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Final, TypeGuard

from llmbatch.core.errors import InputError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.compression import HEAD_BYTES, is_compressed
from llmbatch.inputs.formats import JSON_LINES, RecordFormat
from llmbatch.inputs.open import BLOCK_BYTES, file_blocks, open_input, read_head
from llmbatch.inputs.parallel_hash import ParallelHash, identity
from llmbatch.inputs.rows import line_digest, strip_bom
from llmbatch.inputs.shard_lines import ShardLines, count_filled
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.tables import TableFormat
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem
from llmbatch.storage.finished_rows import FinishedRows, Verified

__all__ = ["compare", "compare_line", "count_rows", "first_changed", "row_numbers", "verify_finished"]

_COUNTED_BYTES: Final = 256 * 1024 * 1024
_COUNTED_BYTES_OF_RECORDS: Final = 32 * 1024 * 1024


def count_rows(
    path: str | Path,
    disk: Filesystem = FILESYSTEM,
    *,
    form: RecordFormat = JSON_LINES,
    shard: Shard = WHOLE,
    limit: int | None = None,
) -> int | None:
    """Count the rows of *shard* among the first *limit* rows of *path* (None: all).

    None unless it is a plain file below 256 MiB, or 32 MiB if it takes parsing. Raises nothing.
    """
    most = _COUNTED_BYTES if form.unit == "line" else _COUNTED_BYTES_OF_RECORDS
    try:
        about = disk.stat(str(path))
        if not stat.S_ISREG(about.st_mode) or (about.st_size >= most and not isinstance(form, TableFormat)):
            return None
        fd = disk.open(str(path), os.O_RDONLY | O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if is_compressed(disk.pread(fd, HEAD_BYTES, 0)):
            return None
        if isinstance(form, TableFormat):
            rows = form.count(fd, str(path), disk)
            return None if rows is None else max(0, shard.place(rows if limit is None else min(rows, limit)))
        batches = form.records(iter(lambda: disk.read(fd, BLOCK_BYTES), b""), str(path))
        if shard.count == 1 and limit is None:
            return sum(count_filled(batch) for batch in batches if batch)
        lines = ShardLines(shard, limit)
        return sum(count_filled(lines.of(batch)) for batch in batches if batch and not lines.has_ended)
    except (OSError, InputError):
        return None
    finally:
        disk.close(fd)


def row_numbers(
    path: str | Path, disk: Filesystem = FILESYSTEM, *, form: RecordFormat = JSON_LINES, limit: int | None = None
) -> Iterator[int]:
    """The numbers of the first *limit* rows of a regular file (None: all): of its records that are not blank.

    Parses no row.

    Raises:
        InputError: it cannot be read.
    """
    fd = open_input(path, disk)
    lines = ShardLines(WHOLE, limit)
    try:
        for batch in file_records(form, fd, str(path), disk):
            for number, line in enumerate(lines.of(batch or ()), lines.first):
                if isinstance(line, LongLine) or (line and not line.isspace()):
                    yield number
            if lines.has_ended:
                return
    finally:
        disk.close(fd)


def first_changed(
    path: str | Path,
    hashes: Mapping[int, str],
    disk: Filesystem = FILESYSTEM,
    *,
    form: RecordFormat = JSON_LINES,
) -> int | None:
    """The first row of a regular file that is not what *hashes* says of its number, or is not there; None: none is.

    Reads up to the last row that is named there; nothing of an input that cannot be read twice.

    Raises:
        InputError: it cannot be read.
    """
    if not hashes or str(path) == "-" or not _is_regular(path, disk):
        return None
    fd = open_input(path, disk)
    missing = dict(sorted(hashes.items()))
    number = 0
    try:
        for batch in file_records(form, fd, str(path), disk):
            lines = batch or ()
            for wanted in [wanted for wanted in missing if wanted <= number + len(lines)]:
                line = lines[wanted - number - 1]
                digest = line.hash if isinstance(line, LongLine) else line_digest(line)
                if digest != missing.pop(wanted):
                    return wanted
            if not missing:
                return None
            number += len(lines)
    finally:
        disk.close(fd)
    return next(iter(missing))


def file_records(
    form: RecordFormat, fd: int, name: str, disk: Filesystem
) -> Iterator[Sequence[bytes | LongLine] | None]:
    """The records of a regular file, from its start.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(form, TableFormat):
        return form.of_file(fd, name, disk)
    return form.records(file_blocks(fd, name, disk), name)


def verify_finished(
    path: str | Path,
    finished: FinishedRows,
    disk: Filesystem = FILESYSTEM,
    *,
    form: RecordFormat = JSON_LINES,
    parallel_hash: ParallelHash | None = None,
) -> None:
    """Compare every finished row of a regular file with the hash in its output line, before anything is sent.

    Reads up to the last finished row, unless *parallel_hash* has hashed the rows already. Inputs that cannot be read
    twice are not compared here: their source compares while reading.

    Raises:
        InputError: a finished row has changed or is gone, or the input cannot be read. Rows that were no requests may
            change: they are in ``finished.corrected`` then.
    """
    if not finished or str(path) == "-" or not _is_regular(path, disk):
        return
    if parallel_hash is not None and parallel_hash.matches(finished):
        return
    name = str(path)
    fd = open_input(path, disk)
    number = 0
    try:
        leading = _Leading(read_head(fd, HEAD_BYTES, name, disk), has_lines=form.unit == "line")
        for batch in file_records(form, fd, name, disk):
            if batch:
                skip = finished.shard.skip(number + 1)
                first, own = number + 1 + skip, batch[skip :: finished.shard.count]
                compare(name, first, own, finished)
                leading.add(batch, done=finished.are_done(first, len(own)))
                number += len(batch)
            if number >= finished.last:
                if not finished.corrected:
                    finished.verified = Verified(identity(disk.fstat(fd)), leading.lines, leading.size_bytes)
                return
    finally:
        disk.close(fd)
    if all(map(finished.may_change, finished.done_after(number))):
        return
    raise InputError(
        f"{name}: the file has {number} {form.unit}s, but the output has a result for {form.unit} {finished.last}",
        hint="restore the input, or write to another output (-o), or start afresh (--overwrite)",
        line=number,
    )


def compare(name: str, first: int, lines: Sequence[bytes | LongLine], finished: FinishedRows) -> None:
    """Compare the finished rows of *lines*, rows of the same shard from number *first* on, with their hashes.

    Raises:
        InputError: one has changed.
    """
    if finished.are_done(first, len(lines)):
        digests = b"".join([sha256(line).digest() for line in lines]) if _all_short(lines) else b""
        if array("I", digests)[::8] == finished.fingerprints_of(first, len(lines)):
            return
    # Some are not finished, end in a carriage return, are too long, or have changed.
    for number, line in zip(count(first, finished.shard.count), lines, strict=False):
        if finished.is_done(number):
            compare_line(name, number, line, finished)


def compare_line(name: str, number: int, line: bytes | LongLine, finished: FinishedRows) -> None:
    """Compare one finished row with its hash. A row that was no request may have been corrected.

    Raises:
        InputError: it has changed.
    """
    digest = line.hash if isinstance(line, LongLine) else line_digest(line)
    if not finished.matches(number, digest) and not finished.may_change(number):
        retry = "resend it with all failed rows (--retry-failed), or " if finished.has_failed(number) else ""
        raise InputError(
            f"{name}:{number}: this row has changed since its result was written",
            hint=f"{retry}restore the row, or write to another output (-o), or start afresh (--overwrite)",
            line=number,
        )


class _Leading:
    """The leading lines of a plain file that are all finished: reading can start after them."""

    def __init__(self, head: bytes, *, has_lines: bool) -> None:
        self.lines = 0
        self.size_bytes = len(head) - len(strip_bom(head)) if has_lines else 0
        self._goes_on = has_lines and not is_compressed(head)

    def add(self, batch: Sequence[bytes | LongLine], *, done: bool) -> None:
        self._goes_on = self._goes_on and done
        if self._goes_on and _all_short(batch):
            self.lines += len(batch)
            self.size_bytes += sum(map(len, batch)) + len(batch)
        else:
            self._goes_on = False


def _all_short(lines: Sequence[bytes | LongLine]) -> TypeGuard[Sequence[bytes]]:
    return set(map(type, lines)) <= {bytes}


def _is_regular(path: str | Path, disk: Filesystem) -> bool:
    try:
        return stat.S_ISREG(disk.stat(str(path)).st_mode)
    except (OSError, ValueError):
        return True  # opening reports what is wrong
