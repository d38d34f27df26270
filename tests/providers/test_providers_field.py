"""Answers that were misread in the field: each kind, with answers of the kind that nobody has seen yet."""

from __future__ import annotations

import json

import pytest
from providers_field_answers import FIELD, Answer

from llmbatch.providers.outcome import judge_reply
from llmbatch.records import Outcome, Reply


def judge(status: int, body: object, headers: dict[str, str] | None = None, endpoint: str = "chat") -> Outcome:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return judge_reply(Reply(status, headers or {}, raw), endpoint=endpoint, mask=str)


@pytest.mark.parametrize("answer", FIELD, ids=[answer.name for answer in FIELD])
def test_answers_of_the_field_mean_what_they_say(answer: Answer) -> None:
    """Whose it is, whether it may pass, and whether one answer is enough to believe it."""
    outcome = judge(answer.status, answer.body, answer.headers, answer.endpoint)

    assert (outcome.verdict, outcome.scope, outcome.code) == (answer.verdict, answer.scope, answer.code)
    assert (outcome.retry, outcome.final, outcome.certain) == (answer.retry, answer.final, answer.certain)
    assert outcome.pause == answer.pause
    assert answer.says in outcome.message
    assert bool(outcome.advice) == (answer.verdict == "exhausted")


NOTHING = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}


def choice(finish: str | None = "stop", content: object = "", **members: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": {"content": content}, "finish_reason": finish, **members}]}


@pytest.mark.parametrize(
    ("endpoint", "body", "code"),
    [
        ("chat", choice("insufficient_system_resource", "half an ans"), "insufficient_system_resource"),
        ("chat", choice("error", "half"), "finish_reason_error"),
        ("chat", choice("network_error"), "network_error"),
        ("chat", choice("stop", native_finish_reason="network_error"), "network_error"),
        ("chat", choice("stop", native_finish_reason="upstream_error"), "upstream_error"),
        ("chat", choice("abort", "x"), "abort"),
        ("completions", {"choices": [{"text": "ha", "finish_reason": "engine_failure"}]}, "engine_failure"),
        ("chat", {**choice(), "usage": NOTHING}, "empty_answer"),
        ("chat", {**choice(None, None), "usage": NOTHING}, "empty_answer"),
        (
            "messages",
            {"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 0}},
            "empty_answer",
        ),
        ("messages", {"content": [{"type": "text", "text": "a"}], "stop_reason": "error"}, "finish_reason_error"),
        (
            "responses",
            {"status": "completed", "output": [], "usage": {"input_tokens": 3, "output_tokens": 0}},
            "empty_answer",
        ),
        (
            "responses",
            {"status": "incomplete", "incomplete_details": {"reason": "server_error"}, "output": []},
            "server_error",
        ),
        ("embeddings", {"data": [{"embedding": [None, None, None]}]}, "empty_embedding"),
        ("embeddings", {"data": [{"embedding": [0.1]}, {"embedding": []}]}, "empty_embedding"),
        ("embeddings", {"data": [{"embedding": None}]}, "empty_embedding"),
    ],
)
def test_an_answer_that_the_provider_broke_off_is_a_failed_attempt(endpoint: str, body: object, code: str) -> None:
    """These were taken for successes; the row is resent."""
    outcome = judge(200, body, endpoint=endpoint)

    assert (outcome.verdict, outcome.scope, outcome.retry, outcome.code) == ("failure", "provider", True, code)
    assert not outcome.final


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (choice("function_call_filter: MALFORMED_FUNCTION_CALL", None), "malformed_answer"),
        (choice("MALFORMED_FUNCTION_CALL", None), "malformed_answer"),
        (choice("stop", native_finish_reason="UNEXPECTED_TOOL_CALL"), "malformed_answer"),
        ({"object": "chat.completion", "choices": [], "usage": NOTHING}, "no_choices"),
        ({"choices": [], "promptFeedback": {}}, "no_choices"),
        (
            {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": False}}}]},
            "no_choices",
        ),
    ],
)
def test_an_answer_that_went_wrong_for_its_row_says_nothing_of_the_provider(body: object, code: str) -> None:
    """The model's own slip, or no choice at all: the row goes again, and ends after its attempts."""
    outcome = judge(200, body)

    assert (outcome.verdict, outcome.scope, outcome.retry, outcome.code) == ("neutral", "row", True, code)
    assert not outcome.final


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}},
        {"choices": [], "block_reason": "OTHER"},
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
        choice("SAFETY", None),
        choice("PROHIBITED_CONTENT", ""),
        choice("sensitive", ""),
        choice("guardrail_intervened", None),
        choice("content_filter", None),
    ],
)
def test_a_blocked_prompt_in_a_200_ends_its_row(body: object) -> None:
    """Where it says so, no further attempt is needed."""
    outcome = judge(200, body)

    assert (outcome.verdict, outcome.scope, outcome.final, outcome.code) == ("neutral", "row", True, "content_filter")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", choice()),  # llama.cpp: no usage, and perhaps nothing to say
        ("chat", {**choice("length"), "usage": NOTHING}),  # all spent on thoughts that nobody counts
        ("chat", {**choice(), "usage": {**NOTHING, "completion_tokens": 7}}),
        (
            "chat",
            {
                "choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}, "finish_reason": "stop"}],
                "usage": NOTHING,
            },
        ),
        ("chat", {**choice(content="hi"), "usage": NOTHING}),  # servers that count nothing
        ("chat", choice("terminated", "hi")),
        ("messages", {"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}),
        ("responses", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}),
        ("embeddings", {"data": [{"embedding": [0.0, 0.0]}, {"embedding": "AAAA"}]}),
    ],
)
def test_an_answer_that_merely_says_little_is_a_success(endpoint: str, body: object) -> None:
    """It was paid for, and another attempt would say the same."""
    assert judge(200, body, endpoint=endpoint).verdict == "success"
