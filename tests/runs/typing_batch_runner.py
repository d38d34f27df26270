"""What type checkers are to infer of a BatchRunner: read by mypy and pyright in test_runs_typing.py, never run.

A line with ``# type: ignore[code]`` is one that mypy has to refuse; pyright has to refuse it too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from llmbatch import BatchRunner, Event, Judgement, Result, ResultStream, Summary, SyncResultStream, judge_llm_error


@dataclass
class Question:
    text: str


@dataclass
class Answer:
    text: str


async def ask(row: Question) -> Answer:
    return Answer(row.text)


def ask_blocking(row: Question) -> Answer:
    return Answer(row.text)


async def echo(row: dict[str, object]) -> str:
    return str(row)


class Asker:
    async def __call__(self, row: Question) -> Answer:
        return Answer(row.text)

    async def method(self, row: Question) -> Answer:
        return Answer(row.text)


def questions() -> Iterator[Question]:
    yield Question("why?")


async def later() -> AsyncIterator[Question]:
    yield Question("why?")


assert_type(BatchRunner(ask), BatchRunner[Question, Answer])
assert_type(BatchRunner(ask_blocking), BatchRunner[Question, Answer])
assert_type(BatchRunner(Asker()), BatchRunner[Question, Answer])
assert_type(BatchRunner(Asker().method, concurrency=4, canary=Question("")), BatchRunner[Question, Answer])
assert_type(BatchRunner(echo), BatchRunner[dict[str, object], str])
assert_type(BatchRunner("openai/gpt-5-mini"), BatchRunner[Any, None])
assert_type(BatchRunner(), BatchRunner[Any, None])

runner: BatchRunner[Question, Answer] = BatchRunner(ask)
unnamed: BatchRunner = BatchRunner("openai/gpt-5-mini", system="short answers", params={"seed": 1}, rpm=60)
named: BatchRunner[dict[str, str], None] = BatchRunner("openai/gpt-5-mini")
given = BatchRunner[Question, Answer](ask)


async def use() -> None:
    stream = runner.stream(questions())
    assert_type(stream, ResultStream[Question, Answer])
    async for result in stream:
        assert_type(result, Result[Question, Answer])
        assert_type(result.row, Question)
        assert_type(result.value, Answer | None)
        assert_type(result.unwrap(), Answer)
    assert_type(stream.summary, Summary)
    async with runner.stream(later(), ordered=True) as results:
        assert_type(await anext(results), Result[Question, Answer])
    assert_type(await runner.map([Question("why?")]), list[Result[Question, Answer]])
    async for answer in BatchRunner("openai/gpt-5-mini").stream(["why?", {"prompt": "why?", "id": "q1"}]):
        assert_type(answer.value, None)
        assert_type(answer.text, str | None)
        assert answer.row["id"]
    runner.stream([5])  # type: ignore[list-item]
    BatchRunner(ask_blocking).stream(["why?"])  # type: ignore[list-item]
    named.stream([Question("why?")])  # type: ignore[list-item]


def use_plainly() -> None:
    results = runner.stream_sync(questions())
    assert_type(results, SyncResultStream[Question, Answer])
    for result in results:
        assert_type(result.row, Question)


def show(result: Result[object, object]) -> None:
    assert result.row, result.value


def any_row(result: Result) -> str:
    return result.id


class Watcher:
    def observe(self, event: Event) -> None:
        assert event.at


def on_event(event: Event) -> None:
    assert event.at


def judge(error: Exception) -> Judgement | None:
    return Judgement("failure", retry_after=3.0) if isinstance(error, OSError) else None


def judge_answer(result: object) -> Judgement | None:
    return Judgement("neutral") if result is None else None


BatchRunner(ask, observers=[Watcher(), on_event, print], judge_error=judge, judge_result=judge_answer)
BatchRunner(ask, judge_error=judge_llm_error)
BatchRunner(ask, observers=[5])  # type: ignore[list-item]
BatchRunner("openai/gpt-5-mini", concurency=4)  # type: ignore[call-overload]
BatchRunner(5)  # type: ignore[call-overload]
