"""Answers that were misread in the field: each kind, with answers of the kind that nobody has seen yet."""

from __future__ import annotations

import json

import pytest
from classify_field_answers import FIELD, Answer

from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Outcome, Reply


def judge(status: int, body: object, headers: dict[str, str] | None = None, endpoint: str = "chat") -> Outcome:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return classify_reply(Reply(status, headers or {}, raw), endpoint=endpoint, mask=str)


@pytest.mark.parametrize("answer", FIELD, ids=[answer.name for answer in FIELD])
def test_answers_of_the_field_mean_what_they_say(answer: Answer) -> None:
    """Whose it is, whether it may pass, and whether one answer is enough to believe it."""
    outcome = judge(answer.status, answer.body, answer.headers, answer.endpoint)

    assert (outcome.verdict, outcome.scope, outcome.code) == (answer.verdict, answer.scope, answer.code)
    assert (outcome.retry, outcome.row_is_bad, outcome.certain) == (answer.retry, answer.row_is_bad, answer.certain)
    assert outcome.retry_after == answer.retry_after
    assert answer.says in outcome.message
    assert bool(outcome.hint) == (answer.verdict == "account_refused")


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
        ("embeddings", {"data": [{"embedding": [0.1, None, 0.2]}]}, "empty_embedding"),
        ("embeddings", {"data": [{"embedding": ["NaN", "NaN"]}]}, "empty_embedding"),
        ("embeddings", {"data": [{"object": "embedding", "index": 0}]}, "empty_embedding"),
        ("embeddings", {"data": ["x"]}, "empty_embedding"),
        ("embeddings", {"data": [{"object": "error", "message": "worker crashed"}]}, "error_in_200"),
        ("embeddings", {"data": [{"embedding": [0.1]}, {"error": {"message": "worker crashed"}}]}, "error_in_200"),
    ],
)
def test_an_answer_that_the_provider_broke_off_is_a_failed_attempt(endpoint: str, body: object, code: str) -> None:
    """These were taken for successes; the row is resent."""
    outcome = judge(200, body, endpoint=endpoint)

    assert (outcome.verdict, outcome.scope, outcome.retry, outcome.code) == ("failure", "provider", True, code)
    assert not outcome.row_is_bad


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

    assert (outcome.verdict, outcome.scope, outcome.retry, outcome.code) == ("rejected", "row", True, code)
    assert not outcome.row_is_bad


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

    assert (outcome.verdict, outcome.scope, outcome.row_is_bad, outcome.code) == (
        "rejected",
        "row",
        True,
        "content_filter",
    )


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
        ("embeddings", {"data": [{"embeddings": [[0.1], [0.2]]}, {"sparse_embedding": {"1": 0.5}}]}),
    ],
)
def test_an_answer_that_merely_says_little_is_a_success(endpoint: str, body: object) -> None:
    """It was paid for, and another attempt would say the same."""
    assert judge(200, body, endpoint=endpoint).verdict == "success"


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({"input": ["a", "b", "c"]}, "failure"),
        ({"input": [[1, 2], [3]]}, "failure"),
        ({"input": [1, 2, 3]}, "success"),  # one text, as tokens
        ({"input": "a"}, "success"),
        ({"input": [{"text": "a"}, {"image": "b"}]}, "success"),  # perhaps one embedding of both
    ],
)
def test_fewer_embeddings_than_texts_were_a_success(asked: object, verdict: str) -> None:
    """The texts that have none would be lost without a word."""
    answer = json.dumps({"data": [{"embedding": [0.1]}]}).encode()
    outcome = classify_reply(Reply(200, {}, answer), endpoint="embeddings", mask=str, asked=json.dumps(asked).encode())

    assert outcome.verdict == verdict
    assert outcome.code == ("missing_embeddings" if verdict == "failure" else "")


@pytest.mark.parametrize(
    "message",
    [
        "The request body is not valid JSON.",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "temperature: must be between 0 and 1",
        "thinking.budget_tokens: must be less than max_tokens; the thinking budget is exceeded by 12",
        "Credit card numbers are not allowed in metadata",
        "The account field is required",
        "tool_choice is disabled for this request",
        "The user role is not allowed here",
        "Streaming is blocked while tools are used",
        "no credit card in the request",
        "image_url: the file was not found at its path",
        "messages.0: user must come first; the session parameter is unknown",
        "Unterminated string starting at: line 1 column 9",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_an_ordinary_refusal_is_no_more_than_that(message: str, status: int) -> None:
    """The words of money, accounts, filters and addresses are not found where none is meant."""
    outcome = judge(status, {"error": {"message": message, "type": "invalid_request_error"}})

    assert (outcome.verdict, outcome.scope, outcome.row_is_bad) == ("rejected", "row", False)
    assert outcome.code == "invalid_request_error"


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for requests. Limit: 3 / min. Please try again in 20s. Add a payment method to raise it.",
        "Too many requests, your account is limited to 5 requests per second",
        "You have exceeded your rate limit. Upgrade your plan for more credits per minute.",
        "Organization rate limit exceeded",
        "Concurrency limit reached for this team",
        "Your account reached max organization concurrency: 3, please try again after 1 seconds",
        "Service tier capacity exceeded for this model.",
    ],
)
def test_an_ordinary_rate_limit_is_no_more_than_that(message: str) -> None:
    """A 429 that talks of plans and accounts still only asks for a slower pace."""
    assert judge(429, {"error": {"message": message}}).verdict == "throttled"


@pytest.mark.parametrize(
    "message",
    [
        "upstream connect error or disconnect/reset before headers",
        "The server is temporarily unable to handle the request due to maintenance or capacity problems",
        "Internal error: account service is not reachable",
        "no healthy upstream",
        "billing service timed out",
        "Model is being loaded, try again",
    ],
)
@pytest.mark.parametrize("status", [500, 502, 503])
def test_an_ordinary_outage_is_no_more_than_that(message: str, status: int) -> None:
    """It may speak of anything."""
    assert judge(status, {"error": {"message": message}}).verdict == "failure"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "Your prepayment credits are depleted. Please go to the console to manage your project and billing."),
        (403, "Your credits have expired"),
        (400, "Team has exceeded its monthly spending cap"),
        (401, "Account has been deactivated due to unpaid invoices"),
        (412, "Your organization is on hold"),
        (500, "insufficient account balance"),
        (429, "账户余额不足"),
        (403, "Please top up your balance to continue"),
        (429, "Key budget exceeded: max budget 5 USD"),
        (403, "This project has no remaining credit"),
    ],
)
def test_unseen_words_of_an_empty_or_closed_account_are_understood(status: int, message: str) -> None:
    """The kind counts, not the instance."""
    outcome = judge(status, {"error": {"message": message}})

    assert (outcome.verdict, outcome.scope, outcome.key_refused) == ("account_refused", "key", False)


@pytest.mark.parametrize(
    "message",
    ["max_tokens must be at most 4096 tokens", "max_tokens (5000) exceeds the model limit of 4096"],
)
def test_too_large_a_bound_of_the_answer_is_no_row_that_is_too_long(message: str) -> None:
    """It may be that of every row: they are not failed at once for it."""
    outcome = judge(400, {"error": {"message": message}})

    assert (outcome.verdict, outcome.row_is_bad) == ("rejected", False)
