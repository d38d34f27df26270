"""Reads an input as records, with all fields as they are there, to join them to results.

A row (:class:`~llmbatch.core.rows.Row`) lacks what names it, and is made for a request; a record is neither.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from llmbatch.core.raw_json import RawJsonError, split_object
from llmbatch.inputs.decode import text_lines
from llmbatch.inputs.open import file_blocks, open_input
from llmbatch.inputs.rows import line_digest
from llmbatch.inputs.splitter import LongLine
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["Record", "line_records"]


class Record(NamedTuple):
    """One record: the number and hash of its row, and the JSON text of each field; none if it is malformed."""

    number: int
    hash: str
    fields: dict[str, str]


def line_records(path: str | Path, disk: Filesystem = FILESYSTEM) -> Generator[Record]:
    """The records of JSON Lines, plain or compressed. A bare string is ``prompt``, a list is ``messages``.

    Raises:
        InputError: the input cannot be read.
    """
    name = str(path)
    fd = open_input(path, disk)
    try:
        number = 0
        for batch in text_lines(file_blocks(fd, name, disk), name):
            for line in batch or ():
                number += 1
                if isinstance(line, LongLine):
                    yield Record(number, line.hash, {})
                elif line and not line.isspace():
                    yield Record(number, line_digest(line), _fields(line))
    finally:
        disk.close(fd)


def _fields(line: bytes) -> dict[str, str]:
    try:
        text = line.decode().strip(" \t\r")
        members = split_object(text)
    except (RawJsonError, UnicodeDecodeError):
        return {}
    if members is not None:
        return members
    return {'"': {"prompt": text}, "[": {"messages": text}}.get(text[0], {})
