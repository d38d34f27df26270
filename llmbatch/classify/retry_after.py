"""Parses every form of "retry after" into seconds.

The sources, first that parses: ``retry-after-ms``, ``x-ms-retry-after-ms``, ``retry-after`` (seconds or an HTTP date;
also ``30s`` or an instant) and other headers named so, ``google.rpc.RetryInfo`` and members such as ``retry_after`` in
the error body, the reset time of an exhausted rate limit (``x-ratelimit-reset-*``, ``anthropic-ratelimit-*-reset``),
the ``estimated_time`` of a 503 (Hugging Face, while it loads a model), and last the words of a 429, 503 or 529
("Please try again in 6m0s", :mod:`llmbatch.classify.retry_words`). Zero, negative, past, above 400 days or garbage
means *unknown*, and the next source is tried; the result is never 0.

The local clock is not used. A time is read relative to the answer's own ``date`` header, because the two clocks may
differ by more than the wait; without that header a time is ignored. Long waits are not shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from llmbatch.classify.retry_words import wait_in_words
from llmbatch.core.raw_json import JSON

__all__ = ["ON_ANY_ANSWER", "answered_at", "error_details", "reset_seconds", "wait_hint"]

_PREFIXES = ("", "llm_provider-")  # litellm's proxy passes on what the provider behind it said under a prefix (2026)
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
ON_ANY_ANSWER = frozenset(prefix + name for prefix in _PREFIXES for name in (*_MILLISECONDS, "retry-after"))
"""Headers that name a wait whatever the status."""

_LONGEST = 400 * 86_400.0

_FIRST_EPOCH = 1e9  # a number from here on is an instant: 2001 in seconds
_FIRST_EPOCH_MS = 1e12  # … or in milliseconds

_number = re.compile(r"\d{1,15}(?:\.\d{0,15})?", re.ASCII).fullmatch
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = r"\d{1,15}(?:\.\d{1,15})?(?:ns|us|µs|ms|s|m|h|d)"
_span_parts = re.compile(r"(\d+(?:\.\d+)?)([a-zµ]+)", re.ASCII).findall
_span = re.compile(rf"(?:{_SPAN}){{1,6}}", re.ASCII).fullmatch

_compact = re.compile(r"[-_]").sub
_FIELDS = {
    **dict.fromkeys(("retryafter", "retryafterseconds", "retryafters", "retryin", "waitseconds"), 1.0),
    **dict.fromkeys(("resetsinseconds", "resetinseconds", "resetsat", "resetat", "retryat"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermilliseconds", "retrydelayms"), 1e-3),
}
"""Members of error bodies that name a wait, without ``-`` and ``_`` and in lower case, and the seconds of their unit.

Discord and Cloudflare ``retry_after``, express-rate-limit ``retryAfter``, OpenRouter ``metadata.retry_after_seconds``,
OpenAI's plans ``resets_in_seconds`` (2026).
"""


def wait_hint(status: int, headers: Mapping[str, str], body: JSON, message: str = "") -> float | None:
    """Seconds to wait that the answer names, None if it names no valid wait; never 0.

    Args:
        status: the HTTP status; reset headers and the body count from 400 on, words on 429, 503 and 529 only.
        headers: names in lower case.
        body: the parsed body, None if it is not JSON.
        message: what the body says, in words, if it is not where most providers put it.
    """
    now = answered_at(headers)
    for source in _sources(status, headers, body, message, now):
        if source is not None and 0.0 < source <= _LONGEST:  # false for NaN
            return source
    return None


def answered_at(headers: Mapping[str, str]) -> datetime | None:
    """The provider's time of the answer (its ``date`` header)."""
    return _http_date(headers.get("date", ""))


def error_details(body: JSON) -> Iterator[dict[str, JSON]]:
    """The objects in the error's ``details``, in the shapes of Google's APIs (also inside a list of one)."""
    error = _error_object(body)
    details = error.get("details")
    for detail in details if isinstance(details, list) else [details]:
        if isinstance(detail, dict):
            yield detail


