"""Open a stream through a circuit when a ``with`` block is entered: :class:`GuardedStream`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from types import CoroutineType, TracebackType
from typing import Any, TypeVar

from llmbatch.breaker.chunks import AsyncChunks, ChunkJudge, Chunks
from llmbatch.breaker.classify import FAILURE
from llmbatch.breaker.permit import Permit

__all__ = ["AsyncSource", "GuardedStream", "Source"]

T = TypeVar("T")

Source = Iterator[T] | AbstractContextManager[Iterator[T]]
"""What a function that opens a sync stream returns. Iterables that are no iterators work, but may be whole answers."""

AsyncSource = (
    AsyncIterable[T]
    | AbstractAsyncContextManager[AsyncIterable[T]]
    | Awaitable[AsyncIterable[T] | AbstractAsyncContextManager[AsyncIterable[T]]]
)
"""What a function that opens an async stream may return."""

NO_STREAMS = (str, bytes, bytearray, memoryview, dict, list, tuple, set, frozenset)
"""Iterable types that are a whole answer: ``stream=True`` is missing."""


class GuardedStream:
    """One stream through a circuit; see :meth:`CircuitBreaker.stream`. Acquires nothing before it is entered.

    *create* opens the stream. It can be entered once, with ``async with`` or ``with``, by one task or thread.
    """

    __slots__ = ("_acquire", "_chunks", "_create", "_first_timeout", "_idle_timeout", "_is_entered", "_judge_chunk")

    def __init__(
        self,
        acquire: Callable[[], Permit],
        create: Callable[[], Any],
        judge_chunk: ChunkJudge | None,
        idle_timeout: float | None,
        first_timeout: float | None,
    ) -> None:
        for name, value in (("idle_timeout", idle_timeout), ("first_timeout", first_timeout)):
            if value is not None and not _is_positive(value):
                raise ValueError(f"{name} is {value!r}, must be a finite number of seconds above 0")
        self._acquire = acquire
        self._create = create
        self._judge_chunk = judge_chunk
        self._idle_timeout = idle_timeout
        self._first_timeout = idle_timeout if first_timeout is None else first_timeout
        self._is_entered = False
        self._chunks: Any = None

    def _begin(self) -> Permit:
        if self._is_entered:
            raise RuntimeError("this stream was entered before: call stream() for each block")
        permit = self._acquire()
        self._is_entered = True
        return permit

    # Sync.

    def __enter__(self) -> Chunks[Any]:
        if self._first_timeout is not None or self._idle_timeout is not None:
            raise TypeError(
                "idle_timeout and first_timeout need `async with`: a read that blocks its thread cannot be ended; "
                "set the read timeout of the client instead"
            )
        permit = self._begin()
        try:
            chunks = self._open(permit)
        except NotAStreamError as error:
            permit.leave(error)
            raise
        except BaseException as error:
            permit.end(error)
            raise
        self._chunks = chunks
        return chunks

    def _open(self, permit: Permit) -> Chunks[Any]:
        began = permit.clock()
        source = self._create()
        with ExitStack() as exits:
            manager = None
            stream = source
            if hasattr(source, "__enter__") and hasattr(source, "__exit__"):
                manager = source
                stream = exits.enter_context(source)
            if (why := _why_no_stream(stream)) is not None:
                raise NotAStreamError(why)
            waited = permit.clock() - began
            chunks = Chunks[Any](permit, stream, judge_chunk=self._judge_chunk, waited=waited, manager=manager)
            exits.pop_all()
        return chunks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        chunks: Chunks[Any] = self._chunks
        self._chunks = None
        return chunks.__exit__(kind, error, traceback)

    # Async.

    async def __aenter__(self) -> AsyncChunks[Any]:
        if self._first_timeout is not None:
            from llmbatch.breaker.idle import current_task

            current_task()
        permit = self._begin()
        try:
            if self._first_timeout is None:
                chunks = await self._open_async(permit, None)
            else:
                chunks = await self._open_in_time(permit, self._first_timeout)
        except NotAStreamError as error:
            permit.leave(error)
            raise
        except BaseException as error:
            permit.end(error)
            raise
        self._chunks = chunks
        return chunks

    async def _open_in_time(self, permit: Permit, limit: float) -> AsyncChunks[Any]:
        import asyncio

        try:
            async with asyncio.timeout(limit) as scope:
                return await self._open_async(permit, asyncio.get_running_loop().time() + limit)
        except TimeoutError as error:
            if not scope.expired():
                raise  # the call's own
            late = TimeoutError(f"the stream was not opened within {limit:g} s")
            permit.end(late, judgement=FAILURE)
            raise late from error

    async def _open_async(self, permit: Permit, deadline: float | None) -> AsyncChunks[Any]:
        began = permit.clock()
        source = self._create()
        if hasattr(source, "__await__"):
            source = await source
        async with AsyncExitStack() as exits:
            manager = None
            stream = source
            if hasattr(source, "__aenter__") and hasattr(source, "__aexit__"):
                manager = source
                stream = await exits.enter_async_context(source)
            if (why := _why_no_async_stream(stream)) is not None:
                raise NotAStreamError(why)
            chunks = AsyncChunks[Any](
                permit,
                stream,
                judge_chunk=self._judge_chunk,
                waited=permit.clock() - began,
                manager=manager,
                idle_timeout=self._idle_timeout,
                first_timeout=None if deadline is None else max(deadline - _loop_time(), 0.0),
            )
            exits.pop_all()
        return chunks

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        chunks: AsyncChunks[Any] = self._chunks
        self._chunks = None
        return await chunks.__aexit__(kind, error, traceback)


class NotAStreamError(TypeError):
    """The function returned no stream, or one of the other kind."""


def _why_no_stream(value: object) -> str | None:
    """Why ``with`` cannot iterate over *value*; None: it can. Closes a coroutine."""
    if isinstance(value, CoroutineType):
        value.close()
    if any(hasattr(value, name) for name in ("__await__", "__aiter__", "__aenter__")) and not hasattr(
        value, "__iter__"
    ):
        return f"the function returned {value!r}, which is async: use `async with breaker.stream(…)`"
    # A pydantic model iterates over its fields.
    if not hasattr(value, "__iter__") or isinstance(value, NO_STREAMS) or hasattr(type(value), "model_fields"):
        return _no_stream(value, "call()")
    return None


def _why_no_async_stream(value: object) -> str | None:
    """Why ``async with`` cannot iterate over *value*; None: it can."""
    if hasattr(value, "__aiter__"):
        return None
    if hasattr(value, "__next__") or hasattr(value, "__enter__"):
        return f"the function returned {value!r}, which is not async: use `with breaker.stream(…)`"
    return _no_stream(value, "async_call()")


def _no_stream(value: object, instead: str) -> str:
    return (
        f"the function returned {type(value).__name__!r}, which is no stream: was stream=True forgotten? "
        f"Use {instead} for a whole answer, or pass a generator function that yields the chunks"
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _loop_time() -> float:
    import asyncio

    return asyncio.get_running_loop().time()
