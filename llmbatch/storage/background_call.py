"""Blocking calls on a pipe, one at a time in a thread, for systems whose event loop cannot watch one (Windows).

The thread is a daemon: a call that never returns does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["BackgroundCall"]

_T = TypeVar("_T")


class BackgroundCall(Generic[_T]):
    """One call after the other; all methods are for the event loop's thread. The thread starts with the first call.

    ``is_busy``: a call was started and its result has not been taken.
    """

    def __init__(self) -> None:
        self.is_busy = False
        self._calls: queue.SimpleQueue[Callable[[], _T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_T | OSError] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._notify: Callable[[], None] | None = None

    def start(self, call: Callable[[], _T]) -> None:
        """Run *call* in the thread; only while not busy."""
        self.is_busy = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="llmbatch-pipe", daemon=True)
            self._thread.start()
        self._calls.put(call)

    @property
    def is_done(self) -> bool:
        """Whether a result is ready for :meth:`take`."""
        return not self._results.empty()

    def take(self) -> _T:
        """The result of the call that is done.

        Raises:
            OSError: what the call raised.
        """
        result = self._results.get_nowait()
        self.is_busy = False
        if isinstance(result, OSError):
            raise result
        return result

    def watch(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """Call *callback* in *loop* whenever a call is done, and at once if one is."""

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callback)

        with self._lock:
            self._notify = notify
            if self.is_done:
                notify()

    def unwatch(self) -> None:
        """Stop calling the callback; idempotent."""
        with self._lock:
            self._notify = None

    def close(self) -> None:
        """End the thread once its call has returned; idempotent."""
        self.unwatch()
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            result: _T | OSError
            try:
                result = call()
            except OSError as error:
                result = error
            with self._lock:
                self._results.put(result)
                if self._notify is not None:
                    self._notify()
