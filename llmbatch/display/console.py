"""The rich console that this project writes to: no markup, no emoji names, and nothing that a hang-up could break.

What it does not do: decide whether there is a terminal; see :func:`llmbatch.display.is_live_terminal`.
"""

from __future__ import annotations

from typing import TextIO, cast

from rich.console import Console

from llmbatch.display.safe_stream import SafeStream

__all__ = ["terminal_console"]


def terminal_console(stream: TextIO) -> Console:
    """A console on *stream*, which is taken for a terminal. ``NO_COLOR`` is honoured, as rich does."""
    # Rich itself keeps what it could not write, and on a closed pipe exits and takes standard output with it.
    forgiving = cast("TextIO", SafeStream(stream))
    return Console(file=forgiving, force_terminal=True, highlight=False, markup=False, emoji=False)
