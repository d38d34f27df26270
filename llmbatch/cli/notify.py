"""``--notify``: what commands are told, and the environment that they get, which holds no key of the run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmbatch.cli.settings import Settings, output_of
from llmbatch.cli.terminal import tell_note
from llmbatch.core.headers import header_variables
from llmbatch.display.summary import how_to_go_on
from llmbatch.providers.catalog import PROVIDERS
from llmbatch.report.stats import RunStats

if TYPE_CHECKING:
    from llmbatch.notify.notifier import Notifier

__all__ = ["make_notifier", "without_keys"]

_SHORTEST_KEY, _LONG_KEY = 7, 16
"""Characters of a key whose copies are left out too, and of one that is looked for within other values."""


def make_notifier(settings: Settings, stats: RunStats, *, command: str) -> Notifier | None:
    """The notifier of a run, of which *stats* are fed first; None without ``--notify``."""
    if settings.notify is None:
        return None
    from llmbatch.notify.announce import Announcer
    from llmbatch.notify.notifier import Notifier

    output = output_of(settings)

    def go_on(exit_code: int | None) -> str:
        if exit_code is None:
            return f"still running; to see how far it is: llmbatch status {shlex.quote(output)}"
        return how_to_go_on(output, exit_code, command=command, has_lines=bool(stats.success + stats.failed))

    def say(text: str) -> None:
        if not settings.quiet:
            tell_note(text, as_json=settings.progress == "json")

    announcer = Announcer(stats, command=command, go_on=go_on)
    return Notifier(settings.notify, announcer, without_keys(settings, os.environ), say=say)


def without_keys(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* without the variables that the run may take a key or a password from, and without copies of these."""
    names = {provider.key_env for provider in PROVIDERS.values()}
    names |= {provider.other_key_env for provider in PROVIDERS.values()}
    names |= {settings.api_key_env or "", "LLMBATCH_PROXY"}
    names |= set(header_variables(settings.headers or ()))
    names |= {route.api_key_env or "" for routes in settings.pools.values() for route in routes}
    keys = {environ[name] for name in names if len(environ.get(name, "")) >= _SHORTEST_KEY}
    long = [key for key in keys if len(key) >= _LONG_KEY]
    return {
        name: value
        for name, value in environ.items()
        if name not in names and value not in keys and not any(key in value for key in long)
    }
