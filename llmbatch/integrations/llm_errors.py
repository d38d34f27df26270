"""Classifies errors of providers and their SDKs for a standalone circuit breaker, with the runner's table.

``CircuitBreaker(judge_error=judge_llm_error)`` opens on an outage (5xx, 408, 529, resets, timeouts, garbage) and on an
account without credit, and waits as long as the provider says. It does not open on errors of the request itself (400,
404, 422, a filtered or too long prompt, an exception of the program itself), a rate limit (429) or faults of this
machine. A refused key (401, 403) or address counts like any failure: one caller's is its own until others see it too.
Whether a lone 400 is an outage in disguise depends on other requests' answers, which only the runner sees.
"""

from __future__ import annotations

import concurrent.futures

from llmbatch.breaker.classify import Judgement, Verdict
from llmbatch.classify.classify import classify_exception
from llmbatch.core.calls import Outcome

__all__ = ["judge_llm_error"]


def judge_llm_error(error: Exception) -> Judgement:
    """Classify *error* by its status, headers, body and causes, as SDKs store them; no SDK is imported.

    Returns the verdict, the wait that the provider named (seconds), the status and the request id. Raises nothing.
    """
    outcome = classify_exception(error)
    return Judgement(
        _verdict(error, outcome),
        retry_after=outcome.retry_after,
        status=outcome.status,
        request_id=outcome.request_id,
        message=f"{type(error).__name__}: {outcome.message}" if outcome.message else "",
    )


def _verdict(error: Exception, outcome: Outcome) -> Verdict:
    if outcome.verdict == "local" or isinstance(error, concurrent.futures.CancelledError):
        return "ignored"
    if outcome.verdict == "rejected":
        return "neutral"
    if outcome.verdict != "account_refused":
        return outcome.verdict
    # A breaker may serve many callers: only what is certain, and true for all of them, opens it at once.
    if outcome.scope == "model" or not outcome.certain:
        return "neutral"
    return "failure" if outcome.key_refused or outcome.scope == "provider" else "exhausted"
