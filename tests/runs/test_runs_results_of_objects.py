"""Whatever a function returns: it is called once, its answer is kept, and the line is JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import pydantic
import pytest

from llmbatch import BatchRunner


class Unshowable:
    """Neither JSON nor text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")

    __iter__ = keys = values = items


class LyingModel:
    """Its methods and properties raise, as those of a detached database object do."""

    def __init__(self) -> None:
        self.answer = 42

    def model_dump(self, **_: object) -> object:
        raise RuntimeError("detached")

    @property
    def content(self) -> object:
        raise RuntimeError("detached")

    @property
    def usage(self) -> object:
        raise BrokenPipeError("detached")


@dataclass
class Answer:
    text: str
    when: date


@attrs.define
class Score:
    points: int


class Verdict(pydantic.BaseModel):
    good: bool
    note: str | None = None


def circle() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


UNSHOWABLE = [
    Unshowable(),
    {"deep": [Unshowable()]},
    10**5000,
    {"p": float("-inf"), "q": float("nan")},
    circle(),
    b"\xff\xfe",
    "half of an emoji \ud83d",
    {"a": {"\ud83d": 1}},
    HostileDict(a=1),
    LyingModel(),
    {1, "a"},
    {(1, 2): 3},
    lambda: 1,
    Exception("returned, not raised"),
    type,
]


@pytest.mark.parametrize("value", UNSHOWABLE, ids=lambda value: type(value).__name__)
async def test_a_result_that_cannot_be_shown_was_called_again(value: object, tmp_path: Path) -> None:
    """One call, a success, the object itself in a stream, and a line of JSON in a file."""
    calls = 0

    async def call(row: object) -> object:
        nonlocal calls
        calls += 1
        return value

    (tmp_path / "in.jsonl").write_text('{"prompt":"p"}\n')
    [result] = await BatchRunner(call).map(["p"])
    summary = await BatchRunner(call).run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert (calls, result.status, summary.success) == (2, "success", 1)
    assert result.value is value
    [line] = (tmp_path / "out.jsonl").read_bytes().splitlines()
    json.loads(line)


async def test_a_result_of_a_value_that_cannot_be_shown_could_not_be_shown() -> None:
    """Its `repr` raised, in a log or a debugger."""

    async def call(row: int) -> object:
        return Unshowable() if row else "shown"

    shown, unshown = await BatchRunner(call).map([0, 1])

    assert "value='shown'" in repr(shown)
    assert "value=<Unshowable, whose repr() raised RuntimeError>" in repr(unshown)
    assert repr(unshown).startswith("Result(number=2, hash=")
    assert "row=" not in repr(unshown)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (Answer("yes", date(2026, 11, 27)), {"text": "yes", "when": "2026-11-27"}),
        ([Score(3)], [{"points": 3}]),
        (Verdict(good=True), {"good": True}),
        ({"p": float("-inf"), "q": 1}, {"p": "-Infinity", "q": 1}),
        ({"n": 10**5000}, {"n": "1" + "0" * 5000}),
        (LyingModel(), {"answer": 42}),
        ({"raw": b"text"}, {"raw": "text"}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_dataclass_was_a_python_repr_in_the_line(value: object, body: object) -> None:
    """Models, dataclasses and attrs classes are objects; of others the parts with a form keep it."""

    async def call(row: object) -> object:
        return value

    [result] = await BatchRunner(call).map([1])

    assert result.json() == body


async def test_a_part_without_a_json_form_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """By its place, for the first of many results."""

    async def judge(row: int) -> object:
        return {"scores": [1, Unshowable()]}

    with caplog.at_level(logging.WARNING, logger="llmbatch"):
        await BatchRunner(judge).map(range(20))

    [record] = [record for record in caplog.records if record.name == "llmbatch.results"]
    assert "scores[1] (Unshowable)" in record.getMessage()
    assert "judge" in record.getMessage()
