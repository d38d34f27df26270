"""Fields of an export: dotted names, values as source text, and names that no line has."""

from __future__ import annotations

import json

import pytest
from example_lines import result_line

from llmbatch.core.calls import Usage
from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import RawJsonError, split_object
from llmbatch.outputs.export_columns import NestedFields, columns_of, plain_text
from llmbatch.outputs.export_fields import FieldNames, Line, parse_fields
from llmbatch.outputs.line_members import line_members

TRICKY = [
    {},
    {"status": "failed", "error_code": "x", "error_message": 'quoted ",\\"', "text": None},
    {
        "status": "failed",
        "error_code": 'c"d',
        "error_message": "",
        "usage": Usage(1, 2),
        "text": 'a","error":null,"text":',
    },
    {"text": '"},"error":null,"text":"forged","usage":null', "metadata_json": '{"a":[1,{"b":"}"}]}'},
    {
        "body": '{"error":null,"text":"in","usage":null,"cost_usd":null,"model":null,"attempts":1,'
        '"deferrals":0,"latency_s":1}'
    },
    {
        "metadata_json": '{"k":1,"error":null,"text":"in","usage":null,"cost_usd":null,"model":null,"attempts":9,'
        '"deferrals":0,"latency_s":null,"metadata":null}'
    },
    {"usage": Usage(3, 4), "cost_usd": 0.00001, "latency_s": 1.5, "settings": "abc", "finish_reason": "length"},
    {"cached": True, "route": "pool/a", "tier": "flex", "model": 'm"x', "metadata_json": "[]"},
    {"status_code": None, "body": None, "text": "é \ud83d"},
    {"body": '"a string \\" with quotes"', "metadata_json": '"text"'},
]


@pytest.mark.parametrize("fields", TRICKY, ids=range(len(TRICKY)))
def test_the_fast_split_gives_what_the_parser_gives(fields: dict[str, object]) -> None:
    """For lines as they are written, with whatever a provider or a user may put into them."""
    text = result_line(7, **fields).decode().rstrip("\n")  # type: ignore[arg-type]

    fast = line_members(text, skips_response=True)

    assert fast == split_object(text)
    assert list(fast) == list(json.loads(text))


def test_a_line_of_another_layout_is_parsed() -> None:
    """Edited by hand or by another version: members in another order, others beside them."""
    text = '{"row":1,"hash":"0123456789abcdef","status":"success","new":1,"id":"a","text":"t","error":null}'

    assert line_members(text, skips_response=True) == split_object(text)
    with pytest.raises(RawJsonError):
        line_members(text[:-1], skips_response=True)
    with pytest.raises(RawJsonError):
        line_members("[1]", skips_response=True)


@pytest.mark.parametrize("end", ["}", ',"id":"again","metadata":null}', ',"metadata":{"a":1}'])
def test_a_line_with_another_end_is_parsed(end: str) -> None:
    """Without metadata, with a member twice, or cut: what the parser says counts."""
    whole = result_line(7).decode().rstrip("\n")
    text = whole.removesuffix(',"metadata":null}') + end

    try:
        parsed = split_object(text)
    except RawJsonError:
        with pytest.raises(RawJsonError):
            line_members(text, skips_response=True)
    else:
        assert line_members(text, skips_response=True) == parsed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "1.10"),
        ("b.c", "[1,{}]"),
        ("b.c.0", "1"),
        ("b.c.2", None),
        ("b.d.e", None),
        ("x.y", '"dotted"'),
        ("b.p.q", "5"),
        ("b.p.q.r", None),
        ("none", None),
        ("a.b", None),
    ],
)
def test_dotted_names_reach_into_values(name: str, text: str | None) -> None:
    """Objects by name, arrays by position, and names that have dots themselves."""
    line = Line({"a": "1.10", "b": '{"c": [1,{}], "d": null, "p.q": 5}', "x.y": '"dotted"'})

    assert line.find(name.split(".")) == text
    assert line.find(name.split(".")) == text  # also from what was kept


