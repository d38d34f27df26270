"""Reads the rate limits that providers report with good answers.

Header names differ in the order of their words only, so they are read word by word: which of ``limit``, ``remaining``
and ``reset`` it is, what is counted, and per which period where the name says so. :data:`REPORTED` has the forms that
are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime

from llmbatch.classify.retry_after import answered_at, reset_seconds
from llmbatch.core.calls import LimitKind, RateLimit, record

__all__ = ["REPORTED", "ReportedLimits", "read_rate_limits"]


@record
class ReportedLimits:
    """What one provider reports with good answers, for the documentation. ``trap``: what is easily misread."""

    provider: str
    headers: str
    resets: str
    trap: str = ""


REPORTED = (
    ReportedLimits(
        "OpenAI, xAI",
        "x-ratelimit-{limit,remaining,reset}-{requests,tokens}",
        "durations (`6m0s`, `8.64s`), until all is there again",
        "requests may be the day's: 10,000 with a reset of 8.64 s; some models send none",
    ),
    ReportedLimits(
        "Azure OpenAI",
        "as OpenAI; older ones only what remains",
        "whole seconds",
        "-1 means unknown; values go stale; charged by `max_tokens`",
    ),
    ReportedLimits(
        "Groq",
        "as OpenAI",
        "durations (`2m59.56s`)",
        "requests are the day's, tokens the minute's; requests per minute are not shown",
    ),
    ReportedLimits(
        "Anthropic",
        "anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}",
        "instants, also past ones",
        "what remains is rounded to thousands",
    ),
    ReportedLimits("Mistral", "x-ratelimit-{limit,remaining}-{req,tokens}-minute; tokens also -month", "none"),
    ReportedLimits(
        "Cerebras",
        "x-ratelimit-{limit,remaining,reset}-{requests-day,tokens-minute}",
        "seconds",
        "requests per minute are not shown; `max_completion_tokens` are reserved",
    ),
    ReportedLimits(
        "Together",
        "x-ratelimit-{limit,remaining,reset}; x-tokenlimit-{limit,remaining}",
        "seconds",
        "per second; they move",
    ),
    ReportedLimits(
        "Fireworks", "x-ratelimit-{limit,remaining}-tokens-{prompt,generated}", "none", "they adapt to the load"
    ),
    ReportedLimits(
        "DigitalOcean",
        "ratelimit-{limit,remaining,reset}-{requests,tokens-per-day,tokens-per-minute}",
        "instants in seconds",
        "a projection",
    ),
    ReportedLimits(
        "LiteLLM's proxy",
        "x-ratelimit-{limit,remaining}-requests; those of the provider behind it under llm_provider-",
        "as the provider's",
        "two layers, of which the tighter one counts",
    ),
    ReportedLimits("Gemini, Vertex AI, Bedrock, DeepSeek, Ollama, vLLM", "none found", "", "only refusals slow a run"),
)
"""As found in documentation and answers, on the date of :data:`llmbatch.providers.catalog.CHECKED`."""

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

_match_name = re.compile(r"(llm_provider-)?(?:x-|anthropic-)?(rate-?limit|tokenlimit)-([a-z-]{1,60})", re.A).fullmatch
_match_number = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.A).fullmatch

_Dimension = tuple[str, LimitKind, float | None]
"""Prefix, what is counted, and per which period."""

_Plan = tuple[tuple[LimitKind, float | None, str, str, str], ...]
"""For each limit: what is counted, per which period, and the names of its headers (limit, remaining, reset)."""

_plans: dict[tuple[str, ...], _Plan] = {}
"""How the limits are read from answers with these header names; at most :data:`_MOST_PLANS`."""

_MOST_PLANS = 256


def read_rate_limits(headers: Mapping[str, str], *, below: float = math.inf) -> tuple[RateLimit, ...]:
    """The limits that the answer reports, as far as it reports both a limit and what remains. Raises nothing.

    Values may be lies; :mod:`llmbatch.pace.learned` decides what to believe. *below*: read them only if of some limit
    less than this part remains. Cost: about a microsecond without such headers, and if enough remains.
    """
    names = tuple(headers)
    plan = _plans.get(names)
    if plan is None:
        plan = _remember(names)
    if not plan or (below < math.inf and _has_more_than(below, headers, plan)):
        return ()
    now: datetime | None = None
    limits: list[RateLimit] = []
    for kind, window, limit_name, remaining_name, reset_name in plan:
        limit, remaining = _number(headers[limit_name]), _number(headers[remaining_name])
        if limit is None or remaining is None:
            continue
        reset = headers.get(reset_name, "").strip() if reset_name else ""
        if reset and now is None and (":" in reset or len(reset) > 9):  # an instant
            now = answered_at(headers)
        limits.append(RateLimit(kind, limit, remaining, reset_seconds(reset, now) if reset else None, window))
    return tuple(limits)


def _has_more_than(part: float, headers: Mapping[str, str], plan: _Plan) -> bool:
    """Whether more than *part* of each limit remains; False if that cannot be said."""
    try:
        for _, _, limit, remaining, _ in plan:
            if float(headers[remaining]) <= part * float(headers[limit]):
                return False
    except ValueError:
        return False
    return True


def _remember(names: tuple[str, ...]) -> _Plan:
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    found: dict[_Dimension, dict[str, str]] = {}
    for name in names:
        meaning = _read_name(name.lower())
        if meaning is not None:
            found.setdefault(meaning[0], {})[meaning[1]] = name.lower()
    plan = _plans[names] = tuple(
        (kind, window, fields["limit"], fields["remaining"], fields.get("reset", ""))
        for (_, kind, window), fields in found.items()
        if "limit" in fields and "remaining" in fields
    )
    return plan


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


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _match_number(text) else None
