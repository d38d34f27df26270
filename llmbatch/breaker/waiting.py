"""Wait for a circuit to change, from any thread or asyncio loop, without polling.

Whoever waits brings a function that wakes it, and asks again when woken: nobody is promised that what it waits for is
still there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

__all__ = ["SecondsLeft", "Waiter", "Waiters", "wait", "wait_async"]

Waiter = Callable[[], None]
"""Wakes one who waits. Called at most once for each time that it was added, from whatever thread made the change."""

SecondsLeft = Callable[[Waiter], float]
"""How many seconds there are still to wait, 0 or less for none. The waiter is woken by the next change of the circuit,
also one that comes while this is worked out."""

MAX_SLEEP = 3600.0
"""Nobody sleeps longer without asking again, in seconds: event loops and locks have bounds of their own."""


class Waiters:
    """Who waits for one circuit. Everything but ``discard`` is called under the breaker's lock."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Waiter, None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Wake *waiter* at the next change."""
        self._waiting[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Forget *waiter*, if it is still there."""
        self._waiting.pop(waiter, None)

    def take(self) -> tuple[Waiter, ...]:
        """Everyone, in the order in which they came, to be woken outside the lock."""
        woken = tuple(self._waiting)
        self._waiting.clear()
        return woken


def wait(waiters: Waiters, seconds_left: SecondsLeft, timeout: float | None = None) -> None:
    """Block this thread until *ask* says 0.

    Raises:
        TimeoutError: *timeout* seconds have passed.
    """
    import queue  # loaded late, as asyncio is below

    deadline = None if timeout is None else time.monotonic() + timeout
    # Not an Event: its lock is not reentrant, and a signal handler or the garbage collector may wake from within.
    changed = queue.SimpleQueue[None]()

    def wake() -> None:
        changed.put(None)

    try:
        while (seconds := seconds_left(wake)) > 0:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"the circuit was not ready within {timeout:g} s")
                seconds = min(seconds, left)
            with contextlib.suppress(queue.Empty):
                changed.get(timeout=min(seconds, MAX_SLEEP))
    finally:
        waiters.discard(wake)


async def wait_async(waiters: Waiters, seconds_left: SecondsLeft, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in wait()
    """Suspend this task until *ask* says 0. A cancellation leaves nothing behind.

    Raises:
        TimeoutError: *timeout* seconds have passed.
    """
    import asyncio  # loaded late: whoever runs a loop has it already

    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(changed.set)
        except RuntimeError:
            return  # the loop is closed, and with it went whoever waited

    try:
        async with asyncio.timeout(timeout) as deadline:
            while (seconds := seconds_left(wake)) > 0:
                timer = loop.call_later(min(seconds, MAX_SLEEP), changed.set)
                try:
                    await changed.wait()
                finally:
                    timer.cancel()
                changed.clear()
    except TimeoutError:
        if deadline.expired():
            raise TimeoutError(f"the circuit was not ready within {timeout:g} s") from None
        raise
    finally:
        waiters.discard(wake)
