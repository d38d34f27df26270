"""Servers that stream though nobody asked: a stream that came to its end is a whole answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.classify.classify import classify_reply
from llmbatch.classify.event_stream import assemble
from llmbatch.core.calls import Outcome, Reply, Usage
from llmbatch.core.raw_json import JSON, parse

STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def events(*documents: object, done: bool = True) -> str:
    text = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return text + ("data: [DONE]\n\n" if done else "")


def judge(text: str, endpoint: str = "chat", headers: dict[str, str] = STREAM) -> Outcome:
    return classify_reply(Reply(200, headers, text.encode()), endpoint=endpoint, mask=str)


def chunk(delta: object, finish: str | None = None, **more: object) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
CHAT = events(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
    {"id": "c1", "choices": [], "usage": USAGE},
)
CALLS = events(
    chunk({"role": "assistant", "tool_calls": [{"index": 0, "id": "t1", "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
    chunk({}, "tool_calls"),
)
MESSAGE = events(
    {
        "type": "message_start",
        "message": {"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
    done=False,
)
OUTPUT = [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]
RESPONSE = events(
    {"type": "response.created", "response": {"status": "in_progress", "output": []}},
    {"type": "response.output_text.delta", "delta": "Hello"},
    {
        "type": "response.completed",
        "response": {"status": "completed", "output": OUTPUT, "usage": {"input_tokens": 3, "output_tokens": 2}},
    },
    done=False,
)
TEXT = events(
    {"choices": [{"index": 0, "text": "Hel"}]},
    {"choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}], "usage": USAGE},
)


@pytest.mark.parametrize(
    ("endpoint", "text"), [("chat", CHAT), ("messages", MESSAGE), ("responses", RESPONSE), ("completions", TEXT)]
)
@pytest.mark.parametrize("headers", [STREAM, {}], ids=["named", "unnamed"])
def test_a_stream_that_came_to_its_end_is_the_answer(endpoint: str, text: str, headers: dict[str, str]) -> None:
    """Text, tokens and a body such as the endpoint gives without a stream."""
    outcome = judge(text, endpoint, headers)

    assert (outcome.verdict, outcome.text, outcome.usage) == ("success", "Hello", Usage(3, 2))
    assert outcome.body is not None
    assert isinstance(parse(outcome.body), dict)


def test_calls_are_put_together() -> None:
    """Their arguments come in pieces."""
    outcome = judge(CALLS)

    assert outcome.verdict == "success"
    body = json.loads(outcome.body or "")
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"type": "function", "id": "t1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]


LONG_RESPONSE = events(
    {"type": "response.created", "response": {"status": "in_progress", "output": []}},
    {
        "type": "response.completed",
        "response": {
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello " * 2000}]}],
        },
    },
    done=False,
)


def test_a_long_answer_in_the_last_event_was_taken_for_a_cut_one() -> None:
    """Its kind stands at the beginning of that event."""
    outcome = judge(LONG_RESPONSE, "responses")

    assert (outcome.verdict, outcome.text) == ("success", "Hello " * 2000)


def test_a_finish_reason_of_every_choice_is_an_end() -> None:
    """Some servers send no ``[DONE]``."""
    assert judge(CHAT.removesuffix("data: [DONE]\n\n")).verdict == "success"
    two = events(chunk({"content": "a"}, "stop"), {"choices": [{"index": 1, "delta": {"content": "b"}}]}, done=False)
    assert judge(two).code == "truncated_stream"


@pytest.mark.parametrize("start", [": OPENROUTER PROCESSING\n\n", "id: 1\n", "\n\n", "retry: 3000\n\n"])
def test_a_stream_is_known_whatever_line_it_begins_with(start: str) -> None:
    """Also if it comes with the type of JSON."""
    assert judge(start + CHAT, headers={"content-type": "application/json"}).text == "Hello"


@pytest.mark.parametrize(
    ("endpoint", "event", "verdict", "code"),
    [
        (
            "responses",
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "insufficient_quota"}}},
            *("account_refused", "insufficient_quota"),
        ),
        (
            "responses",
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "context_length_exceeded", "message": "too long"}},
            },
            *("rejected", "context_length_exceeded"),
        ),
        ("responses", {"type": "response.failed", "response": {"status": "failed", "error": None}}, "failure", None),
        (
            "responses",
            {"type": "error", "code": "rate_limit_exceeded", "message": "slow down"},
            *("throttled", "rate_limit_exceeded"),
        ),
        (
            "chat",
            {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
            *("rejected", None),
        ),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_an_error_event_says_what_failed(
    endpoint: str, event: object, verdict: str, code: str | None, done: bool
) -> None:
    """It was a stream that ended early: an outage where it should stop, or a row that was resent again and again."""
    outcome = judge(events(event, done=done), endpoint)

    assert outcome.verdict == verdict
    assert outcome.code == (code or outcome.code)


@pytest.mark.parametrize("cut", [CHAT[: CHAT.index('"stop"')], MESSAGE[:-60], RESPONSE[:120], RESPONSE[:-200]])
def test_a_stream_that_was_cut_is_a_failed_attempt(cut: str) -> None:
    """Half an answer is none, also if its text speaks of the end."""
    outcome = judge(cut.replace("Hel", "[DONE] message_stop"))

    assert (outcome.verdict, outcome.retry, outcome.code) == ("failure", True, "truncated_stream")


def test_an_error_in_a_stream_comes_before_what_it_said_so_far() -> None:
    """Whatever came before and after it."""
    outcome = judge(events(chunk({"content": "Hel"}), {"error": {"message": "died", "code": "server_error"}}))

    assert (outcome.verdict, outcome.code) == ("failure", "server_error")


def test_a_stream_that_ended_badly_is_no_success() -> None:
    """Its finish reason counts as that of any answer."""
    assert judge(events(chunk({"content": "Hel"}, "insufficient_system_resource"))).verdict == "failure"


NAMES = "type index delta content tool_calls function arguments choices text message usage content_block response"
pieces: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.integers(-2, 300) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow  # hundreds of random streams
@settings(max_examples=300)
@given(
    st.lists(
        pieces | st.sampled_from([{"type": "message_start"}, {"choices": [{"delta": {"content": 1}}]}]), max_size=4
    )
)
def test_any_stream_is_put_together_or_left_alone(documents: list[JSON]) -> None:
    """Nothing that a server streams raises."""
    whole = assemble(events(*documents))

    assert whole is None or isinstance(whole, dict)
    judge(events(*documents))