def test_names_are_split_at_commas() -> None:
    """Spaces around them are forgiven, and repetitions."""
    assert parse_fields("id, text,id,usage.input_tokens") == ("id", "text", "usage.input_tokens")
    for text in ("", "id,", "a..b", ".a", "a."):
        with pytest.raises(UsageError, match="--fields"):
            parse_fields(text)


def test_a_name_that_no_line_has_is_told_with_what_there_is() -> None:
    """Names close to it first; a field of the input is told as such."""
    line = Line({"row": "1", "metadata": '{"label":"x","n":{"m":1}}', "usage": '{"input_tokens":1}'})

    def refused(name: str, joined: tuple[str, ...] = ()) -> UsageError:
        names = FieldNames(["text", name])
        names.look(line)
        with pytest.raises(UsageError) as caught:
            names.check(joined)
        return caught.value

    assert (
        refused("metadata.lable").hint
        == "did you mean metadata.label? there are metadata.label, metadata.n, metadata.n.m"
    )
    assert refused("zzz").message == "--fields: no line has the field zzz"
    assert refused("zzz").hint.startswith("there are row, hash, status, id,")
    assert "--join adds all of them" in refused("stars", ("stars",)).hint


def test_only_so_many_names_are_kept_for_the_message() -> None:
    """Metadata may have thousands, in one object too."""
    many = {f"n{number}": number for number in range(500)}
    names = FieldNames(["none"])
    names.look(Line({"metadata": json.dumps(many), "last": "1"}))
    names.look(Line({"later": "1"}))

    with pytest.raises(UsageError) as caught:
        FieldNames.check(names)

    assert "later" not in caught.value.hint
    names = FieldNames(["metadata.none"])
    names.look(Line({"metadata": json.dumps(many)}))
    with pytest.raises(UsageError) as caught:
        names.check()
    assert caught.value.hint.endswith(", +159 more")


def test_known_names_need_no_line_and_others_may_be_in_any() -> None:
    """``error.code`` of an output without failures; ``parsed.x`` of one that has no lines yet."""
    names = FieldNames(["error.code", "tier", "metadata.x"])
    names.look(Line({"metadata": "null"}))
    names.look(Line({"metadata": '{"x":null}'}))
    names.check()

    FieldNames(["parsed.x"]).check()
    with pytest.raises(UsageError, match="nonsense"):
        FieldNames(["nonsense"]).check()


def test_colliding_results_get_a_prefix() -> None:
    """As often as it takes; joined fields come first under their own names."""
    columns = columns_of(["id", "text", "error.code"], ["id", "x", "result_id"])

    assert [column.name for column in columns] == ["id", "x", "result_id", "result_result_id", "text", "error.code"]


def test_nested_fields() -> None:
    """Parts of one object are together; a part of what is there as a whole is not repeated; missing values are null."""
    line = Line({"id": '"a"', "usage": '{"in":1,"out":2.50}', "error": "null"})

    assert NestedFields(["usage.in", "id", "usage.out", "error.code"]).text(line) == (
        '"usage":{"in":1,"out":2.50},"id":"a","error":{"code":null}'
    )
    assert NestedFields(["usage", "usage.in"]).text(line) == '"usage":{"in":1,"out":2.50}'
    assert NestedFields(["usage.in", "usage"]).text(line) == '"usage":{"in":1,"out":2.50}'
    assert (
        NestedFields(["id", "usage.in"], taken=["usage", "id"]).text(line) == '"result_id":"a","result_usage":{"in":1}'
    )


def test_lone_surrogates_become_replacement_characters() -> None:
    """A model that was cut inside an emoji leaves half of one; a whole pair is the emoji."""
    assert plain_text('"a\\ud83d"') == "a\ufffd"
    assert plain_text('"\\ud83d\\ude00\\n\\u0000"') == "😀\n\0"
