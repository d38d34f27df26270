"""``async with breaker.stream(create, …) as chunks`` and ``with``: what a stream counts as, whoever ends it and how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, half_opened, opened

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sync_source(chunks: int, error: BaseException | None = None) -> Iterator[int]:
    yield from range(chunks)
    if error is not None:
        raise error


async def source(chunks: int, error: BaseException | None = None) -> AsyncIterator[int]:
    """*chunks* numbers, then the end or *error*."""
    for number in range(chunks):
        await asyncio.sleep(0)
        yield number
    if error is not None:
        raise error


async def create(chunks: int, error: BaseException | None = None) -> AsyncIterator[int]:
    """As an SDK does: awaited, then iterated."""
    await asyncio.sleep(0)
    return source(chunks, error)


async def read(breaker: CircuitBreaker, fn: Any, *args: Any, leave_after: int | None = None) -> list[int]:
    """The chunks of a stream, up to *leave_after*."""
    read: list[int] = []
    async with breaker.stream(fn, *args) as chunks:
        async for chunk in chunks:
            read.append(chunk)
            if len(read) == leave_after:
                break
    return read


def read_sync(breaker: CircuitBreaker, fn: Any, *args: Any, leave_after: int | None = None) -> list[int]:
    """The same with ``with``."""
    read: list[int] = []
    with breaker.stream(fn, *args) as chunks:
        for chunk in chunks:
            read.append(chunk)
            if len(read) == leave_after:
                break
    return read


@pytest.mark.parametrize("fn", [create, source])
async def test_the_end_of_a_stream_is_a_success(clock: Clock, fn: Any) -> None:
    """It ends a streak of failures, and closes a half-open circuit."""
    breaker = half_opened(clock)

    assert await read(breaker, fn, 3) == [0, 1, 2]

    assert breaker.state == "closed"


@pytest.mark.parametrize("fn", [create, source])
async def test_a_cut_in_a_stream_is_a_failure(clock: Clock, fn: Any) -> None:
    """Also after chunks; the consumer gets the exception."""
    breaker = CircuitBreaker(3, clock=clock)

    for failures in range(1, 4):
        with pytest.raises(DownError):
            await read(breaker, fn, 2, DownError("cut"))
        assert breaker.failures == failures

    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError):
        await read(breaker, fn, 2)


async def test_good_streams_that_the_client_leaves_after_the_first_chunk_close_a_half_open_circuit(
    clock: Clock,
) -> None:
    """Twenty of them and one more."""
    breaker = half_opened(clock, success_threshold=21)

    states = []
    for _ in range(21):
        states.append(breaker.state)
        assert await read(breaker, create, 1000, leave_after=1) == [0]

    assert states == ["half_open"] * 21
    assert breaker.state == "closed"


async def test_leaving_before_the_first_chunk_says_nothing(clock: Clock) -> None:
    """The probe gives its slot back."""
    breaker = half_opened(clock)

    async with breaker.stream(create, 3):
        pass
    assert str(breaker.state) == "half_open"
    await read(breaker, create, 3)

    assert breaker.state == "closed"


@pytest.mark.parametrize("after", [0, 1])
async def test_the_consumers_own_exception_says_nothing(clock: Clock, after: int) -> None:
    """Neither a failure nor a success, whether a chunk came or not; and a half-open circuit stays so."""
    breaker = CircuitBreaker(2, clock=clock)
    with pytest.raises(DownError):
        await read(breaker, create, 0, DownError("cut"))

    async def consume(breaker: CircuitBreaker) -> None:
        async with breaker.stream(create, 3) as chunks:
            for _ in range(after):
                await anext(chunks)
            raise KeyError("the consumer's")

    with pytest.raises(KeyError):
        await consume(breaker)
    assert breaker.failures == 1
    half_open = half_opened(clock)
    with pytest.raises(KeyError):
        await consume(half_open)

    assert half_open.state == "half_open"


def test_a_sync_stream_counts_as_an_async_one(clock: Clock) -> None:
    """End, cut, early leave, the consumer's own."""

    def consume(breaker: CircuitBreaker) -> None:
        with breaker.stream(sync_source, 3) as chunks:
            next(chunks)
            raise KeyError("the consumer's")

    breaker = CircuitBreaker(2, clock=clock)

    assert read_sync(breaker, sync_source, 3) == [0, 1, 2]
    with pytest.raises(DownError):
        read_sync(breaker, sync_source, 1, DownError("cut"))
    assert breaker.failures == 1
    with pytest.raises(KeyError):
        consume(breaker)
    assert breaker.failures == 1
    assert read_sync(breaker, sync_source, 3, leave_after=1) == [0]

    assert breaker.failures == 0


async def test_a_stream_is_refused_while_open(clock: Clock) -> None:
    """Nothing is called."""
    breaker = opened(clock)

    with pytest.raises(CircuitOpenError):
        await read(breaker, pytest.fail)
    with pytest.raises(CircuitOpenError):
        read_sync(breaker, pytest.fail)
