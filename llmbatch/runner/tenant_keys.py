"""Assign rows to circuits by a field of the row, such as its tenant (``--circuit-key``).

Rows without the field share the route's own circuit. The value becomes part of the circuit's name only; it is neither
sent to the provider nor written to the output.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbatch.core.raw_json import RawJsonError, dumps, parse
from llmbatch.core.rows import Row

__all__ = ["TenantKeys", "missing_key_text"]

MAX_KEYS = 1000
"""Maximum values with a circuit of their own; later values share one."""

MAX_SHOWN = 60
"""Longest value shown in a circuit's name, in characters."""


class TenantKeys:
    """Names circuits by the field at *path* (dotted). Memory: at most 1,000 names."""

    __slots__ = ("_is_found", "_names", "_path", "_rows")

    def __init__(self, path: str) -> None:
        self._path = path.split(".")
        self._names: dict[str, str] = {}
        self._is_found = False
        self._rows = 0

    @property
    def missing(self) -> str:
        """The field's path if rows were seen and none has the field; else empty."""
        return ".".join(self._path) if self._rows and not self._is_found else ""

    def label(self, route: str, row: Row) -> str:
        """Return the name of the row's circuit: ``openai/gpt-5-mini [tenant acme]``; *route* without the field."""
        value = self._value_of(row)
        self._rows += 1
        if value is None:
            return route
        self._is_found = True
        text = value if isinstance(value, str) else _text_of(value)
        key = f"{route}\n{text}"
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_KEYS:
                return f"{route} [other {self._path[-1]}]"
            shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… #{len(self._names)}"
            name = self._names[key] = f"{route} [{self._path[-1]} {shown}]"
        return name

    def _value_of(self, row: Row) -> object:
        first, *rest = self._path
        value: object = row.value
        if row.fields:
            text = row.fields.get(first)
            try:
                value = None if text is None else parse(text)
            except RawJsonError:
                return None
        else:
            value = _member(value, first)
        for name in rest:
            value = _member(value, name)
        return value


def missing_key_text(path: str) -> str:
    """A warning that no row has the member *path*."""
    return f"no row has the --circuit-key {path}: all share one circuit per route"


def _member(value: object, name: str) -> object:
    if isinstance(value, Mapping):
        return value.get(name)
    return None if value is None or isinstance(value, str | int | float | list) else getattr(value, name, None)


def _text_of(value: object) -> str:
    try:
        return dumps(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
