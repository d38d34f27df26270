"""Ctrl-C, TERM and a closed terminal: the first asks a run to stop well, the second to stop at once.

Whoever runs the rows stops them and chooses the exit code.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Stoppable", "stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stoppable(Protocol):
    """What runs rows."""

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop reading and let requests in flight finish; with *now*, stop at once."""
        ...


@contextmanager
def stop_on_signals(run: Stoppable, say: Callable[[str], None]) -> Iterator[None]:
    """Route the signals of the running loop to *run* until the block ends; *say* tells people what happens.

    A signal that was ignored when the process started (``nohup``, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    asked = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked
        if asked:
            say("stopping at once; the same command resumes")
            run.stop(signal=number, now=True)
            return
        asked = True
        again = "Ctrl-C" if number is signal.SIGINT else "signal"
        say(f"stopping: requests in flight may finish (30 s at most); a second {again} stops at once")
        run.stop(signal=number)

    for number in taken:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