def _sources(
    status: int, headers: Mapping[str, str], body: JSON, message: str, now: datetime | None
) -> Iterator[float | None]:
    for prefix in _PREFIXES:
        for name in _MILLISECONDS:
            yield _seconds(headers.get(prefix + name, ""), 1e-3)
        yield _named(headers.get(prefix + "retry-after", ""), now)
    if status < 400:
        return
    for name, value in headers.items():
        if "retry-after" in name and name not in ON_ANY_ANSWER:
            yield _seconds(value, 1e-3) if name.endswith(("-ms", "-milliseconds")) else _named(value, now)
    for detail in error_details(body):
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            yield _duration(detail.get("retryDelay"))
    yield from _in_fields(body, now)
    yield _longest_reset(headers, now, is_only=status == 429)
    yield _longest_reset(_forwarded_headers(body), now)
    yield _ietf_reset(headers)
    if status == 503 and isinstance(body, dict):
        yield _seconds(str(body.get("estimated_time", "")), 1.0)
    words = (_message(body) or message)[:2000]
    if status in (429, 503, 529):
        yield wait_in_words(words, now)
    if status in (403, 429):
        yield _replenished(words)


def _named(value: str, now: datetime | None) -> float | None:
    """Seconds of a ``retry-after``: a number, a date, and what servers make of it.

    ``30s``, ``"30"``, ``30 seconds``, ``PT30S``, an instant; of several numbers (``2, 30``) the largest.
    """
    value = value.strip().strip("\"'")
    parts = [part.strip() for part in value.split(",")]
    if len(parts) > 1 and _number(parts[0]):
        return max(float(part) for part in parts if _number(part))
    wait = reset_seconds(value, now)
    if wait is None:
        wait = _in_units(value)
    return _until(_http_date(value), now) if wait is None else wait


_iso_duration = re.compile(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?", re.ASCII).fullmatch


def _in_units(text: str) -> float | None:
    """``30 seconds`` and ``PT1M30S`` in seconds."""
    iso = _iso_duration(text)
    if iso is not None:
        hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return hours * 3600 + minutes * 60 + seconds
    return wait_in_words(f"wait {text}", None) if text[:1].isdigit() and len(text) <= 50 else None


def _in_fields(body: JSON, now: datetime | None) -> Iterator[float | None]:
    """Waits in members of the error, its details and its metadata."""
    error = _error_object(body)
    listed = error.get("errors")
    others = [error.get(name) for name in ("metadata", "detail", "data")]
    for holder in (error, body, *others, *(listed[:3] if isinstance(listed, list) else ()), *error_details(body)):
        for name, value in holder.items() if isinstance(holder, dict) else ():
            scale = _FIELDS.get(_compact("", name).lower()) if len(name) <= 30 else None
            if scale is None or isinstance(value, bool) or not isinstance(value, int | float | str):
                continue
            text = str(value)[:50]
            wait = _seconds(text, scale)
            yield reset_seconds(text, now) if wait is None or (scale == 1.0 and wait >= _FIRST_EPOCH) else wait


def _seconds(text: str, scale: float) -> float | None:
    text = text.strip()
    return float(text) * scale if _number(text) else None


_usual_date = re.compile(
    r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) ([12]\d{3}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
).fullmatch
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _http_date(text: str) -> datetime | None:
    if not 12 <= len(text) <= 64 or ":" not in text:
        return None
    usual = _usual_date(text)
    try:
        if usual is not None:
            day, year, hour, minute, second = map(int, usual.group(1, 3, 4, 5, 6))
            return datetime(year, _MONTHS.index(usual[2]) + 1, day, hour, minute, second, tzinfo=UTC)
        from email.utils import parsedate_to_datetime  # few servers write dates in other forms

        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    except (ImportError, OSError):
        return None  # no file handle is left to load it, and a run survives that
    # RFC 5322 reads "-0000" as a naive date; HTTP has no other zone than GMT.
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _until(instant: datetime | None, now: datetime | None) -> float | None:
    return None if instant is None or now is None else (instant - now).total_seconds()


def _duration(value: JSON) -> float | None:
    """A protobuf duration: ``"47.434392449s"``, or the object that some proxies make of it."""
    if isinstance(value, str):
        return _spelled(value)
    if isinstance(value, dict):
        return _seconds(str(value.get("seconds", "")), 1.0)
    return None


def _spelled(text: str) -> float | None:
    """``"20ms"``, ``"6m0s"``, ``"2m59.56s"``, ``"1h2m"`` in seconds."""
    text = text.strip().lower()
    if not _span(text):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _span_parts(text))


