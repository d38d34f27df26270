"""Check values of a scenario file; each error says where the value is and what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmbatch.core.errors import UsageError

__all__ = ["number", "only", "statuses", "text", "texts", "whole", "wholes"]


def number(value: object, what: str) -> float:
    """A number.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{what} is {value!r}, must be a number")
    return float(value)


def whole(value: object, what: str) -> int:
    """A whole number.

    Raises:
        UsageError: it is none.
    """
    if type(value) is not int:
        raise UsageError(f"{what} is {value!r}, must be a whole number")
    return value


def text(value: object, what: str) -> str:
    """Some text.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}, must be text")
    return value


def texts(value: object, what: str, *, of: str = "patterns") -> tuple[str, ...]:
    """A list of texts.

    Raises:
        UsageError: it is none.
    """
    if not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise UsageError(f"{what} is {value!r}, must be a list of {of}")
    return tuple(value)


def wholes(value: object, what: str, *, of: str = "whole numbers") -> tuple[int, ...]:
    """A list of whole numbers.

    Raises:
        UsageError: it is none.
    """
    if not (isinstance(value, list) and all(type(each) is int for each in value)):
        raise UsageError(f"{what} is {value!r}, must be a list of {of}")
    return tuple(value)


def statuses(value: object, what: str) -> tuple[int, ...]:
    """A list of HTTP statuses; their range is checked where they are used.

    Raises:
        UsageError: it is none.
    """
    return wholes(value, what, of="whole numbers from 400 to 599")


def only(table: Mapping[str, object], known: Sequence[str], where: str) -> None:
    """Check that *table* has *known* keys only.

    Raises:
        UsageError: it has another.
    """
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {key!r} is unknown", hint=f"one of: {', '.join(known)}")
