"""Finds ``LLMBATCH_*`` variables that set nothing, such as a misspelled one, and says what was meant.

Their values are never shown. They are no error: other programs may use the prefix too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from llmbatch.cli.terminal import shown, tell_note
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent

__all__ = ["tell_about_variables"]

_PREFIX = "LLMBATCH_"
_OTHERS = ("LLMBATCH_CONFIG", "LLMBATCH_DEBUG")
"""Variables that are read and belong to no option."""

_by_variable = {name: option for option in OPTIONS.values() for name in option.variables}


def tell_about_variables(environ: Mapping[str, str], *, as_json: bool) -> None:
    """Say on standard error which variables with the prefix set nothing; *as_json*: as a line of JSON each."""
    for message, hint in _unknown(environ):
        tell_note(shown(message), hint, as_json=as_json)


def _unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """For each variable with the prefix that sets nothing, a message and a hint; empty variables count as unset."""
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or not environ[name] or name in _OTHERS:
            continue
        option = _by_variable.get(name)
        if option is None:
            yield f"{name} is not a setting and is ignored", _meant(name)
        elif not option.settable:
            yield f"{name} is ignored: {option.flag} can only be a flag", f"give {option.flag} when you mean it"


def _meant(name: str) -> str:
    rest = name.removeprefix(_PREFIX)  # which would make any two names similar
    intent = find_intent(rest.lower())
    if intent:
        return intent
    known = [*(variable for variable, option in _by_variable.items() if option.settable), *_OTHERS]
    close = difflib.get_close_matches(rest, [variable.removeprefix(_PREFIX) for variable in known], n=1)
    return f"did you mean {_PREFIX}{close[0]}?" if close else ""
