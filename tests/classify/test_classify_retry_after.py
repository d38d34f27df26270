"""Every way to say "come back later", and every way to say nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.classify.retry_after import answered_at, wait_hint
from llmbatch.core.raw_json import JSON

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
NOON = 1_795_435_200  # the same instant
RETRY_INFO: JSON = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerMinute"}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "47.434392449s"},
        ],
    }
}


def said(message: str) -> JSON:
    return {"error": {"message": message}}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"x-ms-retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:30 GMT", "date": DATE}, 90.0),
        ({"retry-after": "Monday, 23-Nov-26 12:01:30 GMT", "date": DATE}, 90.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:30 -0000", "date": DATE}, 90.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "soon", "x-ms-retry-after-ms": "-5", "retry-after": "9"}, 9.0),
        ({"retry-after": "30s"}, 30.0),
        ({"retry-after": "1m3.5s"}, 63.5),
        ({"retry-after": "30, 30"}, 30.0),
        ({"retry-after": "2, 6"}, 6.0),
        ({"retry-after": "5, x"}, 5.0),
        ({"retry-after": "30 seconds"}, 30.0),
        ({"retry-after": "1.5 minutes"}, 90.0),
        ({"retry-after": '"30"'}, 30.0),
        ({"retry-after": "PT30S"}, 30.0),
        ({"retry-after": "PT1H1M30S"}, 3690.0),
        ({"retry-after": "2026-11-23T12:01:30Z", "date": DATE}, 90.0),
        ({"retry-after": str(NOON + 90), "date": DATE}, 90.0),
    ],
)
@pytest.mark.parametrize("status", [200, 302, 400, 429, 503])
def test_retry_after_counts_on_any_status(status: int, headers: dict[str, str], seconds: float) -> None:
    """Milliseconds, seconds or a date against the answer's own date, in this order; unknown ones are passed over."""
    assert wait_hint(status, headers, None) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "0.0",
        "-1",
        "nan",
        "NaN",
        "inf",
        "Infinity",
        "1e999",
        "9" * 400,
        "1_0",
        "٣",
        "",
        " ",
        "soon",
        "34560001",
        "Mon, 23 Nov 2026 11:59:59 GMT",
        DATE,
        "Mon, 99 Foo 2026 12:00:00 GMT",
        "Mon, 23 Nov 9999 12:00:00 GMT",
        ":" * 30,
    ],
)
def test_what_makes_no_sense_is_unknown_and_never_zero(value: str) -> None:
    """Zero, negative, endless, past, absurd or garbled: None, so that a back-off takes over."""
    assert wait_hint(429, {"retry-after": value, "date": DATE}, None) is None
    assert wait_hint(429, {"retry-after-ms": value if value != "34560001" else "34560000001"}, None) is None


def test_a_date_is_never_read_against_our_own_clock() -> None:
    """Without the answer's date, an instant says nothing."""
    headers = {"retry-after": "Mon, 23 Nov 2099 12:01:30 GMT"}

    assert wait_hint(503, headers, None) is None
    assert wait_hint(503, {**headers, "date": "yesterday"}, None) is None


def test_googles_retry_info_is_found_in_every_shape_of_its_errors() -> None:
    """In an object, in a list of one (the OpenAI-compatible endpoint), and where it is not the first detail."""
    assert wait_hint(429, {}, RETRY_INFO) == pytest.approx(47.434392449)
    assert wait_hint(429, {}, [RETRY_INFO]) == pytest.approx(47.434392449)
    assert wait_hint(503, {"retry-after": "3"}, RETRY_INFO) == 3.0


