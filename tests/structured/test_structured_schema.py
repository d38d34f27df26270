"""Answers against a schema: what fits, what each fault says, and JSON that is found in other text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from llmbatch.core.calls import Parsed
from llmbatch.core.errors import UsageError
from llmbatch.providers.structured.find_json import find_json
from llmbatch.providers.structured.load import load_schema
from llmbatch.providers.structured.schema import AnswerSchema, Misfit

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"]},
        "items": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
    },
    "required": ["label"],
}


class Review(pydantic.BaseModel):
    label: Literal["good", "bad"]
    score: int = pydantic.Field(default=3, alias="points")

    @pydantic.field_validator("label", mode="before")
    @classmethod
    def lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class Recursive(pydantic.BaseModel):
    name: str
    children: list[Recursive] = []


class Picky(pydantic.BaseModel):
    label: str

    @pydantic.field_validator("label")
    @classmethod
    def fail(cls, value: str) -> str:
        raise KeyError(value)


def fit(schema: AnswerSchema, text: str | None, *, lenient: bool = False) -> Parsed:
    found = schema.check(text, lenient=lenient)
    assert isinstance(found, Parsed), found
    return found


def faults(schema: AnswerSchema, text: str | None, *, lenient: bool = False) -> tuple[str, ...]:
    found = schema.check(text, lenient=lenient)
    assert isinstance(found, Misfit), found
    return found.faults


def test_an_answer_that_fits_is_kept_as_the_model_wrote_it() -> None:
    """Only line breaks between tokens change: a line of the output holds it."""
    found = fit(load_schema(SCHEMA), ' {"label": "good",\n "items": [{"price": 1.10}]}\n')

    assert found.json == '{"label": "good",  "items": [{"price": 1.10}]}'
    assert found.value == {"label": "good", "items": [{"price": 1.1}]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"label": "happy"}', '/label: "happy" is not one of "good" or "bad"'),
        ('{"label": "good", "items": [{"price": 1}, {"price": "x"}]}', '/items/1/price: "x" is not of type "number"'),
        ("{}", '"label" is a required property'),
        ('{"label": "good"', "the answer is not JSON: Expecting ',' delimiter at column 17"),
        ('{"label": "good"} indeed', "the answer is not JSON: Extra data at column 19"),
        ('{"label": NaN}', "the answer is not JSON: NaN is not JSON"),
        ("[" * 100_000, "the answer is not JSON: nested too deeply"),
        (" \n ", "the answer has no text"),
        (None, "the answer has no text"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(text: str | None, fault: str) -> None:
    """As the model and the row's error are told."""
    assert faults(load_schema(SCHEMA), text)[0] == fault


def test_all_faults_of_a_small_answer_are_named_and_few_of_a_large_one() -> None:
    """The message has the first one, and their number."""
    schema = load_schema({"type": "array", "items": {"type": "integer"}})

    assert faults(schema, '["a", 1, "b"]') == ('/0: "a" is not of type "integer"', '/2: "b" is not of type "integer"')
    assert Misfit(faults(schema, '["a", 1, "b"]')).message == '/0: "a" is not of type "integer" (and 1 more)'
    assert Misfit(faults(schema, json.dumps(["a"] * 9))).message.endswith("(and at least 5 more)")
    assert max(map(len, faults(schema, json.dumps(["a" * 10_000])))) == 300


@pytest.mark.parametrize("text", ['{"label": "\ud800"}', '"\ud800"', "\ud800"])
def test_lone_surrogates_do_not_fit(text: str) -> None:
    """They are no Unicode text, and no line of the output could hold them."""
    for schema in (load_schema({"type": ["object", "string"]}), load_schema(Review)):
        assert faults(schema, text)


def test_a_model_gives_an_instance_and_its_json() -> None:
    """As its validators have it, under the names that were asked for."""
    found = fit(load_schema(Review), '{"label": "GOOD"}')

    assert isinstance(found.value, Review)
    assert (found.value.label, found.json) == ("good", '{"label":"good","points":3}')


