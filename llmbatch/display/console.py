"""The rich console that this project writes to: no markup, no emoji names, and nothing that a hang-up could break.

Whether there is a terminal is decided by :func:`llmbatch.display.is_live_terminal`.
"""

from __future__ import annotations

import os
from typing import TextIO, cast

from rich.console import Console

from llmbatch.display.safe_stream import SafeStream

__all__ = ["terminal_console"]


def terminal_console(stream: TextIO) -> Console:
    """A console on *stream*, which is taken for a terminal. ``NO_COLOR`` is honored, as rich does."""
    # Rich itself keeps what it could not write, and on a closed pipe exits and takes standard output with it.
    forgiving = cast("TextIO", SafeStream(stream))
    environ = dict(os.environ)
    if _has_size(stream):
        # Exported by some shells and tools, they are the size of a moment: a resized window would never be noticed.
        environ.pop("COLUMNS", None)
        environ.pop("LINES", None)
    return Console(file=forgiving, force_terminal=True, highlight=False, markup=False, emoji=False, _environ=environ)


def _has_size(stream: TextIO) -> bool:
    try:
        return min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False
