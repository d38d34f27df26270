"""The formats of inputs: how each is split into records, and how a record is parsed into a row.

To add one, add a class like these, and its name and endings in :mod:`llmbatch.inputs.format_names`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol, assert_never

from llmbatch.core.errors import InputError
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.decode import Unterminated, split_lines, text_lines, text_pieces
from llmbatch.inputs.format_names import InputFormat
from llmbatch.inputs.rows import members_of, parse_line, parse_record
from llmbatch.inputs.shape import RowShape, Shaper
from llmbatch.inputs.splitter import LongLine
from llmbatch.inputs.tables import TableFormat

__all__ = ["JSON_LINES", "RecordFormat", "make_format"]


class RecordFormat(Protocol):
    """A format whose records follow each other in a stream of bytes."""

    unit: Literal["line", "record"]
    """What a row's number counts, in messages."""

    def records(
        self, blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
    ) -> Iterator[Sequence[bytes | LongLine] | None]:
        """The records that each block completes, in batches that may be empty; None where a block is None.

        *name* is the input's, for messages. *from_start* is off only for lines.

        Raises:
            InputError: the input cannot be read as this format.
        """
        ...

    def parse(self, number: int, record: bytes) -> Row | Malformed | None:
        """The row of *record*; None if it is blank. Never raises."""
        ...

    def members(self, record: bytes) -> dict[str, str]:
        """All fields of *record* as JSON texts; none if it is malformed."""
        ...


def make_format(
    name: InputFormat | Literal["dataset"], shape: RowShape, *, is_whole: bool = False, is_guessed: bool = False
) -> RecordFormat:
    """The format *name*, whose records become rows of *shape*; *is_whole*: with every column, for a function.

    *is_guessed*: by the name of the input alone. ``dataset`` is a folder that Hugging Face's ``datasets`` has saved.

    Raises:
        UsageError: the shape's template cannot be used.
    """
    match name:
        case "dataset":
            return TableFormat(name, Shaper(shape, is_data=True, is_whole=is_whole))
        case "csv" | "tsv":
            return _Csv("\t" if name == "tsv" else None, Shaper(shape, is_data=True, is_whole=is_whole))
        case "parquet" | "arrow":
            return TableFormat(name, Shaper(shape, is_data=True, is_whole=is_whole))
        case "txt":
            shaper = Shaper(shape, is_data=True, is_whole=is_whole, prompt="text")
            return _Text(shaper, is_guessed=is_guessed)
        case "json":
            return _Json(Shaper(shape, is_data=False) if shape else None)
        case "jsonl":
            return _JsonLines(Shaper(shape, is_data=False) if shape else None)
        case _:
            assert_never(name)


class _JsonLines:
    unit: Literal["line", "record"] = "line"

    def __init__(self, shaper: Shaper | None) -> None:
        self.records = text_lines
        # The usual case is one call for each row.
        self.parse: Callable[[int, bytes], Row | Malformed | None] = (
            parse_line if shaper is None else lambda number, record: parse_line(number, record, shaper)
        )
        self.members = members_of


JSON_LINES: Final[RecordFormat] = _JsonLines(None)


class _Json:
    unit: Literal["line", "record"] = "record"

    def __init__(self, shaper: Shaper | None) -> None:
        self._shaper = shaper

    def records(
        self, blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
    ) -> Iterator[Sequence[bytes | LongLine] | None]:
        from llmbatch.inputs.json_array import json_records

        return json_records(text_pieces(blocks, name), name)

    def parse(self, number: int, record: bytes) -> Row | Malformed | None:
        return parse_line(number, record, self._shaper)

    def members(self, record: bytes) -> dict[str, str]:
        return members_of(record)


class _Csv:
    unit: Literal["line", "record"] = "record"

    def __init__(self, delimiter: str | None, shaper: Shaper) -> None:
        self._delimiter = delimiter
        self._shaper = shaper

    def records(
        self, blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
    ) -> Iterator[Sequence[bytes | LongLine] | None]:
        from llmbatch.inputs.csv_records import csv_records

        pieces = text_pieces(blocks, name)
        check = self._shaper.check_columns
        return csv_records(pieces, name, delimiter=self._delimiter, check=lambda columns: check(columns, name))

    def parse(self, number: int, record: bytes) -> Row | Malformed | None:
        return parse_record(number, record, self._shaper)

    def members(self, record: bytes) -> dict[str, str]:
        return members_of(record)


class _Text:
    """One prompt per line; blank lines are no records."""

    unit: Literal["line", "record"] = "record"

    def __init__(self, shaper: Shaper, *, is_guessed: bool) -> None:
        self._shaper = shaper
        self._is_guessed = is_guessed

    def records(
        self, blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
    ) -> Iterator[Sequence[bytes | LongLine] | None]:
        is_first = self._is_guessed
        for batch in split_lines(text_pieces(blocks, name)):
            if batch is None:
                yield None
                continue
            filled = [line for line in batch if isinstance(line, LongLine) or (line and not line.isspace())]
            if is_first and filled:
                _refuse_json(filled[0], name)
                is_first = False
            yield Unterminated(filled) if isinstance(batch, Unterminated) else filled

    def parse(self, number: int, record: bytes) -> Row | Malformed | None:
        if record[-1:] == b"\r":
            record = record[:-1]
        digest = hashlib.sha256(record).hexdigest()[:16]
        try:
            text = record.decode()
        except UnicodeDecodeError as error:
            message = f"byte {error.start + 1} of the line is not UTF-8"
            return Malformed(number, digest, f'"row-{number}"', "input_bad_utf8", message)
        if "\0" in text:
            return Malformed(number, digest, f'"row-{number}"', "input_bad_text", "the line contains a NUL")
        return self._shaper.row(number, digest, {"text": dumps(text)})

    def members(self, record: bytes) -> dict[str, str]:
        return {"text": dumps(record.decode(errors="replace").removesuffix("\r"))}


def _refuse_json(line: bytes | LongLine, name: str) -> None:
    """Refuse text whose first line is a row of JSON, which would be sent as it is written.

    Raises:
        InputError: it is.
    """
    if not isinstance(line, LongLine) and line.startswith(b"{") and isinstance(parse_line(1, line), Row):
        raise InputError(
            f"{name}: its first line is a JSON row, and the file's name says text",
            hint="--input-format jsonl sends the rows, --input-format txt the lines as they are",
        )
