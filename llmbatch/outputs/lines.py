r"""The lines of an output file one by one, and which of its failed rows were never sent. Does not change the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from re import Match
from typing import Final

from llmbatch.outputs.scan import match_line
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FailedRows

__all__ = ["failed_rows", "read_lines", "result_lines"]

_BLOCK_BYTES: Final = 1024 * 1024
_INPUT_ERROR: Final = b'"response":null,"error":{"code":"input_'


def result_lines(fd: int, disk: Filesystem = FILESYSTEM) -> Iterator[tuple[Match[bytes], bytes]]:
    r"""Each line with its ``\n``, and the match of its prefix (row, hash, status), in the file's order.

    Raises:
        OSError: the file cannot be read.
    """
    parts: list[bytes] = []
    offset = 0
    while block := disk.pread(fd, _BLOCK_BYTES, offset):
        offset += len(block)
        *whole, rest = block.split(b"\n")
        for line in whole:
            if parts:
                line = b"".join((*parts, line))
                parts.clear()
            found = match_line(line)
            if found is not None:
                yield found, line + b"\n"
        if rest:
            parts.append(rest)


def failed_rows(fd: int, disk: Filesystem = FILESYSTEM) -> FailedRows:
    """The rows that have failed, and those of them that were no requests. Cost: one pass over the file.

    Raises:
        OSError: the file cannot be read.
    """
    rows = FailedRows()
    for found, line in result_lines(fd, disk):
        if found[3] == b"failed":
            rows.add(int(found[1]), is_input_error=_is_input_error(line))
    return rows


def _is_input_error(line: bytes) -> bool:
    if _INPUT_ERROR not in line:
        return False
    try:
        value = json.loads(line)  # as a row's metadata may hold the same words
        return bool(value["response"] is None and value["error"]["code"].startswith("input_"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def read_lines(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """The lines of the first *end_bytes* bytes behind *fd*, without their line ends.

    *end_bytes* is where the good part ends (:class:`~llmbatch.outputs.scan.Scan`), so that what a running run appends
    meanwhile is left out. The offset of *fd* stays where it is.

    Raises:
        OSError: as the system says.
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
