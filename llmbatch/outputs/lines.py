"""Reads the lines of an output file: all of them, those of one status, or all but some failed ones.

The file and the position of its descriptor stay as they are. Everywhere, *end_bytes* is where the whole lines end
(:attr:`Scan.end_bytes <llmbatch.outputs.scan.Scan>`, or the size of a file without a torn line): what a run appends
meanwhile is not read. Cost: one pass over the file; memory for 1 MiB and the longest line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from re import Match
from typing import Final, Literal

from llmbatch.core.errors import OutputError
from llmbatch.outputs.scan import START_AFRESH, match_line
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FailedRows

__all__ = ["cut_rows", "failed_rows", "first_success", "lines_without", "read_lines", "success_lines"]

_BLOCK_BYTES: Final = 1024 * 1024
_INPUT_ERROR: Final = b'"response":null,"error":{"code":"input_'


def read_lines(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """The lines of the first *end_bytes* bytes of the file, without their line ends.

    Raises:
        OSError: the file cannot be read.
    """
    offset = 0
    parts: list[bytes] = []
    while offset < end_bytes and (block := disk.pread(fd, min(_BLOCK_BYTES, end_bytes - offset), offset)):
        offset += len(block)
        lines = block.split(b"\n")
        parts.append(lines[0])
        if len(lines) > 1:
            yield b"".join(parts)
            yield from lines[1:-1]
            parts = [lines[-1]]
    last = b"".join(parts)
    if last:
        yield last


def success_lines(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """The lines of rows that succeeded, in the file's order, without their line ends.

    Raises:
        OSError: the file cannot be read.
    """
    return (line for found, line in _result_lines(fd, end_bytes, disk) if found[3] == b"success")


def first_success(fd: int, end_bytes: int, name: str, disk: Filesystem = FILESYSTEM) -> tuple[int, str, str] | None:
    """The row of the first successful line of *name*, its model (``provider/model``) and settings, if it names a model.

    Raises:
        OSError: the file cannot be read.
        OutputError: the line is damaged.
    """
    line = next(success_lines(fd, end_bytes, disk), None)
    if line is None:
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        raise OutputError(f"{name}:1: this result line is damaged", hint=START_AFRESH) from None
    model = parsed.get("model")
    return (parsed["row"], model, str(parsed.get("settings", ""))) if isinstance(model, str) else None


def lines_without(
    fd: int,
    end_bytes: int,
    disk: Filesystem,
    is_dropped: Callable[[int], bool],
    *,
    status: Literal["success", "failed"] = "failed",
) -> Iterator[bytes]:
    r"""The file without the rows of *status* that *is_dropped* names: blocks of whole lines, each with its ``\n``.

    Raises:
        OSError: the file cannot be read.
    """
    lines: list[bytes] = []
    size = 0
    dropped = status.encode()
    for found, line in _result_lines(fd, end_bytes, disk):
        if found[3] == dropped and is_dropped(int(found[1])):
            continue
        lines.append(line + b"\n")
        size += len(line) + 1
        if size > _BLOCK_BYTES:
            yield b"".join(lines)
            lines.clear()
            size = 0
    yield b"".join(lines)


def failed_rows(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> FailedRows:
    """The rows that have failed, and those of them that were no requests (``input_…`` errors).

    Raises:
        OSError: the file cannot be read.
    """
    rows = FailedRows()
    for found, line in _result_lines(fd, end_bytes, disk):
        if found[3] == b"failed":
            rows.add(int(found[1]), is_input_error=_is_input_error(line))
    return rows


def cut_rows(
    fd: int, end_bytes: int, disk: Filesystem, is_cut: Callable[[bytes], bool], up_to: int | None
) -> Iterator[int]:
    """The rows up to number *up_to* (None: all) that succeeded and whose line *is_cut* says has a cut answer.

    Raises:
        OSError: the file cannot be read.
    """
    for found, line in _result_lines(fd, end_bytes, disk):
        if found[3] == b"success" and (up_to is None or int(found[1]) <= up_to) and is_cut(line):
            yield int(found[1])


def _result_lines(fd: int, end_bytes: int, disk: Filesystem) -> Iterator[tuple[Match[bytes], bytes]]:
    """Each result line with the match of its prefix: row, hash, status."""
    for line in read_lines(fd, end_bytes, disk):
        found = match_line(line)
        if found is not None:
            yield found, line


def _is_input_error(line: bytes) -> bool:
    if _INPUT_ERROR not in line:
        return False
    try:
        value = json.loads(line)  # as a row's metadata may hold the same words
        return bool(value["response"] is None and value["error"]["code"].startswith("input_"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
