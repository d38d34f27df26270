"""Writes planned batch files: each appears whole or not at all, and none stays if a later one fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmbatch.core.errors import InputError, MalformedRowError
from llmbatch.core.rows import Row
from llmbatch.outputs.export_target import write_target
from llmbatch.runs.batches.rows import BatchProvider, InputRows, bind
from llmbatch.runs.convert.plan import BatchFile, FilePlan, encoded
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["file_names", "write_files"]

_BLOCK_BYTES = 1 << 20


def file_names(target: str, count: int) -> list[str]:
    """The paths of *count* files: *target* itself if it is one, else with a number before its ending."""
    if count == 1:
        return [target]
    path = Path(target)
    return [str(path.with_name(f"{path.stem}-{number:05}{path.suffix}")) for number in range(1, count + 1)]


def write_files(
    plan: FilePlan,
    names: Sequence[str],
    provider: BatchProvider,
    rows: InputRows,
    *,
    overwrite: bool,
    disk: Filesystem = FILESYSTEM,
) -> None:
    """Write the files of *plan* to *names*, reading the input again.

    Raises:
        InputError: the input has changed since it was planned, or cannot be read.
        OutputError: a file may not be written.
        WriteError: the disk is full, or the like.
    """
    made: list[str] = []
    try:
        for file, name in zip(plan.files, names, strict=True):
            existed = name == "-" or _exists(name, disk)
            blocks = _blocks(plan, file, provider, rows)
            write_target(name, _as_json(blocks) if name.endswith(".json") else blocks, "", overwrite=overwrite)
            if not existed:
                made.append(name)
    except BaseException:
        for name in made:
            with contextlib.suppress(OSError):
                disk.unlink(name)
        raise


def _blocks(plan: FilePlan, file: BatchFile, provider: BatchProvider, rows: InputRows) -> Iterator[bytes]:
    """The lines of *file*, in blocks of a megabyte."""
    most = plan.limits[file.route].row_bytes
    block: list[bytes] = []
    size = count = total = 0
    for item in rows.scan(file.first, file.last):
        if not isinstance(item, Row):
            continue
        try:
            row = bind(provider, item)
        except MalformedRowError:
            continue
        if row.route != file.route:
            continue
        pieces = encoded(row, plan)
        length = sum(map(len, pieces))
        if most is not None and length > most:
            continue
        block += pieces
        size += length
        total += length
        count += 1
        if size >= _BLOCK_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if (count, total) != (file.rows, file.size_bytes):
        raise InputError("the input has changed while it was converted", hint="convert it again")
    if block:
        yield b"".join(block)


def _as_json(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines as the one JSON body that creates a message batch."""
    yield b'{"requests":[\n'
    held = b""
    for block in blocks:
        yield held.replace(b"\n", b",\n") + block[:-1].replace(b"\n", b",\n")
        held = block[-1:]
    yield b"\n]}\n"


def _exists(path: str, disk: Filesystem) -> bool:
    try:
        disk.stat(path)
    except OSError:
        return False
    return True
