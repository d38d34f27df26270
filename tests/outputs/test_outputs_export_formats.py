"""The formats of an export: JSON Lines, OpenAI files, CSV and Parquet, with values that are hard to write."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet
import pytest

from llmbatch.outputs.export_columns import columns_of
from llmbatch.outputs.export_fields import Line
from llmbatch.outputs.export_parquet import column_types, parquet
from llmbatch.outputs.export_text import delimited, json_lines, openai_lines

Rows = Sequence[tuple[Line, Mapping[str, str]]]

HARD = ["a,b", 'say "hi"', "two\nlines", "cr\rhere", "nul\0", "tab\t", "", " padded ", "é😀", "1e5", "=1+1", "null"]


def rows(*values: str) -> Rows:
    """Rows whose field ``v`` has these JSON texts."""
    return [(Line({"id": f'"r{number}"', "v": text}), {}) for number, text in enumerate(values, 1)]


def read_parquet(data: bytes) -> Any:
    return pyarrow.parquet.read_table(io.BytesIO(data))


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_holds_any_text(delimiter: str) -> None:
    """Python's own reader gives each text back; no value and an empty text differ for readers that care."""
    texts = [json.dumps(text) for text in HARD]
    made = b"".join(delimited(rows(*texts, "null"), columns_of(["id", "v"], []), delimiter)).decode()

    found = list(csv.reader(io.StringIO(made, newline=""), delimiter=delimiter, strict=True))

    assert found[0] == ["id", "v"]
    assert [record[1] for record in found[1:]] == [*HARD, ""]
    assert made.endswith(f"r{len(HARD) + 1}{delimiter}\n")
    assert f'r7{delimiter}""\n' in made


def test_csv_keeps_numbers_and_nested_values_as_they_are() -> None:
    """Every digit; JSON text for lists and objects."""
    values = ["1.10", "123456789012345678901234567890", "1E400", "true", '{"a": "x,y"}', "[1]"]
    made = b"".join(delimited(rows(*values), columns_of(["v"], []), ",")).decode()

    assert made == 'v\n1.10\n123456789012345678901234567890\n1E400\ntrue\n"{""a"": ""x,y""}"\n[1]\n'


def test_a_single_empty_cell_is_no_blank_line() -> None:
    """Which readers skip."""
    made = b"".join(delimited(rows("null", '"x"'), columns_of(["v"], []), ","))

    assert made == b'v\n""\nx\n'


def test_json_lines_keep_the_text_of_values() -> None:
    """Also half an emoji, which is an escape there."""
    made = b"".join(json_lines(rows('"\\ud83d"', "1.10", '{"a": 1}'), ["v"], []))

    assert made == b'{"v":"\\ud83d"}\n{"v":1.10}\n{"v":{"a": 1}}\n'


def test_openai_lines_after_joined_fields() -> None:
    """Names that collide get the prefix; without, the four members stay as they are."""
    line = Line({"id": "7", "custom_id": '"7"', "response": '{"status_code":200}', "error": "null"})
    made = b"".join(openai_lines([(line, {"custom_id": '"7"', "body": "{}"})], ["custom_id", "body"]))

    assert made == (
        b'{"custom_id":"7","body":{},"id":"7","result_custom_id":"7","response":{"status_code":200},"error":null}\n'
    )


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (["1", "null", "-5"], "int64", [1, None, -5]),
        (["1", "2.5"], "double", [1.0, 2.5]),
        (["9007199254740993", "1"], "int64", [9007199254740993, 1]),
        (["9007199254740993", "0.5"], "string", ["9007199254740993", "0.5"]),
        (["123456789012345678901234567890"], "string", ["123456789012345678901234567890"]),
        (["9223372036854775808", "1"], "string", ["9223372036854775808", "1"]),
        (["1e400", "1.5"], "string", ["1e400", "1.5"]),
        (["true", "null", "false"], "bool", [True, None, False]),
        (["true", "1"], "string", ["true", "1"]),
        (['"a"', "null", '"\\ud83d\\n"'], "string", ["a", None, "\ufffd\n"]),
        (['"a"', "1"], "string", ['"a"', "1"]),
        (['{"a": 1}', "[2]"], "string", ['{"a": 1}', "[2]"]),
        (['"a"', "[2]"], "string", ['"a"', "[2]"]),
        (["null", "null"], "string", [None, None]),
        ([], "string", []),
    ],
)
def test_parquet_types_are_those_of_all_values(values: list[str], kind: str, found: list[object]) -> None:
    """What is mixed or does not fit becomes JSON text; nothing loses digits that its type cannot hold."""
    columns = columns_of(["v"], [])
    data = rows(*values)

    table = read_parquet(b"".join(parquet(data, columns, column_types(data, columns))))

    assert str(table.schema.field("v").type) == kind
    assert table.column("v").to_pylist() == found


def test_parquet_comes_in_bounded_pieces() -> None:
    """Many row groups, each written before the next one is read; large cells make them smaller."""
    read = 0

    def many() -> Any:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield Line({"v": json.dumps("x" * (5000 if number % 100 == 0 else 10))}), {}

    columns = columns_of(["v"], [])
    pieces = parquet(many(), columns, ["string"])

    first = next(pieces)
    assert read <= 2048
    table = pyarrow.parquet.ParquetFile(io.BytesIO(first + b"".join(pieces)))
    assert table.metadata.num_rows == 10_000
    assert table.metadata.num_row_groups == 5