@pytest.mark.parametrize(
    ("model", "text", "fault"),
    [
        (Review, '{"label": "fine"}', "/label: Input should be 'good' or 'bad'"),
        (Review, '{"label": "good", "points": NaN}', "the answer is not JSON: NaN is not JSON"),
        (Review, "hello", "the answer is not JSON: Invalid JSON: expected value at line 1 column 1"),
        (Recursive, '{"name": "a", "children": [{}]}', "/children/0/name: Field required"),
        (Picky, '{"label": "x"}', "KeyError: 'x'"),
    ],
)
def test_a_model_names_what_does_not_fit(model: type, text: str, fault: str) -> None:
    """Also where a validator of the user's own has a fault."""
    assert faults(load_schema(model), text)[0] == fault


def test_numbers_keep_their_digits() -> None:
    """The line has what the model wrote."""
    text = '{"price": 1234567890123456789012345678901234567890.10}'

    assert fit(load_schema({"type": "object"}), text).json == text


@pytest.mark.parametrize(
    "text",
    [
        'Sure:\n```json\n{"label": "good"}\n```\nAnything else?',
        'Sure:\n```\n{"label": "good"}\n```',
        'I think {"label": "good"} is right.',
        'First {"label": "happy"}, no: {"label": "good"}',
        '<think>{"label": "bad"} or {x}? </think> {"label": "good"}',
        '{"label": "good"}',
    ],
)
def test_json_in_other_text_is_found_only_if_lenient(text: str) -> None:
    """The last value that fits counts: models reason before they answer."""
    schema = load_schema(SCHEMA)

    assert fit(schema, text, lenient=True).value == {"label": "good"}
    assert isinstance(schema.check(text), Parsed) is text.startswith('{"label": "good"')


def test_a_lenient_check_that_finds_nothing_says_what_is_wrong_with_what_it_found() -> None:
    """Or that there is no JSON at all."""
    schema = load_schema(SCHEMA)

    assert faults(schema, 'It is {"label": 1}.', lenient=True)[0].startswith("/label: 1 is not one of")
    assert faults(schema, "It is good.", lenient=True)[0].startswith("the answer is not JSON")


@pytest.mark.parametrize("text", ["[" * 200_000, "{" * 200_000, '{"a":' * 100_000, "`" * 300_000, "[1," * 100_000])
def test_hostile_text_is_searched_in_bounded_time(text: str) -> None:
    """Brackets that never close, by the hundred thousand; the test's own time limit is the assertion."""
    assert all(isinstance(value, str) for value in find_json(text))


def test_a_value_in_a_fence_may_be_no_object() -> None:
    """A text or a number is found in a fence alone."""
    schema = load_schema({"type": "string"})

    assert fit(schema, 'The word:\n```json\n"yes"\n```', lenient=True).value == "yes"
    assert faults(schema, 'The word: "yes"', lenient=True)


# What is a schema.


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not JSON: it is not UTF-8"),
        ("[]", "a JSON Schema is an object, and this is a list"),
        ("true", "a JSON Schema is an object, and this is no object"),
        ("{}", "is no JSON Schema: it has none of its keywords"),
        ('{"label": "good"}', "is no JSON Schema: it has none of its keywords"),
        ('{"type": "strng"}', 'is no valid JSON Schema: at /type: "strng" is not valid'),
        ('{"type": "object", "properties": {"a": {"pattern": "("}}}', "at /properties/a/pattern"),
        ('{"$ref": "#/$defs/none"}', "is no valid JSON Schema: Pointer '/$defs/none' does not exist"),
        ('{"$ref": "https://example.com/s.json"}', "refers to https://example.com/s.json, and other documents"),
        ('{"properties": {"a": {"$ref": "other.json#/$defs/a"}}}', "refers to other.json, and other documents"),
    ],
)
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    """With its path, what is wrong, and where; nothing is fetched."""
    path = write(tmp_path / "s.json", content)

    with pytest.raises(UsageError) as caught:
        load_schema(path, what="--schema")

    assert caught.value.message.startswith(f"--schema {path}: ")
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "form",
    [
        {"name": "review", "schema": SCHEMA, "strict": False},
        {"type": "json_schema", "json_schema": {"name": "review", "schema": SCHEMA, "strict": False}},
        {"type": "json_schema", "name": "review", "schema": SCHEMA, "strict": False},
    ],
)
def test_a_schema_may_be_in_the_form_of_a_request(tmp_path: Path, form: dict[str, Any]) -> None:
    """As it is copied out of a program; the name and ``strict`` are taken over."""
    schema = load_schema(write(tmp_path / "s.json", json.dumps(form)))

    assert (schema.name, schema.strict, schema.schema) == ("review", False, SCHEMA)


