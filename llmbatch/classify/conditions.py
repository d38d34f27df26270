"""Predicates of rules beyond codes and words, and the instants at which limits end that name one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from llmbatch.classify.patterns import LONG_QUOTA_WORDS, MONEY_CODES, NO_QUOTA_WORDS
from llmbatch.classify.retry_after import error_details
from llmbatch.classify.rule import Facts
from llmbatch.classify.tiers import is_flex_request

__all__ = [
    "day_in_message",
    "has_failed_generation",
    "has_no_quota",
    "is_daily_quota",
    "is_flagged",
    "is_gateway_page",
    "is_long_quota",
    "is_pace_called_quota",
    "lacks_flex_capacity",
    "midnight_in_california",
    "never",
    "next_month",
]


def is_daily_quota(facts: Facts) -> bool:
    """Gemini names each exhausted quota; a daily one outweighs those per minute that are listed with it."""
    for detail in error_details(facts.body):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId")):
                return True
    return False


def is_flagged(facts: Facts) -> bool:
    """OpenRouter's moderation says which input it flagged."""
    body = facts.body
    error = body.get("error") if isinstance(body, dict) else None
    metadata = error.get("metadata") if isinstance(error, dict) else None
    return isinstance(metadata, dict) and "flagged_input" in metadata


def is_pace_called_quota(facts: Facts) -> bool:
    """A quota by its code, a limit per minute by its words (DashScope, 2026: ``…/error-code#token-limit``)."""
    pace = r"#(token|rate)-limit|per[ -](minute|min|second)\b|\b[TRQ]P[MS]\b|rate limit"
    return (
        any(re.fullmatch(MONEY_CODES, code, re.IGNORECASE) for code in facts.codes)
        and facts.says(pace)
        and not facts.says(r"per[ -](day|month)\b|daily|monthly|\b[TRI]PD\b")
    )


def is_long_quota(facts: Facts) -> bool:
    """A quota of a day or longer is spent, and nothing says when it is refilled: waiting a night would not help.

    With a wait (Groq and OpenAI: "tokens per day … try again in 7m12s") it is a rate limit like any other.
    """
    return facts.retry_after is None and facts.says(LONG_QUOTA_WORDS)


def has_no_quota(facts: Facts) -> bool:
    """A limit of zero never refills, whatever wait is named next to it."""
    return facts.says(NO_QUOTA_WORDS)


def has_failed_generation(facts: Facts) -> bool:
    """Groq shows what the model wrote instead of JSON or a tool call."""
    body = facts.body
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and "failed_generation" in error


def lacks_flex_capacity(facts: Facts) -> bool:
    """Whether the tier that the request asked for has no capacity: not billed, no outage, nobody's fault.

    OpenAI ("Resource Unavailable") and Groq have answers for it alone. Gemini's 503, and its 429 that names no quota,
    mean it for such a request only (ai.google.dev/gemini-api/docs/flex-inference, 2026).
    """
    codes = facts.codes
    if facts.status == 429 and not _FLEX_CODES.isdisjoint(codes):
        return True
    if facts.status == 498 and "capacity_exceeded" in codes:
        return True
    if facts.status not in (429, 498, 503) or not is_flex_request(facts.asked):
        return False
    if facts.status == 429 and "RESOURCE_EXHAUSTED" in codes:
        return not any("violations" in detail for detail in error_details(facts.body))
    if facts.status == 429:
        return facts.says(r"\bresources? (is |are )?(currently |temporarily )?unavailable")
    return facts.status == 498 or "UNAVAILABLE" in codes


_FLEX_CODES = frozenset({"resource_unavailable", "flex_unavailable"})


def is_gateway_page(facts: Facts) -> bool:
    """A page instead of the API's JSON: Cloudflare's block or challenge, a firewall's (AWS, Akamai), a proxy's."""
    if isinstance(facts.body, dict):
        return "cloudflare_error" in facts.body
    if "cf-mitigated" in facts.headers or "x-amzn-waf-action" in facts.headers:
        return True
    page = r"^HTML answer|error code: 1\d\d\d|access denied|request blocked|attention required"
    return facts.body is None and facts.says(page)


def never(now: datetime, message: str) -> None:
    """No instant: time alone does not help, even if the answer names a wait."""


def next_month(now: datetime, message: str) -> datetime:
    """The start of the next month, in UTC."""
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)


def day_in_message(now: datetime, message: str) -> datetime | None:
    """The instant that Anthropic's *message* names; None if it names none."""
    found = re.search(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) UTC", message, re.ASCII)
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00") if found else None
    except ValueError:
        return None


def midnight_in_california(now: datetime, message: str) -> datetime:
    """The next midnight in California, where Google's days of quota begin."""
    zone: tzinfo
    try:
        from zoneinfo import ZoneInfo

        zone = ZoneInfo("America/Los_Angeles")
    except (ImportError, KeyError, OSError):
        # No time zone data here, or no file handle: winter time all year is at most an hour late, and never early.
        zone = timezone(timedelta(hours=-8))
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)
