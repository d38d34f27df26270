"""The schema of a run's answers, and the check of one answer: by a JSON Schema or a pydantic model.

:mod:`llmbatch.providers.structured.load` makes them from what the user names. Pure; jsonschema-rs and pydantic come in
as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from llmbatch.core.calls import Parsed, record
from llmbatch.core.raw_json import JSON, RawJsonError, one_line, parse
from llmbatch.providers.structured.find_json import find_json

__all__ = ["AnswerSchema", "Check", "Misfit", "check_with_model", "check_with_schema"]

_MOST_FAULTS = 5
"""Faults that are named to the model; the row's error names the first."""

_MOST_CHARACTERS = 300
"""Length of one fault: validators repeat the value, which may be long."""


@record
class Misfit:
    """Why an answer does not fit: its faults, each with the path of the value; at least one."""

    faults: tuple[str, ...]

    @property
    def message(self) -> str:
        """The first fault, and how many more there are."""
        more = len(self.faults) - 1
        if not more:
            return self.faults[0]
        return f"{self.faults[0]} (and {more if more < _MOST_FAULTS else 'at least ' + str(more)} more)"


Check = Callable[[str], "Parsed | Misfit"]
"""Checks a text that should be one JSON value. Raises nothing."""


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """What answers must be. ``name`` is told to providers, at most 64 letters, digits, ``_`` and ``-``.

    ``schema`` is the JSON Schema that is asked for; ``may_tighten``: for providers with a strict mode its objects may
    be closed and all of their members be required, as the clients of these providers do with models. ``strict``: what
    the user's file says about that mode; None: nothing.
    """

    name: str
    schema: Mapping[str, JSON] = field(repr=False)
    check_text: Check = field(repr=False)
    may_tighten: bool = False
    strict: bool | None = None

    def check(self, text: str | None, *, lenient: bool = False) -> Parsed | Misfit:
        """Check the *text* of an answer; *lenient*: find the JSON in fences or prose too. Raises nothing.

        Cost: some 5 µs at 1 kB.
        """
        if text is None or not text.strip():
            return Misfit(("the answer has no text",))
        found = self.check_text(text)
        if isinstance(found, Parsed) or not lenient:
            return found
        first: Misfit | None = None
        for candidate in find_json(text):
            inner = self.check_text(candidate)
            if isinstance(inner, Parsed):
                return inner
            first = first or inner
        return first or found


class _SchemaError(Protocol):
    message: str
    instance_path: list[str | int]


class _Validator(Protocol):
    def is_valid(self, instance: Any, /) -> bool: ...
    def iter_errors(self, instance: Any, /) -> Iterable[_SchemaError]: ...


def check_with_schema(validator: _Validator) -> Check:
    """The check by *validator*, one of jsonschema-rs."""

    def check(text: str) -> Parsed | Misfit:
        try:
            value = parse(text)
        except RawJsonError as error:
            return _no_json(error)
        try:
            if validator.is_valid(value):
                return _parsed(text, value)
            errors = islice(validator.iter_errors(value), _MOST_FAULTS + 1)
            return Misfit(tuple(_fault(error.instance_path, error.message) for error in errors))
        except Exception as error:  # noqa: BLE001 - of text that is no Unicode, or a value that it does not take
            return Misfit((_fault((), f"cannot be checked: {error}"),))

    return check


def check_with_model(model: Any) -> Check:
    """The check by *model*, a class of pydantic."""

    def check(text: str) -> Parsed | Misfit:
        if "NaN" in text or "Infinity" in text:  # which pydantic takes for numbers
            try:
                parse(text)
            except RawJsonError as error:
                return _no_json(error)
        try:
            value = model.model_validate_json(text)
        except Exception as error:  # noqa: BLE001 - also what the model's own validators raise
            return Misfit(_model_faults(error))
        try:
            return Parsed(one_line(model.model_dump_json(value, by_alias=True, round_trip=True)), value)
        except Exception:  # noqa: BLE001 - it has a value without a JSON form
            return _parsed(text, value)

    return check


def _parsed(text: str, value: object) -> Parsed:
    text = text.strip()
    if not text.isascii():
        text.encode()
    return Parsed(one_line(text), value)


def _no_json(error: RawJsonError) -> Misfit:
    return Misfit((_fault((), f"the answer is not JSON: {error}"),))


def _model_faults(error: Exception) -> tuple[str, ...]:
    list_errors = getattr(error, "errors", None)
    if list_errors is None:
        return (_fault((), f"{type(error).__name__}: {error}"),)
    try:
        details = list_errors(include_url=False, include_context=False, include_input=False)
        found = tuple(
            _fault((), f"the answer is not JSON: {detail['msg']}")
            if detail["type"] == "json_invalid"
            else _fault(detail["loc"], detail["msg"])
            for detail in details[: _MOST_FAULTS + 1]
        )
    except Exception:  # noqa: BLE001 - an error that only looks like pydantic's
        found = ()
    return found or (_fault((), str(error)),)


def _fault(path: Iterable[str | int], message: str) -> str:
    """*message* with the JSON pointer of the value that it is about; none for the whole answer."""
    where = "".join(f"/{step}" for step in path)
    text = f"{where}: {message}" if where else message
    return one_line(text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…")