@pytest.mark.parametrize("delay", ["0s", "-3s", "s", "47", None, [], {"seconds": "x"}, "1e9s", "99999999s"])
def test_a_garbled_retry_info_is_passed_over(delay: JSON) -> None:
    """The next source is asked instead."""
    body: JSON = {
        "error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": delay}], "message": "retry in 5s"}
    }

    assert wait_hint(429, {}, body) == 5.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20ms", 0.02),
        ("1s", 1.0),
        ("7.66s", 7.66),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("1h2m", 3720.0),
        ("1d2h", 93_600.0),
        ("33", 33.0),
        ("33.5", 33.5),
        (str(NOON + 40), 40.0),
        (str((NOON + 40) * 1000), 40.0),
        ("2026-11-23T12:00:40Z", 40.0),
        ("2026-11-23T14:00:40+02:00", 40.0),
    ],
)
def test_the_reset_of_an_exhausted_limit_is_read_in_every_spelling(value: str, seconds: float) -> None:
    """Go durations, seconds, epoch seconds and milliseconds, RFC 3339; OpenAI's, OpenRouter's and Anthropic's names."""
    for left, reset in (
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
        ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ):
        headers = {left: "0", reset: value, "date": DATE}

        assert wait_hint(429, headers, None) == pytest.approx(seconds)
        assert wait_hint(503, headers, None) == pytest.approx(seconds)


def test_of_several_exhausted_limits_the_longest_wait_counts() -> None:
    """All of them must be free before a request passes; what is not exhausted says nothing."""
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "20ms",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
        "x-ratelimit-remaining-images": "3",
        "x-ratelimit-reset-images": "9h",
        "x-ratelimit-reset-audio": "9h",
    }

    assert wait_hint(429, headers, None) == 360.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "0s",
        "-1s",
        "soon",
        "in a little while, perhaps",
        "2026-11-23T11:59:00Z",
        str(NOON - 1),
        "9000d",
        "5e9",
        "99999999",
    ],
)
def test_a_reset_that_has_passed_or_is_garbled_is_unknown(value: str) -> None:
    """Anthropic's may lie in the past: that is no invitation."""
    headers = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": value, "date": DATE}

    assert wait_hint(429, headers, None) is None


def test_reset_headers_say_nothing_on_a_success() -> None:
    """They come with every answer; only a failing one was stopped by them."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}

    assert wait_hint(200, headers, None) is None


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [(503, 20.0, 20.0), (503, 7, 7.0), (503, "12.5", 12.5), (500, 20.0, None), (503, -3, None), (503, [], None)],
)
def test_the_time_that_a_model_takes_to_load_is_a_wait(status: int, value: JSON, seconds: float | None) -> None:
    """Hugging Face: ``{"error":"Model … is currently loading","estimated_time":20.0}``."""
    body: JSON = {"error": "Model org/m is currently loading", "estimated_time": value}

    assert wait_hint(status, {}, body) == seconds


def test_openrouters_headers_inside_the_body_count() -> None:
    """It repeats the limit that was hit in the error's metadata."""
    body: JSON = {
        "error": {
            "message": "Rate limit exceeded: free-models-per-day",
            "code": 429,
            "metadata": {
                "headers": {
                    "X-RateLimit-Limit": "50",
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": f"{NOON + 3600}000",
                }
            },
        }
    }

    assert wait_hint(429, {"date": DATE}, body) == pytest.approx(3600.0)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        (
            "Rate limit reached for gpt-5 on requests per min (RPM): Limit 3. Please try again in 20s. Visit https://x",
            20.0,
        ),
        ("… Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more tokens?", 578.016),
        ("Please try again in 20ms.", 0.02),
        ("Please try again in 6m0s.", 360.0),
        ("have exceeded token rate limit of your current pricing tier. Please retry after 86400 seconds.", 86_400.0),
        ("Rate limit is exceeded. Try again in 30 seconds.", 30.0),
        ("Please retry in 47.434392449s.", 47.434392449),
        ("try again in about 1 hour, 5 minutes", 3900.0),
    ],
)
def test_the_words_of_a_429_are_the_last_resort(message: str, seconds: float) -> None:
    """In an error object, a flat body, or a bare error string; on a 429, 503 or 529, after every header."""
    assert wait_hint(429, {}, said(message)) == pytest.approx(seconds)
    assert wait_hint(429, {}, {"message": message}) == pytest.approx(seconds)
    assert wait_hint(429, {}, {"error": message}) == pytest.approx(seconds)
    assert wait_hint(500, {}, said(message)) is None
    assert wait_hint(429, {"retry-after": "3"}, said(message)) == 3.0


