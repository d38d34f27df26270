"""The ways to get results besides a file: in order, from synchronous code, as a list; and how they end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmbatch import BatchRunner, Result, RowFailedError, StoppedError
from llmbatch.core.events import Event
from llmbatch.sim.virtual import run_virtual


async def echo(row: int) -> int:
    await asyncio.sleep(0.001)
    return row


async def late_first(row: int) -> int:
    """The first of every ten rows takes longest."""
    await asyncio.sleep(0.02 if row % 10 == 0 else 0.0001)
    return row


def threads() -> list[str]:
    """Those of streams and plain calls; other tests leave some of their own, such as that of a shared breaker."""
    return [thread.name for thread in threading.enumerate() if thread.name in ("llmbatch", "llmbatch stream")]


# In order.


async def test_results_came_in_any_order() -> None:
    """With `ordered=True` in that of the rows; the row is in its result."""
    results = [result async for result in BatchRunner(late_first, concurrency=10).stream(range(100), ordered=True)]

    assert [result.row for result in results] == list(range(100))
    assert [result.number for result in results] == list(range(1, 101))
    assert [result.unwrap() for result in results] == list(range(100))


async def test_results_in_order_wait_in_bounded_memory() -> None:
    """While the first row takes its time, rows are read to the bound and no further."""
    asked = 0
    release = asyncio.Event()

    def endless() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    async def call(row: int) -> int:
        if row == 1:
            await release.wait()
        return row

    async with BatchRunner(call, concurrency=20).stream(endless(), ordered=True) as results:
        first = asyncio.ensure_future(anext(results))
        while asked < 200:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        ahead = asked
        release.set()
        rows = [(await first).row, *[(await anext(results)).row for _ in range(500)]]

    assert ahead == 200
    assert rows == list(range(1, 502))


async def test_a_slow_consumer_of_results_in_order_bounds_what_is_sent() -> None:
    """As without order: twice the requests in flight wait for it."""
    calls = 0

    async def call(row: int) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return row

    async with BatchRunner(call, concurrency=5).stream(itertools.count(), ordered=True) as results:
        await anext(results)
        await asyncio.sleep(0.05)

    assert calls <= 3 * 5 + 1


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_outage_in_the_middle_keeps_the_order_and_every_row(concurrency: int) -> None:
    """The first rows of the outage are parked at the head of the queue; ninety seconds later all go on."""

    async def main() -> tuple[list[Any], float]:
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def call(row: int) -> int:
            at = loop.time() - started
            await asyncio.sleep(0.2)
            if 3 <= at < 93:
                raise ConnectionError("down")
            return row

        stream = BatchRunner(call, seed=1, concurrency=concurrency).stream(range(300), ordered=True)
        rows = [result.row async for result in stream if result.ok]
        assert stream.summary.outages == 1
        return rows, loop.time() - started

    rows, seconds = run_virtual(main, limit=10_000.0)

    assert rows == list(range(300))
    assert seconds < 93 * 1.1 + 300 * 0.2 / concurrency + 20


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("on_outage", ["defer", "fail"])
def test_an_outage_that_is_not_waited_for_ends_a_stream_in_order(on_outage: Any) -> None:
    """One tenant of two is down for ever: the stream ends, in order, and does not hang on the row at its head."""

    async def main() -> list[Result]:
        async def call(row: dict[str, Any]) -> int:
            await asyncio.sleep(0.2)
            if row["tenant"] == "down" and row["id"] >= 40:
                raise ConnectionError("down")
            return int(row["id"])

        rows = ({"prompt": "p", "id": n, "tenant": "down" if n % 4 == 0 else "up"} for n in range(2000))
        runner = BatchRunner(call, seed=1, concurrency=4, circuit_key="tenant", on_outage=on_outage)
        return [result async for result in runner.stream(rows, ordered=True)]

    results = run_virtual(main, limit=100_000.0)

    numbers = [result.number for result in results]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {result.status for result in results} == {"success", "deferred" if on_outage == "defer" else "failed"}
    assert len(results) == 2000 if on_outage == "fail" else len(results) >= 100


async def test_what_the_iterable_raises_comes_after_the_results_in_order() -> None:
    """Also those that were waiting for the order."""

    def broken() -> Iterator[int]:
        yield from range(30)
        raise OSError("connection lost")

    rows = []

    async def consume() -> None:
        async for result in BatchRunner(late_first).stream(broken(), ordered=True):
            rows.append(result.row)

    with pytest.raises(OSError, match="connection lost"):
        await consume()
    assert rows == list(range(30))


async def test_a_missing_key_is_found_in_order_too() -> None:
    """The first rows are held back until one can be sent; a narrow window must not wait for them for ever."""
    rows = [{"prompt": str(n), "model": "sim/steady" if n == 19 else "groq/llama-3.3-70b"} for n in range(20)]

    async with asyncio.timeout(60):
        runner = BatchRunner(environ={}, concurrency=1)
        codes = [result.error_code async for result in runner.stream(rows, ordered=True)]

    assert codes == ["no_key"] * 19 + [None]


# How it ended.


async def test_the_end_of_a_stream_and_stopping_it_looked_alike() -> None:
    """The summary tells them apart; it is there however the stream ended, and not before."""
    runner = BatchRunner(echo, concurrency=3)
    whole, stopped, left = (runner.stream(rows) for rows in (range(5), itertools.count(), itertools.count()))
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = whole.summary

    async for _ in whole:
        pass
    async for result in stopped:
        if result.row == 10:
            runner.stop()
    async with left:
        await anext(left)

    assert (whole.summary.exit_code, whole.summary.success, whole.summary.stopped_reason) == (0, 5, None)
    assert stopped.summary.exit_code == 130
    assert "interrupted" in (stopped.summary.stopped_reason or "")
    assert left.summary.exit_code == 130
    assert "closed early" in (left.summary.stopped_reason or "")


async def test_a_stream_that_was_refused_has_a_summary() -> None:
    """Beside the error that says what to do."""
    stream = BatchRunner("sim/bad-key").stream(["a", "b"])

    with pytest.raises(StoppedError):
        async for _ in stream:
            pass

    assert stream.summary.exit_code == 3


# Lists.


async def test_map_gives_the_results_of_a_list_in_order() -> None:
    """Errors are values, too."""

    async def call(row: int) -> int:
        await asyncio.sleep(0.001 * (row % 3))
        if row == 7:
            raise ValueError("odd")
        return row * 2

    results = await BatchRunner(call, max_attempts=1).map(range(20))

    assert [result.value for result in results] == [None if n == 7 else 2 * n for n in range(20)]
    assert [result.row for result in results] == list(range(20))
    with pytest.raises(RowFailedError, match="row row-8: value_error: odd") as caught:
        results[7].unwrap()
    assert caught.value.code == "value_error"


async def test_map_takes_async_iterables() -> None:
    """As stream does."""

    async def rows() -> AsyncIterator[int]:
        for n in range(5):
            yield n

    assert [result.value for result in await BatchRunner(echo).map(rows())] == [0, 1, 2, 3, 4]


def test_a_list_that_is_stopped_loses_no_answer_that_was_paid_for() -> None:
    """No money after thirty rows: the error has what arrived before."""

    class BrokeError(Exception):
        status_code = 402
        body = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}  # noqa: RUF012
        response = None

    async def main() -> StoppedError:
        async def call(row: int) -> int:
            await asyncio.sleep(0.1)
            if row >= 30:
                raise BrokeError("You exceeded your current quota")
            return row

        with pytest.raises(StoppedError) as caught:
            await BatchRunner(call, seed=1, concurrency=5).map(range(100))
        return caught.value

    error = run_virtual(main, limit=10_000.0)

    assert [result.value for result in error.results if result.ok] == list(range(30))


# Synchronous code.


@pytest.mark.parametrize("ordered", [False, True])
def test_results_in_a_plain_loop(ordered: bool) -> None:
    """Nothing async in sight; the thread is gone afterwards."""
    stream = BatchRunner(late_first, concurrency=10).stream_sync(range(100), ordered=ordered)

    rows = [result.row for result in stream]

    assert (rows if ordered else sorted(rows)) == list(range(100))
    assert stream.summary.exit_code == 0
    assert threads() == []


async def test_a_plain_loop_inside_an_event_loop() -> None:
    """As in a notebook, where a loop is running already."""
    assert sorted(result.row for result in BatchRunner(echo).stream_sync(range(20))) == list(range(20))
    assert threads() == []


def test_leaving_a_plain_loop_ends_the_run() -> None:
    """By `break` alone, by `with`, and by closing: requests are canceled, generators closed, threads ended."""
    closed: list[str] = []

    def rows(name: str) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(name)

    runner = BatchRunner(echo, concurrency=4)
    for _ in runner.stream_sync(rows("break")):
        break
    gc.collect()
    with runner.stream_sync(rows("with")) as stream:
        next(stream)
    closing = runner.stream_sync(rows("close"))
    next(closing)
    closing.close()

    assert closed == ["break", "with", "close"]
    assert list(closing) == []
    assert (stream.summary.exit_code, closing.summary.exit_code) == (130, 130)
    assert threads() == []


def test_exceptions_pass_a_plain_loop() -> None:
    """Those of the iterable, of the runner, and of the loop's own body."""

    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("connection lost")

    runner = BatchRunner(echo)
    rows = []

    def consume() -> None:
        for result in runner.stream_sync(broken()):
            rows.append(result.row)

    with pytest.raises(OSError, match="connection lost"):
        consume()
    with pytest.raises(StoppedError):
        list(BatchRunner("sim/bad-key").stream_sync(["a"]))
    with pytest.raises(KeyError), runner.stream_sync(range(9)) as stream:
        raise KeyError(next(stream).row)

    assert sorted(rows) == [0, 1, 2]
    assert threads() == []


