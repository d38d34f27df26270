"""JSON forms of Python objects, as their own libraries dump them: models, dataclasses, dates, paths, numbers.

It imports none of these libraries; objects are recognized by their methods and fields.
"""

from __future__ import annotations

import dataclasses
import math
from binascii import b2a_base64
from collections import deque
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from llmbatch.core.raw_json import RawJson

__all__ = ["NoJsonFormError", "json_form", "nearest_json_form"]

MAX_DEPTH = 100
"""Deepest nesting that is converted; beyond four times that Python itself would stop."""

_MAX_DIGITS_BITS = 14_000
"""Integers up to this length have at most the 4,300 digits that Python converts to text."""

_SDKS = frozenset({"openai", "anthropic"})
"""Packages whose models are sent as their own clients send them: by alias, and only the fields that were set."""


class NoJsonFormError(TypeError):
    """A value has no JSON form; the message says which, and where it is."""


def json_form(value: object) -> object:
    """Convert *value* into dictionaries, lists, strings and numbers that JSON can represent.

    Raises:
        NoJsonFormError: a part of it has no JSON form.
        RecursionError: nested too deeply.
    """
    return _Converter(None).convert(value, "", 0)


def nearest_json_form(value: object) -> tuple[object, list[str]]:
    """Convert *value*, with a text in place of each part that has no JSON form; the list names these parts.

    ``NaN`` and infinities become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, integers of more than
    4,300 digits strings of digits, bytes text or base64. Raises nothing that is an Exception.
    """
    lost: list[str] = []
    return _Converter(lost).convert(value, "", 0), lost


