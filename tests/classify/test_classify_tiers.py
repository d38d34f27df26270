"""Service tiers in answers: which one was billed, and the lack of capacity of the cheaper one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbatch.classify.classify import classify_reply
from llmbatch.classify.tiers import billed_tier
from llmbatch.core.calls import Outcome, Reply

FLEX = b'{"model":"m","messages":[],"service_tier":"flex"}'
SPACED = b'{"model": "m", "messages": [], "service_tier": "flex"}'
STANDARD = b'{"model":"m","messages":[]}'
QUOTED = json.dumps({"model": "m", "messages": [{"role": "user", "content": FLEX.decode()}]}).encode()


def judge(status: int, error: dict[str, Any], asked: bytes, headers: dict[str, str] | None = None) -> Outcome:
    reply = Reply(status, headers or {}, json.dumps({"error": error}).encode())
    return classify_reply(reply, endpoint="chat", mask=str, asked=asked)


OPENAI = {"message": "Resource unavailable", "type": "resource_unavailable", "code": "resource_unavailable"}
OPENAI_WORDS = {"message": "Resource Unavailable", "type": None, "code": None}
GROQ = {"message": "Flex tier capacity exceeded", "type": "internal_server_error", "code": "capacity_exceeded"}
GROQ_WORDS = {"message": "busy", "type": "internal_server_error"}
GEMINI = {"code": 503, "message": "The system is currently at capacity.", "status": "UNAVAILABLE"}
GEMINI_429 = {"code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED"}
QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerMinute"}]}
OVERLOADED = {"message": "The server is overloaded", "type": "server_error", "code": None}
RATE = {"message": "Rate limit reached for m", "type": "requests", "code": "rate_limit_exceeded"}


@pytest.mark.parametrize(
    ("status", "error", "asked"),
    [
        (429, OPENAI, FLEX),
        (429, OPENAI, b""),
        (429, OPENAI_WORDS, FLEX),
        (429, OPENAI_WORDS, SPACED),
        (498, GROQ, b""),
        (498, GROQ_WORDS, FLEX),
        (503, GEMINI, FLEX),
        (429, GEMINI_429, FLEX),
    ],
)
def test_lack_of_flex_capacity_slows_the_run(status: int, error: dict[str, Any], asked: bytes) -> None:
    """It is pace, never an outage, and a wait that is named counts."""
    outcome = judge(status, error, asked, {"retry-after": "7"})

    assert (outcome.verdict, outcome.lacks_capacity, outcome.retry, outcome.retry_after) == (
        "throttled",
        True,
        True,
        7.0,
    )


@pytest.mark.parametrize(
    ("status", "error", "asked", "verdict"),
    [
        (429, OPENAI_WORDS, STANDARD, "throttled"),
        (503, GEMINI, STANDARD, "failure"),
        (503, GEMINI, QUOTED, "failure"),
        (503, OVERLOADED, FLEX, "failure"),
        (500, OVERLOADED, FLEX, "failure"),
        (429, RATE, FLEX, "throttled"),
        (429, GEMINI_429 | {"details": [QUOTA]}, FLEX, "throttled"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, FLEX, "account_refused"),
        (400, {"message": "Flex processing is not available for this model", "code": "x"}, FLEX, "rejected"),
    ],
)
def test_other_answers_to_a_flex_request_mean_what_they_always_mean(
    status: int, error: dict[str, Any], asked: bytes, verdict: str
) -> None:
    """Also where only the prompt speaks of flex."""
    outcome = judge(status, error, asked)

    assert (outcome.verdict, outcome.lacks_capacity) == (verdict, False)


@pytest.mark.parametrize(
    ("document", "headers", "tier"),
    [
        ({"service_tier": "flex"}, {}, "flex"),
        ({"service_tier": "default"}, {}, "standard"),
        ({"service_tier": "on_demand"}, {}, "standard"),
        ({"service_tier": "priority"}, {}, "priority"),
        ({"usage": {"service_tier": "standard"}}, {}, "standard"),
        ({"usage": {"service_tier": "batch"}}, {}, "batch"),
        ({}, {"x-gemini-service-tier": "FLEX"}, "flex"),
        ({"service_tier": "flex"}, {"x-gemini-service-tier": "standard"}, "standard"),
        ({"service_tier": 'a "new" one'}, {}, "a_new_one"),
        ({"service_tier": None}, {}, None),
        ({"service_tier": 3, "usage": []}, {}, None),
        ({"service_tier": " "}, {}, None),
        ([], {}, None),
    ],
)
def test_the_tier_is_what_the_answer_says_was_billed(document: Any, headers: dict[str, str], tier: str | None) -> None:
    """Each provider's name of its default is ``standard``."""
    assert billed_tier(document, headers) == tier
