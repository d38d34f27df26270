"""What a simulated provider refuses for its limits, its keys and its tiers, and what its headers say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.response_plan import ResponsePlan
from llmbatch.sim.scenario import Phase, Scenario

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def provider(*phases: Phase, latency: float = 1.0, **scenario: Any) -> SimulatedProvider:
    return SimulatedProvider(Scenario("test", phases, "for a test", **scenario), latency=latency)


def post(
    simulated: SimulatedProvider, at: float = 0.0, *, path: str = CHAT, key: str = "key-a", **more: object
) -> ResponsePlan:
    body = {"model": "m", "messages": [{"role": "user", "content": "row 1"}], "max_tokens": 80, **more}
    plan = simulated.answer("POST", path, {"authorization": f"Bearer {key}"}, json.dumps(body).encode(), at)
    simulated.finish(plan)
    return plan


def error_of(plan: ResponsePlan) -> Mapping[str, Any]:
    error = json.loads(plan.body)["error"]
    assert isinstance(error, dict)
    return error


def limit_headers(plan: ResponsePlan) -> dict[str, str]:
    return {name: text for name, text in plan.headers.items() if "ratelimit" in name}


def test_openai_fills_a_bucket_all_the_time_and_says_when_it_is_full() -> None:
    """60 requests at once, then one a second."""
    simulated = provider(limits=RateLimits("openai", rpm=60))

    at_once = [post(simulated).status for _ in range(61)]
    first = post(simulated, 1.0)

    assert at_once == [200] * 60 + [429]
    assert first.status == 200
    assert limit_headers(first) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }


def test_openai_refuses_in_its_own_words_and_names_the_wait() -> None:
    """The type is the exhausted kind; the wait is in two headers and the message."""
    simulated = provider(limits=RateLimits("openai", tpm=150))
    post(simulated)

    refused = post(simulated)

    assert refused.status == 429
    assert (error_of(refused)["type"], error_of(refused)["code"]) == ("tokens", "rate_limit_exceeded")
    assert "on tokens per min (TPM): Limit 150" in error_of(refused)["message"]
    assert 1000 * (int(refused.headers["retry-after"]) - 1) < int(refused.headers["retry-after-ms"])
    assert int(refused.headers["retry-after-ms"]) <= 1000 * int(refused.headers["retry-after"])


def test_tokens_are_reserved_by_body_and_output_limit() -> None:
    """A larger max_tokens takes more, although the answer is the same."""
    small, large = (provider(limits=RateLimits("openai", tpm=100_000)) for _ in range(2))

    left = [
        int(limit_headers(post(simulated, max_tokens=most))["x-ratelimit-remaining-tokens"])
        for simulated, most in ((small, 100), (large, 1100))
    ]

    assert left[0] - left[1] == 1000


def test_anthropic_counts_input_and_output_apart() -> None:
    """Tokens that remain are rounded to thousands; times are RFC 3339; the output bucket alone can refuse."""
    simulated = provider(limits=RateLimits("anthropic", rpm=60, input_tpm=40_000, output_tpm=8_400))

    good = post(simulated, path=MESSAGES, max_tokens=8_000)
    refused = post(simulated, path=MESSAGES, max_tokens=8_000)

    assert limit_headers(good) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-11-26T00:00:01Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "40000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-26T00:00:00Z",
        "anthropic-ratelimit-output-tokens-limit": "8400",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-26T00:00:57Z",
    }
    assert refused.status == 429
    assert error_of(refused)["type"] == "rate_limit_error"
    assert "8,400 output tokens per min" in error_of(refused)["message"]
    assert "retry-after-ms" not in refused.headers


def test_azure_refuses_more_than_ten_seconds_of_the_limit_at_once() -> None:
    """The headers show the minute alone, in whole seconds; the body has a code and a message."""
    simulated = provider(limits=RateLimits("azure", rpm=60))

    plans = [post(simulated) for _ in range(11)]

    assert [plan.status for plan in plans] == [200] * 10 + [429]
    assert limit_headers(plans[-1])["x-ratelimit-remaining-requests"] == "50"
    assert limit_headers(plans[-1])["x-ratelimit-reset-requests"] == "10"
    assert error_of(plans[-1])["code"] == "429"
    assert set(error_of(plans[-1])) == {"code", "message"}
    assert post(simulated, 1.0).status == 200


def test_groq_reports_requests_of_the_day_and_tokens_of_the_minute() -> None:
    """Requests per minute are kept and never shown."""
    simulated = provider(limits=RateLimits("groq", rpm=30, rpd=14_400, tpm=6000))

    plans = [post(simulated) for _ in range(31)]

    headers = limit_headers(plans[0])
    assert headers["x-ratelimit-limit-requests"] == "14400"
    assert headers["x-ratelimit-reset-requests"] == "6s"
    assert headers["x-ratelimit-limit-tokens"] == "6000"
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    assert plans[-1].status == 429
    assert "requests per min (RPM): Limit 30" in error_of(plans[-1])["message"]


def test_without_headers_nothing_tells_of_a_limit() -> None:
    """Neither good answers nor refusals; not even the message names a wait."""
    simulated = provider(limits=RateLimits("openai", rpm=1, headers=False))

    good, refused = post(simulated), post(simulated)

    assert (good.status, refused.status) == (200, 429)
    assert limit_headers(good) == limit_headers(refused) == {}
    assert "retry-after" not in refused.headers
    assert "try again" not in error_of(refused)["message"]


def test_each_key_and_model_has_its_own_buckets() -> None:
    """One key's calls take nothing from another's."""
    simulated = provider(limits=RateLimits("openai", rpm=1))

    statuses = [post(simulated, key=key, model=model).status for key in ("a", "b", "a") for model in ("m", "n")]

    assert statuses == [200, 200, 200, 200, 429, 429]


def test_a_phase_multiplies_the_limits() -> None:
    """Halved in the second minute, and what is left is cut to the new size."""
    simulated = provider(Phase(60), Phase(60, limits=0.5), limits=RateLimits("openai", rpm=60))

    post(simulated)
    headers = limit_headers(post(simulated, 60.0))

    assert headers["x-ratelimit-limit-requests"] == "30"
    assert headers["x-ratelimit-remaining-requests"] == "29"


def test_keys_without_money_are_refused_beside_good_ones() -> None:
    """429 insufficient_quota; 402 in Anthropic's format."""
    simulated = provider(spent_keys=("key-b*",))

    assert post(simulated, key="key-a").status == 200
    assert post(simulated, key="key-b2").status == 429
    assert error_of(post(simulated, key="key-b"))["code"] == "insufficient_quota"
    assert post(simulated, key="key-b", path=MESSAGES).status == 402


