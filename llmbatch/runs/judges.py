"""Applies a user's ``judge_error`` and ``judge_result``, as a circuit breaker takes them, to the calls of a run.

What a judge says replaces the verdict; code, message and hint stay those of the usual classification where both agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llmbatch.breaker.awaitables import is_coroutine_function
from llmbatch.breaker.classify import ErrorJudge, Judgement, ResultJudge, as_judgement
from llmbatch.classify.results import classify_result
from llmbatch.classify.safe_text import Masker, shorten
from llmbatch.core.calls import Outcome
from llmbatch.core.errors import UsageError

__all__ = ["check_judge", "error_judge", "result_judge"]

_log = logging.getLogger("llmbatch.judges")

_OWN_JUDGES = "llmbatch.integrations.llm_errors"
"""Home of ``judge_llm_error`` and ``judge_llm_result``, whose rules say more to a run than a judgement can."""

_AGREES: dict[str, frozenset[str]] = {
    "success": frozenset({"rejected"}),
    "neutral": frozenset({"rejected", "account_refused", "local"}),
    "ignored": frozenset({"rejected", "account_refused", "local"}),
    "failure": frozenset({"failure"}),
    "throttled": frozenset({"throttled"}),
    "exhausted": frozenset({"account_refused"}),
}
"""Verdicts of an outcome that a judge's verdict leaves as they are."""


def check_judge(name: str, judge: object) -> None:
    """Check that *judge* is a function, if it is given.

    Raises:
        UsageError: it is not, or it is async.
    """
    if judge is not None and (isinstance(judge, type) or not callable(judge)):
        raise UsageError(f"{name} is {judge!r:.80}, not a function", hint=f"such as {name}=judge_llm_error")
    if judge is not None and (is_coroutine_function(judge) or is_coroutine_function(type(judge).__call__)):
        raise UsageError(f"{name} is async, and is called without being awaited", hint="define it with `def`")


def error_judge(judge: ErrorJudge | None, mask: Masker = str) -> Callable[[Any, Outcome], Outcome] | None:
    """A function that classifies an exception with *judge*; None: as usual. *mask* masks keys in what it says."""
    if judge is None or _is_own(judge):  # without a judge, the rules are the same
        return None
    return _Judge("judge_error", judge, mask)


def result_judge(judge: ResultJudge | None, mask: Masker = str) -> Callable[[Any, Outcome], Outcome] | None:
    """A function that classifies a returned object with *judge*; None: all are successes. *mask* masks keys."""
    if judge is None:
        return None
    return partial(_judge_llm_result, mask) if _is_own(judge) else _Judge("judge_result", judge, mask)


def _is_own(judge: object) -> bool:
    return getattr(judge, "__module__", "") == _OWN_JUDGES


def _judge_llm_result(mask: Masker, result: Any, usual: Outcome) -> Outcome:
    outcome = classify_result(result, mask=mask)
    return usual if outcome is None else replace(outcome, body=usual.body, usage=outcome.usage or usual.usage)


class _Judge:
    """Applies one judge. A judge that raises leaves the outcome as it is; the first exception is logged."""

    def __init__(self, name: str, judge: Callable[[Any], Any], mask: Masker) -> None:
        self._name = name
        self._mask = mask
        self._is_of_results = name == "judge_result"
        self._judge = judge
        self._is_logged = False

    def __call__(self, subject: Any, usual: Outcome) -> Outcome:
        try:
            said = self._judge(subject)
            if said is None:
                return usual
            judgement = as_judgement(said)
            if judgement.verdict == "success" and self._is_of_results:
                return Outcome("success")
            return _judged(judgement, usual, self._mask)
        except Exception as error:  # noqa: BLE001 - a judge is the user's, and a call that was paid for is at stake
            if not self._is_logged:
                self._is_logged = True
                _log.warning("%s raised and is not heeded for this call (logged once)", self._name, exc_info=error)
            return usual


def _judged(said: Judgement, usual: Outcome, mask: Masker) -> Outcome:
    """*usual* with the verdict, wait, status and message that a judge named."""
    outcome = usual if usual.verdict in _AGREES[said.verdict] else _outcome_of(said, usual)
    named = {
        "retry_after": said.retry_after,
        "status": said.status,
        "request_id": said.request_id,
        "message": shorten(mask(said.message)) or None,
    }
    return replace(outcome, **{name: value for name, value in named.items() if value is not None})  # type: ignore[arg-type]


def _outcome_of(said: Judgement, usual: Outcome) -> Outcome:
    """An outcome of the verdict that was *said*, with what *usual* knows of the answer."""
    code = usual.code or f"judged_{said.verdict}"
    message = usual.message or f"the result was judged: {said.verdict}"
    facts = replace(usual, code=code, message=message, value=None, row_is_bad=False, key_refused=False, certain=True)
    match said.verdict:
        case "success" | "neutral" | "ignored":
            # Nothing about the provider: the row is tried again, and fails if it always ends so.
            return replace(facts, verdict="rejected", scope="row", status=None, retry=True)
        case "failure":
            return replace(facts, verdict="failure", scope="provider", retry=True)
        case "throttled":
            return replace(facts, verdict="throttled", scope="key", retry=True)
        case "exhausted":
            return replace(facts, verdict="account_refused", scope="key", retry=False)
