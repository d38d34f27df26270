"""Iterate over a stream and tell its permit what happens: :class:`Chunks` and :class:`AsyncChunks`.

The provider's part is what the stream does: its chunks, its end and its exceptions. What happens between two chunks is
the consumer's. Only the calls for the next chunk are timed, so that a slow consumer does not look like a slow provider.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmbatch.breaker.classify import FAILURE, Judgement, Verdict, as_judgement
from llmbatch.breaker.permit import Permit

if TYPE_CHECKING:
    from llmbatch.breaker.idle import IdleTimer

__all__ = ["AsyncChunks", "ChunkJudge", "Chunks"]

T = TypeVar("T")

ChunkJudge = Callable[[Any], Judgement | Verdict | None]
"""Classifies a chunk; None for a good one. Any other verdict than ``success`` settles the stream."""


class _Guard(Generic[T]):
    """What both kinds share. One consumer at a time, which may be another task or thread for each chunk."""

    __slots__ = ("__weakref__", "_clock", "_judge_chunk", "_permit", "_waited", "stream")

    def __init__(self, permit: Permit, stream: object, judge_chunk: ChunkJudge | None, waited: float) -> None:
        self._permit = permit
        self._clock = permit.clock
        self._judge_chunk = judge_chunk
        self._waited = waited
        self.stream: Any = stream
        """The stream itself. What is read from it directly is neither counted nor protected."""

    @property
    def permit(self) -> Permit:
        """The permit of this stream."""
        return self._permit

    def _pass(self, chunk: T, waited: float) -> None:
        """A chunk came: an answer, unless it is an error."""
        if self._waited:
            waited += self._waited
            self._waited = 0.0
        if self._judge_chunk is not None:
            try:
                said = self._judge_chunk(chunk)
                judgement = None if said is None or said == "success" else as_judgement(said)
            except BaseException as error:
                self._permit.leave(error)
                raise
            if judgement is not None and judgement.verdict != "success":
                self._permit.end(judgement=judgement, waited=waited)
                return
        self._permit.progress(waited)

    def _stop(self, error: BaseException, waited: float, thrown: BaseException | None = None) -> None:
        """The stream ended, or was interrupted while a chunk was awaited, or has passed the consumer's exception on."""
        if error is thrown:
            self._permit.leave(error)
            return
        is_end = isinstance(error, StopIteration | StopAsyncIteration)
        self._permit.end(None if is_end else error, waited=waited + self._waited)

    def __del__(self) -> None:
        # Without __init__, as after a TypeError for its arguments, there is no permit.
        permit: Permit | None = getattr(self, "_permit", None)
        if permit is not None and not permit.is_settled:
            permit.leave()
            warnings.warn(
                f"a stream was neither read to its end nor closed: {permit!r}; use it in a with block",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.stream!r} by {self._permit!r}>"


