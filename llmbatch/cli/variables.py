"""Finds variables that set nothing: a misspelled ``LLMBATCH_*`` one, that of a proxy; and says what was meant.

Their values are never shown. They are no error: other programs may use the prefix too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from llmbatch.cli.local_config import is_loopback
from llmbatch.cli.terminal import shown, tell_note
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent

if TYPE_CHECKING:
    from llmbatch.cli.settings import Settings

__all__ = ["tell_about_variables"]

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

_PREFIX = "LLMBATCH_"
_OTHERS = ("LLMBATCH_CONFIG", "LLMBATCH_DEBUG")
"""Variables that are read and belong to no option."""

_by_variable = {name: option for option in OPTIONS.values() for name in option.variables}


def tell_about_variables(settings: Settings, environ: Mapping[str, str]) -> None:
    """Say on standard error which variables set nothing."""
    for message, hint in (*_unknown(environ), *_proxy(settings, environ)):
        tell_note(shown(message), hint, as_json=settings.progress == "json")


def _proxy(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Message and hint for the variable of a proxy, which other clients obey and llmbatch does not."""
    name = next((name for name in _PROXIES if environ.get(name)), None)
    if name is not None and settings.proxy is None and not _stays_here(settings):
        # Not --proxy: its value would be in the list of processes, and may have a password.
        yield f"{name} is set and is not used", f'to send requests through it: export LLMBATCH_PROXY="${name}"'


def _stays_here(settings: Settings) -> bool:
    """Whether no request leaves this machine, as far as the settings tell."""
    from llmbatch.providers.catalog import PROVIDERS

    if settings.base_url is not None:
        return is_loopback(settings.base_url)
    name = (settings.model or "").partition("/")[0]
    provider = PROVIDERS.get(name)
    return name in ("", "sim") or (provider is not None and is_loopback(provider.base_url or ""))


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