def _longest_reset(headers: Mapping[str, str], now: datetime | None, *, is_only: bool = False) -> float | None:
    """The longest wait until an exhausted limit is refilled. *is_only*: also if the answer never says what remains."""
    waits = [0.0]
    is_only = is_only and not any("remaining" in name for name in headers)
    for spelled, value in headers.items():
        name = spelled.lower()
        if "-reset" not in name or not _is_limit(name):
            continue
        left = headers.get(name.removesuffix("-after").replace("-reset", "-remaining", 1), "0" if is_only else "")
        wait = reset_seconds(value.strip(), now) if _seconds(left, 1.0) == 0.0 else None
        if wait is not None and wait <= _LONGEST:
            waits.append(wait)
    return max(waits)


_is_limit = re.compile(r"(?:rate-?|token)limit-").search

_ietf_left = re.compile(r"(?:^|[;,\s])(?:r|remaining)\s*=\s*(\d{1,15})(?![\w.])", re.ASCII | re.IGNORECASE).search
_ietf_wait = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*(\d{1,15})(?![\w.])", re.ASCII | re.IGNORECASE).search


def _ietf_reset(headers: Mapping[str, str]) -> float | None:
    """The longest wait of the exhausted policies in ``RateLimit``.

    As in draft-ietf-httpapi-ratelimit-headers-10 (``"burst";r=0;t=37``) and before -08 (``limit=9, remaining=0,
    reset=37``).
    """
    waits = [0.0]
    for prefix in ("", "llm_provider-"):
        text = headers.get(prefix + "ratelimit", "")[:1000]
        for policy in [text] if "remaining" in text.lower() else text.split(","):
            left, wait = _ietf_left(policy), _ietf_wait(policy)
            if left is not None and wait is not None and float(left[1]) == 0.0 and float(wait[1]) <= _LONGEST:
                waits.append(float(wait[1]))
    return max(waits)


_clock = re.compile(r"replenished in (?:(\d{1,3})\.)?(\d\d):(\d\d):(\d\d)", re.ASCII | re.IGNORECASE).search


def _replenished(message: str) -> float | None:
    """Azure API Management: ``Quota will be replenished in 02:13:44.``, or ``1.02:13:44`` with days."""
    found = _clock(message)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def reset_seconds(value: str, now: datetime | None) -> float | None:
    """Seconds until the reset that a header names: a duration, seconds, an instant; None if it is none of them.

    *now* is the provider's time, which instants are relative to. Below 0 for one in the past.
    """
    number = _seconds(value, 1.0)
    if number is None:
        return _spelled(value) or _until(_rfc3339(value), now)
    if number < _FIRST_EPOCH:
        return number
    scale = 1e-3 if number >= _FIRST_EPOCH_MS else 1.0
    return None if now is None else number * scale - now.timestamp()


def _rfc3339(text: str) -> datetime | None:
    if not 19 <= len(text) <= 40:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _error_object(body: JSON) -> dict[str, JSON]:
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    return error if isinstance(error, dict) else body


def _message(body: JSON) -> str:
    message = _error_object(body).get("message")
    if message is None and isinstance(body, dict):
        message = body.get("error") or body.get("detail")
    return message if isinstance(message, str) else ""


def _forwarded_headers(body: JSON) -> dict[str, str]:
    """The rate limit headers that OpenRouter repeats inside its error body."""
    metadata = _error_object(body).get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict):
        return {}
    return {name.lower(): str(value) for name, value in headers.items()}
