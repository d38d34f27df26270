"""Reads the rate limits that providers report with good answers.

Header names differ in the order of their words only, so they are read word by word: which of ``limit``, ``remaining``
and ``reset`` it is, what is counted, and per which period where the name says so. The forms that are known, as of
November 2026:

=================  ==================================================================================================
OpenAI, xAI        ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``; durations such as ``6m0s``
Azure              the same; whole seconds; -1 for unknown
Groq               the same; requests are per day
Anthropic          ``anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,…}``; instants
Mistral            ``x-ratelimit-{limit,remaining}-{req,tokens}-minute``; also ``-month``
Cerebras           ``x-ratelimit-{limit,remaining,reset}-{requests-day,tokens-minute}``; seconds
Together           ``x-ratelimit-{limit,remaining,reset}`` and ``x-tokenlimit-…``; per second
Fireworks          ``x-ratelimit-{limit,remaining}-tokens-{prompt,generated}``
DigitalOcean       ``…-{requests,tokens-per-day,tokens-per-minute}``; instants in seconds
LiteLLM's proxy    as OpenAI, and those of the provider behind it under ``llm_provider-``
=================  ==================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from llmbatch.classify.retry_after import answered_at, reset_seconds
from llmbatch.core.calls import LimitKind, RateLimit

__all__ = ["read_rate_limits"]

_FIELDS = ("limit", "remaining", "reset")
_KINDS: dict[frozenset[str], LimitKind] = {
    frozenset(): "requests",
    frozenset({"req"}): "requests",
    frozenset({"requests"}): "requests",
    frozenset({"tokens"}): "tokens",
    frozenset({"input", "tokens"}): "input_tokens",
    frozenset({"output", "tokens"}): "output_tokens",
    frozenset({"tokens", "prompt"}): "input_tokens",
    frozenset({"tokens", "generated"}): "output_tokens",
}
_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 2_592_000.0}
_PER_SECOND = frozenset({"tokenlimit"})
"""Families of headers whose limits are per second though no word says so."""

_match_name = re.compile(r"(llm_provider-)?(?:x-|anthropic-)?(ratelimit|tokenlimit)-([a-z-]{1,60})", re.A).fullmatch
_match_number = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.A).fullmatch

_Dimension = tuple[str, LimitKind, float | None]
"""Prefix, what is counted, and per which period."""

_known: dict[str, tuple[_Dimension, str] | None] = {}
"""What each header name means: dimension and field; None for other headers. At most :data:`_MOST_NAMES`."""

_MOST_NAMES = 1024


def read_rate_limits(headers: Mapping[str, str]) -> tuple[RateLimit, ...]:
    """The limits that the answer reports, as far as it reports both a limit and what remains. Raises nothing.

    Values may be lies; :mod:`llmbatch.pace.learned` decides what to believe. Cost without such headers: about a
    microsecond.
    """
    found: dict[_Dimension, dict[str, str]] | None = None
    for name in headers:
        meaning = _known[name] if name in _known else _remember(name)
        if meaning is not None:
            found = {} if found is None else found
            found.setdefault(meaning[0], {})[meaning[1]] = headers[name.lower()].strip()
    if found is None:
        return ()
    now = answered_at(headers)
    limits = [_limit(dimension, texts, now) for dimension, texts in found.items()]
    return tuple(limit for limit in limits if limit is not None)


def _remember(name: str) -> tuple[_Dimension, str] | None:
    if len(_known) >= _MOST_NAMES:
        _known.clear()
    meaning = _known[name] = _read_name(name.lower())
    return meaning


def _read_name(name: str) -> tuple[_Dimension, str] | None:
    found = _match_name(name)
    if found is None:
        return None
    words = found[3].split("-")
    fields = [word for word in words if word in _FIELDS]
    windows = [word for word in words if word in _WINDOWS]
    rest = frozenset(word for word in words if word not in _FIELDS and word not in _WINDOWS and word != "per")
    kind = _KINDS.get(rest)
    if len(fields) != 1 or len(windows) > 1 or kind is None:
        return None
    window = _WINDOWS[windows[0]] if windows else None
    if found[2] in _PER_SECOND:
        kind, window = "tokens", 1.0
    return (found[1] or "", kind, window), fields[0]


def _limit(dimension: _Dimension, texts: dict[str, str], now: datetime | None) -> RateLimit | None:
    limit, remaining = _number(texts.get("limit", "")), _number(texts.get("remaining", ""))
    if limit is None or remaining is None:
        return None
    reset = texts.get("reset")
    return RateLimit(dimension[1], limit, remaining, None if reset is None else reset_seconds(reset, now), dimension[2])


def _number(text: str) -> float | None:
    return float(text) if _match_number(text) else None
