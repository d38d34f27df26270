"""Classify errors and results of calls into verdicts, with the functions that a breaker was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from llmbatch.breaker.awaitables import is_coroutine_function
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
    "Scope",
    "Verdict",
    "as_judgement",
    "getattr_safe",
    "retry_after_of",
]

Verdict = SettleVerdict | Literal["ignored"]

Scope = Literal["provider", "model", "key", "row", "caller", "machine"]
"""Whose fault an outcome that is not a success is. ``caller``: the program that made the call."""

COUNTED = frozenset({"failure", "throttled", "exhausted"})
"""Verdicts for which a fallback is called and which ``explain()`` lists."""


class Judgement(NamedTuple):
    """Classified outcome of a call.

    Verdicts: ``success``; ``failure`` counts against the circuit; ``neutral``: an answer that is no sign of an outage,
    such as a refused request; ``throttled``: slow down, which never opens a closed circuit, but a throttled probe
    returns it to open; ``exhausted`` (no credit, no quota): opens at once; ``ignored``: not counted, as if never
    called.

    A refused key or model (``scope``) may be one caller's own mistake. Such a refusal that is ``neutral`` counts as a
    failure only for callers with a name, each once, so the circuit opens when enough different callers meet it; and one
    that is a ``failure`` does not reopen a half-open circuit that other failures had opened.
    """

    verdict: Verdict
    retry_after: float | None = None
    """Seconds to wait, as named by the server; extends the open time and never shortens it. Default: none named."""
    status: int | None = None
    request_id: str | None = None
    message: str = ""
    scope: Scope = "provider"
    """Whose fault it is."""

    @property
    def is_refusal(self) -> bool:
        """Whether the server refused the caller's key or model."""
        return self.scope == "key" or self.scope == "model"


SUCCESS = Judgement("success")
NEUTRAL = Judgement("neutral")
FAILURE = Judgement("failure")
IGNORED = Judgement("ignored")

ErrorJudge = Callable[[Exception], Judgement | Verdict | None]
ResultJudge = Callable[[Any], Judgement | Verdict | None]

ErrorRule = Callable[[Exception], bool] | type[Exception] | tuple[type[Exception], ...]
"""Which exceptions count as failures, or are ignored: a predicate, or exception types."""

_MOST_LINKS = 50
"""Exceptions of one chain of causes and groups that are looked at."""


class Classifier:
    """Classifies errors and results for one breaker. Runs the functions it was given, which may raise."""

    __slots__ = ("_count_error", "_ignore", "_judge_error", "_judge_result")

    def __init__(
        self,
        count_error: ErrorRule | None,
        judge_error: ErrorJudge | None,
        judge_result: ResultJudge | None,
        ignore: ErrorRule | None = None,
    ) -> None:
        if count_error is not None and judge_error is not None:
            raise TypeError("judge_error takes the place of count_error: give one of them")
        _check_rule("count_error", count_error)
        _check_rule("ignore", ignore)
        _check_judge("judge_error", judge_error)
        _check_judge("judge_result", judge_result)
        self._count_error = count_error
        self._ignore = ignore
        self._judge_error = judge_error
        self._judge_result = judge_result

    @property
    def classifies_results(self) -> bool:
        """Whether returned values are classified too."""
        return self._judge_result is not None

    def of_error(self, error: Exception) -> Judgement:
        """Classify *error*; uses its ``retry_after`` attribute if the classification names no wait."""
        if self._is_ignored(error):
            return IGNORED
        judgement = FAILURE
        if self._judge_error is not None:
            said = self._judge_error(error)
            if said is not None:
                judgement = as_judgement(said)
        elif not self._counts(error):
            judgement = NEUTRAL
        if judgement.retry_after is None and (named := retry_after_of(error)) is not None:
            judgement = judgement._replace(retry_after=named)
        return judgement

    # A predicate sees the error itself only. A type is callable too, but what it returns would always count.

    def _is_ignored(self, error: Exception) -> bool:
        rule = self._ignore
        if rule is None or isinstance(rule, (type, tuple)):
            return _is_ignored(error, rule or (), set())
        return bool(rule(error)) or _is_ignored(error, (), set())

    def _counts(self, error: Exception) -> bool:
        rule = self._count_error
        if rule is None:
            return True
        return _counts(error, rule, set()) if isinstance(rule, (type, tuple)) else bool(rule(error))

    def of_result(self, result: object) -> Judgement:
        """Classify a returned *result*."""
        said = None if self._judge_result is None else self._judge_result(result)
        return SUCCESS if said is None else as_judgement(said)


_Types = type[Exception] | tuple[type[Exception], ...]


def _is_ignored(error: BaseException, types: _Types, seen: set[int]) -> bool:
    """Whether *error*, one of its causes, or each member of a group is of *types* or says nothing by itself.

    Contexts are not looked at: an ignored exception that was being handled when another one came does not explain it.
    Nor are cancellations and interruptions: ``asyncio.timeout`` raises its TimeoutError from one.
    """
    if id(error) in seen or len(seen) >= _MOST_LINKS:
        return False
    seen.add(id(error))
    if isinstance(error, Exception) and (isinstance(error, types) or _says_nothing(error)):
        return True
    if isinstance(error, BaseExceptionGroup) and all(_is_ignored(each, types, seen) for each in error.exceptions):
        return True
    return error.__cause__ is not None and _is_ignored(error.__cause__, types, seen)


def _counts(error: BaseException, types: _Types, seen: set[int]) -> bool:
    """Whether *error*, a member of a group, or one of its causes or contexts is of *types*."""
    if id(error) in seen or len(seen) >= _MOST_LINKS:
        return False
    seen.add(id(error))
    if isinstance(error, types):
        return True
    if isinstance(error, BaseExceptionGroup) and any(_counts(each, types, seen) for each in error.exceptions):
        return True
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return origin is not None and _counts(origin, types, seen)


def _says_nothing(error: Exception) -> bool:
    """Whether nothing was called (another breaker's refusal), or the call was canceled.

    The ``CancelledError`` of ``concurrent.futures`` is an :class:`Exception`, unlike asyncio's. It is known by its
    name: importing its module would take longer than importing the breaker.
    """
    return isinstance(error, CircuitOpenError) or any(
        kind.__name__ == "CancelledError" and kind.__module__ == "concurrent.futures._base"
        for kind in type(error).__mro__
    )


def _check_rule(name: str, rule: ErrorRule | None) -> None:
    kinds = rule if isinstance(rule, tuple) else (rule,)
    are_types = all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    is_predicate = callable(rule) and not isinstance(rule, type)
    if rule is not None and not are_types and not is_predicate:
        raise TypeError(f"{name} is {rule!r}, must be exception types or a function")
    if callable(rule) and is_predicate:
        _refuse_async(name, rule)


def _check_judge(name: str, judge: Callable[..., object] | None) -> None:
    if judge is None:
        return
    if isinstance(judge, type) or not callable(judge):
        raise TypeError(f"{name} is {judge!r}, must be a function")
    _refuse_async(name, judge)


def _refuse_async(name: str, judge: Callable[..., object]) -> None:
    """A coroutine is true, and no verdict."""
    if is_coroutine_function(judge) or is_coroutine_function(type(judge).__call__):
        raise TypeError(
            f"{name} is {judge!r}, which is async: it is called without being awaited, so use a plain function"
        )


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
