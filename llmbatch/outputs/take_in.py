"""Moves the lines of the parts that ``--workers`` wrote beside an output into it.

Each part is appended, synced, and then removed, so that a kill at any time loses nothing; a part that was appended and
not removed is recognized by its rows, and appended no further.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InUseError, OutputError
from llmbatch.outputs.deferred import deferred_path, history_path, status_path
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.parts import Part, list_parts, parts_beside
from llmbatch.outputs.scan import Scan, match_line, scan
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem, write_error
from llmbatch.storage.finished_rows import FAILED, SUCCESS, FinishedRows, fingerprint

__all__ = ["cost_path", "remove_parts", "take_in"]

_match_stem = re.compile(r"\.?(part-[0-9]{5}-of-[0-9]{5})\..+").fullmatch

_BATCH_BYTES: Final = 1024 * 1024
_PATIENCE_S: Final = 10.0
"""How long to wait for a part: the processes of a run that was killed notice it, and end."""


def take_in(
    output: str | Path,
    finished: FinishedRows,
    write: Callable[[bytes], object],
    sync: Callable[[], object],
    disk: Filesystem = FILESYSTEM,
) -> int:
    """Append the lines of the parts beside *output* with *write*, and remove the parts; return how many rows came.

    The rows are added to *finished*, those of the output. The caller holds the output's lock.

    Raises:
        InUseError: a run is writing one of the parts.
        OutputError: a part is not an output of llmbatch, or holds another result of a row of the output.
        OSError: as *write* and *sync* raise.
    """
    folder = parts_beside(output)
    rows = 0
    for part in list_parts(folder):
        fd = _locked(part, disk)
        try:
            found = _scanned(fd, part, disk)
            if any(map(finished.is_done, found.finished.done_after(0))):
                for block in _new_lines(fd, part, found, finished, disk):
                    write(block.text())
                    rows += finished.add_all(block.numbers, block.fingerprints, block.statuses)
            else:  # as ever, but after a kill between two steps
                for text in _whole_lines(fd, found, disk):
                    write(text)
                finished.include(found.finished)
                rows += len(found.finished)
            sync()
        finally:
            disk.close(fd)
        _remove(part, disk)
    _remove_folder(folder)
    return rows


def remove_parts(output: str | Path, disk: Filesystem = FILESYSTEM) -> None:
    """Remove the parts beside *output*, which starts afresh.

    Raises:
        InUseError: a run is writing one of them.
        OutputError: one cannot be removed.
    """
    for part in list_parts(parts_beside(output)):
        fd = _locked(part, disk)
        try:
            _remove(part, disk)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError(f"{part.path}: cannot be removed ({why})", hint="remove it yourself") from error
        finally:
            disk.close(fd)
    _remove_folder(parts_beside(output))


def cost_path(output: str | Path) -> Path:
    """Path of the sidecar with what was booked for *output*: ``.o.jsonl.cost.json`` next to ``o.jsonl``."""
    path = Path(output)
    return path.with_name(f".{path.name}.cost.json")


def _locked(part: Part, disk: Filesystem) -> int:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return open_locked(str(part.path), str(part.path), disk)
        except InUseError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def _scanned(fd: int, part: Part, disk: Filesystem) -> Scan:
    try:
        found = scan(fd, str(part.path), disk, shard=part.shard)
    except OSError as error:
        raise write_error(str(part.path), error) from error
    if found.finished.others:
        raise OutputError(
            f"{part.path}: has rows of other shards than its name says",
            hint="move it out of the folder, or give it its name back",
        )
    return found


def _whole_lines(fd: int, found: Scan, disk: Filesystem) -> Iterator[bytes]:
    """The whole lines of a part as they are, in blocks that each end with a line."""
    offset = 0
    rest = b""
    while offset < found.end_bytes and (block := disk.pread(fd, min(_BATCH_BYTES, found.end_bytes - offset), offset)):
        offset += len(block)
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest + b"\n"


class _Block:
    """Lines that are appended together, and their rows."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.fingerprints: list[int] = []
        self.statuses: list[int] = []
        self.size_bytes = 0
        self._lines: list[bytes] = []

    def add(self, number: int, digest: str, is_failed: bool, line: bytes) -> None:
        """Add one line, without its line end."""
        self.numbers.append(number)
        self.fingerprints.append(fingerprint(digest))
        self.statuses.append(FAILED if is_failed else SUCCESS)
        self._lines.append(line)
        self.size_bytes += len(line) + 1

    def text(self) -> bytes:
        """All lines, with their line ends."""
        return b"".join(line + b"\n" for line in self._lines)


def _new_lines(fd: int, part: Part, found: Scan, finished: FinishedRows, disk: Filesystem) -> Iterator[_Block]:
    """The lines of the part whose rows are not *finished*.

    Raises:
        OutputError: the result of a row that is finished is of another input.
    """
    block = _Block()
    for line in read_lines(fd, found.end_bytes, disk):
        head = match_line(line)
        if head is None:
            raise OutputError(f"{part.path}: has changed while it was read", hint="run the same command again")
        number, digest = int(head[1]), head[2].decode()
        if not finished.is_done(number):
            block.add(number, digest, head[3] == b"failed", line)
        elif not finished.matches(number, digest):
            raise OutputError(
                f"{part.path}: row {number} has a result of another input in the output",
                hint="move the part out of the folder, or start afresh (--overwrite)",
            )
        if block.size_bytes > _BATCH_BYTES:
            yield block
            block = _Block()
    if block.size_bytes:
        yield block


def _remove(part: Part, disk: Filesystem) -> None:
    for sidecar in _sidecars(part.path):
        with contextlib.suppress(OSError):
            os.unlink(sidecar)  # noqa: PTH108
    disk.unlink(str(part.path))


def _sidecars(path: Path) -> tuple[Path, ...]:
    return deferred_path(path), history_path(path), status_path(path), cost_path(path)


def _remove_folder(folder: Path) -> None:
    """Remove the *folder* of parts that are gone, and the sidecars of parts that got no line; nothing else is lost."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _match_stem(path.name)
            if found is not None:
                part = folder / f"{found[1]}.jsonl"
                if path in _sidecars(part) and not part.exists():
                    path.unlink()
        folder.rmdir()