def test_stop_from_the_body_of_a_plain_loop() -> None:
    """The loop that sends runs in another thread; results in flight still come."""
    runner = BatchRunner(echo, concurrency=3)
    stream = runner.stream_sync(itertools.count())
    seen = 0

    for _ in stream:
        seen += 1
        if seen == 10:
            runner.stop()

    assert 10 <= seen <= 40
    assert stream.summary.exit_code == 130


async def test_cancelling_a_task_that_blocks_in_a_plain_loop() -> None:
    """What Ctrl-C does under `asyncio.run`: the loop that is blocked here cannot deliver it, so the stream looks."""

    async def hang(row: int) -> int:
        await asyncio.sleep(60)
        return row

    async def consume() -> None:
        task = asyncio.current_task()
        assert task is not None
        threading.Timer(0.05, task.cancel).start()
        list(BatchRunner(hang).stream_sync([1]))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(consume())
    assert threads() == []


def test_nothing_is_begun_before_the_first_result_is_asked_for() -> None:
    """A stream that is thrown away has no thread and takes no row."""
    rows = iter(range(3))
    stream = BatchRunner(echo).stream_sync(rows)
    assert threads() == []
    stream.close()

    assert list(stream) == []
    assert list(rows) == [0, 1, 2]


@pytest.mark.slow  # many calls in virtual time
def test_a_plain_loop_changes_threads_less_often_than_there_are_rows() -> None:
    """Results that are there are taken together: waking the other thread takes longer than a row."""

    async def at_once(row: int) -> int:
        return row

    stream = BatchRunner(at_once, concurrency=40).stream(range(2000))
    batches = []

    async def take() -> None:
        while batch := await stream.next_batch():
            batches.append([result.row for result in batch])

    asyncio.run(take())

    assert sorted(itertools.chain(*batches)) == list(range(2000))
    assert len(batches) < 200


