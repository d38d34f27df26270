"""Wait for a circuit to change, from any thread or asyncio loop, without polling.

A waiter registers a function that wakes it and checks again when woken, since another caller may have been faster.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

__all__ = ["SecondsLeft", "Waiter", "Waiters", "wait", "wait_async"]

Waiter = Callable[[], None]
"""Wakes a waiting thread or task. Called at most once per registration, from the thread that made the change."""

SecondsLeft = Callable[[Waiter], float]
"""Returns the seconds left to wait, 0 or less for none, and registers the waiter for the next change of the circuit."""

MAX_SLEEP = 3600.0
"""Longest sleep before checking again, in seconds: event loops and locks limit their timeouts."""


class Waiters:
    """Waiters of one circuit. Call all methods but ``discard`` under the breaker's lock."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Waiter, None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Register *waiter* for the next change."""
        self._waiting[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Remove *waiter*, if it is still registered."""
        self._waiting.pop(waiter, None)

    def take(self) -> tuple[Waiter, ...]:
        """Remove and return all waiters in order of registration, to be woken outside the lock."""
        woken = tuple(self._waiting)
        self._waiting.clear()
        return woken


def wait(waiters: Waiters, seconds_left: SecondsLeft, timeout: float | None = None) -> None:
    """Block this thread until *seconds_left* returns 0 or less.

    Raises:
        TimeoutError: *timeout* seconds have passed.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    # Not an Event: its lock is not reentrant, and a signal handler or the garbage collector may wake from within. Nor a
    # SimpleQueue, whose get() never ends if a signal comes as its timeout runs out (CPython 3.11).
    unchanged = threading.Lock()
    unchanged.acquire()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # another has released it
            unchanged.release()

    try:
        while (seconds := seconds_left(wake)) > 0:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"the circuit was not ready within {timeout:g} s")
                seconds = min(seconds, left)
            unchanged.acquire(timeout=min(seconds, MAX_SLEEP))
    finally:
        waiters.discard(wake)


async def wait_async(waiters: Waiters, seconds_left: SecondsLeft, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in wait()
    """Suspend this task until *seconds_left* returns 0 or less. A cancellation removes the waiter.

    Raises:
        TimeoutError: *timeout* seconds have passed.
        RuntimeError: no asyncio loop is running, for example under trio.
    """
    import asyncio  # imported late: a caller with an event loop has imported it

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "waiting for a circuit in async code needs a running asyncio loop; under trio, wait in a thread: "
            "await trio.to_thread.run_sync(breaker.wait_ready_sync)"
        ) from None
    changed = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(changed.set)
        except RuntimeError:
            return  # the loop is closed, so its task no longer waits

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
