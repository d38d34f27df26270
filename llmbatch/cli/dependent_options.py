"""Options that do something only beside another: refused on the command line without it, ignored elsewhere.

A configuration file or a variable may be shared by runs with and without that other option.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmbatch.cli.settings import Settings
from llmbatch.core.errors import UsageError
from llmbatch.runner.batch_options import NEED_BATCHES
from llmbatch.runner.command_options import OPTIONS

__all__ = ["without_unused"]


@dataclass(frozen=True, slots=True)
class _Needed:
    """What some options need: whether it ``is_given``, and what is said without it."""

    is_given: bool
    words: str
    hint: str


def without_unused(settings: Settings) -> Settings:
    """*settings* of a run, where options that miss the one that they need have their defaults.

    Raises:
        UsageError: such an option is on the command line.
    """
    batches = _Needed(settings.via == "batch", "is for batch APIs, and rows are sent live", "add --via batch")
    page = _Needed(
        settings.dashboard is not None, "is for the page of --dashboard, which is not served", "add --dashboard 0"
    )
    unused: dict[str, Any] = {}
    for name, needed in {**dict.fromkeys(NEED_BATCHES, batches), "dashboard_show_text": page}.items():
        if needed.is_given or name not in settings.origin:
            continue
        if settings.origin[name] == OPTIONS[name].flag:
            raise UsageError(f"{settings.origin[name]} {needed.words}", hint=f"{needed.hint}, or leave it out")
        unused[name] = OPTIONS[name].default
    origin = {name: source for name, source in settings.origin.items() if name not in unused}
    return replace(settings, origin=origin, **unused) if unused else settings
