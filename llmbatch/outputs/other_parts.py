"""The finished rows of a shard that are in other files than its own part: those of parts of another number of shards.

Other files are read without their locks, whole lines only; they are locked only to remove lines from them. Most runs of
shards have none: parts of the same number of shards hold no rows of each other.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from llmbatch.core.errors import InUseError, OutputError
from llmbatch.core.raw_json import dumps
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.outputs.lines import cut_rows, failed_rows, first_success, lines_without, success_lines
from llmbatch.outputs.lock import holder_of, open_locked
from llmbatch.outputs.parts import Part, list_parts
from llmbatch.outputs.scan import match_line, scan
from llmbatch.storage.atomic_replace import replace_file
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem, write_error
from llmbatch.storage.finished_rows import FailedRows, FinishedRows, RowSet

__all__ = ["OtherParts"]

_REWRITE_SECONDS: Final = 2.0
"""How long a part may be locked before it counts as being written: another process may drop lines of its own shard."""
_MOST_SAMPLES: Final = 100
_FIRST_LINES: Final = 50
_LOCK_SECONDS: Final = 20.0
"""How long to wait for a part whose lines are to be dropped, while others do the same."""


class OtherParts:
    """Other files with results of the same input: the other parts in the folder of *own*, and files that are *named*.

    *shard*: whose rows are looked for. ``rows`` counts those found by :meth:`enter`.
    """

    def __init__(self, own: str, shard: Shard, disk: Filesystem = FILESYSTEM, *, named: Sequence[str] = ()) -> None:
        others = [Part(Path(path), WHOLE) for path in named]
        others += (part for part in list_parts(Path(own).parent) if part.path != Path(own))
        self.rows = 0
        self._shard = shard
        self._disk = disk
        self._all = [str(part.path) for part in others]
        self._overlapping = [part for part in others if part.shard.overlaps(shard)]
        self._named = frozenset(named)
        self._holding: list[str] = []

    def __repr__(self) -> str:
        return f"<OtherParts of {self._shard}, {self.rows} rows in {len(self._holding)} files>"

    def enter(self, finished: FinishedRows, own: str) -> None:
        """Add the rows of the shard to *finished*, those of its own part, which is called *own* and locked.

        Raises:
            InUseError: another run is writing some of the same rows.
            OutputError: a row is in two files, or a file is damaged or cannot be read.
        """
        for part in self._overlapping:
            path = str(part.path)
            with self._opened(path) as fd:
                if fd is None:
                    continue
                if path not in self._named and self._stays_locked(fd):
                    raise self._held(part, fd)
                found = self._scanned(fd, path)
            twice = finished.include(found)
            if twice is not None:
                first = next((name for name in self._holding if self._holds(name, twice)), own)
                raise OutputError(
                    f"{path}: row {twice} has a line here and in {first}: a part was copied, or two runs wrote at once",
                    hint="move the file that is not part of this job out of the folder, or remove one of the two lines",
                )
            if len(found):
                self.rows += len(found)
                self._holding.append(path)

    def file_of(self, number: int) -> str | None:
        """The file with the line of row *number*; None if it is none of these."""
        return next((path for path in self._holding if self._holds(path, number)), None)

    def among(self, numbers: Set[int]) -> frozenset[int]:
        """Those of the rows *numbers* that have their lines in these files.

        Raises:
            OutputError: a file cannot be read.
        """
        found: set[int] = set()
        for path in self._holding:
            with self._opened(path) as fd:
                if fd is not None:
                    found.update(number for number in self._scanned(fd, path).done_after(0) if number in numbers)
        return frozenset(found)

    def has_success(self, model: str) -> bool:
        """Whether a successful line of any file, also of other shards, names *model* (``provider/model``)."""
        named = f',"model":{dumps(model)},"attempts":'.encode()
        return any(named in line for path in self._all for line in self._lines(path))

    def first_success(self) -> tuple[str, tuple[int, str, str]] | None:
        """The first successful line of any file: the file's name, the row, its model and settings.

        Raises:
            OutputError: it is damaged, or a file cannot be read.
        """
        for path in self._all:
            with self._opened(path) as fd, _naming(path):
                if fd is None:
                    continue
                found = first_success(fd, self._disk.fstat(fd).st_size, path, self._disk)
            if found is not None:
                return path, found
        return None

    def good_rows(self, most: int) -> dict[int, str]:
        """Number and hash of at most *most* rows that succeeded, of any shard."""
        good: dict[int, str] = {}
        for path in self._all:
            with contextlib.closing(self._lines(path)) as lines:
                found = [match_line(line) for line in islice(lines, most - len(good))]
            good.update((int(match[1]), match[2].decode()) for match in found if match is not None)
        return good

    def samples(self) -> Iterator[tuple[str, int, str]]:
        """A row that succeeded in each of the first hundred parts of other shards: its file, its number and hash.

        Of the first lines of the file, the one that is first in the input.
        """
        overlapping = {str(part.path) for part in self._overlapping}
        others = (path for path in self._all if path not in overlapping)
        for path in islice(others, _MOST_SAMPLES):
            with contextlib.closing(self._lines(path)) as lines:
                found = [match for line in islice(lines, _FIRST_LINES) if (match := match_line(line)) is not None]
            if found:
                first = min(found, key=lambda match: int(match[1]))
                yield path, int(first[1]), first[2].decode()

    def add_failed(self, rows: FailedRows) -> None:
        """Add the failed rows of the shard to *rows*.

        Raises:
            OutputError: a file cannot be read.
        """
        for path in self._holding:
            with self._opened(path) as fd, _naming(path):
                if fd is not None:
                    rows.include(failed_rows(fd, self._disk.fstat(fd).st_size, self._disk))

    def cut_rows(self, is_cut: Callable[[bytes], bool], up_to: int | None) -> Iterator[int]:
        """The rows of the shard whose answers were cut; see :func:`~llmbatch.outputs.lines.cut_rows`.

        Raises:
            OutputError: a file cannot be read.
        """
        for path in self._holding:
            with self._opened(path) as fd, _naming(path):
                if fd is not None:
                    rows = cut_rows(fd, self._disk.fstat(fd).st_size, self._disk, is_cut, up_to)
                    yield from filter(self._shard.owns, rows)

    def failed_numbers(self, finished: FinishedRows, up_to: int | None) -> list[int]:
        """The failed rows of the shard up to number *up_to* (None: all) in these files.

        Raises:
            OutputError: a file cannot be read.
        """
        rows = FailedRows()
        self.add_failed(rows)
        most = math.inf if up_to is None else up_to
        return [number for number in finished.done_after(0) if number <= most and number in rows.all]

    def drop(self, numbers: Set[int], *, status: Literal["success", "failed"]) -> None:
        """Remove the lines of the rows *numbers* that have that *status*, so that they are sent again.

        Raises:
            OutputError: a file is in use by another run.
            WriteError: a file could not be rewritten.
        """
        wanted = RowSet()
        for number in numbers:
            wanted.add(number)
        for path in self._holding:
            with self._opened(path) as fd:
                if fd is None or not any(number in numbers for number in self._scanned(fd, path).done_after(0)):
                    continue
            fd = self._locked(path)
            try:
                end_bytes = self._scanned_end(fd, path)
                lines = lines_without(fd, end_bytes, self._disk, wanted.__contains__, status=status)
                old_fd, fd = fd, -1  # which is closed there
                self._disk.close(replace_file(self._disk.real_path(path), lines, self._disk, old_fd=old_fd))
            except OSError as error:
                raise write_error(path, error) from error
            finally:
                if fd >= 0:
                    self._disk.close(fd)
        self.rows -= len(numbers)

    def _stays_locked(self, fd: int) -> bool:
        until = time.monotonic() + _REWRITE_SECONDS
        while self._disk.is_locked(fd):
            if time.monotonic() > until:
                return True
            time.sleep(0.02)
        return False

    def _locked(self, path: str) -> int:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return open_locked(self._disk.real_path(path), path, self._disk)
            except InUseError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def _lines(self, path: str) -> Generator[bytes]:
        with contextlib.suppress(OSError, OutputError), self._opened(path) as fd:
            if fd is not None:
                yield from success_lines(fd, self._disk.fstat(fd).st_size, self._disk)

    def _holds(self, path: str, number: int) -> bool:
        with self._opened(path) as fd:
            return fd is not None and self._scanned(fd, path).is_done(number)

    def _scanned(self, fd: int, path: str) -> FinishedRows:
        with _naming(path):
            return scan(fd, path, self._disk, shard=self._shard).finished

    def _scanned_end(self, fd: int, path: str) -> int:
        return scan(fd, path, self._disk, shard=self._shard).end_bytes

    def _held(self, part: Part, fd: int) -> InUseError:
        pid = holder_of(self._disk.fstat(fd))
        return InUseError(
            f"{part.path}: is being written by another run{f' (pid {pid})' if pid else ''}, and shard {part.shard} has "
            f"rows of {self._shard} too",
            hint=f"wait for it to end, or use the same number of shards: --shard I/{part.shard.count}",
        )

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int | None]:
        try:
            fd = self._disk.open(path, os.O_RDONLY | O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            yield fd
        finally:
            self._disk.close(fd)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn an error of the system in the block into one that names *path*."""
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> OutputError:
    why = (error.strerror or str(error)).lower()
    return OutputError(f"{path}: cannot be read ({why})", hint="check the file, and who may read it (ls -l)")
