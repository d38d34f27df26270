"""Rate limits in the words of refusals."""

from __future__ import annotations

import pytest

from llmbatch.classify.stated_limits import read_stated_limits
from llmbatch.core.calls import RateLimit


@pytest.mark.parametrize(
    ("message", "kind", "limit", "window"),
    [
        (
            "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29900, "
            "Requested 500. Please try again in 800ms.",
            *("tokens", 30000, 60),
        ),
        (
            "Rate limit reached for model `llama-3.3-70b` in organization `org_x` service tier `on_demand` on requests "
            "per minute (RPM): Limit 30, Used 30, Requested 1. Please try again in 2s.",
            *("requests", 30, 60),
        ),
        (
            "Rate limit reached for default-gpt-3.5 on requests per min. Limit: 3 / min. Current: 4 / min.",
            *("requests", 3, 60),
        ),
        (
            "This request would exceed your organization's rate limit of 40,000 input tokens per minute (org: x).",
            *("input_tokens", 40000, 60),
        ),
        ("rate limit of 5 requests per second", "requests", 5, 1),
    ],
)
def test_limits_are_read_from_refusals(message: str, kind: str, limit: float, window: float) -> None:
    """As OpenAI, Groq and Anthropic write them."""
    assert [(one.kind, one.limit, one.window_s) for one in read_stated_limits(message)] == [(kind, limit, window)]


def test_what_was_used_is_not_trusted() -> None:
    """59.4 of 60 used reads ``Used 59``, and still there was no room for the request."""
    (limit,) = read_stated_limits("on requests per min (RPM): Limit 60, Used 59, Requested 1.")

    assert limit == RateLimit("requests", 60.0, 0.0, None, 60.0)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Rate limit exceeded",
        "on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.",
        "on requests per min (RPM): Limit 0, Used 0, Requested 1.",
        "Requests to this operation have exceeded call rate limit of your current pricing tier.",
        "per " * 100_000,
        "rate limit of " + "9" * 100_000 + " tokens per minute",
    ],
    ids=lambda message: message[:20],
)
def test_other_refusals_state_no_limit_per_minute(message: str) -> None:
    """A daily limit has a named wait; a limit of nothing stops the run elsewhere."""
    assert read_stated_limits(message) == ()