@pytest.mark.parametrize(
    "message",
    ["try again later", "try again in a moment", "try again in 5 monkeys", "try again in 0s", "retry after 1e5 s"],
)
def test_words_without_a_time_are_unknown(message: str) -> None:
    """No number, no wait."""
    assert wait_hint(429, {}, said(message)) is None


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Request was throttled. Expected available in 30 seconds.", 30.0),
        ("reduced to 6 requests per minute. Your rate limit resets in ~30s.", 30.0),
        ("Please retry your request after 30 seconds", 30.0),
        ("You must wait 30 seconds before trying again", 30.0),
        ("Please try again later, in 1 minute and 30 seconds.", 90.0),
        ("slow down; retry-after: 30", 30.0),
        ("{'error': {'details': [{'retryDelay': '13s'}]}}", 13.0),
        ("retry_after_ms=1500, sorry", 1.5),
        ("Your limit will reset at 2026-11-23T12:05:00Z.", 300.0),
        ("Try again after 2026-11-23 14:05:00 +02:00", 300.0),
        ("Remaining: 0. Limit resets at: 2026-11-23 12:05:00 UTC", 300.0),  # litellm's proxy
        ("Please retry your requests after 45 seconds.", 45.0),
        ("请求过于频繁,请在45秒后重试", 45.0),
        ("请 2 分钟后再试", 120.0),
        ("Your limit will reset at 2026-11-23 12:05:00.", None),
        ("retry-after: 2026-11-23", None),
        ("we waited 30 seconds", None),
        ("limit of 5 in 30 seconds", None),
    ],
)
def test_a_wait_in_other_words_is_read(message: str, seconds: float | None) -> None:
    """As frameworks and gateways say it; an instant only with a time zone, and against the answer's date."""
    assert wait_hint(429, {"date": DATE}, said(message)) == seconds
    assert wait_hint(503, {"date": DATE}, {"detail": {"error": "busy", "reason": "x"}}, message) == seconds


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"message": "You are being rate limited.", "retry_after": 64.57, "global": False}, 64.57),
        ({"title": "Error 1015", "retryable": True, "retry_after": 30}, 30.0),
        ({"error": {"message": "x", "retryAfter": "12"}}, 12.0),
        ({"error": {"message": "x", "retry_after_ms": 1500}}, 1.5),
        ({"error": {"message": "x", "retryAfter": "1m3s"}}, 63.0),
        ({"error": {"message": "x", "metadata": {"retry_after_seconds": 7}}}, 7.0),
        ({"error": {"type": "x", "resets_at": NOON + 90}}, 90.0),
        ({"error": {"type": "x", "details": [{"retry-after": 7}]}}, 7.0),
        ({"errors": [{"message": "x", "retry_after": 7}]}, 7.0),
        ({"error": {"message": "x", "data": {"retry_after": 7}}}, 7.0),
        ({"error": "x", "retry_after": True}, None),
        ({"error": "x", "retry_after": None}, None),
        ({"error": "x", "retry_after": -3}, None),
        ({"error": "x", "retry_after": 10**400}, None),
        ({"error": "x", "retried": 5}, None),
    ],
)
def test_a_wait_in_a_member_of_the_error_is_read(body: JSON, seconds: float | None) -> None:
    """Discord, Cloudflare, Express and others name it beside the message, in a header too or not."""
    assert wait_hint(429, {"date": DATE}, body) == seconds
    assert wait_hint(503, {"date": DATE}, body) == seconds
    assert wait_hint(200, {"date": DATE}, body) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-retry-after": "30"}, 30.0),
        ({"x-ratelimit-retry-after": "30s"}, 30.0),
        ({"x-rate-limit-retry-after-milliseconds": "1500"}, 1.5),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(NOON + 30)}, 30.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "x", "x-ratelimit-reset-after": "30.5"}, 30.5),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset-after": "30.5"}, None),
        ({"x-ratelimit-reset": "30"}, 30.0),
        ({"anthropic-ratelimit-unified-reset": str(NOON + 30), "anthropic-ratelimit-unified-status": "rejected"}, 30.0),
    ],
)
def test_waits_under_other_names_are_read(headers: dict[str, str], seconds: float | None) -> None:
    """A reset alone is the wait of a 429, if nothing says what remains; other statuses were not stopped by it."""
    assert wait_hint(429, {"date": DATE, **headers}, None) == seconds
    if "x-ratelimit-reset" in headers and len(headers) == 1:
        assert wait_hint(500, {"date": DATE, **headers}, None) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "details",
                    "message",
                    "metadata",
                    "headers",
                    "@type",
                    "retryDelay",
                    "detail",
                    "retry_after",
                    "resetAt",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
