"""Results of a run as a plain iterator, from an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from llmbatch.core.rows import Result
from llmbatch.report.summary import Summary
from llmbatch.runs.streaming import ResultStream

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    RowT_co = TypeVarWithDefault("RowT_co", covariant=True, default=Any)
    ValueT_co = TypeVarWithDefault("ValueT_co", covariant=True, default=Any)
else:
    RowT_co = TypeVar("RowT_co", covariant=True)
    ValueT_co = TypeVar("ValueT_co", covariant=True)

__all__ = ["SyncResultStream"]

T = TypeVar("T")


class SyncResultStream(Generic[RowT_co, ValueT_co]):
    """Results of :meth:`~llmbatch.BatchRunner.stream_sync`, to iterate over once, in one thread.

    The thread starts with the first result that is asked for, and ends with the stream: at its end, at an exception,
    when it is closed, garbage collected, or left by ``with``, and at the latest with the program. Ctrl-C in the
    consumer's thread ends the stream as it is closed.
    """

    def __init__(self, stream: ResultStream[RowT_co, ValueT_co]) -> None:
        self._stream = stream
        self._thread: _LoopThread | None = None
        self._closing: weakref.finalize[[_LoopThread, ResultStream[Any, Any]], Any] | None = None
        self._batch: deque[Result[RowT_co, ValueT_co]] = deque()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<SyncResultStream {'closed' if self._is_closed else 'open'}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result[RowT_co, ValueT_co]:
        if self._is_closed:
            raise StopIteration
        if self._thread is None:
            self._thread = _LoopThread()
            # Not a method: the finalizer must not keep this object alive.
            self._closing = weakref.finalize(self, _close, self._thread, self._stream)
        if not self._batch:
            # All results that are there at once: changing between threads may take longer than a row.
            try:
                self._batch.extend(self._thread.run(self._stream.next_batch))
            except BaseException:
                self.close()
                raise
            if not self._batch:
                self.close()
                raise StopIteration
        return self._batch.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the run at once, if it has not ended, and wait until its thread has."""
        self._is_closed = True
        if self._closing is not None:
            self._closing()

    @property
    def summary(self) -> Summary:
        """The summary of the run, as of :attr:`ResultStream.summary`.

        Raises:
            RuntimeError: the stream has not ended.
        """
        return self._stream.summary


def _close(thread: _LoopThread, stream: ResultStream[Any, Any]) -> None:
    async def close() -> None:
        try:
            await stream.aclose()
        finally:
            thread.end()

    thread.run_last(close)


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._ending: asyncio.Event

        async def main() -> None:
            self._ending = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await self._ending.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(main(),), name="llmbatch stream", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call the async *function* there, in a copy of this thread's context, and return what it returns.

        KeyboardInterrupt, or a cancellation of the calling task, cancels it and is raised once it has ended.

        Raises:
            BaseException: whatever *function* raises.
        """
        done: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(function()))  # here: a Ctrl-C leaves no coroutine behind
            tasks[0].add_done_callback(lambda task: _settle(done, task))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # Ctrl-C came before it was to start
                done.set_exception(asyncio.CancelledError())

        try:
            self._loop.call_soon_threadsafe(start)
            _wait(done)
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)
            wait([done])
            raise
        return done.result()

    def run_last(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call the async *function*, which calls :meth:`end`, and wait for the end of the thread.

        On the thread itself, where garbage may be collected, it only begins.
        """
        if threading.current_thread() is self._thread:
            self._last = self._loop.create_task(function())
        elif self._thread.is_alive():
            try:
                self.run(function)
            finally:
                self._thread.join()

    def end(self) -> None:
        """End the loop, and with it the thread. Call it on the thread."""
        self._ending.set()


def _settle(done: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _wait(done: Future[Any]) -> None:
    """Block until *done*.

    Raises:
        asyncio.CancelledError: the calling task, if this is one, was canceled meanwhile.
    """
    try:
        calling = asyncio.current_task()
    except RuntimeError:
        calling = None
    canceled_before = 0 if calling is None else calling.cancelling()
    # In slices: `asyncio.run` turns Ctrl-C into a cancellation, which cannot reach a task that blocks its loop; and a
    # signal that comes just as a wait begins is seen when it ends.
    while not wait([done], timeout=0.1).done:
        if calling is not None and calling.cancelling() > canceled_before:
            raise asyncio.CancelledError