class _Converter:
    """One conversion. ``lost`` collects the parts without a JSON form; None: they are errors."""

    def __init__(self, lost: list[str] | None) -> None:
        self._lost = lost
        self._inside: set[int] = set()
        """Identities of the containers around the value that is being converted."""

    def convert(self, value: object, path: str, depth: int) -> object:
        """The JSON form of *value*, which is at *path*, inside *depth* others."""
        kind = type(value)  # which a proxy cannot refuse to tell, as it can its ``__class__``
        if value is None or kind is bool or kind is str or issubclass(kind, RawJson):
            return value
        try:
            plain, parts = self._opened(value, path)
            if parts is None:
                return self._number(plain, path) if isinstance(plain, int | float) else plain
            with self._entered(value, path, depth):
                if isinstance(parts, dict):
                    return {
                        self._key(key, path): self.convert(part, f"{path}.{key}" if path else f"{key}", depth + 1)
                        for key, part in parts.items()
                    }
                return [self.convert(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(parts)]
        except Exception as error:
            if self._lost is None:
                raise
            return self._replaced(value, error, path, depth)

    def _opened(self, value: object, path: str) -> tuple[object, dict[object, object] | list[object] | None]:
        try:
            return _opened(value)
        except Exception as error:
            if self._lost is not None:
                raise
            raise NoJsonFormError(f"{_at(path)}: {_text(error)}") from error

    @contextmanager
    def _entered(self, value: object, path: str, depth: int) -> Iterator[None]:
        if depth >= MAX_DEPTH:
            raise RecursionError(f"nested more than {MAX_DEPTH} deep")
        if id(value) in self._inside:
            raise NoJsonFormError(f"{_at(path)} contains itself")
        self._inside.add(id(value))
        try:
            yield
        finally:
            self._inside.discard(id(value))

    def _number(self, number: float, path: str) -> object:
        if isinstance(number, int):
            if number.bit_length() <= _MAX_DIGITS_BITS:
                return number
            # The C implementation of decimal has no limit of digits.
            return self._text_of_number(str(Decimal(number)), "an integer of more than 4,300 digits", path)
        if math.isfinite(number):
            return number
        text = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        return self._text_of_number(text, f"{text} is not JSON", path)

    def _text_of_number(self, text: str, why: str, path: str) -> str:
        if self._lost is None:
            raise NoJsonFormError(f"{_at(path)}: {why}")
        self._lost.append(f"{_at(path)}: {why}")
        return text

    def _key(self, key: object, path: str) -> str:
        """A dictionary's key as text, as :mod:`json` spells the keys that it takes."""
        if isinstance(key, Enum):
            key = key.value
        if isinstance(key, str):
            return key
        if key is None or isinstance(key, bool):
            return {None: "null", True: "true", False: "false"}[key]
        if isinstance(key, int | float | UUID | Decimal | PurePath):
            return str(key)
        if isinstance(key, date | time):
            return key.isoformat()
        if self._lost is None:
            raise NoJsonFormError(f"a key of {_at(path)} is a {type(key).__name__}, not a string")
        self._lost.append(f"a key of {_at(path)} ({type(key).__name__})")
        return _text(key)

    def _replaced(self, value: Any, error: Exception, path: str, depth: int) -> object:
        """Something to read in place of *value*: its attributes, its bytes, or its text."""
        assert self._lost is not None  # noqa: S101 - otherwise the error was raised
        if issubclass(type(value), bytes | bytearray | memoryview):
            self._lost.append(f"{_at(path)} ({type(value).__name__})")
            return _text_of_bytes(bytes(value))
        self._lost.append(f"{_at(path)} ({type(value).__name__}): {_text(error)}")
        members = _attributes(value)
        if members and depth < MAX_DEPTH and id(value) not in self._inside:
            return self.convert(members, path, depth + 1)
        return _text(value)


def _opened(value: Any) -> tuple[object, dict[object, object] | list[object] | None]:
    """*value* as a plain scalar, or its parts; by the first kind in this list that it is.

    Raises:
        NoJsonFormError: it is of none of them.
    """
    if isinstance(value, Enum):
        return _opened(value.value)
    match value:
        case bool() | None:
            return value, None
        case str():
            return str.__str__(value), None
        case int():
            return int(value), None
        case float():
            return float(value), None
        case dict():
            return None, dict(value)
        case list() | tuple() | deque():
            return None, list(value)
        case Decimal():
            return _of_decimal(value), None
        case UUID() | PurePath():
            return str(value), None
        case date() | time():
            return value.isoformat(), None
        case timedelta():
            return value.total_seconds(), None
        case bytes() | bytearray() | memoryview() | type():
            pass
        case _:
            return _opened_object(value)
    raise NoJsonFormError(f"{type(value).__name__} has no JSON form{_HINTS.get(type(value).__name__, '')}")


_HINTS = {"bytes": ": decode it, or encode it as base64", "type": ": is an instance meant?"}


def _opened_object(value: Any) -> tuple[object, dict[object, object] | list[object] | None]:
    """As :func:`_opened`, for the objects of libraries."""
    kind = type(value)
    if callable(getattr(kind, "model_dump", None)):  # pydantic
        return _opened(_dumped_model(value))
    if dataclasses.is_dataclass(kind):
        return None, {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    for listed in ("__attrs_attrs__", "__struct_fields__"):  # attrs; msgspec
        fields = getattr(kind, listed, None)
        if isinstance(fields, tuple):
            names = (field if isinstance(field, str) else field.name for field in fields)
            return None, {name: getattr(value, name) for name in names}
    if hasattr(kind, "__fields__") and callable(getattr(kind, "dict", None)):  # pydantic 1
        return None, value.dict()
    if isinstance(value, Mapping):
        return None, dict(value.items())
    if isinstance(value, Set):
        return None, _ordered(value)
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):  # numpy
        return _opened(value.tolist())
    raise NoJsonFormError(f"{kind.__name__} has no JSON form")


def _dumped_model(model: Any) -> object:
    """The fields of a pydantic model in JSON mode, without those that are None because nobody has set them."""
    if not hasattr(model, "model_fields_set"):
        return model.model_dump(mode="json")
    if type(model).__module__.partition(".")[0] in _SDKS:
        return model.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    known = model.model_dump(mode="json", warnings=False)
    return _without_unset(known, model.model_dump(mode="json", exclude_unset=True, warnings=False))


def _without_unset(known: object, given: object) -> object:
    """*known* without each member that is None and not in *given*, at any depth."""
    if isinstance(known, dict) and isinstance(given, dict):
        return {
            name: _without_unset(member, given.get(name, {}))
            for name, member in known.items()
            if member is not None or name in given
        }
    if isinstance(known, list) and isinstance(given, list) and len(known) == len(given):
        return [_without_unset(*pair) for pair in zip(known, given, strict=True)]
    return known


def _of_decimal(value: Decimal) -> object:
    """A number where a float has exactly this value, as in ``Decimal("0.2")``; else its digits as text."""
    if not value.is_finite():
        return float(value) if not value.is_snan() else math.nan
    if value == value.to_integral_value() and value.adjusted() < 300:
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)


def _ordered(values: Set[Any]) -> list[object]:
    """The members of a set, sorted if they can be, so that equal sets have equal texts."""
    try:
        return sorted(values)
    except Exception:  # noqa: BLE001 - a foreign comparison may do anything
        return list(values)


def _attributes(value: object) -> dict[str, object] | None:
    """The public attributes of a model, or of an object whose text would not tell them; None for others."""
    kind = type(value)
    is_silent = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    if issubclass(kind, type) or not (is_silent or hasattr(kind, "model_dump")):
        return None
    try:
        return {name: part for name, part in vars(value).items() if not name.startswith("_")}
    except Exception:  # noqa: BLE001 - it has none, or does anything
        return None


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b2a_base64(value, newline=False).decode()


def _text(value: object) -> str:
    """``str(value)``, or the name of its class if that raises."""
    try:
        return str.__str__(str(value))
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        return f"<{type(value).__name__}>"


def _at(path: str) -> str:
    return path or "the value"
