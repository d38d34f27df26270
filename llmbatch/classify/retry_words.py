"""Finds the wait that the words of an error name: ``Please try again in 6m0s``, ``resets in ~30s``.

Instants count only with a time zone, and relative to the answer's own ``date`` header.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["wait_in_words"]

_UNITS = r"milliseconds?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|ms|s|m|h|d"
_AMOUNT = rf"\d{{1,15}}(?:\.\d{{1,15}})?\s?(?:{_UNITS})(?![a-z])"
_AGAIN = r"(?:\s(?:again|later|it|(?:your|this|the)\srequests?),?){0,2}"
_find_wait = re.compile(
    # "Your quota will reset after 8h44m7s." (Gemini, gemini-cli#13004, 2025-11); "Your rate limit resets in ~30s."
    # (Replicate); "Expected available in 30 seconds." (Django REST framework); "Please wait 60 seconds" (GitHub)
    rf"(?:\b(?:try(?:ing)?|retry(?:ing)?|resets?|available|refilled){_AGAIN}\s(?:in|after):?"
    r"|\bwait(?:\sfor)?|\bwait time(?:\sis|:))"
    r"\s(?:(?:about|approximately|around|another|at least)\s|~\s?)?"
    rf"((?:{_AMOUNT}(?:,?\s(?:and\s)?)?){{1,4}})",
    re.ASCII | re.IGNORECASE,
).search
_find_field = re.compile(
    # A gateway that quotes what it was told: "retry-after: 30", "'retryDelay': '13s'", "retry_after_ms=1500"
    r"\bretry[-_ ]?(?:after|delay)([-_ ]?ms)?['\"]?\s?[:=]\s?['\"]?"
    rf"({_AMOUNT}|\d{{1,9}}(?:\.\d{{1,9}})?(?![\w.-]))",
    re.ASCII | re.IGNORECASE,
).search
_find_chinese = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s?(秒|分钟?|小?时)(?:之?后|以后)", re.ASCII).search
_amounts = re.compile(rf"(\d+(?:\.\d+)?)\s?({_UNITS})(?![a-z])", re.ASCII | re.IGNORECASE).findall
_find_instant = re.compile(
    rf"\b(?:try|retry|resets?|available|refilled){_AGAIN}\s(?:at|on|after):?\s"
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d{1,9})?\s?(Z|UTC|GMT|[+-]\d\d:?\d\d)",
    re.ASCII | re.IGNORECASE,
).search

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_spaces = re.compile(r"\s+")


def wait_in_words(message: str, now: datetime | None) -> float | None:
    """Seconds to wait that *message* names, None if it names no time; may be 0 or, for an instant, below.

    *now* is the provider's time, which instants are relative to. Cost: linear in the message.
    """
    message = _spaces.sub(" ", message)
    found = _find_wait(message)
    if found is not None:
        return _seconds(found[1])
    found = _find_field(message)
    if found is not None:
        scale = 1e-3 if found[1] else 1.0
        return float(found[2]) * scale if found[2][-1].isdigit() else _seconds(found[2])
    found = _find_chinese(message)  # "请在45秒后重试"
    if found is not None:
        return float(found[1]) * {"秒": 1.0, "分": 60.0}.get(found[2][0], 3600.0)
    found = _find_instant(message)
    return None if found is None or now is None else _until(found[1], found[2], found[3], now)


def _seconds(amounts: str) -> float:
    return sum(float(number) * _unit_seconds(unit.lower()) for number, unit in _amounts(amounts))


def _unit_seconds(unit: str) -> float:
    return 1e-3 if unit.startswith(("ms", "milli")) else _SECONDS[unit[0]]


def _until(day: str, time: str, zone: str, now: datetime) -> float | None:
    zone = "+00:00" if zone.isalpha() else zone
    try:
        return (datetime.fromisoformat(f"{day}T{time}{zone}").astimezone(UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
