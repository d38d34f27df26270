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
"""Verdicts for which a fallback is called and which ``explain()`` lists."""


class Judgement(NamedTuple):
    """Classified outcome of a call.

    Verdicts: ``success``; ``failure`` counts against the circuit; ``neutral``: an answer that is no sign of an outage,
    such as a refused request; ``throttled``: slow down, which never opens a closed circuit, but a throttled probe
    returns it to open; ``exhausted`` (no credit, no quota): opens at once; ``ignored``: not counted, as if never
    called.
    """

    verdict: Verdict
    retry_after: float | None = None
    """Seconds to wait, as named by the server; extends the open time and never shortens it. Default: none named."""
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
"""Which exceptions count as failures: a predicate, or exception types."""


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
        """Whether returned values are classified too."""
        return self._judge_result is not None

    def of_error(self, error: Exception) -> Judgement:
        """Classify *error*; uses its ``retry_after`` attribute if the classification names no wait."""
        if isinstance(error, CircuitOpenError):
            return IGNORED  # from another breaker inside the call: nothing was called
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
        """Classify a returned *result*."""
        said = None if self._judge_result is None else self._judge_result(result)
        return SUCCESS if said is None else as_judgement(said)


def as_judgement(said: Judgement | Verdict, retry_after: float | None = None) -> Judgement:
    """Check what a classifying function returned; *retry_after* (seconds), if given, replaces its wait.

    Raises:
        ValueError: not a verdict, or the wait is not a number.
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
    """Seconds in the ``retry_after`` attribute of *error*; None if it has no finite number of at least 0 there."""
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
