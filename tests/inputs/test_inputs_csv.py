"""CSV becomes one JSON object a record; what cannot be read is that record's fault alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import InputError
from llmbatch.inputs.csv_records import csv_records
from llmbatch.inputs.rows import MAX_LINE_BYTES
from llmbatch.inputs.splitter import BadRecord, LongLine


def read(
    text: bytes, *, block: int = 1 << 16, delimiter: str | None = None, columns: list[str] | None = None
) -> list[bytes | LongLine]:
    """The records of *text*, read in pieces of *block* bytes."""
    pieces = iter([text[at : at + block] for at in range(0, len(text), block)])

    def check(names: Sequence[str]) -> None:
        if columns is not None:
            columns.extend(names)

    batches = csv_records(pieces, "p.csv", delimiter=delimiter, check=check)
    return [record for batch in batches for record in batch or ()]


def cells(text: bytes, *, block: int = 1 << 16, delimiter: str | None = None) -> list[object]:
    """The same, of which good ones are parsed and bad ones are their codes."""
    return [
        record.code if isinstance(record, BadRecord) else "long" if isinstance(record, LongLine) else json.loads(record)
        for record in read(text, block=block, delimiter=delimiter)
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 16])
def test_a_record_is_its_cells_by_the_names_of_the_columns(block: int) -> None:
    """Quotes, commas, line breaks in cells, CRLF, blank lines, empty cells and a last line without an end."""
    text = 'id,text\r\n1,"a, ""b""\r\nc"\r\n\r\n  \r\n2,\r\n"3",ü'.encode()

    found = cells(text, block=block)

    assert found == [{"id": "1", "text": 'a, "b"\r\nc'}, {"id": "2", "text": ""}, {"id": "3", "text": "ü"}]


@given(
    st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 40),
)
def test_what_the_standard_library_writes_is_read_back(rows: list[tuple[str, str]], end: str, block: int) -> None:
    """Any text but NUL, and lone surrogates, which have no bytes; in blocks of any size."""
    rows = [(a, b) for a, b in rows if not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in a + b)]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])

    found = cells(file.getvalue().encode(), block=block)

    assert found == [{"a": a, "b": b} for a, b in rows]


@given(st.binary(max_size=80), st.integers(1, 9))
def test_any_bytes_give_the_same_records_whatever_the_blocks(tail: bytes, block: int) -> None:
    """And only ``InputError`` may be raised, for a header."""
    text = b"a,b\n" + tail

    assert read(text, block=block) == read(text)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"a,b", {"a": "1", "b": "2"}),
        (b"a;b", {"a": "1", "b": "2"}),
        (b"a\tb", {"a": "1", "b": "2"}),
        (b"a|b", {"a": "1", "b": "2"}),
        (b'"x,y,z";b', {"x,y,z": "1", "b": "2"}),
    ],
)
def test_the_delimiter_is_what_the_header_has_most_of(header: bytes, expected: object) -> None:
    """Commas in quotes do not count."""
    delimiter = header.replace(b"x,y,z", b"")[-2:-1]

    assert cells(header + b"\n1" + delimiter + b"2\n") == [expected]


def test_columns_without_a_name_get_one() -> None:
    """As the index that pandas writes; spaces around names are none of them."""
    columns: list[str] = []

    read(b", text ,\n", columns=columns)

    assert columns == ["column_1", "text", "column_3"]


BAD = [
    (b"a,b\n1\n3,4\n", ["input_bad_csv", {"a": "3", "b": "4"}]),
    (b"a,b\n1,2,3\n3,4\n", ["input_bad_csv", {"a": "3", "b": "4"}]),
    (b"a,b\n1,\xff\n3,4\n", ["input_bad_utf8", {"a": "3", "b": "4"}]),
    (b"a,b\n1,x\0y\n3,4\n", ["input_bad_csv", {"a": "3", "b": "4"}]),
    (b"a,b\n1,x\ry\n3,4\n", ["input_bad_csv", {"a": "3", "b": "4"}]),
    (b'a,b\n1,"open\n3,4\n', ["input_bad_csv"]),
    (b"a,b\n", []),
    (b"a,b", []),
    (b"", []),
    (b"\n\n", []),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
@pytest.mark.parametrize("block", [1, 5, 1 << 16])
def test_a_record_that_cannot_be_read_harms_no_other(text: bytes, expected: object, block: int) -> None:
    """Ragged, no UTF-8, a NUL, a lone carriage return, an open quote; and no records at all."""
    assert cells(text, block=block) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b,a\n", "columns 1 and 3 are both named 'a'"),
        (b"a,\xff\n", "the text is not UTF-8"),
        (b"a,b\0\n", "contains a NUL"),
        (b'a,"b\n', "a quote in the header is not closed"),
        (b"a,b\r1,2\r", "the header cannot be read"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(text: bytes, message: str) -> None:
    """Nothing after it can be."""
    with pytest.raises(InputError, match=message) as caught:
        read(text)

    assert caught.value.message.startswith("p.csv: ")
    assert caught.value.hint


def huge(cell: bytes) -> Iterator[bytes]:
    """A record with 100 MB of *cell*, between two others, in blocks."""
    yield b"a,b\n1,2\n3,"
    for _ in range(100_000_000 // (len(cell) * 4096)):
        yield cell * 4096
    yield b'"\n5,6\n' if cell[:1] == b'"' or b'""' in cell else b"\n5,6\n"


@pytest.mark.slow
@pytest.mark.parametrize("cell", [b"x", b'""\n,'], ids=["one line", "quoted lines"])
def test_a_cell_of_100_mb_is_one_failed_row_and_is_not_held(cell: bytes) -> None:
    """The next record is read. Slow: 100 MB."""

    def pieces() -> Iterator[bytes]:
        start = True
        for piece in huge(cell):
            yield piece + b'"' if start and b'""' in cell else piece
            start = False

    batches = csv_records(pieces(), "p.csv", delimiter=",", check=lambda names: None)
    records = [record for batch in batches for record in batch or ()]

    assert [type(record) for record in records] == [bytes, LongLine, bytes]
    assert len(records[1]) > MAX_LINE_BYTES
    assert json.loads(records[2]) == {"a": "5", "b": "6"}  # type: ignore[arg-type]
