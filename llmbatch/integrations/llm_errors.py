"""Classifies errors and results of providers and their SDKs for a standalone breaker, with the runner's table.

``CircuitBreaker(judge_error=judge_llm_error)`` opens on an outage (5xx, 408, 529, resets, timeouts, garbage) and on an
account without credit, and waits as long as the provider says. It does not open on errors of the request itself (400,
404, 422, a filtered or too long prompt, an exception of the program itself), a rate limit (429) or faults of this
machine. A refused key (401, 403) counts once per named caller, a model (404) only for named callers: one caller's is
its own until others see it too. ``judge_result=judge_llm_result`` finds the error inside a 200, and
``breaker.stream(…, judge_chunk=judge_llm_chunk)`` the one that comes as a chunk of a stream. Whether a lone 400 is
an outage in disguise depends on other requests' answers, which only the runner sees.
"""

from __future__ import annotations

import concurrent.futures

from llmbatch.breaker.classify import FAILURE, SUCCESS, Judgement, Scope, Verdict, getattr_safe
from llmbatch.classify.classify import classify_exception
from llmbatch.classify.results import classify_result
from llmbatch.core.calls import Outcome

__all__ = ["judge_llm_chunk", "judge_llm_error", "judge_llm_result"]


def judge_llm_error(error: Exception) -> Judgement:
    """Classify *error* by its status, headers, body and causes, as SDKs store them; no SDK is imported.

    Returns the verdict, whose fault it is, the wait that the provider named (seconds), the status and the request id.
    Raises nothing.
    """
    outcome = classify_exception(error)
    if outcome.is_withheld:
        return Judgement("ignored", outcome.retry_after, message=outcome.message)
    if isinstance(error, concurrent.futures.CancelledError):
        return Judgement("ignored", scope="caller")
    message = f"{type(error).__name__}: {outcome.message}" if outcome.message else ""
    return _judgement(outcome, message)


def judge_llm_result(result: object) -> Judgement:
    """Classify what a call returned: a success, unless an error came with a success status.

    Understands parsed bodies (``{"error": {…}}``, no choices, a broken generation), the objects of SDKs, and responses
    of HTTP clients with any status. Anything else is a success: what the program returns of its own is not judged.
    Imports no SDK. Raises nothing.
    """
    outcome = classify_result(result)
    return SUCCESS if outcome is None else _judgement(outcome, outcome.message)


def judge_llm_chunk(chunk: object) -> Judgement | None:
    """Classify a chunk of a stream: None for a good one, else what its error is.

    An error is a chunk with an ``error``, or of the type ``error`` or ``response.failed``, be it a dictionary or an
    SDK's object. Chunks are no whole answers: :func:`judge_llm_result` would find every one of them damaged.
    Imports no SDK. Raises nothing.
    """
    holder = _member(chunk, "response") if _member(chunk, "type") == "response.failed" else chunk
    if _member(chunk, "type") != "error" and not _member(holder, "error"):
        return None
    outcome = classify_result(holder)
    return FAILURE if outcome is None else _judgement(outcome, outcome.message)


def _member(holder: object, name: str) -> object:
    return holder.get(name) if isinstance(holder, dict) else getattr_safe(holder, name)


def _judgement(outcome: Outcome, message: str) -> Judgement:
    return Judgement(
        _verdict(outcome),
        retry_after=outcome.retry_after,
        status=outcome.status,
        request_id=outcome.request_id,
        message=message,
        scope=_scope(outcome),
    )


def _scope(outcome: Outcome) -> Scope:
    is_own = outcome.scope == "row" and outcome.status is None and not outcome.row_is_bad
    return "caller" if is_own else outcome.scope


def _verdict(outcome: Outcome) -> Verdict:
    if outcome.verdict == "local":
        return "ignored"
    if outcome.verdict == "rejected":
        return "neutral"
    if outcome.verdict != "account_refused":
        return outcome.verdict
    # A breaker may serve many callers: only what is certain, and true for all of them, opens it at once.
    if outcome.scope == "model" or not outcome.certain:
        return "neutral"
    return "failure" if outcome.key_refused or outcome.scope == "provider" else "exhausted"