header_values = st.text(max_size=40) | st.sampled_from(["0", "5", "1s", DATE, "2026-11-23T12:00:40Z", "9" * 30, "nan"])
header_names = st.sampled_from(
    ["date", "retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-ratelimit-remaining", "x-ratelimit-reset"]
)


@pytest.mark.slow  # a hundred random answers
@given(st.integers(), st.dictionaries(header_names, header_values), json_values)
def test_a_hint_is_always_a_sane_number_of_seconds(status: int, headers: dict[str, str], body: JSON) -> None:
    """Whatever comes: no exception; None, or above zero and at most 400 days."""
    wait = wait_hint(status, headers, body)

    assert wait is None or (math.isfinite(wait) and 0 < wait <= 400 * 86_400)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"llm_provider-retry-after": "17"}, 17.0),
        ({"llm_provider-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "3", "llm_provider-retry-after": "17"}, 3.0),
        ({"retry-after": "0", "llm_provider-retry-after": "17"}, 17.0),
        ({"llm_provider-x-ratelimit-remaining-tokens": "0", "llm_provider-x-ratelimit-reset-tokens": "6m"}, 360.0),
        ({"ratelimit": '"default";r=0;t=37'}, 37.0),
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=0;t=3600'}, 3600.0),
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=12;t=3600'}, 5.0),
        ({"ratelimit": '"default";r=3;t=37'}, None),
        ({"ratelimit": "limit=100, remaining=0, reset=37"}, 37.0),
        ({"ratelimit": "limit=100, remaining=7, reset=37"}, None),
        ({"ratelimit": "limit=100;remaining=0;reset=0"}, None),
        ({"ratelimit": "r=0;t=" + "9" * 40}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "37"}, 37.0),
    ],
)
def test_waits_that_a_gateway_passes_on_and_the_ietfs_header_are_read(
    headers: dict[str, str], wait: float | None
) -> None:
    """The proxy of litellm puts a prefix before the provider's own; ``RateLimit`` counts where nothing is left."""
    assert wait_hint(429, headers, None) == wait


@pytest.mark.parametrize(
    ("message", "wait"),
    [
        ("Out of call volume quota. Quota will be replenished in 02:13:44.", 8024.0),
        ("Out of bandwidth quota. Quota will be replenished in 1.00:00:10.", 86_410.0),
        ("Quota will be replenished in a while.", None),
    ],
)
def test_the_clock_of_azures_api_management_is_read(message: str, wait: float | None) -> None:
    """On its 403, which is no refusal of the key."""
    assert wait_hint(403, {}, {"statusCode": 403, "message": message}) == wait


@given(st.datetimes(datetime(1000, 1, 1), datetime(2999, 12, 31, 23, 59, 59), timezones=st.just(UTC)))
def test_the_usual_form_of_a_date_is_read_as_the_standard_library_reads_it(instant: datetime) -> None:
    """It is read without that, which would have to be loaded in mid-run."""
    text = format_datetime(instant.replace(microsecond=0), usegmt=True)

    assert answered_at({"date": text}) == parsedate_to_datetime(text) == instant.replace(microsecond=0)
