"""A success status with an error inside: as a body, as an SDK's object, as an HTTP response; and what is none."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import requests
from classify_server import Answering, serving
from openai.types.chat import ChatCompletion

from llmbatch import CircuitBreaker, Judgement, judge_llm_error, judge_llm_result
from llmbatch.classify.results import classify_result
from llmbatch.providers.function_provider import FunctionProvider

GOOD_CHAT: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
GOOD_MESSAGE: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
OVERLOADED = {"error": {"message": "Provider returned error", "code": 503, "type": "overloaded_error"}}
BODIES: dict[str, tuple[int, str, bytes]] = {
    "overloaded": (200, "application/json", json.dumps(OVERLOADED).encode()),
    "good": (200, "application/json", json.dumps(GOOD_CHAT).encode()),
    "message": (200, "application/json", json.dumps(GOOD_MESSAGE).encode()),
    "null": (200, "application/json", json.dumps(GOOD_CHAT | {"choices": None}).encode()),
    "html": (200, "text/html", b"<!doctype html><title>Welcome</title>"),
    "down": (500, "application/json", b'{"error":{"message":"boom","type":"server_error"}}'),
    "empty": (200, "application/json", b""),
}


class Handler(Answering):
    """Answers by the first part of the path."""

    def do_POST(self) -> None:  # noqa: N802 - the name is that of the library
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, kind, body = BODIES[self.path.split("/")[1]]
        self.answer(status, {"Content-Type": kind}, body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A provider on loopback whose 200s are not all good."""
    with serving(Handler) as url:
        yield url


def ask_openai(url: str) -> ChatCompletion:
    with openai.OpenAI(api_key="sk-none", base_url=url, max_retries=0, timeout=60) as client:
        return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("case", "verdict"), [("overloaded", "failure"), ("null", "failure"), ("good", "success"), ("empty", "success")]
)
def test_an_error_in_a_200_through_the_openai_client_was_a_success(server: str, case: str, verdict: str) -> None:
    """The SDK parses it into a completion without choices, and raises nothing."""
    if case == "empty":
        assert judge_llm_result(requests.post(f"{server}/empty", timeout=60)).verdict == verdict
        return

    judgement = judge_llm_result(ask_openai(f"{server}/{case}"))

    assert judgement.verdict == verdict
    assert judgement.scope == "provider"


def test_a_circuit_opens_on_errors_inside_200s(server: str) -> None:
    """With the three lines that the documentation shows."""
    breaker = CircuitBreaker(2, judge_error=judge_llm_error, judge_result=judge_llm_result)

    for _ in range(2):
        breaker.call(ask_openai, f"{server}/overloaded")

    assert breaker.is_open()


def test_an_anthropic_message_is_a_success(server: str) -> None:
    """Its ``type`` is no error's."""
    with anthropic.Anthropic(api_key="sk-none", base_url=f"{server}/message", max_retries=0, timeout=60) as client:
        message = client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])

    assert judge_llm_result(message).verdict == "success"


@pytest.mark.parametrize(
    ("case", "verdict", "status"),
    [
        ("overloaded", "failure", 200),
        ("down", "failure", 500),
        ("html", "failure", 200),
        ("null", "failure", 200),
        ("good", "success", None),
    ],
)
@pytest.mark.parametrize("client", ["requests", "httpx2"])
def test_a_response_that_nobody_checked_is_judged(
    server: str, client: str, case: str, verdict: str, status: int | None
) -> None:
    """``raise_for_status`` was forgotten."""
    response: Any
    if client == "requests":
        response = requests.post(f"{server}/{case}", timeout=60)
    else:
        response = httpx2.post(f"{server}/{case}", timeout=60)

    judgement = judge_llm_result(response)

    assert (judgement.verdict, judgement.status) == (verdict, status)


def test_a_streamed_response_is_not_read_to_judge_it(server: str) -> None:
    """Its status is all that is known."""
    with requests.post(f"{server}/overloaded", stream=True, timeout=60) as response:
        assert judge_llm_result(response).verdict == "success"
        assert response.json() == OVERLOADED
    with httpx2.stream("POST", f"{server}/down", timeout=60) as streamed:
        assert judge_llm_result(streamed).verdict == "failure"


