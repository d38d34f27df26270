"""Finds an input row that has its successful line: a request that is known to be good.

A look at the start of the input only. Does not send or judge anything.
"""

from __future__ import annotations

import stat
from itertools import islice
from pathlib import Path
from typing import Final

from llmbatch.errors import InputError
from llmbatch.files.byte_source import digest_of
from llmbatch.files.disk import DISK, Disk
from llmbatch.files.lines import parse_line
from llmbatch.files.opening import BLOCK_BYTES, file_blocks, open_input
from llmbatch.files.output import Output
from llmbatch.files.split import LongLine
from llmbatch.files.text import text_lines
from llmbatch.records import Row

__all__ = ["known_good_row"]

_FEW_ROWS: Final = 10_000
_FEW_BLOCKS: Final = 64 * 1024 * 1024 // BLOCK_BYTES


def known_good_row(output: Output, input_path: str | Path, disk: Disk = DISK) -> Row | None:
    """The input row of the first successful line of *output*; None where there is none to be had cheaply.

    That is where no row has succeeded, the row is not among the first 10,000 lines and 64 MB, the input is no regular
    file or has changed. Raises nothing. Cost: at most a second.
    """
    found = output.first_good_row()
    if found is None or found[0] > _FEW_ROWS or str(input_path) == "-":
        return None
    try:
        fd = open_input(input_path, disk)
    except InputError:
        return None
    try:
        line = _line(fd, str(input_path), found[0], disk)
    except (InputError, OSError):
        return None
    finally:
        disk.close(fd)
    if line is None or isinstance(line, LongLine) or digest_of(line) != found[1]:
        return None
    row = parse_line(found[0], line)
    return row if isinstance(row, Row) else None


def _line(fd: int, name: str, number: int, disk: Disk) -> bytes | LongLine | None:
    if not stat.S_ISREG(disk.fstat(fd).st_mode):
        return None
    before = 0
    for batch in islice(text_lines(file_blocks(fd, name, disk), name), _FEW_BLOCKS):
        if batch is None:
            continue
        if before + len(batch) >= number:
            return batch[number - before - 1]
        before += len(batch)
    return None
