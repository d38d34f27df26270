"""Reads the rate limits that providers state in the words of a refusal (429)."""

from __future__ import annotations

import re

from llmbatch.core.calls import LimitKind, RateLimit

__all__ = ["read_stated_limits"]

_KINDS: dict[str, LimitKind] = {
    "requests": "requests",
    "tokens": "tokens",
    "input tokens": "input_tokens",
    "output tokens": "output_tokens",
}
_WINDOWS = {"s": 1.0, "m": 60.0}

_WHAT = r"(?P<what>input tokens|output tokens|tokens|requests) per (?P<per>[sm])(?:in|ec)\w{0,4}"
_LIMIT = r"(?P<limit>\d{1,3}(?:,\d{3}){1,4}|\d{1,12})"

# OpenAI, Groq: "… on tokens per min (TPM): Limit 30000, Used 29900, Requested 500."
_find_used = re.compile(rf"\b{_WHAT}(?: \(\w{{2,5}}\))?: limit {_LIMIT}, used \d", re.A | re.I).search
# OpenAI before 2024: "… on requests per min. Limit: 3 / min. Current: 4 / min."
_find_current = re.compile(rf"\b{_WHAT}\. limit: {_LIMIT} / \w{{3,6}}", re.A | re.I).search
# Anthropic says: "This request would exceed your organization's rate limit of 40,000 input tokens per minute."
_find_limit_of = re.compile(rf"\brate limit of {_LIMIT} {_WHAT}", re.A | re.I).search


def read_stated_limits(message: str) -> tuple[RateLimit, ...]:
    """The limits per minute or second that *message*, the text of a refusal, states; empty if it states none.

    Nothing remains, whatever it says was used: too little for this request, and the numbers are rounded.
    """
    if "per " not in message:
        return ()
    found = _find_used(message) or _find_current(message) or _find_limit_of(message)
    if found is None:
        return ()
    limit = float(found["limit"].replace(",", ""))
    window = _WINDOWS[found["per"].lower()]
    return (RateLimit(_KINDS[found["what"].lower()], limit, 0.0, None, window),) if limit >= 1 else ()
