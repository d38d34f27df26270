"""Runs blocking functions in threads of its own, at most a given number at a time.

The threads are daemons, unlike those of :mod:`concurrent.futures`: a function that never returns delays neither the end
of a run nor that of the program.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["HangingThreadsError", "Threads"]


class HangingThreadsError(Exception):
    """As many functions as may run at a time were given up and have not returned."""


class Threads:
    """At most *most* threads that are waited for, and as many that were given up. Belongs to one event loop.

    A thread cannot be stopped. If the caller of :meth:`run` is canceled, its thread is given up: it ends when its
    function returns, and another one may be started in its place.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._idle: list[_Thread] = []
        self._busy = 0
        self._given_up = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Threads {self._busy} of {self._most} busy, {self._given_up} given up>"

    async def run(self, fn: Callable[[], object]) -> object:
        """Call *fn* in a thread and return what it returns; waits for a thread if all are busy.

        Raises:
            HangingThreadsError: *fn* was not called, because *most* given up functions are still running.
            BaseException: whatever *fn* raises.
        """
        if self._given_up >= self._most:
            raise HangingThreadsError
        while self._busy >= self._most:
            await self._a_turn()
        loop = asyncio.get_running_loop()
        thread = self._idle.pop() if self._idle else _Thread(self._name)
        done: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
        self._busy += 1
        thread.start(loop, fn, done)
        try:
            await asyncio.wait([done])
        finally:
            self._busy -= 1
            if done.done():
                self._put_back(thread)
            else:
                self._given_up += 1
                done.add_done_callback(self._returned)
                thread.end()
            self._wake()
        result, error = done.result()
        if error is not None:
            raise error
        return result

    def allow(self, most: int) -> None:
        """Use up to *most* threads, if they are more than before."""
        more, self._most = most - self._most, max(self._most, most)
        for _ in range(min(more, len(self._waiting))):
            self._wake()

    def close(self) -> None:
        """End the idle threads, and each other one as soon as its function returns."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().end()

    async def _a_turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _put_back(self, thread: _Thread) -> None:
        if self._is_closed:
            thread.end()
        else:
            self._idle.append(thread)

    def _returned(self, _: object) -> None:
        self._given_up -= 1


class _Thread:
    """One daemon thread, which runs one function after another."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        threading.Thread(target=_run_all, args=(self._work,), name=name, daemon=True).start()

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        fn: Callable[[], object],
        done: asyncio.Future[tuple[object, BaseException | None]],
    ) -> None:
        """Run *fn*; its result, or what it raised, is set in *done*, on *loop*."""
        self._work.put((loop, fn, done))

    def end(self) -> None:
        """End the thread as soon as its function has returned."""
        self._work.put(None)


_Work = tuple[asyncio.AbstractEventLoop, Callable[[], object], asyncio.Future[tuple[object, BaseException | None]]]


def _run_all(work: SimpleQueue[_Work | None]) -> None:
    while (item := work.get()) is not None:
        loop, fn, done = item
        result: object = None
        error: BaseException | None = None
        try:
            result = fn()
        except BaseException as raised:  # noqa: BLE001 - raised again in the caller's task
            error = raised
        try:
            loop.call_soon_threadsafe(_set, done, result, error)
        except RuntimeError:  # the loop was closed, and nobody waits for the result
            return
        del item, loop, fn, done, result, error  # a waiting thread keeps nothing alive


def _set(
    done: asyncio.Future[tuple[object, BaseException | None]], result: object, error: BaseException | None
) -> None:
    if not done.done():
        done.set_result((result, error))
