"""Looks up the rule of an answer in :mod:`llmbatch.classify.body_rules`, and how sure and how long its verdict is."""

from __future__ import annotations

from dataclasses import replace

from llmbatch.classify.body_rules import BODY_RULES, STATUS_RULES, UNKNOWN
from llmbatch.classify.retry_after import answered_at
from llmbatch.classify.rule import Facts, Match, Rule

__all__ = ["find_rule", "inner_status", "is_certain", "is_known", "pause_under"]

_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "badrequesterror": 400,
    "bad_request": 400,
    "authentication_error": 401,
    "authenticationerror": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found_error": 404,
    "notfounderror": 404,
    "not_found": 404,
    "conflict_error": 409,
    "validation_error": 422,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "vector_store_timeout": 504,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "internal": 500,
    "unavailable": 503,
    "service_unavailable": 503,
    "service_unavailable_error": 503,
}
"""Codes that only repeat a status; they count if the status itself says nothing, inside a 200 or an event stream."""

_CLEAR = frozenset({401, 403, 404, 410, 412, 429})
"""Statuses under which words of a refused account, key or model are believed at once."""


def find_rule(facts: Facts) -> tuple[Rule, Match]:
    """The first rule that matches, and its match."""
    for rule in BODY_RULES:
        match = rule.match(facts)
        if match is not None:
            return rule, match
    rule = next(rule for rule in STATUS_RULES if rule.match(facts) is not None)
    return _obey(rule, facts), Match("")


def is_certain(rule: Rule, match: Match, facts: Facts) -> bool:
    """Whether one answer is enough to conclude that the account, the key or the model is refused.

    A code is enough, and so is a status that means this. Words elsewhere may be an echo or about this row; a 402 may
    mean that this row alone costs more than what is left, whatever its code.
    """
    if rule.verdict != "account_refused":
        return True
    if match.by_words:
        return facts.status in _CLEAR
    return facts.status != 402


def _obey(rule: Rule, facts: Facts) -> Rule:
    """*rule*, overridden by the header ``x-should-retry``. A 429 stays a rate limit, whatever the header says."""
    wish = facts.headers.get("x-should-retry", "").strip().lower() if facts.status >= 400 else ""
    if wish == "true" and rule.verdict in ("rejected", "account_refused"):
        return replace(
            rule, verdict="failure", scope="provider", retry=True, row_is_bad=False, key_refused=False, hint=""
        )
    if wish == "false" and rule.verdict in ("rejected", "failure"):
        return replace(rule, verdict="rejected", scope="row", retry=False, min_backoff=0.0)
    return rule


def pause_under(rule: Rule, facts: Facts) -> float | None:
    """Seconds to wait before the next request, by the hint and by *rule*; None if neither names a wait."""
    pause = facts.retry_after
    if rule.resumes is not None:
        now = answered_at(facts.headers)
        instant = None if now is None else rule.resumes(now, facts.message)
        wait = None if now is None or instant is None else (instant - now).total_seconds()
        # The rule outweighs a hint: Gemini names seconds next to a daily quota.
        pause = wait if wait is not None and wait > 0.0 else None
    return max(pause or 0.0, rule.least_pause) or None


def inner_status(codes: tuple[str, ...], named: int | None) -> int:
    """The HTTP status that a body stands for: the one it names, else that of its codes, else 0."""
    if named is not None:
        return named
    return next((_STATUS_OF_CODE[code.lower()] for code in codes if code.lower() in _STATUS_OF_CODE), UNKNOWN)


def is_known(codes: tuple[str, ...], named: int | None) -> bool:
    """Whether the table knows one of *codes*, or the body itself names a status."""
    facts = Facts(inner_status(codes, named), codes, "", {}, None, None)
    return facts.status != UNKNOWN or any(rule.codes and rule.match(facts) for rule in BODY_RULES)
