"""What the breaker costs a chunk of a stream, beside the bare loop over the same chunks. Run by breaker.py.

The chunks come from a generator that never waits, in streams of 1,000: what is measured includes opening and settling
the stream. CPU time of the process, because one thread does all the work. No peer has a call for streams.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from time import process_time_ns

from llmbatch import CircuitBreaker

CHUNKS = 1_000
"""Chunks in a stream."""

STREAMS = 10
"""Streams in a round."""

GOAL_NS = 3_000.0
"""Added nanoseconds a chunk that are too many."""

BARE_SYNC, BARE_ASYNC = "bare for", "bare async for"
Streams = dict[str, list[float]]
"""Row: nanoseconds a chunk in every round."""


def source() -> Iterator[int]:
    yield from range(CHUNKS)


async def source_async() -> AsyncIterator[int]:
    for number in range(CHUNKS):
        yield number


def bare() -> None:
    for _ in source():
        pass


async def bare_async() -> None:
    async for _ in source_async():
        pass


def guarded(breaker: CircuitBreaker) -> Callable[[], None]:
    def read() -> None:
        with breaker.stream(source) as chunks:
            for _ in chunks:
                pass

    return read


def guarded_async(
    breaker: CircuitBreaker, idle_timeout: float | None = None
) -> Callable[[], Coroutine[object, object, None]]:
    async def read() -> None:
        async with breaker.stream(source_async, idle_timeout=idle_timeout) as chunks:
            async for _ in chunks:
                pass

    return read


def measure_streams(*, rounds: int, streams: int = STREAMS) -> Streams:
    """Every row, *rounds* times, in turn."""
    plain = CircuitBreaker()
    ruled = CircuitBreaker(slow_call_rate=0.5, stall_timeout=60.0, failure_rate=0.5)
    rows: dict[str, Callable[[], None]] = {BARE_SYNC: bare, "sync": guarded(plain)}
    rows_async: dict[str, Callable[[], Coroutine[object, object, None]]] = {
        BARE_ASYNC: bare_async,
        "async": guarded_async(plain),
        "async, slow-call and stall rules": guarded_async(ruled),
        "async, idle_timeout": guarded_async(plain, 30.0),
    }
    figures: Streams = {}
    with asyncio.Runner() as runner:
        for _ in range(rounds):
            gc.collect()
            for name, read in rows.items():
                started = process_time_ns()
                for _ in range(streams):
                    read()
                figures.setdefault(name, []).append((process_time_ns() - started) / streams / CHUNKS)
            for name, read_async in rows_async.items():
                figures.setdefault(name, []).append(runner.run(_timed(read_async, streams)) / streams / CHUNKS)
    return figures


async def _timed(read: Callable[[], Coroutine[object, object, None]], streams: int) -> int:
    started = process_time_ns()
    for _ in range(streams):
        await read()
    return process_time_ns() - started


def stream_rows(figures: Streams) -> list[list[str]]:
    """A table: nanoseconds a chunk, added over the bare loop of the same round, as a ratio to it, and the goal."""
    rows = [["ns a chunk", "median", "added", "÷ bare loop", f"goal: added < {GOAL_NS:,.0f}"]]
    for name, values in figures.items():
        median = statistics.median(values)
        if name in (BARE_SYNC, BARE_ASYNC):
            rows.append([name, f"{median:,.0f}", "", "", ""])
            continue
        floor = figures[BARE_SYNC if name == "sync" else BARE_ASYNC]
        added = statistics.median(own - bare for own, bare in zip(values, floor, strict=True))
        ratio = statistics.median(own / bare for own, bare in zip(values, floor, strict=True))
        verdict = "reached" if added < GOAL_NS else "missed"
        rows.append([name, f"{median:,.0f}", f"{added:,.0f}", f"{ratio:.1f}", verdict])
    return rows