class Blocked:
    """As google-genai has it."""

    def model_dump(self, **_: object) -> dict[str, object]:
        return {"candidates": None, "prompt_feedback": {"block_reason": "SAFETY"}}


def google(**members: object) -> object:
    return type("Reply", (), {"__module__": "google.genai.types", **members})()


@pytest.mark.parametrize(
    ("result", "verdict", "scope"),
    [
        (OVERLOADED, "failure", "provider"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "failure", "provider"),
        ({"error": {"message": "slow down", "code": 429}}, "throttled", "key"),
        ({"error": {"message": "no credit", "code": "insufficient_quota"}}, "exhausted", "key"),
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, "neutral", "row"),
        ({"error": "Model is too busy", "estimated_time": 20.0}, "failure", "provider"),
        ({"error": {"message": "bad key", "code": "invalid_api_key"}}, "failure", "key"),
        (GOOD_CHAT | {"choices": None}, "failure", "provider"),
        (GOOD_CHAT | {"choices": []}, "neutral", "row"),
        (GOOD_CHAT | {"choices": [{"error": {"code": 502, "message": "upstream"}}]}, "failure", "provider"),
        (
            GOOD_CHAT | {"choices": [{"message": {"content": ""}, "finish_reason": "insufficient_system_resource"}]},
            "failure",
            "provider",
        ),
        (json.dumps(OVERLOADED), "failure", "provider"),
        (json.dumps(OVERLOADED).encode(), "failure", "provider"),
        (Blocked(), "neutral", "row"),
        (google(error=google(code=503, message="overloaded")), "failure", "provider"),
        (google(error="boom"), "failure", "provider"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_200_that_holds_an_error_is_judged_by_it(result: object, verdict: str, scope: str) -> None:
    """By the same table as a status."""
    judgement = judge_llm_result(result)

    assert (judgement.verdict, judgement.scope) == (verdict, scope)
    assert judgement.message


class Own:
    """A program's own, with an unlucky member."""

    error = "no match"


class OwnModel:
    """A schema of one's own: what a model extracted, or a row's record."""

    def model_dump(self, **_: object) -> dict[str, object]:
        return {"error": "the log says so", "severity": 3}


class Hostile:
    """Every property raises."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "result",
    [
        GOOD_CHAT,
        GOOD_MESSAGE,
        GOOD_CHAT | {"error": None},
        None,
        "",
        "hello",
        '{"error": null}',
        '{"error": "the user is wrong"}',
        '{"error": {"message": "from a log"}, "cause": "disk"}',
        "{" * 10 + '"error"',
        b"\xff\xfe",
        3,
        [OVERLOADED],
        {"error": "no match", "row": 7},
        {"error": ""},
        {"choices": ["a", "b"]},
        {"status": 404},
        {"label": "spam"},
        Own(),
        OwnModel(),
        Own,
        Hostile(),
        (number for number in (1, 2)),
        google(text="fine", error=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_program_returns_of_its_own_is_a_success(result: object) -> None:
    """Also where it has a member ``error``."""
    assert judge_llm_result(result) == Judgement("success")
    assert classify_result(result) is None


def test_judging_a_result_warns_of_nothing(server: str) -> None:
    """A completion without choices does not fit its own schema, of which pydantic warns when it is dumped."""
    completion = ask_openai(f"{server}/overloaded")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge_llm_result(completion).verdict == "failure"


async def test_a_function_that_returns_an_error_in_a_200_has_no_answer(server: str) -> None:
    """It was a success, with the error as its answer; now it is resent, and an outage of such costs no row."""
    results = {"overloaded": ask_openai(f"{server}/overloaded"), "good": ask_openai(f"{server}/good")}
    outcomes = {}
    for case, result in results.items():

        async def answer(row: object, result: object = result) -> object:
            return result

        provider = FunctionProvider(answer)
        outcomes[case] = await provider.call(provider._request(0), None, timeout=60)

    assert (outcomes["overloaded"].verdict, outcomes["overloaded"].retry) == ("failure", True)
    assert (outcomes["good"].verdict, outcomes["good"].text) == ("success", "hello")
