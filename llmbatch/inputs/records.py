"""Reads an input as records, with all fields as they are there, to join them to results.

A row (:class:`~llmbatch.core.rows.Row`) lacks what names it, and is made for a request; a record is neither.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from llmbatch.inputs.formats import RecordFormat
from llmbatch.inputs.open import open_input
from llmbatch.inputs.rows import line_digest
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.verify import file_records
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["Record", "read_records"]


class Record(NamedTuple):
    """One record: the number and hash of its row, and the JSON text of each field; none if it is malformed."""

    number: int
    hash: str
    fields: dict[str, str]


def read_records(path: str | Path, form: RecordFormat, disk: Filesystem = FILESYSTEM) -> Generator[Record]:
    """The records of a regular file, plain or compressed, in the format *form*.

    Of JSON a bare string is ``prompt``, a list is ``messages``; of text the line is ``text``.

    Raises:
        InputError: the input cannot be read.
    """
    name = str(path)
    fd = open_input(path, disk)
    try:
        number = 0
        for batch in file_records(form, fd, name, disk):
            for record in batch or ():
                number += 1
                if isinstance(record, LongLine):
                    yield Record(number, record.hash, {})
                elif record and not record.isspace():
                    yield Record(number, line_digest(record), form.members(record))
    finally:
        disk.close(fd)
