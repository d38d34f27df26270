"""Which circuit a row belongs to, where a run keeps one for each tenant (or whatever else a row names) of a route.

A row without the member shares the route's own circuit. Nothing here is sent to a provider or written to the output;
the value is only part of the circuit's name.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbatch.core.raw_json import RawJsonError, dumps, parse
from llmbatch.core.rows import Row

__all__ = ["TenantKeys", "missing_key_text"]

MOST_KEYS = 1000
"""Different values with a circuit of their own; those that come later share one."""

MOST_SHOWN = 60


class TenantKeys:
    """Names circuits by a member of the row, at *path*. Memory: at most a thousand names."""

    __slots__ = ("_is_found", "_names", "_path", "_rows")

    def __init__(self, path: str) -> None:
        self._path = path.split(".")
        self._names: dict[str, str] = {}
        self._is_found = False
        self._rows = 0

    @property
    def missing(self) -> str:
        """The member's path, if none of the rows so far has it, one or more; else empty."""
        return ".".join(self._path) if self._rows and not self._is_found else ""

    def label(self, route: str, row: Row) -> str:
        """The name of the row's circuit: ``openai/gpt-5-mini [tenant acme]``; *route* for a row without the member."""
        value = self._value_of(row)
        self._rows += 1
        if value is None:
            return route
        self._is_found = True
        text = value if isinstance(value, str) else _text_of(value)
        key = f"{route}\n{text}"
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MOST_KEYS:
                return f"{route} [other {self._path[-1]}]"
            shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… #{len(self._names)}"
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
