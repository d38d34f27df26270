"""Keys that control a run in its terminal: ``p``, ``r``, ``+``, ``-``, ``q`` and ``?``.

The terminal gives single keys, without echo, only while the run is in its foreground; Ctrl-C and Ctrl-Z mean what
they always do. A process in the background reads nothing and changes nothing. The terminal is as it was before whenever
the run is suspended, or ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["Keys", "can_have_keys", "read_keys"]

_LOOK_AGAIN_S = 1.0
"""Seconds until a run in the background looks whether it is in the foreground again; no signal tells of that."""

_MOST_AT_ONCE = 2
"""Different keys that a person types within one turn of the loop."""

_SHOW_CURSOR, _HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"

_MOST_EMPTY = 3
"""Reads in a row that give nothing although there should be something: the terminal has gone."""


def can_have_keys(stdin: TextIO | None, stderr: TextIO | None) -> bool:
    """Whether both are a terminal, and the system knows how to get single keys."""
    if sys.platform == "win32" or stdin is None or stderr is None:
        return False
    try:
        return os.isatty(stdin.fileno()) and os.isatty(stderr.fileno())
    except (OSError, ValueError):  # closed, or of no file
        return False


@contextmanager
def read_keys(
    descriptor: int, actions: Mapping[str, Callable[[], None]], *, on_change: Callable[[bool], None] = lambda has: None
) -> Iterator[None]:
    """Call the action of each key that is typed, within the running loop, until the block ends.

    *on_change* is told whenever keys are, or are no longer, read.
    """
    try:
        # Opened anew: loops make what they read non-blocking, and the shell and standard error share the other one.
        own = os.open(os.ttyname(descriptor), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield
        return
    keys = Keys(own, actions, on_change)
    try:
        keys.begin()
        yield
    finally:
        keys.end()
        os.close(own)


class Keys:
    """Reads single keys from the terminal *descriptor*. Belongs to the running event loop."""

    def __init__(
        self, descriptor: int, actions: Mapping[str, Callable[[], None]], on_change: Callable[[bool], None]
    ) -> None:
        self._fd = descriptor
        self._actions = actions
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._usual: list[Any] | None = None
        """The terminal's modes, to be given back; None while they are as they were."""
        self._timer: asyncio.TimerHandle | None = None
        self._empty = 0
        self._has_ended = False
        self._signals: list[signal.Signals] = []

    def begin(self) -> None:
        """Read keys if the run is in the foreground, and as soon as it is."""
        for number, callback in (
            (signal.SIGTSTP, self._suspend),
            (signal.SIGQUIT, self._suspend),
            (signal.SIGCONT, self._continued),
        ):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, callback, number)
                self._signals.append(number)
        self._enter()

    def end(self) -> None:
        """Give the terminal back. Idempotent."""
        self._has_ended = True
        self._leave()
        for number in self._signals:
            self._loop.remove_signal_handler(number)
        self._signals.clear()

    def _enter(self) -> None:
        """Have the terminal give single keys, or look again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._has_ended or self._usual is not None:
            return
        if not self._is_in_foreground():
            self._timer = self._loop.call_later(_LOOK_AGAIN_S, self._enter)
            return
        import termios

        try:
            usual = termios.tcgetattr(self._fd)
            single = [*usual[:6], list(usual[6])]
            single[3] &= ~(termios.ICANON | termios.ECHO)
            # A read never waits, not even if somebody else has taken the key.
            single[6][termios.VMIN], single[6][termios.VTIME] = 0, 0
            termios.tcsetattr(self._fd, termios.TCSANOW, single)
            termios.tcflush(self._fd, termios.TCIFLUSH)  # typed before: no command to this run
        except (OSError, termios.error):
            return  # the terminal has gone: no keys
        self._usual = usual
        self._loop.add_reader(self._fd, self._read)
        self._on_change(True)

    def _leave(self) -> None:
        """Give the terminal its modes back, unless it is another job's by now, which has set its own."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        usual, self._usual = self._usual, None
        if usual is None:
            return
        self._loop.remove_reader(self._fd)
        self._on_change(False)
        if not self._is_in_foreground():
            return
        import termios

        # Between the question and the change the run may have been put into the background: that must not stop it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, usual)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def _read(self) -> None:
        if not self._is_in_foreground():  # to read would stop the process
            self._leave()
            self._enter()
            return
        try:
            typed = os.read(self._fd, 64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.end()
            return
        self._empty = 0 if typed else self._empty + 1
        if self._empty >= _MOST_EMPTY:
            self.end()
            return
        if typed.startswith(b"\x1b"):  # an arrow, or what the terminal answers to a question
            return
        if len(typed) > _MOST_AT_ONCE and len(set(typed)) > 1:  # text that was pasted, or meant for the shell
            return
        for key in typed.decode("ascii", "ignore"):
            action = self._actions.get(key)
            if action is not None:
                action()

    def _suspend(self, number: signal.Signals) -> None:
        """Give the terminal back before the signal does what it does by itself, and take it again afterwards."""
        had_keys = self._usual is not None
        self._leave()
        if had_keys:  # and the live display has hidden the cursor, which the shell needs
            self._write(_SHOW_CURSOR)
        self._loop.remove_signal_handler(number)
        signal.raise_signal(number)  # to this thread: to the process it may come a moment later, by another one
        # Here the process stands still until it is continued.
        self._loop.add_signal_handler(number, self._suspend, number)
        self._enter()
        if had_keys and self._usual is not None:
            self._write(_HIDE_CURSOR)

    def _write(self, code: bytes) -> None:
        """Write *code*, unless the terminal takes nothing now (Ctrl-S), which must not stop the run."""
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [self._fd], [], 0)[1]:
                os.write(self._fd, code)

    def _continued(self, _: signal.Signals) -> None:
        """Whoever stopped and continued the process, the shell may have set its own modes meanwhile."""
        self._leave()
        self._enter()