@pytest.mark.slow  # many calls in virtual time
def test_a_stream_that_is_collected_on_its_own_thread_ends() -> None:
    """Garbage in a circle is found wherever Python looks for it, also by the thread that the stream would wait for."""

    async def collect(row: int) -> int:
        while row:  # the first row ends; the others never do
            await asyncio.sleep(0.001)
            gc.collect()
        return row

    stream: Any = BatchRunner(collect, concurrency=2).stream_sync(itertools.count())
    next(stream)
    stream.itself = stream
    gc.disable()
    try:
        del stream
        deadline = time.monotonic() + 60
        while threads() and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        gc.enable()

    assert threads() == []


@pytest.mark.slow
def test_ctrl_c_in_a_plain_loop_ends_the_program() -> None:
    """The interruption comes out of the loop, and the run is over. Slow: a process of its own."""
    script = """
import asyncio, itertools
from llmbatch import BatchRunner
async def hang(row):
    if row == 3:
        print("waiting", flush=True)
    try:
        await asyncio.sleep(0.01 if row < 3 else 1000)
    finally:
        if row >= 3:
            print("canceled", flush=True)
    return row
stream = BatchRunner(hang, concurrency=1).stream_sync(itertools.count())
try:
    for result in stream:
        pass
except KeyboardInterrupt:
    print("interrupted", stream.summary.exit_code, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)

    assert (process.returncode, err) == (0, b"")
    assert out == b"canceled\ninterrupted 130\n"


# Functions that are not async, wrappers, and context variables.

WHO: contextvars.ContextVar[object] = contextvars.ContextVar("who", default="nobody")


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_context_variable_of_one_row_was_seen_by_others(kind: str) -> None:
    """Each call has a fresh copy of the caller's context: what it sets is gone, what the caller set is there."""
    WHO.set("caller")
    seen = []

    async def call(row: int) -> int:
        seen.append(WHO.get())
        WHO.set(row)
        await asyncio.sleep(0.0005)
        assert WHO.get() == row
        await asyncio.create_task(asyncio.sleep(0))
        assert WHO.get() == row
        return row

    def plain(row: int) -> int:
        seen.append(WHO.get())
        WHO.set(row)
        time.sleep(0.0005)
        assert WHO.get() == row
        return row

    results = await (BatchRunner(call if kind == "async" else plain, concurrency=3)).map(range(30))

    assert [result.value for result in results] == list(range(30))
    assert set(seen) == {"caller"}
    assert WHO.get() == "caller"


async def test_events_of_a_run_do_not_reach_observers_in_a_rows_context() -> None:
    """They are the runner's."""
    seen: list[object] = []

    def observe(event: Event) -> None:
        seen.append(WHO.get())

    async def call(row: int) -> int:
        WHO.set(row)
        return row

    await BatchRunner(call, observers=[observe]).map(range(10))

    assert set(seen) == {"nobody"}
