"""JSON forms of the objects that people put into rows and return from functions."""

from __future__ import annotations

import json
from collections import deque, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import attrs
import pydantic
import pytest
from anthropic.types import Message, TextBlock
from anthropic.types import Usage as AnthropicUsage
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseFormatTextJSONSchemaConfig

from llmbatch.core.json_form import NoJsonFormError, json_form, nearest_json_form


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Part:
    text: str
    when: date = date(2026, 11, 27)


@dataclass
class Whole:
    parts: list[Part]
    more: dict[str, object] = field(default_factory=dict)


class Inner(pydantic.BaseModel):
    note: str | None = None
    size: int = 7


class Model(pydantic.BaseModel):
    prompt: str
    temperature: float = 0.2
    stop: str | None = None
    inner: Inner = Inner()
    inners: list[Inner] = []


@attrs.define
class Shape:
    sides: int
    id: UUID


class Table(Mapping[str, int]):
    def __getitem__(self, name: str) -> int:
        return {"a": 1}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


ONE = UUID(int=1)
Point = namedtuple("Point", "x y")

FORMS = [
    (Color.RED, "red"),
    (Level.HIGH, 3),
    (ONE, str(ONE)),
    (Path("a/b"), "a/b"),
    (datetime(2026, 11, 27, 8, tzinfo=UTC), "2026-11-27T08:00:00+00:00"),
    (date(2026, 11, 27), "2026-11-27"),
    (time(8, 30), "08:30:00"),
    (timedelta(minutes=2), 120.0),
    (Decimal("0.2"), 0.2),
    (Decimal("12"), 12),
    (Decimal("0.12345678901234567890"), "0.12345678901234567890"),
    ({1: ONE, Color.RED: 2, None: 3, ONE: 4, False: 5}, {"1": str(ONE), "red": 2, "null": 3, str(ONE): 4, "false": 5}),
    ((1, [Color.RED]), [1, ["red"]]),
    ({"b", "a"}, ["a", "b"]),
    (deque([1]), [1]),
    (Point(1, 2), [1, 2]),
    (MappingProxyType({"a": ONE}), {"a": str(ONE)}),
    (Table(), {"a": 1}),
    (Whole([Part("x")], {"c": Color.RED}), {"parts": [{"text": "x", "when": "2026-11-27"}], "more": {"c": "red"}}),
    (Shape(3, ONE), {"sides": 3, "id": str(ONE)}),
    (Model(prompt="p"), {"prompt": "p", "temperature": 0.2, "inner": {"size": 7}, "inners": []}),
    (
        Model(prompt="p", stop=None, inners=[Inner(note=None), Inner()]),
        {
            "prompt": "p",
            "temperature": 0.2,
            "stop": None,
            "inner": {"size": 7},
            "inners": [{"note": None, "size": 7}, {"size": 7}],
        },
    ),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda item: type(item).__name__)
def test_objects_have_the_form_that_their_libraries_give_them(value: object, form: object) -> None:
    """Fields that nobody set and that are None are left out; other defaults are kept."""
    assert json_form({"deep": [value]}) == {"deep": [form]}
    assert nearest_json_form(value) == (form, [])
    json.dumps(json_form(value))


def test_messages_of_sdks_are_what_their_clients_send() -> None:
    """Only the fields that were set, and under the names of the API."""
    message = ChatCompletionMessage(role="assistant", content="hello")
    schema = ResponseFormatTextJSONSchemaConfig(name="n", schema={"type": "object"}, type="json_schema")
    anthropic = Message(
        id="m",
        type="message",
        role="assistant",
        model="claude",
        content=[TextBlock(type="text", text="hi")],
        stop_reason="end_turn",
        usage=AnthropicUsage(input_tokens=1, output_tokens=2),
    )

    assert json_form(message) == {"role": "assistant", "content": "hello"}
    assert json_form(schema) == {"name": "n", "schema": {"type": "object"}, "type": "json_schema"}
    assert json_form(anthropic) == anthropic.to_dict(mode="json")


class Silent:
    def __init__(self) -> None:
        self.text = "an answer"
        self._secret = 1


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class BadModel:
    def model_dump(self, *, mode: str) -> object:
        raise ValueError("cannot dump")

    def __init__(self) -> None:
        self.answer = 42


def circle() -> list[object]:
    items: list[object] = [1]
    items.append(items)
    return items


def deep(levels: int) -> list[object]:
    items: list[object] = []
    for _ in range(levels):
        items = [items]
    return items


NEAREST: list[tuple[Any, Any, str]] = [
    ({"a": [float("-inf"), 1]}, {"a": ["-Infinity", 1]}, "a[0]: -Infinity is not JSON"),
    ({"n": 10**5000}, {"n": "1" + "0" * 5000}, "n: an integer of more than 4,300 digits"),
    ({"b": b"text"}, {"b": "text"}, "b (bytes)"),
    ([b"\xff\x00"], ["/wA="], "[0] (bytes)"),
    ({"x": Unshowable()}, {"x": "<Unshowable>"}, "x (Unshowable): Unshowable has no JSON form"),
    ({"x": Silent()}, {"x": {"text": "an answer"}}, "x (Silent): Silent has no JSON form"),
    ({"x": BadModel()}, {"x": {"answer": 42}}, "x (BadModel): cannot dump"),
    ({(1, 2): 3}, {"(1, 2)": 3}, "a key of the value (tuple)"),
    ({"x": SimpleNamespace(a=1)}, {"x": "namespace(a=1)"}, "x (SimpleNamespace): SimpleNamespace has no JSON form"),
    ([int], ["<class 'int'>"], "[0] (type): type has no JSON form: is an instance meant?"),
]


@pytest.mark.parametrize(("value", "form", "lost"), NEAREST, ids=lambda item: type(item).__name__)
def test_a_part_without_a_json_form_becomes_text_and_is_named(value: object, form: object, lost: str) -> None:
    """The rest of the value keeps its form. As a row, the same is an error that says where it is."""
    assert nearest_json_form(value) == (form, [lost])
    with pytest.raises((NoJsonFormError, ValueError)):
        json_form(value)


@pytest.mark.parametrize("value", [circle(), {"a": circle()}, deep(150), deep(5000)])
def test_circles_and_depths_end(value: object) -> None:
    """They are cut where they begin again, or where no parser would follow."""
    form, lost = nearest_json_form(value)

    assert lost
    json.dumps(form)
    with pytest.raises((NoJsonFormError, RecursionError)):
        json_form(value)


def test_an_error_says_where_the_part_is() -> None:
    """In a row of many messages one has to be found."""
    with pytest.raises(
        NoJsonFormError, match=r"messages\[0\].content: bytes has no JSON form: decode it, or encode it as base64"
    ):
        json_form({"messages": [{"content": b"image"}]})
