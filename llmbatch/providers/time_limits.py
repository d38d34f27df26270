"""Timeouts of coroutines with one timer for all of them; :func:`asyncio.timeout` sets one for each.

A timeout that is not reached costs a fifth of that. Its effect is the same: the task is canceled, and the cancellation
becomes a :class:`TimeoutError`, unless the task was also canceled otherwise.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

__all__ = ["TimeLimit", "TimeLimits"]


class TimeLimits:
    """The timeouts that are running in one event loop; in another event loop it starts over."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[TimeLimit, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def __repr__(self) -> str:
        return f"<TimeLimits {len(self._running)} running>"

    def within(self, seconds: float) -> TimeLimit:
        """Context manager, entered in a task, with a timeout of *seconds* from now.

        Raises:
            TimeoutError: on leaving it by the cancellation of its timeout.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._timer, self._rings_at = loop, None, math.inf
            self._running.clear()
        return TimeLimit(self, loop.time() + seconds)

    def close(self) -> None:
        """Cancel the timer; call it when nothing is running."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = None, math.inf

    def start(self, limit: TimeLimit) -> None:
        """Add *limit*, from :meth:`within`."""
        self._running[limit] = None
        if limit.when < self._rings_at:
            self._set(limit.when)

    def end(self, limit: TimeLimit) -> None:
        """Remove it; the timer is kept, as another limit usually follows."""
        self._running.pop(limit, None)

    def _set(self, when: float) -> None:
        assert self._loop is not None  # noqa: S101 - a limit exists, so there is a loop
        self.close()
        self._rings_at = when
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Cancel the tasks that are due at the time of the timer. O(running), once per timer."""
        due = self._rings_at
        self._timer, self._rings_at = None, math.inf
        for limit in [limit for limit in self._running if limit.when <= due]:
            self.end(limit)
            limit.expire()
        if self._running:
            self._set(min(limit.when for limit in self._running))


class TimeLimit:
    """One timeout of one task; see :meth:`TimeLimits.within`."""

    __slots__ = ("_cancelling", "_limits", "_task", "expired", "when")

    def __init__(self, limits: TimeLimits, when: float) -> None:
        self.when = when
        """On the event loop's clock."""
        self.expired = False
        """Whether the timeout was reached."""
        self._limits = limits
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def expire(self) -> None:
        """Cancel the task: the timeout was reached."""
        self.expired = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._cancelling = task.cancelling()
        self._limits.start(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.end(self)
        task, self._task = self._task, None
        if self.expired and task is not None:
            others = task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not others:
                raise TimeoutError from error