def test_without_flex_capacity_only_that_tier_is_refused() -> None:
    """429 resource_unavailable while the phase lasts."""
    simulated = provider(Phase(60, flex=False))

    refused = post(simulated, service_tier="flex")

    assert refused.status == 429
    assert error_of(refused)["code"] == "resource_unavailable"
    assert post(simulated).status == 200
    assert post(simulated, 61.0, service_tier="flex").status == 200


def test_above_the_knee_latency_grows_with_the_requests_in_flight() -> None:
    """Flat up to it, then in proportion."""
    simulated = provider(Phase(math.inf, knee=4), latency=1.0)
    body = [json.dumps({"model": "m", "messages": [{"role": "user", "content": f"row {n}"}]}) for n in range(8)]

    in_flight = [simulated.answer("POST", CHAT, {}, each.encode(), 0.0) for each in body]
    flat = [provider().answer("POST", CHAT, {}, each.encode(), 0.0) for each in body]

    ratios = [loaded.delay / free.delay for loaded, free in zip(in_flight, flat, strict=True)]
    assert ratios == pytest.approx([1, 1, 1, 1, 5 / 4, 6 / 4, 7 / 4, 2])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"style": "mistral"}, "limits.style is 'mistral', which is unknown"),
        ({"rpm": 0}, "limits.rpm is 0, must be 1 or more"),
        ({"output_tpm": math.inf}, "limits.output_tpm is inf, must be 1 or more"),
        ({"burst": 61}, "limits.burst is 61, must be above 0 and at most 60 seconds"),
    ],
)
def test_impossible_limits_are_refused(values: dict[str, Any], said: str) -> None:
    """The message names the field and the range."""
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        RateLimits(**values)
