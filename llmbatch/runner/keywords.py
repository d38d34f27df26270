"""Checks of the keywords of the library against the table of options, with a suggestion for a name that is none."""

from __future__ import annotations

import difflib

from llmbatch.core.errors import UsageError
from llmbatch.core.shards import Shard
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent
from llmbatch.runner.option import Option
from llmbatch.runner.options import RUN_OPTIONS
from llmbatch.runner.value_types import ShardNumber

__all__ = ["as_shard", "check_keywords", "check_names"]


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
