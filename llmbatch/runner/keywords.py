"""Checks of the keywords of the library against the table of options, with a suggestion for a name that is none."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

from llmbatch.core.errors import UsageError
from llmbatch.core.shards import Shard
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent
from llmbatch.runner.option import Option
from llmbatch.runner.options import RUN_OPTIONS
from llmbatch.runner.value_types import ShardNumber

__all__ = ["as_path", "as_shard", "check_keywords", "check_mapping", "check_names", "check_texts"]


def check_keywords(**values: object) -> None:
    """Check the values of keywords of the library that are not in :class:`RunOptions`.

    Raises:
        UsageError: a value is out of range.
    """
    for name, value in values.items():
        OPTIONS[name].check(value)


def as_shard(value: object) -> Shard:
    """The shard that the *value* of the keyword names: a shard, or a pair of numbers such as ``(3, 64)``.

    Raises:
        UsageError: it names none.
    """
    OPTIONS["shard"].check(value)
    return ShardNumber().check(value)


def as_path(name: str, value: object) -> str | None:
    """The path that the keyword *name* has as its *value*; None if it has none.

    Raises:
        UsageError: it is neither text nor a path.
    """
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return str(value)
    raise UsageError(f"{name} is {value!r:.80}, not a path", hint="pass a string or a pathlib.Path")


def check_texts(**values: object) -> None:
    """Check that each of *values* is a string, or None.

    Raises:
        UsageError: one is neither.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is {value!r:.80}, not a string", hint=f'such as {name}="…", or leave it out')


def check_mapping(name: str, value: object, of_values: type[object] = object) -> None:
    """Check that *value* is a mapping from strings to values of a type.

    Raises:
        UsageError: it is not; the message does not show the values, which may be keys.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is a {type(value).__name__}, not a mapping", hint=f"pass a dict: {name}={{…}}")
    for key, each in value.items():
        if not isinstance(key, str) or not isinstance(each, of_values):
            shown = f"{type(key).__name__} to {type(each).__name__}"
            raise UsageError(
                f"{name} maps a {shown}", hint=f"every key is a string, every value a {of_values.__name__}"
            )


def check_names(names: frozenset[str]) -> None:
    """Check that *names* are options of :class:`RunOptions`.

    Raises:
        UsageError: a name is unknown; the hint suggests an option.
    """
    for name in sorted(names - RUN_OPTIONS.keys()):
        raise UsageError(f"unknown option {name!r}", hint=_meant(name))


def _meant(name: str) -> str:
    if intent := find_intent(name):
        return intent
    known: dict[str, Option] = {key: row for row in RUN_OPTIONS.values() for key in row.keys}
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {known[close[0]].name}?" if close else f"known: {', '.join(sorted(RUN_OPTIONS))}"