@pytest.mark.parametrize(("name", "told"), [("my review.v2.json", "my_review"), ("é.json", "answer")])
def test_the_name_is_that_of_the_file_in_the_letters_that_providers_take(tmp_path: Path, name: str, told: str) -> None:
    """At most 64 letters, digits, ``_`` and ``-``."""
    assert load_schema(write(tmp_path / name, json.dumps(SCHEMA))).name == told


def test_a_model_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it imports itself, also later; nested classes too."""
    write(tmp_path / "words_of_mine.py", "WORDS = 3\n")
    write(
        tmp_path / "models_of_mine.py",
        "import pydantic, words_of_mine\nclass Out:\n    class Label(pydantic.BaseModel):\n        label: str\n",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))

    schema = load_schema("models_of_mine:Out.Label")

    assert schema.name == "Label"
    assert type(fit(schema, '{"label": "x"}').value).__name__ == "Label"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "no_such_module_here:X",
            "no_such_module_here cannot be imported: ModuleNotFoundError",
            "no_such_module_here.py",
        ),
        ("broken_one:X", "broken_one cannot be imported: ZeroDivisionError", "broken_one.py"),
        ("leaving_one:X", "leaving_one cannot be imported: SystemExit", "leaving_one.py"),
        ("good_one:Revue", "good_one has no Revue", "did you mean Review?"),
        ("good_one:number", "3 is no pydantic model", "pydantic.BaseModel"),
        ("good_one:Plain", "Plain is no pydantic model", "pydantic.BaseModel"),
        ("good_one:Odd", "Odd has no JSON Schema: PydanticInvalidForJsonSchema", "types that JSON has"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str, hint: str
) -> None:
    """With the reason, and what to write instead."""
    write(tmp_path / "broken_one.py", "1 / 0\n")
    write(tmp_path / "leaving_one.py", "raise SystemExit(3)\n")
    write(
        tmp_path / "good_one.py",
        "import pydantic\nfrom typing import Callable\nnumber = 3\nclass Plain: ...\n"
        "class Review(pydantic.BaseModel):\n    label: str\n"
        "class Odd(pydantic.BaseModel):\n    call: Callable[[], int]\n",
    )
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError) as caught:
        load_schema(name, what="--schema")

    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_of_that_name_comes_before_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is what it says."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "schema:Review", json.dumps(SCHEMA))

    assert load_schema("schema:Review").schema == SCHEMA


def test_jsonschema_rs_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to type."""
    monkeypatch.setitem(__import__("sys").modules, "jsonschema_rs", None)

    with pytest.raises(UsageError, match="schema needs jsonschema-rs") as caught:
        load_schema(SCHEMA)

    assert caught.value.hint == "pip install 'llmbatch[schema]'"


@pytest.mark.parametrize(
    "given",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b~1c"}, "b/c": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_that_only_refers_to_itself_is_refused(given: dict[str, Any]) -> None:
    """Every answer would fit it."""
    with pytest.raises(UsageError, match="refers to itself without end"):
        load_schema(given)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        {"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}},
        {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "object"}}},
    ],
)
def test_a_schema_of_trees_is_taken(given: dict[str, Any]) -> None:
    """Its parts refer to the whole, but for smaller values."""
    assert load_schema(given).schema == given


@pytest.mark.parametrize("given", [3, b"x", ["type"], object(), {"a": object()}, {"a": float("nan")}, {3: 4}])
def test_an_argument_that_is_none_is_refused(given: object) -> None:
    """Of the library."""
    with pytest.raises(UsageError):
        load_schema(given)
