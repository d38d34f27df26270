"""Cancel a task that waits too long for the next chunk of a stream: :class:`IdleTimer`. Needs asyncio.

``asyncio.timeout`` around each chunk would cost more than everything else that a breaker does for it. Here one timer of
the event loop serves all chunks: when it fires, it looks whether a wait is over its limit, and else waits for the rest.
"""

from __future__ import annotations

import asyncio
import weakref

__all__ = ["IdleTimer", "current_task"]


def current_task() -> asyncio.Task[object]:
    """Return the running task of asyncio.

    Raises:
        RuntimeError: there is none, as on the event loop of trio.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise RuntimeError("idle_timeout and first_timeout need asyncio: elsewhere set the read timeout of the client")
    return task


class IdleTimer:
    """Bounds each wait of one consumer. The waits may be in different tasks of one event loop, one at a time.

    As with ``asyncio.timeout``, a cancellation by others at the same time goes before the time-out. The event loop
    holds no reference to it.
    """

    __slots__ = ("__weakref__", "_cancelling", "_deadline", "_is_expired", "_loop", "_task", "_timer")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._deadline = 0.0
        self._is_expired = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, limit: float) -> None:
        """Begin a wait of at most *limit* seconds in the current task.

        Raises:
            RuntimeError: not in a task of asyncio.
        """
        task = current_task()
        loop = self._loop
        if loop is None:
            self._loop = loop = task.get_loop()
        self._task = task
        self._cancelling = task.cancelling()
        self._deadline = deadline = loop.time() + limit
        timer = self._timer
        if timer is None or timer.when() > deadline:
            self.close()
            self._timer = loop.call_at(deadline, _fire, weakref.ref(self))

    def stop(self, error: BaseException | None = None) -> bool:
        """End the wait, which raised *error*; return whether that is the time-out."""
        task, self._task = self._task, None
        if task is None or not self._is_expired:
            return False
        self._is_expired = False
        return task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)

    def close(self) -> None:
        """Take the timer from the event loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Cancel the waiting task if its time is over; else look again then, if a task waits at all."""
        self._timer = None
        if self._task is None or self._loop is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, _fire, weakref.ref(self))
        else:
            self._is_expired = True
            self._task.cancel()


def _fire(idle: weakref.ref[IdleTimer]) -> None:
    timer = idle()
    if timer is not None:
        timer.check()
