"""What ``breaker.stream`` takes: every shape in which SDKs give a stream, each closed, and the wrong ones named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, fine, fine_later, half_opened

from llmbatch.breaker import AsyncChunks, Chunks, CircuitBreaker

closed: list[str] = []


@pytest.fixture
def clock() -> Clock:
    closed.clear()
    return Clock()


class SdkStream:
    """An async iterator that is its own context manager, as openai's; its ``__aiter__`` makes a generator."""

    def __init__(self, chunks: int = 3) -> None:
        self.chunks = iter(range(chunks))

    async def __anext__(self) -> int:
        try:
            return next(self.chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in self.chunks:
                yield number
        finally:
            closed.append("iterator")

    async def __aenter__(self) -> SdkStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        closed.append("stream")


class SdkManager:
    """A context manager that gives a stream, as anthropic's; nothing is sent before it is entered."""

    async def __aenter__(self) -> SdkStream:
        self.stream = SdkStream()
        return self.stream

    async def __aexit__(self, *exc: object) -> None:
        await self.stream.close()


class ByteStream:
    """An async iterable with ``aclose``, as httpx's."""

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            closed.append("iterator")

    async def aclose(self) -> None:
        closed.append("stream")


class Bare:
    """An async iterator with no way to close it."""

    def __init__(self) -> None:
        self.chunks = iter(range(3))

    def __aiter__(self) -> Bare:
        return self

    async def __anext__(self) -> int:
        try:
            return next(self.chunks)
        except StopIteration:
            raise StopAsyncIteration from None


class SyncClosed(Bare):
    """An async iterator with a plain ``close``."""

    def close(self) -> None:
        closed.append("stream")


class RequestManager:
    """Awaited or entered, as aiohttp's requests; awaiting gives a context manager too."""

    def __await__(self) -> Generator[Any, None, SdkStream]:
        yield from asyncio.sleep(0).__await__()
        return SdkStream()

    async def __aenter__(self) -> SdkStream:
        raise AssertionError("awaited instead")

    async def __aexit__(self, *exc: object) -> None: ...


async def generator() -> AsyncIterator[int]:
    try:
        for number in range(3):
            yield number
    finally:
        closed.append("stream")


async def awaited() -> SdkStream:
    return SdkStream()


async def awaited_manager() -> SdkManager:
    return SdkManager()


@asynccontextmanager
async def managed() -> AsyncIterator[AsyncIterator[int]]:
    try:
        yield generator()
    finally:
        closed.append("manager")


ASYNC: list[Any] = [
    pytest.param(generator, ["stream"], id="generator function"),
    pytest.param(awaited, ["iterator", "stream"], id="openai"),
    pytest.param(SdkManager, ["iterator", "stream"], id="anthropic"),
    pytest.param(awaited_manager, ["iterator", "stream"], id="awaited manager"),
    pytest.param(RequestManager, ["iterator", "stream"], id="aiohttp"),
    pytest.param(ByteStream, ["iterator", "stream"], id="httpx"),
    pytest.param(managed, ["manager"], id="asynccontextmanager"),
    pytest.param(SyncClosed, ["stream"], id="plain close"),
    pytest.param(Bare, [], id="no close"),
]


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize(("create", "closes"), ASYNC)
async def test_every_kind_of_async_stream_is_read_and_closed(
    clock: Clock, create: Callable[[], Any], closes: list[str], leaves: bool
) -> None:
    """At its end and when it is left after a chunk."""
    breaker = half_opened(clock)

    async with breaker.stream(create) as chunks:
        assert isinstance(chunks, AsyncChunks)
        if leaves:
            assert await anext(chunks) == 0
        else:
            assert [chunk async for chunk in chunks] == [0, 1, 2]

    assert breaker.state == "closed"
    if create is managed:
        # The inner generator is the manager's to close.
        assert "manager" in closed
    elif leaves:
        assert sorted(closed) == sorted(closes)
    else:
        assert set(closed) == set(closes)


class SyncSdkStream:
    """As openai's."""

    def __init__(self) -> None:
        self.chunks = iter(range(3))

    def __next__(self) -> int:
        return next(self.chunks)

    def __iter__(self) -> Iterator[int]:
        try:
            yield from self.chunks
        finally:
            closed.append("iterator")

    def __enter__(self) -> SyncSdkStream:
        return self

    def __exit__(self, *exc: object) -> None:
        closed.append("stream")


class SyncSdkManager:
    """As anthropic's."""

    def __enter__(self) -> SyncSdkStream:
        return SyncSdkStream()

    def __exit__(self, *exc: object) -> None:
        closed.append("manager")


class SyncByteStream:
    """As httpx's."""

    def __iter__(self) -> Iterator[int]:
        yield from range(3)

    def close(self) -> None:
        closed.append("stream")


class SyncBare:
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def sync_generator() -> Iterator[int]:
    try:
        yield from range(3)
    finally:
        closed.append("stream")


@contextmanager
def sync_managed() -> Iterator[Iterator[int]]:
    try:
        yield iter(range(3))
    finally:
        closed.append("manager")


SYNC: list[Any] = [
    pytest.param(sync_generator, {"stream"}, id="generator function"),
    pytest.param(SyncSdkStream, {"iterator", "stream"}, id="openai"),
    pytest.param(SyncSdkManager, {"iterator", "manager"}, id="anthropic"),
    pytest.param(SyncByteStream, {"stream"}, id="httpx"),
    pytest.param(sync_managed, {"manager"}, id="contextmanager"),
    pytest.param(SyncBare, set(), id="no close"),
]


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize(("create", "closes"), SYNC)
def test_every_kind_of_sync_stream_is_read_and_closed(
    clock: Clock, create: Callable[[], Any], closes: set[str], leaves: bool
) -> None:
    """At its end and when it is left after a chunk."""
    breaker = half_opened(clock)

    with breaker.stream(create) as chunks:
        assert isinstance(chunks, Chunks)
        if leaves:
            assert next(chunks) == 0
        else:
            assert list(chunks) == [0, 1, 2]

    assert (breaker.state, set(closed)) == ("closed", closes)


async def test_the_stream_itself_is_at_hand(clock: Clock) -> None:
    """For what the SDK has beside the chunks, such as a final message."""
    breaker = CircuitBreaker(clock=clock, name="sdk")

    async with breaker.stream(awaited) as later:
        assert isinstance(later.stream, SdkStream)
        assert repr(later).startswith("<AsyncChunks of <test_breaker_stream_sources.SdkStream object")
    with breaker.stream(SyncSdkManager) as chunks:
        assert isinstance(chunks.stream, SyncSdkStream)
        assert "by <Permit call 2 of <CircuitBreaker sdk closed>>" in repr(chunks)


async def test_arguments_are_handed_on(clock: Clock) -> None:
    """By position and keyword; the options are not among them."""
    got: list[object] = []

    async def create(*args: object, **kwargs: object) -> AsyncIterator[int]:
        got.extend([args, kwargs])
        return generator()

    def sync_create(*args: object, **kwargs: object) -> Iterator[int]:
        got.extend([args, kwargs])
        return sync_generator()

    breaker = CircuitBreaker(clock=clock)
    async with breaker.stream(create, 1, a=2, idle_timeout=9.0, first_timeout=9.0, judge_chunk=lambda chunk: None):
        pass
    with breaker.stream(sync_create, 1, a=2, judge_chunk=lambda chunk: None):
        pass

    assert got == [(1,), {"a": 2}] * 2


async def test_a_manager_gets_the_exception_of_the_block(clock: Clock) -> None:
    """And may handle it, as outside a breaker."""
    seen: list[str] = []

    @asynccontextmanager
    async def handling() -> AsyncIterator[AsyncIterator[int]]:
        try:
            yield generator()
        except KeyError:
            seen.append("async")

    @contextmanager
    def handling_sync() -> Iterator[Iterator[int]]:
        try:
            yield iter(range(3))
        except KeyError:
            seen.append("sync")

    async def consume(breaker: CircuitBreaker) -> None:
        async with breaker.stream(handling):
            raise KeyError

    def consume_sync(breaker: CircuitBreaker) -> None:
        with breaker.stream(handling_sync):
            raise KeyError

    breaker = CircuitBreaker(1, clock=clock)
    await consume(breaker)
    consume_sync(breaker)

    assert seen == ["async", "sync"]
    assert breaker.failures == 0


async def test_an_error_while_closing_comes_out_and_counts_nothing_more(clock: Clock) -> None:
    """The stream was left with success before it is closed."""

    class Sticky(Bare):
        async def aclose(self) -> None:
            raise DownError("while closing")

    async def consume(breaker: CircuitBreaker) -> None:
        async with breaker.stream(Sticky) as chunks:
            await anext(chunks)

    breaker = half_opened(clock)
    with pytest.raises(DownError, match="while closing"):
        await consume(breaker)

    assert breaker.state == "closed"


# The wrong kinds: nothing is counted, and the permit is given back.


async def enter(breaker: CircuitBreaker, create: Callable[..., Any]) -> None:
    async with breaker.stream(create):
        raise AssertionError("entered")


def enter_sync(breaker: CircuitBreaker, create: Callable[..., Any]) -> None:
    with breaker.stream(create):
        raise AssertionError("entered")


class Model:
    """A pydantic model iterates over its fields, and is a whole answer."""

    model_fields: dict[str, object] = {}  # noqa: RUF012

    def __iter__(self) -> Iterator[object]:
        return iter(())


@asynccontextmanager
async def manages_none() -> AsyncIterator[None]:
    try:
        yield
    finally:
        closed.append("manager")


@contextmanager
def manages_none_sync() -> Iterator[None]:
    try:
        yield
    finally:
        closed.append("manager")


@pytest.mark.parametrize("create", [generator, awaited, SdkManager, ByteStream, managed, fine_later])
def test_async_streams_in_a_plain_with_are_told_what_to_use(
    clock: Clock, create: Callable[[], Awaitable[object]]
) -> None:
    """Before anything is iterated; a coroutine is closed, or Python would complain that it was never awaited."""
    breaker = half_opened(clock)

    with pytest.raises(TypeError, match=r"is async: use `async with breaker\.stream"):
        enter_sync(breaker, create)

    assert breaker.acquire().is_probe


@pytest.mark.parametrize("create", [sync_generator, SyncSdkStream, SyncSdkManager])
async def test_sync_streams_in_an_async_with_are_told_what_to_use(clock: Clock, create: Callable[[], object]) -> None:
    """They would block the event loop."""
    breaker = half_opened(clock)

    with pytest.raises(TypeError, match=r"is not async: use `with breaker\.stream"):
        await enter(breaker, create)

    assert breaker.acquire().is_probe


@pytest.mark.parametrize("value", ["text", b"bytes", {}, [], (), 5, None, Model()])
async def test_a_whole_answer_is_told_to_be_none(clock: Clock, value: object) -> None:
    """``stream=True`` was forgotten."""

    async def later() -> object:
        return value

    breaker = half_opened(clock)

    with pytest.raises(TypeError, match=r"which is no stream: was stream=True forgotten\? Use call\(\)"):
        enter_sync(breaker, lambda: value)
    with pytest.raises(TypeError, match=r"which is no stream: was stream=True forgotten\? Use async_call\(\)"):
        await enter(breaker, later)

    assert breaker.acquire().is_probe


async def test_a_manager_of_no_stream_is_left_again(clock: Clock) -> None:
    """As httpx's ``client.stream``, which gives a response."""
    breaker = half_opened(clock)

    with pytest.raises(TypeError, match="'NoneType', which is no stream"):
        await enter(breaker, manages_none)
    with pytest.raises(TypeError, match="'NoneType', which is no stream"):
        enter_sync(breaker, manages_none_sync)

    assert closed == ["manager", "manager"]
    assert breaker.acquire().is_probe


async def test_a_type_error_of_the_function_itself_is_judged(clock: Clock) -> None:
    """It is not taken for one of these."""

    def create() -> Iterator[int]:
        raise TypeError("its own")

    breaker = CircuitBreaker(5, clock=clock)
    with pytest.raises(TypeError, match="its own"):
        enter_sync(breaker, create)
    with pytest.raises(TypeError, match="its own"):
        await enter(breaker, create)

    assert breaker.failures == 2


async def test_a_block_is_entered_once(clock: Clock) -> None:
    """Each block opens a stream of its own; a refusal does not count as entering."""
    breaker = CircuitBreaker(1, clock=clock)
    block, async_block = breaker.stream(sync_generator), breaker.stream(generator)
    breaker.force_open()
    for _ in range(2):
        with pytest.raises(Exception, match="is open"):
            block.__enter__()
        with pytest.raises(Exception, match="is open"):
            await async_block.__aenter__()
    breaker.reset()
    with block, pytest.raises(RuntimeError, match="entered before"):
        block.__enter__()
    async with async_block:
        with pytest.raises(RuntimeError, match="entered before"):
            await async_block.__aenter__()
    assert breaker.call(fine) == "fine"


def test_what_is_no_function_is_told_at_once(clock: Clock) -> None:
    """Above all the stream itself, which began before the breaker was asked."""
    breaker = CircuitBreaker(clock=clock)

    with pytest.raises(TypeError, match="pass the function that opens the stream, not what it returns"):
        breaker.stream(iter([1]))  # type: ignore[call-overload]


# A stream at hand.


async def test_chunks_of_a_stream_at_hand(clock: Clock) -> None:
    """For transports, which get the stream with the answer; the permit may be settled before."""
    breaker = half_opened(clock)
    async with AsyncChunks(breaker.acquire(), generator()) as later:
        assert [chunk async for chunk in later] == [0, 1, 2]
    assert str(breaker.state) == "closed"
    breaker = CircuitBreaker(1, clock=clock)
    permit = breaker.acquire()
    permit.settle("failure")
    with Chunks(permit, sync_generator()) as chunks:
        assert list(chunks) == [0, 1, 2]

    assert breaker.state == "open"
    assert closed == ["stream", "stream"]


def test_what_cannot_be_iterated_leaves_the_permit_to_its_owner(clock: Clock) -> None:
    """And there is nothing to clean up."""
    breaker = CircuitBreaker(clock=clock)
    permit = breaker.acquire()

    with pytest.raises(TypeError, match="not iterable"):
        Chunks(permit, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="async iterable"):
        AsyncChunks(permit, 5)  # type: ignore[arg-type]

    assert not permit.is_settled
