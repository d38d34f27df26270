"""Answers that were paid for and that an SDK turns into exceptions: by two SDKs' ``parse()``, and by shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import anthropic
import openai
import pydantic
import pytest
from classify_server import Answering, serving

from llmbatch import BatchRunner, Result, judge_llm_error
from llmbatch.classify.classify import classify_exception
from llmbatch.core.calls import Usage

GOOD = '{"n": 7}'


class Number(pydantic.BaseModel):
    """What is asked for."""

    n: int


class Handler(Answering):
    """Answers with what the prompt says: a finish reason and a text."""

    def do_POST(self) -> None:  # noqa: N802 - the name is that of the library
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        finish, text = asked["messages"][0]["content"].split("|", 1)
        document: dict[str, object]
        if self.path.endswith("/messages"):
            document = {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [{"type": "text", "text": text}],
                "stop_reason": finish,
                "stop_sequence": None,
                "usage": {"input_tokens": 11, "output_tokens": 12},
            }
        else:
            message = {"role": "assistant", "content": text}
            document = {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 12, "total_tokens": 23},
            }
        body = json.dumps(document).encode()
        self.answer(200, {}, body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Handler) as url:
        yield url


def parsed_by(sdk: str, url: str, prompt: str) -> Exception:
    try:
        if sdk == "openai":
            with openai.OpenAI(api_key="sk-none", base_url=url, max_retries=0, timeout=60) as client:
                client.chat.completions.parse(
                    model="m", messages=[{"role": "user", "content": prompt}], response_format=Number
                )
        else:
            with anthropic.Anthropic(api_key="sk-none", base_url=url, max_retries=0, timeout=60) as other:
                other.messages.parse(
                    model="m", max_tokens=9, messages=[{"role": "user", "content": prompt}], output_format=Number
                )
    except Exception as error:
        return error
    raise AssertionError("the answer is no number")


@pytest.mark.parametrize(
    ("sdk", "prompt", "code", "usage"),
    [
        ("openai", f"length|{GOOD}", "truncated", Usage(11, 12)),
        ("openai", f"content_filter|{GOOD}", "content_filter", Usage(11, 12)),
        ("openai", "stop|hello", "schema_mismatch", None),
        ("openai", 'stop|{"n": "x"}', "schema_mismatch", None),
        ("openai", 'stop|{"n": ', "truncated", None),
        ("anthropic", "end_turn|hello", "schema_mismatch", None),
        ("anthropic", 'max_tokens|{"n": ', "truncated", None),
    ],
)
def test_a_paid_answer_that_parse_raises_for_ends_its_row(
    server: str, sdk: str, prompt: str, code: str, usage: Usage | None
) -> None:
    """At once, with its tokens where the exception has them; and no circuit counts it."""
    error = parsed_by(sdk, server, prompt)

    outcome = classify_exception(error)

    assert (outcome.verdict, outcome.scope, outcome.row_is_bad, outcome.retry) == ("rejected", "row", True, False)
    assert (outcome.code, outcome.usage) == (code, usage)
    assert (judge_llm_error(error).verdict, judge_llm_error(error).scope) == ("neutral", "row")


def shape(name: str, module: str, **members: object) -> type[Exception]:
    return type(name, (Exception,), {"__module__": module, **members})


TOTAL = SimpleNamespace(prompt_tokens=33, completion_tokens=36)
Retried = shape("InstructorRetryException", "instructor.core.exceptions", total_usage=TOTAL)
Incomplete = shape("IncompleteOutputException", "instructor.core.exceptions")


def invalid() -> pydantic.ValidationError:
    with pytest.raises(pydantic.ValidationError) as caught:
        Number.model_validate_json("hello")
    return caught.value


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_instructor_that_gave_up_ends_the_row_with_the_tokens_of_all_its_attempts() -> None:
    """It has asked again itself."""
    outcome = classify_exception(raised_from(Retried("gave up"), invalid()))

    assert (outcome.code, outcome.row_is_bad, outcome.usage) == ("schema_mismatch", True, Usage(33, 36))
    assert classify_exception(Incomplete("cut")).code == "truncated"


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        (ConnectionResetError("gone"), "failure"),
        (shape("InternalServerError", "openai", status_code=500)("down"), "failure"),
        (shape("RateLimitError", "openai", status_code=429)("slow"), "throttled"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_instructor_that_gave_up_in_an_outage_blames_the_provider(cause: Exception, verdict: str) -> None:
    """Its retries wrap whatever happened."""
    assert classify_exception(raised_from(Retried("gave up"), cause)).verdict == verdict


def test_a_validation_error_of_the_program_is_an_exception_like_any_other() -> None:
    """It may be about the row, or about an answer that the program parses itself, and may pass the next time."""
    outcome = classify_exception(invalid())

    assert (outcome.code, outcome.retry, outcome.row_is_bad) == ("validation_error", True, False)


async def test_rows_whose_answers_are_cut_were_sent_sixteen_times(server: str) -> None:
    """Forty rows, half of them truncated: it waited for minutes as in an outage. Each is sent once."""
    sent: list[int] = []

    async def ask(row: int) -> Number | None:
        sent.append(row)
        prompt = f"{'length' if row % 2 else 'stop'}|{GOOD}"
        completion = await client.chat.completions.parse(
            model="m", messages=[{"role": "user", "content": prompt}], response_format=Number
        )
        return completion.choices[0].message.parsed

    results: list[Result] = []
    async with openai.AsyncOpenAI(api_key="sk-none", base_url=server, max_retries=0, timeout=60) as client:
        async for result in BatchRunner(ask, concurrency=4).stream(range(40)):
            results.append(result)

    failed = [result for result in results if not result.ok]
    assert sorted(sent) == list(range(40))
    assert len(failed) == 20
    assert {(result.error or {}).get("code") for result in failed} == {"truncated"}
    assert all(result.usage == Usage(11, 12) for result in failed)
