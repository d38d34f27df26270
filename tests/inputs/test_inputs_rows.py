"""What one input line, or one Python object, becomes."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.rows import MAX_LINE_BYTES, line_digest, parse_line, row_from_value, strip_bom

PROMPTS = ("prompt", "messages", "input", "body", "params")


def row(text: str, number: int = 7) -> Row:
    parsed = parse_line(number, text.encode())
    assert isinstance(parsed, Row), parsed
    return parsed


def malformed(raw: bytes, number: int = 7) -> Malformed:
    parsed = parse_line(number, raw)
    assert isinstance(parsed, Malformed), parsed
    return parsed


def test_an_object_keeps_the_source_text_of_its_members() -> None:
    """Members leave as they came: spacing, escapes, digits."""
    parsed = row(
        '{"id": "a", "prompt": "caf\\u00e9", "seed": 123456789012345678901234567890, "top_p": 1.10, "x": [1, 2]}'
    )

    assert parsed.fields == {
        "prompt": '"caf\\u00e9"',
        "seed": "123456789012345678901234567890",
        "top_p": "1.10",
        "x": "[1, 2]",
    }


def test_a_bare_string_is_a_prompt() -> None:
    """A string on a line of its own is the prompt."""
    parsed = row(' "hello \\"you\\"" ')

    assert parsed.fields == {"prompt": '"hello \\"you\\""'}
    assert parsed.id == "row-7"


def test_a_list_is_messages() -> None:
    """A list on a line of its own is the messages."""
    parsed = row('[{"role": "user", "content": "hi"}]')

    assert parsed.fields == {"messages": '[{"role": "user", "content": "hi"}]'}


@pytest.mark.parametrize("raw", [b"", b" ", b"\t \r", b"\r"])
def test_a_blank_line_is_forgiven(raw: bytes) -> None:
    """A line of white space is no row."""
    assert parse_line(1, raw) is None


def test_one_carriage_return_at_the_end_changes_nothing() -> None:
    """A file saved on Windows has the same rows and hashes."""
    with_return = parse_line(3, b'{"prompt":"a"}\r')

    assert with_return == parse_line(3, b'{"prompt":"a"}')


def test_the_hash_is_that_of_the_line_itself() -> None:
    """Sixteen hex digits of SHA-256 of the raw line, also for a malformed one."""
    raw = b' {"prompt": "a"}  '

    assert row(raw.decode()).hash == hashlib.sha256(raw).hexdigest()[:16] == line_digest(raw + b"\r")
    assert malformed(b"{oops").hash == hashlib.sha256(b"{oops").hexdigest()[:16]


def test_a_byte_order_mark_is_stripped() -> None:
    """Only the mark at the very start goes."""
    assert strip_bom(b"\xef\xbb\xbf\xef\xbb\xbfx") == b"\xef\xbb\xbfx"


@pytest.mark.parametrize(
    ("members", "id_json"),
    [
        ('"id": "a", "custom_id": "b"', '"a"'),
        ('"row_id": "d", "key": "c", "custom_id": "b"', '"b"'),
        ('"key": "c", "row_id": "d"', '"c"'),
        ('"row_id": "d"', '"d"'),
        ('"id": null, "key": "c"', '"c"'),
        ('"id": 12345678901234567890123', "12345678901234567890123"),
        ('"id": -5', "-5"),
        ('"id": 1.50', '"1.50"'),
        ('"id": true', '"true"'),
        ('"id": {"a": 1}', '"{\\"a\\": 1}"'),
        ('"id": 1.5, "custom_id": "b"', '"b"'),
        ('"id": "\\ud83d"', '"\\ud83d"'),
        ('"id": null', '"row-7"'),
        ('"name": "x"', '"row-7"'),
    ],
)
def test_the_first_naming_member_names_the_row(members: str, id_json: str) -> None:
    """id, custom_id, key, row_id in that order; strings and integers first, as their source text."""
    parsed = row(f'{{{members}, "prompt": "p"}}')

    assert parsed.id_json == id_json


def test_naming_members_are_never_request_parameters() -> None:
    """All of them leave the fields, whichever named the row."""
    parsed = row('{"id":1,"custom_id":"b","key":"c","row_id":null,"prompt":"p","user":"u"}')

    assert set(parsed.fields) == {"prompt", "user"}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"prompt": "\xff"}', "input_bad_utf8"),
        (b'{"prompt": "\xed\xa0\x80"}', "input_bad_utf8"),
        (b'{"prompt": "a"', "input_bad_json"),
        (b'{"prompt": "a"} {}', "input_bad_json"),
        (b"{'prompt': 'a'}", "input_bad_json"),
        (b'{"prompt": "a", "x": NaN}', "input_bad_json"),
        (b'{"prompt": "a", "x": -Infinity}', "input_bad_json"),
        (b"say hello", "input_bad_json"),
        (b"\x00", "input_bad_json"),
        (b"12", "input_not_a_row"),
        (b"true", "input_not_a_row"),
        (b" null", "input_not_a_row"),
        (b"{}", "input_no_prompt"),
        (b'{"prompt": ""}', "input_no_prompt"),
        (b'{"prompt": null, "messages": [ ]}', "input_no_prompt"),
        (b'{"text": "a"}', "input_no_prompt"),
        (b'""', "input_no_prompt"),
        (b"[]", "input_no_prompt"),
        (b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "input_too_deep"),
    ],
)
def test_what_is_no_request_is_malformed(raw: bytes, code: str) -> None:
    """Each fault has its code, and none of them raises."""
    assert malformed(raw).code == code


@pytest.mark.parametrize("member", PROMPTS)
def test_each_prompt_member_makes_a_row(member: str) -> None:
    """One of them with anything in it is enough."""
    assert row(f'{{"{member}": {{"a": 1}}}}').fields == {member: '{"a": 1}'}


def test_a_malformed_line_that_parses_keeps_its_id() -> None:
    """So that its failed line can be joined to the input."""
    assert malformed(b'{"custom_id": "b", "prompt": ""}').id_json == '"b"'
    assert malformed(b"{").id_json == '"row-7"'


@pytest.mark.slow
def test_a_line_above_64_mib_is_too_long() -> None:
    """The limit is for the line without its line end. Slow: it parses a line of 64 MiB."""
    most = b'"' + b"x" * (MAX_LINE_BYTES - 2) + b'"'

    assert isinstance(parse_line(1, most + b"\r"), Row)
    assert malformed(most + b" ").code == "input_too_long"


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_parse_line_never_raises(raw: bytes) -> None:
    """Any bytes are a row, malformed, or blank."""
    parsed = parse_line(1, raw)

    assert (parsed is None) == (not raw.strip())


@given(st.integers(0, 9).map(str), st.text("0123456789", max_size=6000), st.text("0123456789", max_size=30))
@settings(max_examples=50)
def test_numbers_of_any_length_pass_through(first: str, digits: str, fraction: str) -> None:
    """No digit is lost, however many there are."""
    whole = first if first == "0" else first + digits
    number = f"{whole}.{fraction}" if fraction else whole

    parsed = row(f'{{"prompt":"p","x":{number},"y":[-{number}]}}')

    assert parsed.fields["x"] == number
    assert parsed.fields["y"] == f"[-{number}]"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow  # a hundred random rows
@given(st.dictionaries(st.sampled_from([*PROMPTS, "id", "key", "metadata", "é"]), json_values))
def test_fields_mean_what_the_object_meant(value: dict[str, object]) -> None:
    """Parsing the fields again gives the members that went in, without the naming ones."""
    parsed = parse_line(1, json.dumps(value).encode())

    expected = {name: member for name, member in value.items() if name not in ("id", "key")}
    if any(name in expected and expected[name] not in (None, "", []) for name in PROMPTS):
        assert isinstance(parsed, Row)
        assert {name: json.loads(source) for name, source in parsed.fields.items()} == expected
    else:
        assert isinstance(parsed, Malformed)
        assert parsed.code == "input_no_prompt"


def test_a_python_object_becomes_the_row_of_its_json() -> None:
    """A dict gives the row that its JSON line would give, and is kept."""
    value = {"id": "a", "prompt": "p", "seed": 10**29}

    parsed = row_from_value(4, value)

    assert isinstance(parsed, Row)
    assert parsed.value is value
    assert (parsed.id_json, parsed.fields) == ('"a"', {"prompt": '"p"', "seed": str(10**29)})
    assert parsed.hash == line_digest(json.dumps(value, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("value", "fields"),
    [("say", {"prompt": '"say"'}), ([{"role": "user"}], {"messages": '[{"role":"user"}]'})],
)
def test_strings_and_lists_are_rows_too(value: object, fields: dict[str, str]) -> None:
    """As they are on a line of their own."""
    parsed = row_from_value(1, value)

    assert isinstance(parsed, Row)
    assert parsed.fields == fields


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def cyclic() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def deep() -> list[object]:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"prompt": float("nan")}, "input_bad_json"),
        ({"prompt": b"bytes"}, "input_bad_json"),
        (Hostile(), "input_bad_json"),
        (cyclic(), "input_bad_json"),
        (deep(), "input_too_deep"),
        (12, "input_not_a_row"),
        ({"text": "x"}, "input_no_prompt"),
    ],
)
def test_an_object_that_is_no_request_is_malformed_but_opaque_to_a_function(value: object, code: str) -> None:
    """A provider cannot take it; a function of the user's can take anything."""
    parsed = row_from_value(9, value)
    opaque = row_from_value(9, value, opaque=True)

    assert isinstance(parsed, Malformed)
    assert parsed.code == code
    assert isinstance(opaque, Row)
    assert opaque.hash == parsed.hash
    assert opaque.value is value
    assert opaque.fields == {}


def test_an_object_without_json_form_keeps_its_id() -> None:
    """A dict with a set in it is still named by its id."""
    parsed = row_from_value(1, {"id": "a", "data": {1}}, opaque=True)

    assert parsed.id_json == '"a"'
