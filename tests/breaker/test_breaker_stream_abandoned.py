"""Streams that nobody closes: whoever forgot them, the permit does not stay held, and a warning says so."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, half_opened

from llmbatch.breaker import AsyncChunks, Chunks, CircuitBreaker


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sync_source() -> Iterator[int]:
    yield from range(3)


async def source() -> AsyncIterator[int]:
    for number in range(3):
        yield number


def drop(make: Callable[[], object]) -> list[str]:
    """What is warned of when nothing refers any more to what *make* returns."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make()
        gc.collect()
    return [str(warning.message) for warning in told if warning.category is ResourceWarning]


@pytest.mark.parametrize("after", [0, 1])
def test_a_forgotten_stream_gives_its_permit_back(small_heap: None, clock: Clock, after: int) -> None:
    """As if its consumer had left: a success after a chunk, nothing before."""
    breaker = half_opened(clock)

    def forget() -> Any:
        chunks = breaker.stream(sync_source).__enter__()
        for _ in range(after):
            next(chunks)
        return chunks

    (told,) = drop(forget)

    assert told.startswith("a stream was neither read to its end nor closed: <Permit probe")
    assert told.endswith("use it in a with block")
    assert breaker.state == ("closed" if after else "half_open")
    assert breaker.acquire().is_probe is not bool(after)


async def test_a_forgotten_async_stream_gives_its_permit_back(small_heap: None, clock: Clock) -> None:
    """The same."""
    breaker = half_opened(clock)
    chunks = await breaker.stream(source).__aenter__()
    await anext(chunks)
    holder = [chunks]
    del chunks

    (told,) = drop(holder.clear)

    assert "neither read to its end nor closed" in told
    assert breaker.state == "closed"


def test_a_stream_in_a_cycle_is_found_by_the_garbage_collector(small_heap: None, clock: Clock) -> None:
    """In whatever thread that runs, also within a step of the circuit."""
    breaker = half_opened(clock)

    def forget() -> None:
        holder: list[Any] = [breaker.stream(sync_source).__enter__()]
        next(holder[0])
        holder.append(holder)

    thread = threading.Thread(target=forget)
    thread.start()
    thread.join()

    (told,) = drop(lambda: None)

    assert "neither read to its end nor closed" in told
    assert breaker.state == "closed"


def test_a_stream_that_ended_is_dropped_without_a_word(clock: Clock) -> None:
    """Read to its end, cut, closed or settled by hand; and one that was never entered."""
    breaker = CircuitBreaker(9, clock=clock)

    def cut() -> Iterator[int]:
        yield 1
        raise DownError

    def end() -> None:
        list(breaker.stream(sync_source).__enter__())

    def fail() -> None:
        with pytest.raises(DownError):
            list(breaker.stream(cut).__enter__())

    def close() -> None:
        breaker.stream(sync_source).__enter__().close()

    def settle() -> None:
        chunks = breaker.stream(sync_source).__enter__()
        chunks.permit.release()

    def never() -> None:
        breaker.stream(sync_source)

    assert [drop(how) for how in (end, fail, close, settle, never)] == [[]] * 5


def test_chunks_that_were_not_made_are_dropped_without_a_word(clock: Clock) -> None:
    """There is no permit of theirs."""
    assert drop(lambda: Chunks.__new__(Chunks)) == []
    assert drop(lambda: AsyncChunks.__new__(AsyncChunks)) == []


def test_an_event_loop_that_ends_leaves_no_permit_held(small_heap: None, clock: Clock) -> None:
    """``asyncio.run`` cancels the consumers that are left, and closes generators around a stream."""
    breaker = half_opened(clock, success_threshold=2)

    async def around() -> AsyncIterator[int]:
        async with breaker.stream(source) as chunks:
            async for chunk in chunks:
                yield chunk

    async def consume(reached: asyncio.Event) -> None:
        async with breaker.stream(source) as chunks:
            await anext(chunks)
            reached.set()
            await asyncio.sleep(3600)

    async def cancelled() -> None:
        reached = asyncio.Event()
        task = asyncio.create_task(consume(reached))
        await reached.wait()
        assert not task.done()

    async def left() -> None:
        async for _ in around():
            break

    assert drop(lambda: asyncio.run(cancelled())) == []
    assert breaker.state == "half_open"
    assert drop(lambda: asyncio.run(left())) == []

    assert str(breaker.state) == "closed"


def test_a_loop_that_is_closed_without_a_word_leaves_no_permit_held(small_heap: None, clock: Clock) -> None:
    """Nobody closes its generators; the stream inside is found when they are collected."""
    breaker = half_opened(clock)

    async def around() -> AsyncIterator[int]:
        async with breaker.stream(source) as chunks:
            async for chunk in chunks:
                yield chunk

    async def begin(generator: AsyncIterator[int]) -> None:
        await anext(generator)

    def forget() -> None:
        loop = asyncio.new_event_loop()
        generator = around()
        loop.run_until_complete(begin(generator))
        loop.close()
        assert str(breaker.state) == "half_open"

    (told,) = drop(forget)

    assert "neither read to its end nor closed" in told
    assert breaker.state == "closed"


def test_an_exit_stack_closes_a_stream(clock: Clock) -> None:
    """As any other context manager."""
    breaker = half_opened(clock)

    with ExitStack() as stack:
        chunks = stack.enter_context(breaker.stream(sync_source))
        assert next(chunks) == 0

    assert breaker.state == "closed"


@pytest.mark.slow
def test_streams_that_are_left_when_python_ends_say_nothing_worse_than_a_warning() -> None:
    """In modules half torn down; slow, for it starts Python."""
    program = """
import asyncio
from llmbatch import CircuitBreaker
breaker = CircuitBreaker()
async def source():
    yield 1
async def enter():
    return await breaker.stream(source).__aenter__()
kept = [breaker.stream(lambda: iter([1])).__enter__(), asyncio.run(enter())]
kept.append(kept)
import sys
sys.kept = kept
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
