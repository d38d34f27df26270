"""Runs a coroutine from synchronous code inside a running event loop (a notebook), on another thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["run_in_thread"]

T = TypeVar("T")


def run_in_thread(coro: Coroutine[object, object, T]) -> T:
    """Run *coro* in a new event loop on another thread, in a copy of this one's context, and block until it ends.

    KeyboardInterrupt, or a cancellation of the calling task, cancels it and is raised once it has ended.
    """
    done: Future[T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def main() -> T:
        task = asyncio.ensure_future(coro)
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    def target() -> None:
        try:
            done.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            done.set_exception(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(target,), name="llmbatch")
    thread.start()
    waiting = asyncio.current_task()
    cancelled_before = waiting.cancelling() if waiting is not None else 0
    try:
        while thread.is_alive():
            # In slices: `asyncio.run` turns Ctrl-C into a cancellation, which cannot reach a task that blocks its loop.
            thread.join(0.1)
            if waiting is not None and waiting.cancelling() > cancelled_before:
                raise asyncio.CancelledError
    except BaseException:  # the run must not continue after the caller was interrupted
        loop, task = started.result()
        with contextlib.suppress(RuntimeError):  # its loop was just closed
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    return done.result()
