"""The rate limits that good answers report, in the headers of each provider."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.classify.rate_headers import read_rate_limits
from llmbatch.core.calls import RateLimit

DATE = "Thu, 26 Nov 2026 10:00:00 GMT"
MINUTE, DAY, MONTH = 60.0, 86_400.0, 2_592_000.0

CASES: dict[str, tuple[dict[str, str], set[RateLimit]]] = {}


def known(name: str, headers: dict[str, str], *limits: RateLimit) -> None:
    CASES[name] = (headers, limits)  # type: ignore[assignment]


known(
    "OpenAI",
    {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "199984",
        "x-ratelimit-reset-requests": "8.64s",
        "x-ratelimit-reset-tokens": "4ms",
    },
    RateLimit("requests", 10000, 9999, 8.64),
    RateLimit("tokens", 200000, 199984, 0.004),
)
known(
    "Anthropic",
    {
        "date": DATE,
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-26T10:00:01Z",
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": "50000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-26T09:59:58Z",
        "anthropic-ratelimit-output-tokens-limit": "10000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-26T10:00:12Z",
    },
    RateLimit("requests", 50, 49, 1.0),
    RateLimit("input_tokens", 50000, 50000, -2.0),
    RateLimit("output_tokens", 10000, 8000, 12.0),
)
known(
    "Azure, whose -1 means unknown",
    {
        "x-ratelimit-limit-requests": "-1",
        "x-ratelimit-remaining-requests": "-1",
        "x-ratelimit-reset-requests": "0",
        "x-ratelimit-limit-tokens": "120000",
        "x-ratelimit-remaining-tokens": "119000",
        "x-ratelimit-reset-tokens": "1",
    },
    RateLimit("requests", -1, -1, 0.0),
    RateLimit("tokens", 120000, 119000, 1.0),
)
known("Azure, older", {"x-ratelimit-remaining-requests": "119", "x-ratelimit-remaining-tokens": "119000"})
known(
    "Groq",
    {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
    },
    RateLimit("requests", 14400, 14370, 179.56),
)
known(
    "Mistral",
    {
        "x-ratelimit-limit-req-minute": "300",
        "x-ratelimit-remaining-req-minute": "299",
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "499000",
        "x-ratelimit-limit-tokens-month": "1000000000",
        "x-ratelimit-remaining-tokens-month": "999000000",
        "x-ratelimit-tokens-query-cost": "1000",
    },
    RateLimit("requests", 300, 299, None, MINUTE),
    RateLimit("tokens", 500000, 499000, None, MINUTE),
    RateLimit("tokens", 1e9, 999e6, None, MONTH),
)
known(
    "Cerebras",
    {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-remaining-requests-day": "14399",
        "x-ratelimit-reset-requests-day": "33011.38",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "60000",
        "x-ratelimit-reset-tokens-minute": "11.38",
    },
    RateLimit("requests", 14400, 14399, 33011.38, DAY),
    RateLimit("tokens", 60000, 60000, 11.38, MINUTE),
)
known(
    "Together",
    {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "9",
        "x-ratelimit-reset": "0.1",
        "x-tokenlimit-limit": "3000",
        "x-tokenlimit-remaining": "2900",
    },
    RateLimit("requests", 10, 9, 0.1),
    RateLimit("tokens", 3000, 2900, None, 1.0),
)
known(
    "Fireworks",
    {
        "x-ratelimit-limit-tokens-prompt": "60000",
        "x-ratelimit-remaining-tokens-prompt": "59000",
        "x-ratelimit-limit-tokens-generated": "6000",
        "x-ratelimit-remaining-tokens-generated": "5900",
    },
    RateLimit("input_tokens", 60000, 59000),
    RateLimit("output_tokens", 6000, 5900),
)
known(
    "DigitalOcean",
    {
        "date": DATE,
        "ratelimit-limit-tokens-per-minute": "40000",
        "ratelimit-remaining-tokens-per-minute": "39000",
        "ratelimit-reset-tokens-per-minute": "1795687230",
    },
    RateLimit("tokens", 40000, 39000, 30.0, MINUTE),
)
known(
    "LiteLLM's proxy, in two layers",
    {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "90",
        "llm_provider-x-ratelimit-limit-requests": "500",
        "llm_provider-x-ratelimit-remaining-requests": "499",
    },
    RateLimit("requests", 100, 90),
    RateLimit("requests", 500, 499),
)
known("none", {"content-type": "application/json", "x-request-id": "req_1", "server": "nginx"})
known("words that are no limit", {"x-ratelimit-policy": "60;w=60", "x-ratelimit-limit-images": "5"})
known(
    "garbage",
    {"x-ratelimit-limit-requests": "9" * 400, "x-ratelimit-remaining-requests": "NaN", "x-ratelimit-reset": "soon"},
)


@pytest.mark.parametrize("case", CASES)
def test_limits_are_read_from_the_headers_of(case: str) -> None:
    """As far as an answer tells both a limit and what remains of it."""
    headers, limits = CASES[case]

    assert read_rate_limits(headers) == tuple(limits)


def test_names_may_be_spelled_with_another_dash() -> None:
    """As many frameworks do."""
    headers = {"x-rate-limit-limit": "60", "x-rate-limit-remaining": "7", "x-rate-limit-reset": "30"}

    assert read_rate_limits(headers) == (RateLimit("requests", 60.0, 7.0, 30.0, None),)


def test_names_may_be_spelled_in_capitals() -> None:
    """HTTP does not care."""

    class Spelled(dict[str, str]):
        def __iter__(self):  # type: ignore[no-untyped-def]  # as the client's headers: names as they came
            return iter(["X-RateLimit-Limit-Requests", "X-RateLimit-Remaining-Requests"])

    headers = Spelled({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"})

    assert read_rate_limits(headers) == (RateLimit("requests", 60, 59),)


def test_limits_of_which_much_remains_need_not_be_read() -> None:
    """Of the tightest one less than that part must remain."""
    headers = CASES["OpenAI"][0] | {"x-ratelimit-remaining-tokens": "99999"}

    assert read_rate_limits(headers, below=0.4) == ()
    assert len(read_rate_limits(headers, below=0.5)) == 2


@pytest.mark.slow  # up to some seconds of CPU
@given(st.dictionaries(st.from_regex(r"(x-)?ratelimit-[a-z-]{0,30}", fullmatch=True), st.text(max_size=30)))
def test_no_header_raises(headers: dict[str, str]) -> None:
    """Whatever it says."""
    for limit in read_rate_limits(headers):
        assert limit.limit == limit.limit
