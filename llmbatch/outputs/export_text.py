"""The text formats of an export: JSON Lines, OpenAI batch output files, CSV and TSV.

Each function turns rows into blocks of encoded text. Numbers are written as they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from llmbatch.core.raw_json import dumps
from llmbatch.outputs.export_columns import Column, NestedFields, cells_of, free_name, plain_text
from llmbatch.outputs.export_fields import Line

__all__ = ["delimited", "json_lines", "openai_lines"]

_BLOCK_CHARACTERS: Final = 64 * 1024
_OPENAI_MEMBERS: Final = ("id", "custom_id", "response", "error")

_Rows = Iterable[tuple[Line, Mapping[str, str]]]


def json_lines(rows: _Rows, fields: Sequence[str], joined: Sequence[str]) -> Iterator[bytes]:
    """One object per row: the joined fields that it has, then *fields*, nested as in the output."""
    nested = NestedFields(fields, joined)
    keys = _Keys()
    return _blocks(f"{{{keys.members(extra)}{nested.text(line)}}}\n" for line, extra in rows)


def openai_lines(rows: _Rows, joined: Sequence[str]) -> Iterator[bytes]:
    """Lines of an OpenAI batch output file: ``id``, ``custom_id``, ``response`` and ``error``, after joined fields.

    Both ids are text, as there.
    """
    names = {name: free_name(name, joined) if name in joined else name for name in _OPENAI_MEMBERS}
    keys = _Keys()

    def encode(line: Line, extra: Mapping[str, str]) -> str:
        members = line.members
        name = members.get("custom_id") or members.get("id") or "null"
        custom = name if name[:1] in ('"', "n") else dumps(name)
        values = (custom, custom, members.get("response", "null"), members.get("error", "null"))
        own = ",".join(f'"{names[key]}":{value}' for key, value in zip(_OPENAI_MEMBERS, values, strict=True))
        return f"{{{keys.members(extra)}{own}}}\n"

    return _blocks(encode(line, extra) for line, extra in rows)


def delimited(rows: _Rows, columns: Sequence[Column], delimiter: str) -> Iterator[bytes]:
    r"""A header and one record per row (RFC 4180, with ``\n``): no value is an empty cell, an empty text ``""``."""
    must_quote = re.compile(f'["\r\n{delimiter}]').search
    is_single = len(columns) == 1

    def cell(text: str | None) -> str:
        if text is None or text == "null":
            return '""' if is_single else ""  # a record of one empty cell would be a blank line
        plain = plain_text(text) if text[0] == '"' else text
        if not plain or must_quote(plain):
            return '"' + plain.replace('"', '""') + '"'
        return plain

    def records() -> Iterator[str]:
        yield delimiter.join(cell(dumps(column.name)) for column in columns) + "\n"
        cells = cells_of(columns)
        for line, extra in rows:
            yield delimiter.join(map(cell, cells(line, extra))) + "\n"

    return _blocks(records())


class _Keys:
    """Members of an object from their JSON texts; keys are encoded once."""

    def __init__(self) -> None:
        self._encoded: dict[str, str] = {}

    def members(self, values: Mapping[str, str]) -> str:
        """The members with a comma after each."""
        if not values:
            return ""
        encoded = self._encoded
        for name in values:
            if name not in encoded:
                encoded[name] = dumps(name)
        return "".join(f"{encoded[name]}:{text}," for name, text in values.items())


def _blocks(lines: Iterable[str]) -> Iterator[bytes]:
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _BLOCK_CHARACTERS:
            yield "".join(block).encode()
            block, size = [], 0
    if block:
        yield "".join(block).encode()
