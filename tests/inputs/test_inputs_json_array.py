"""A JSON array is split into its elements, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import InputError
from llmbatch.inputs.json_array import json_records
from llmbatch.inputs.rows import MAX_LINE_BYTES
from llmbatch.inputs.splitter import BadRecord, LongLine

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(text: bytes, *, block: int = 1 << 16) -> list[bytes | LongLine]:
    """The records of *text*, read in pieces of *block* bytes."""
    pieces = iter([text[at : at + block] for at in range(0, len(text), block)])
    return [record for batch in json_records(pieces, "p.json") for record in batch or ()]


@pytest.mark.slow  # up to some seconds of CPU
@given(
    st.lists(VALUES.filter(lambda value: "\\ud" not in json.dumps(value)), max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 30),
)
def test_the_elements_of_any_array_are_found(
    values: list[object], indent: int | None, is_ascii: bool, block: int
) -> None:
    """In blocks of any size, pretty-printed or not."""
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()

    records = read(text, block=block)

    assert all(b"\n" not in record for record in records if isinstance(record, bytes))
    assert [json.loads(record) for record in records if isinstance(record, bytes)] == values


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[]", []),
        (b" \n[ \n] \n", []),
        (b"[1, 2,]", [b"1", b"2"]),
        (b'[{"a":NaN},{"b":1}]', [b'{"a":NaN}', b'{"b":1}']),
        (b"[{'a':1},{\"b\":1}]", [b"{'a':1}", b'{"b":1}']),
        (b'[{"a":1} {"b":2},3]', [b'{"a":1} {"b":2}', b"3"]),
        (b'["\\"],[", 4]', [b'"\\"],["', b"4"]),
        (b"", []),
        (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    ],
)
def test_an_element_that_is_no_json_harms_no_other(text: bytes, expected: list[bytes], block: int) -> None:
    """It is passed on as it is; so are the lines of a file that is no array."""
    assert read(text, block=block) == expected


@pytest.mark.parametrize("block", [1, 1 << 16])
def test_an_element_that_is_not_utf_8_or_not_there_is_a_bad_record(block: int) -> None:
    """Each by itself."""
    records = read(b'["\xff",,"ok"]', block=block)

    assert [record.code if isinstance(record, BadRecord) else record for record in records] == [
        "input_bad_utf8",
        "input_bad_json",
        b'"ok"',
    ]


@pytest.mark.parametrize(
    ("text", "count"), [(b"[1,2", 1), (b"[1,2,", 2), (b'[1,{"a":', 1), (b'[1,"', 1), (b"[", 0), (b"[1,2\n", 1)]
)
@pytest.mark.parametrize("block", [1, 1 << 16])
def test_an_array_that_is_cut_off_is_an_error_after_its_records(text: bytes, count: int, block: int) -> None:
    """What is whole is read first."""
    pieces = iter([text[at : at + block] for at in range(0, len(text), block)])
    records: list[bytes | LongLine] = []

    def read_on() -> None:
        for batch in json_records(pieces, "p.json"):
            records.extend(batch or ())

    with pytest.raises(InputError, match=rf"p\.json: the JSON array is cut off after record {count}"):
        read_on()

    assert records == [b"1", b"2"][:count]


@pytest.mark.parametrize("block", [1, 1 << 16])
def test_text_after_the_array_is_an_error(block: int) -> None:
    """It may be a second array, or lines that begin with a list."""
    with pytest.raises(InputError, match="after the JSON array, which ends with record 1, follows more") as caught:
        read(b"[1]\n[2]\n", block=block)

    assert "--input-format jsonl" in caught.value.hint


def test_deep_nesting_is_one_record() -> None:
    """Its depth is the parser's matter, not the splitter's."""
    deep = b"[" * 100_000 + b"]" * 100_000

    assert read(b"[" + deep + b",1]", block=4096) == [deep, b"1"]


@pytest.mark.slow
def test_an_element_of_100_mb_is_not_held() -> None:
    """Only its hash; the next one is read. Slow: 100 MB."""

    def pieces() -> Iterator[bytes]:
        yield b'["'
        for _ in range(1600):
            yield b"x" * 65535 + b"\\"
            yield b'"'
        yield b'", 2]'

    records = [record for batch in json_records(pieces(), "p.json") for record in batch or ()]

    assert isinstance(records[0], LongLine)
    assert len(records[0]) > MAX_LINE_BYTES
    assert records[1:] == [b"2"]