class Chunks(_Guard[T]):
    """Chunks of a stream, which tell *permit* how it goes. An iterator and a context manager that closes the stream.

    ::

        with Chunks(breaker.acquire(), response.iter_lines()) as lines:
            for line in lines:
                ...

    One consumer at a time, from any thread. The end of the stream is a success; what it raises is classified by the
    breaker; leaving it after a chunk is a success; an exception of the block itself says nothing. If it is neither read
    to its end nor closed, it counts as left when it is garbage-collected, with a :class:`ResourceWarning`.

    Args:
        permit: settled when the stream ends; may have been settled before.
        stream: what to iterate over; closed with these chunks, by leaving *manager* or by its ``close()``.
        judge_chunk: classifies each chunk as ``judge_result`` does a result; None for a good one. Every chunk is handed
            on, however it is classified. If it raises, the consumer gets that exception and nothing is counted.
        waited: seconds already waited for the first chunk. Default: 0.
        manager: the context manager that was entered to get *stream*. Default: none.

    Raises:
        TypeError: *stream* is not iterable.
    """

    __slots__ = ("_exits", "_next", "_turn")

    def __init__(
        self,
        permit: Permit,
        stream: Iterable[T],
        *,
        judge_chunk: ChunkJudge | None = None,
        waited: float = 0.0,
        manager: AbstractContextManager[object] | None = None,
    ) -> None:
        iterator = iter(stream)
        super().__init__(permit, stream, judge_chunk, waited)
        self._next = iterator.__next__
        self._turn = threading.Lock()
        self._exits = ExitStack()
        if manager is not None:
            self._exits.push(manager)
        elif callable(close := getattr(stream, "close", None)):
            self._exits.callback(close)
        if iterator is not stream and callable(close := getattr(iterator, "close", None)):
            self._exits.callback(close)

    def __iter__(self) -> Chunks[T]:
        return self

    def __next__(self) -> T:
        return self._advance(self._next)

    def _advance(self, step: Callable[[], T], thrown: BaseException | None = None) -> T:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(_ONE_CONSUMER)
        try:
            clock = self._clock
            began = clock()
            try:
                chunk = step()
            except BaseException as error:
                self._stop(error, clock() - began, thrown)
                raise
            self._pass(chunk, clock() - began)
            return chunk
        finally:
            self._turn.release()

    def send(self, value: object) -> T:
        """Resume the stream, which is a generator, with *value*, and return its next chunk.

        Raises:
            AttributeError: the stream is no generator.
        """
        send = self.stream.send
        return self._advance(lambda: send(value))

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> T:
        """Raise the consumer's exception inside the stream, which is a generator; its next chunk if it goes on.

        If the stream raises the same exception, nothing is counted. The parameters are those of generators.

        Raises:
            AttributeError: the stream is no generator.
        """
        throw, error = self.stream.throw, _instance(kind, value)
        return self._advance(lambda: throw(error if traceback is None else error.with_traceback(traceback)), error)

    def close(self) -> None:
        """Read no further and close the stream. Idempotent."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Chunks[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._permit.leave(error)
        return self._exits.__exit__(kind, error, traceback)


class AsyncChunks(_Guard[T]):
    """Chunks of an async stream; see :class:`Chunks`. One consumer at a time, on one event loop.

    Args:
        permit: as there.
        stream: as there; closed by leaving *manager*, or by its ``aclose()`` or ``close()``.
        judge_chunk: as there.
        waited: as there.
        manager: the async context manager that was entered to get *stream*. Default: none.
        idle_timeout: seconds to wait for a chunk, above 0. One that takes longer is a failure: the stream is closed and
            :class:`TimeoutError` is raised. Needs asyncio. Default: no limit.
        first_timeout: the same for the first chunk. Default: *idle_timeout*.

    Raises:
        TypeError: *stream* is not an async iterable.
    """

    __slots__ = ("_exits", "_idle", "_idle_timeout", "_is_waiting", "_limit", "_next")

    def __init__(
        self,
        permit: Permit,
        stream: AsyncIterable[T],
        *,
        judge_chunk: ChunkJudge | None = None,
        waited: float = 0.0,
        manager: AbstractAsyncContextManager[object] | None = None,
        idle_timeout: float | None = None,
        first_timeout: float | None = None,
    ) -> None:
        iterator = aiter(stream)
        super().__init__(permit, stream, judge_chunk, waited)
        self._next = iterator.__anext__
        self._is_waiting = False
        self._idle_timeout = idle_timeout
        self._limit = idle_timeout if first_timeout is None else first_timeout
        self._idle = None if self._limit is None else _idle_timer()
        self._exits = AsyncExitStack()
        if manager is not None:
            self._exits.push_async_exit(manager)
        else:
            self._exits.push_async_callback(_close, stream)
        if iterator is not stream:
            self._exits.push_async_callback(_close, iterator)

    def __aiter__(self) -> AsyncChunks[T]:
        return self

    async def __anext__(self) -> T:
        if self._is_waiting:
            raise RuntimeError(_ONE_CONSUMER)
        self._is_waiting = True
        clock = self._clock
        began = clock()
        try:
            idle, limit = self._idle, self._limit
            if idle is None or limit is None:
                chunk = await self._next()
            else:
                chunk = await self._next_in_time(idle, limit)
        except BaseException as error:
            self._stop(error, clock() - began)
            raise
        finally:
            self._is_waiting = False
        self._pass(chunk, clock() - began)
        return chunk

    async def asend(self, value: object) -> T:
        """As :meth:`Chunks.send`, of an async generator; without a time limit."""
        return await self._advance(self.stream.asend(value))

    async def athrow(self, error: BaseException) -> T:
        """As :meth:`Chunks.throw`, of an async generator; without a time limit."""
        return await self._advance(self.stream.athrow(error), error)

    async def _advance(self, step: Awaitable[T], thrown: BaseException | None = None) -> T:
        clock = self._clock
        began = clock()
        try:
            chunk = await step
        except BaseException as error:
            self._stop(error, clock() - began, thrown)
            raise
        self._pass(chunk, clock() - began)
        return chunk

    async def _next_in_time(self, idle: IdleTimer, limit: float) -> T:
        idle.start(limit)
        try:
            chunk = await self._next()
        except BaseException as error:
            if idle.stop(error):
                raise await self._give_up(limit) from error
            raise
        idle.stop()
        self._limit = self._idle_timeout
        return chunk

    async def _give_up(self, limit: float) -> TimeoutError:
        """Count the gap as a failure and close the stream; return what to raise."""
        import asyncio

        which = "further" if self._permit.has_progressed else "first"
        error = TimeoutError(f"the stream brought no {which} chunk within {limit:g} s")
        self._permit.end(error, judgement=FAILURE)
        # What closing a dead stream raises says less than this error.
        with suppress(Exception):
            async with asyncio.timeout(limit):
                await self._exits.aclose()
        return error

    async def aclose(self) -> None:
        """Read no further and close the stream. Idempotent."""
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> AsyncChunks[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._permit.leave(error)
        if self._idle is not None:
            self._idle.close()
        return await self._exits.__aexit__(kind, error, traceback)


_ONE_CONSUMER = "another consumer is waiting for the next chunk of this stream: one at a time"


def _instance(kind: Any, value: Any) -> BaseException:
    if isinstance(kind, BaseException):
        return kind
    if isinstance(value, BaseException):
        return value
    error: BaseException = kind() if value is None else kind(value)
    return error


def _idle_timer() -> IdleTimer:
    from llmbatch.breaker.idle import IdleTimer  # imported late: it needs asyncio

    return IdleTimer()


async def _close(stream: object) -> None:
    """Close *stream* by its ``aclose()`` or ``close()``, if it has one."""
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if callable(close):
        closing = close()
        if hasattr(closing, "__await__"):
            await closing
