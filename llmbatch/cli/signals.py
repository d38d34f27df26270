"""Ctrl-C, TERM, Ctrl-Break and a closed terminal: the first asks a run to stop well, the second to stop at once.

Whoever runs the rows stops them and chooses the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Stoppable", "handle_signals", "stop_on_signals", "tell_on_signal"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
"""``SIGBREAK`` is Ctrl-Break, or a console window that is closed, on Windows."""


class Stoppable(Protocol):
    """What runs rows."""

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop reading and let requests in flight finish; with *now*, stop at once."""
        ...


@contextmanager
def stop_on_signals(run: Stoppable, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Route the signals of the running loop to *run* until the block ends; *say* tells people what happens.

    Gives a function that does what a first Ctrl-C does, and no more than that if it is called again.
    A signal that was ignored when the process started (``nohup``, a shell's background job) stays ignored.
    """
    asked = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked
        if number.name == "SIGBREAK":  # as Ctrl-C, also in the exit code
            number = signal.SIGINT
        if asked:
            say("stopping at once; the same command resumes")
            run.stop(signal=number, now=True)
            return
        asked = True
        stop(number, "a second Ctrl-C" if number is signal.SIGINT else "a second signal")

    def stop(number: signal.Signals, again: str) -> None:
        say(f"stopping: requests in flight may finish (30 s at most); {again} stops at once")
        run.stop(signal=number)

    def drain() -> None:
        nonlocal asked
        if not asked:
            asked = True
            stop(signal.SIGINT, "Ctrl-C")

    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with handle_signals(taken, on_signal):
        yield drain


@contextmanager
def tell_on_signal(tell: Callable[[], None]) -> Iterator[None]:
    """Call *tell* in the running loop whenever ``SIGUSR1`` comes, until the block ends.

    Nothing changes where there is no such signal (Windows), or where it was ignored when the process started.
    """
    number = getattr(signal, "SIGUSR1", None)
    taken = [] if number is None or signal.getsignal(number) is signal.SIG_IGN else [number]
    with handle_signals(taken, lambda _: tell()):
        yield


@contextmanager
def handle_signals(numbers: Iterable[signal.Signals], callback: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call *callback* in the running loop for each of the signals *numbers* that comes, until the block ends."""
    loop = asyncio.get_running_loop()

    def in_loop(number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(callback, signal.Signals(number))

    with contextlib.ExitStack() as stack:
        for number in numbers:
            try:
                loop.add_signal_handler(number, callback, number)
                stack.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # Windows: there, the loop wakes up for a handler of the interpreter
                stack.callback(signal.signal, number, signal.signal(number, in_loop))
        yield
