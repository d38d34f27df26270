"""Classify errors and results of calls into verdicts, with the functions that a breaker was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from llmbatch.breaker.core import SettleVerdict
from llmbatch.breaker.errors import CircuitOpenError

__all__ = [
    "COUNTED",
    "FAILURE",
    "IGNORED",
    "SUCCESS",
    "Classifier",
    "ErrorJudge",
    "ErrorRule",
    "Judgement",
    "ResultJudge",
    "Verdict",
    "as_judgement",
    "getattr_safe",
    "retry_after_of",
]

Verdict = SettleVerdict | Literal["ignored"]

COUNTED = frozenset({"failure", "throttled", "exhausted"})
"""The verdicts that a fallback steps in for, and that ``explain()`` shows."""


class Judgement(NamedTuple):
    """What a call came to.

    The verdicts: ``success``; ``failure`` counts against the circuit; ``neutral`` is an answer that says nothing
    against the provider (a refused request); ``throttled`` asks for a slower pace and opens nothing, but sends a probe
    back; ``exhausted`` (no credit, no quota) opens at once; ``ignored`` counts as nothing, as if never called.
    """

    verdict: Verdict
    retry_after: float | None = None
    """Seconds that the server named; they extend the open time, and never shorten it."""
    status: int | None = None
    request_id: str | None = None
    message: str = ""


SUCCESS = Judgement("success")
NEUTRAL = Judgement("neutral")
FAILURE = Judgement("failure")
IGNORED = Judgement("ignored")

ErrorJudge = Callable[[Exception], Judgement | Verdict | None]
ResultJudge = Callable[[object], Judgement | Verdict | None]

ErrorRule = Callable[[Exception], bool] | type[Exception] | tuple[type[Exception], ...]
"""Which exceptions count: a function that says so, or their types."""


class Classifier:
    """Classifies errors and results for one breaker. Runs the functions it was given, which may raise."""

    __slots__ = ("_count_error", "_judge_error", "_judge_result")

    def __init__(
        self, count_error: ErrorRule | None, judge_error: ErrorJudge | None, judge_result: ResultJudge | None
    ) -> None:
        if count_error is not None and judge_error is not None:
            raise TypeError("judge_error takes the place of count_error: give one of them")
        self._count_error = count_error
        self._judge_error = judge_error
        self._judge_result = judge_result

    @property
    def classifies_results(self) -> bool:
        """Whether a call that returns may be no success."""
        return self._judge_result is not None

    def of_error(self, error: Exception) -> Judgement:
        """What *error* means; its own ``retry_after`` where the judge names none."""
        if isinstance(error, CircuitOpenError):
            return IGNORED  # another breaker's, inside: nobody was called
        judgement = FAILURE
        if self._judge_error is not None:
            said = self._judge_error(error)
            if said is not None:
                judgement = as_judgement(said)
        elif self._count_error is not None:
            # A type is callable too, but what it returns would always count.
            if isinstance(self._count_error, (type, tuple)):
                counts = isinstance(error, self._count_error)
            else:
                counts = self._count_error(error)
            judgement = FAILURE if counts else NEUTRAL
        if judgement.retry_after is None and (named := retry_after_of(error)) is not None:
            judgement = judgement._replace(retry_after=named)
        return judgement

    def of_result(self, result: object) -> Judgement:
        """What the returned *result* means."""
        said = None if self._judge_result is None else self._judge_result(result)
        return SUCCESS if said is None else as_judgement(said)


def as_judgement(said: Judgement | Verdict, retry_after: float | None = None) -> Judgement:
    """What a judge said, checked; *retry_after* in place of the judgement's, where it is given.

    Raises:
        ValueError: it is no verdict, or the wait is no number.
    """
    judgement = said if isinstance(said, Judgement) else Judgement(said)
    if judgement.verdict not in _VERDICTS:
        raise ValueError(f"verdict is {judgement.verdict!r}, must be one of {', '.join(_VERDICTS)}")
    if retry_after is not None:
        judgement = judgement._replace(retry_after=retry_after)
    named = judgement.retry_after
    if named is not None and (isinstance(named, bool) or not isinstance(named, int | float)):
        raise ValueError(f"retry_after is {named!r}, must be a number of seconds")
    return judgement


def retry_after_of(error: BaseException) -> float | None:
    """Seconds in the exception's ``retry_after``, None where there is no such number."""
    value = getattr_safe(error, "retry_after")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


_VERDICTS = (*get_args(SettleVerdict), "ignored")


def getattr_safe(holder: object, name: str) -> object:
    """Return the attribute, or None if it is missing or its property raises."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a foreign property may do anything
        return None
