"""Finds lines that a truncation by another process has torn, to which later lines were appended; gives the whole ones.

Where a file was cut in mid-line, what the run appended next stands on the same line as the rest of the torn one. Only a
rest that is followed by a whole line on its own line is dropped; everything else stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmbatch.core.calls import record
from llmbatch.core.raw_json import RawJsonError, parse
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.scan import match_line
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["Torn", "find_torn", "whole_lines"]

_find_heads = re.compile(rb'\{"row":[1-9][0-9]{0,17},"hash":"[0-9a-f]{16}","status":"(?:success|failed)"[,}]').finditer
_BRACE = ord("}")


@record
class Torn:
    """What :func:`find_torn` found: the numbers of the first line that can be mended, and of the first that cannot."""

    mendable: int | None
    damaged: int | None
    """As it will be once the others are mended."""


def find_torn(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Torn:
    """Look for torn lines in the first *end_bytes* bytes of the file. Cost: one pass over it.

    Raises:
        OSError: the file cannot be read.
    """
    mendable = damaged = None
    lines = 0
    for line, parts in _split(fd, end_bytes, disk):
        if parts is None:
            damaged = damaged or lines + 1
        elif parts != [line]:
            mendable = mendable or lines + 1
        lines += len(parts or [line])
    return Torn(mendable, damaged)


def whole_lines(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    r"""The lines of the file, each with its ``\n``, without what is left of torn ones that others were appended to.

    Raises:
        OSError: the file cannot be read.
    """
    for line, parts in _split(fd, end_bytes, disk):
        yield b"".join(part + b"\n" for part in parts or [line])


def _split(fd: int, end_bytes: int, disk: Filesystem) -> Iterator[tuple[bytes, list[bytes] | None]]:
    """Each line and the whole lines that stand on it (:func:`_parts`); without a torn last line."""
    end = 0
    for line in read_lines(fd, end_bytes, disk):
        end += len(line) + 1
        parts = _parts(line)
        if parts is not None or end <= end_bytes:
            yield line, parts


def _parts(line: bytes) -> list[bytes] | None:
    """The whole lines that stand on *line*; None if it is damaged in another way."""
    starts = [found.start() for found in _find_heads(line)]
    # A second head without a tear is an object inside the answer.
    if (starts == [0] and _is_closed(line)) or (starts[:1] == [0] and _is_whole(line)):
        return [line]
    for start in starts:
        if start and _is_whole(line[start:]):
            before = line[:start]
            return [before, line[start:]] if _is_whole(before) else [line[start:]]
    return None


def _is_closed(line: bytes) -> bool:
    return line[-1] == _BRACE and 0 not in line


def _is_whole(line: bytes) -> bool:
    if match_line(line) is None or not _is_closed(line):
        return False
    try:
        parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):
        return False
    return True
