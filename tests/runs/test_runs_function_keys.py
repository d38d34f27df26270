"""Keys that a function's exceptions and results echo: masked in everything that is written, as over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from llmbatch import BatchRunner, Judgement, Result, judge_llm_result

KEY = "sk-SECRETKEY1234567890abcdef"
OTHER = "xai-SECRETKEY0987654321"
ECHO = f"bad header Authorization: Bearer {KEY}, or {OTHER}"
ENVIRON = {"OPENAI_API_KEY": KEY, "XAI_API_KEY": OTHER, "MISTRAL_API_KEY": "", "GROQ_API_KEY": "dummy"}


class EchoingError(Exception):
    """Of the user's own."""


def sdk_error(row: Any) -> Any:
    response = httpx2.Response(
        400,
        request=httpx2.Request("POST", "http://gateway.test/"),
        json={"error": {"message": ECHO, "code": "context_length_exceeded"}},
        headers={"x-request-id": KEY},
    )
    raise openai.BadRequestError(f"gateway: {ECHO}", response=response, body=None)


def own_error(row: Any) -> Any:
    raise EchoingError(ECHO)


def group_of_errors(row: Any) -> Any:
    raise ExceptionGroup("of tasks", [EchoingError(ECHO)])


def long_error(row: Any) -> Any:
    raise EchoingError("x" * 285 + " " + KEY)


def error_in_answer(row: Any) -> Any:
    return {"error": {"message": ECHO, "code": "context_length_exceeded"}}


def answer(row: Any) -> Any:
    return {"choices": [{"message": {"content": ECHO}, "finish_reason": "stop"}]}


def words(row: Any) -> Any:
    return ECHO


def judged(subject: object) -> Judgement:
    return Judgement("neutral", message=f"{'x' * 285} {subject} {ECHO}")


FUNCTIONS = [sdk_error, own_error, group_of_errors, long_error, error_in_answer, answer, words]


async def written(call: Callable[[Any], Any], folder: Path, **options: Any) -> str:
    """Everything that a run of one row writes."""
    rows, output = folder / "rows.jsonl", folder / "rows.out.jsonl"
    rows.write_text('{"id": "a", "prompt": "x"}\n')
    runner = BatchRunner(call, environ=ENVIRON, max_attempts=1, concurrency=1, **options)
    await runner.run(rows, output)
    return "".join(path.read_text() for path in folder.iterdir() if path != rows)


async def streamed(call: Callable[[Any], Any], **options: Any) -> Result:
    runner = BatchRunner(call, environ=ENVIRON, max_attempts=1, concurrency=1, **options)
    [result] = [result async for result in runner.stream([1])]
    return result


@pytest.mark.parametrize("call", FUNCTIONS)
async def test_a_key_that_a_function_echoed_was_written_to_the_output(
    call: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Neither the output nor a file beside it has the key, or the beginning of one."""
    text = await written(call, tmp_path)

    assert "SECRET" not in text
    assert "sk-" not in text
    assert "***" in text or call is long_error


@pytest.mark.parametrize("call", FUNCTIONS)
async def test_a_key_that_a_function_echoed_was_in_the_results_of_a_stream(call: Callable[[Any], Any]) -> None:
    """Message, hint, body and text; what the function returned stays what it is."""
    result = await streamed(call)

    shown = repr([result.error, result.reason, result.request_id, result.body, result.text])
    assert "SECRET" not in shown
    assert "sk-" not in shown
    if result.value is not None:
        assert result.value == call(1)


@pytest.mark.parametrize(
    "options", [{"judge_error": judged}, {"judge_result": judged}, {"judge_result": judge_llm_result}]
)
@pytest.mark.parametrize("call", FUNCTIONS)
async def test_a_key_in_the_words_of_a_judge_is_masked(
    call: Callable[[Any], Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """Also where its message is cut."""
    text = await written(call, tmp_path, **options)

    assert "SECRET" not in text
    assert "sk-" not in text


async def test_placeholders_and_unset_keys_alter_no_text() -> None:
    """A local server's ``dummy`` is a word like any other."""
    result = await streamed(lambda row: "a dummy, and nothing else")

    assert result.text == "a dummy, and nothing else"
