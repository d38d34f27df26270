"""Reads the results of a run from all files that they are in: one output, or the parts in a folder, as one.

No file is changed, and no lock is taken: lines that a run appends after the opening are not read.
"""

from __future__ import annotations

import os
import shlex
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from llmbatch.core.errors import OutputError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.outputs.parts import has_shards, list_parts, parts_beside, shard_of
from llmbatch.outputs.scan import scan
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NONBLOCK, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["OpenResults", "files_of", "open_file"]

_HINT = "name the output of a run, such as prompts.results.jsonl"


def files_of(output: Path) -> list[Path]:
    """The files with the results of *output*: it itself, its parts if it is a folder, and those of its ``--workers``.

    Raises:
        OutputError: as :func:`~llmbatch.outputs.parts.list_parts`.
    """
    if has_shards(output):
        return [part.path for part in list_parts(output)]
    beside = [part.path for part in list_parts(parts_beside(output))] if output.name else []
    return [output, *beside] if not beside or os.path.lexists(output) else beside


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """Open one file of an output for as long as the block lasts, without reading it; gives the descriptor.

    Raises:
        OutputError: there is no such file, it is none, or it cannot be read.
    """
    fd = _open(path)
    try:
        yield fd
    finally:
        os.close(fd)


class OpenResults:
    """The *files* of an output, called *name* in messages, open and scanned. A context manager.

    ``finished`` has their rows, of *shard*. ``fd``, read with ``disk``, has the lines of all of them, one file after
    another, up to ``end_bytes``. ``torn_bytes``: the length of unfinished last lines. ``is_running``: a run holds the
    lock of one.

    Raises :class:`~llmbatch.core.errors.OutputError` if one cannot be read or is not an output, or a row is in two;
    ``OSError`` if reading fails later.
    """

    def __init__(self, files: Sequence[Path], name: str, *, shard: Shard = WHOLE) -> None:
        self.name = name
        self.finished = FinishedRows(shard)
        self.torn_bytes = 0
        self.is_running = False
        self._fds: list[int] = []
        segments: list[_Segment] = []
        try:
            for path in files:
                fd = _open(path)
                self._fds.append(fd)
                segments.append(self._scanned(fd, path, files))
        except BaseException:
            self.close()
            raise
        self.disk: Filesystem = FILESYSTEM
        if len(segments) == 1 and not segments[0].lacks_newline:
            self.fd, self.end_bytes = self._fds[0], segments[0].end_bytes
            return
        joined = _JoinedFiles(segments)
        self._fds.append(joined.fd)
        self.disk, self.fd, self.end_bytes = joined, joined.fd, joined.end_bytes

    def _scanned(self, fd: int, path: Path, files: Sequence[Path]) -> _Segment:
        is_running = FILESYSTEM.is_locked(fd)
        size = os.fstat(fd).st_size
        name = self.name if len(files) == 1 else str(path)
        whole = self.finished.shard
        found = scan(fd, name, shard=shard_of(path) if whole == WHOLE else whole)
        if whole == WHOLE and found.finished.others:  # it was renamed
            found = scan(fd, name)
        self.is_running = self.is_running or is_running
        if not is_running and not found.lacks_newline:
            self.torn_bytes += max(0, size - found.end_bytes)
        twice = self.finished.include(found.finished)
        if twice is not None:
            raise OutputError(
                f"{path}: row {twice} has a line here and in another part of {self.name}",
                hint="move the file that is not part of this job out of the folder, or remove one of the two lines",
            )
        return _Segment(fd, found.end_bytes, found.lacks_newline)

    def close(self) -> None:
        """Close the files; idempotent."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class _Segment:
    """The whole lines of one file: its first *end_bytes* bytes, of which the last may lack its line end."""

    __slots__ = ("end_bytes", "fd", "lacks_newline")

    def __init__(self, fd: int, end_bytes: int, lacks_newline: bool) -> None:
        self.fd = fd
        self.end_bytes = end_bytes
        self.lacks_newline = lacks_newline

    def __len__(self) -> int:
        return self.end_bytes + self.lacks_newline

    def read(self, size: int, offset: int) -> bytes:
        if offset >= self.end_bytes:
            return b"\n" if self.lacks_newline and offset == self.end_bytes else b""
        return FILESYSTEM.pread(self.fd, min(size, self.end_bytes - offset), offset)


class _JoinedFiles(Filesystem):
    """A file system in which the descriptor ``fd`` has the lines of all *segments*; others are the system's."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self.fd = os.open(os.devnull, os.O_RDONLY | O_CLOEXEC)
        self._segments = segments
        self._starts = [0]
        for segment in segments:
            self._starts.append(self._starts[-1] + len(segment))
        self.end_bytes = self._starts[-1]

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at most *size* bytes from *offset* on; fewer at the end of a segment."""
        if fd != self.fd:
            return super().pread(fd, size, offset)
        at = bisect_right(self._starts, offset) - 1
        if at >= len(self._segments):
            return b""
        return self._segments[at].read(size, offset - self._starts[at])


def _open(path: Path) -> int:
    try:
        # Not blocking, as a pipe without a writer would.
        fd = FILESYSTEM.open(str(path), os.O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except FileNotFoundError:
        raise OutputError(f"{path}: there is no such file", hint=_HINT) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(f"{path}: cannot be read ({why})", hint=_HINT) from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            hint = f"name one output; llmbatch view {shlex.quote(str(path))} shows all of a folder"
            raise OutputError(f"{path}: is a folder, and not one of the parts of a run", hint=hint)
        raise OutputError(f"{path}: is not a regular file", hint=_HINT)
    return fd
