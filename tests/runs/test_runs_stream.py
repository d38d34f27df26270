"""`BatchRunner.stream`: rows from any iterable, results as they come, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, InputError, Result, StoppedError, UsageError
from llmbatch.core.events import Event, RunEnded


async def echo(row: object) -> object:
    await asyncio.sleep(0.001)
    return row


async def taken(
    runner: BatchRunner, rows: Iterable[object] | AsyncIterable[object], into: list[Result] | None = None
) -> list[Result]:
    results = [] if into is None else into
    async for result in runner.stream(rows):
        results.append(result)
    return results


def error_of(result: Result) -> dict[str, str]:
    assert result.error is not None
    return result.error


def numbers(results: list[Result]) -> list[int]:
    """The values, which are all numbers."""
    values = [result.value for result in results if isinstance(result.value, int)]
    assert len(values) == len(results)
    return values


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def as_generator(values: Iterable[object]) -> Iterator[object]:
    yield from values


async def as_async_generator(values: Iterable[object]) -> AsyncIterator[object]:
    for value in values:
        await asyncio.sleep(0)
        yield value


class OnlyIter:
    """An async iterable that is no generator."""

    def __init__(self, values: Iterable[object]) -> None:
        self._values = iter(values)

    def __aiter__(self) -> OnlyIter:
        return self

    async def __anext__(self) -> object:
        try:
            return next(self._values)
        except StopIteration:
            raise StopAsyncIteration from None


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Afterwards no task and no socket is left of what the test did."""
    before = handles()
    yield
    gc.collect()
    others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not [task for task in others if "llmbatch" in repr(task) or "aiohttp" in repr(task)]
    assert handles() <= before + 1


@pytest.mark.slow
@pytest.mark.parametrize("make", [list, tuple, as_generator, as_async_generator, OnlyIter])
@pytest.mark.parametrize("model", ["sim/steady", echo])
async def test_any_iterable_will_do(
    nothing_left: None, make: Callable[..., Any], model: Callable[..., Any] | str
) -> None:
    """Lists, generators, async generators and plain async iterables, to a provider or a function.

    Slow: simulated answers take 0.2 s.
    """
    rows = [{"id": f"r{n}", "prompt": f"prompt {n}"} for n in range(30)]

    results = await taken(BatchRunner(model), make(rows))

    assert sorted(result.number for result in results) == list(range(1, 31))
    assert {result.status for result in results} == {"success"}
    assert {result.id for result in results} == {row["id"] for row in rows}


@pytest.mark.parametrize("rows", [[], iter(()), as_async_generator([])])
async def test_no_rows_give_no_results(nothing_left: None, rows: Any) -> None:
    """And end at once."""
    async with asyncio.timeout(60):
        assert await taken(BatchRunner("sim/steady"), rows) == []


@pytest.mark.parametrize("rows", ["a prompt", b"bytes", {"prompt": "one"}])
async def test_one_row_in_place_of_rows_is_refused(rows: bytes | dict[str, str] | str) -> None:
    """A string would otherwise go letter by letter."""
    with pytest.raises(InputError, match="not a collection"):
        await taken(BatchRunner("sim/steady"), rows)


@pytest.mark.slow
async def test_errors_of_rows_are_values(nothing_left: None) -> None:
    """A malformed row, a refused one and good ones come out of the same loop.

    Slow: simulated answers take 0.2 s.
    """
    rows = ["good", {"nothing": 1}, {"prompt": "too much [sim:400]"}, "good too"]

    results = {result.number: result for result in await taken(BatchRunner("sim/steady"), rows)}

    assert [results[n].ok for n in (1, 2, 3, 4)] == [True, False, False, True]
    assert error_of(results[2])["code"] == "input_no_prompt"
    assert results[3].status_code == 400
    assert error_of(results[3])["message"]
    body = results[1].json()
    assert isinstance(body, dict)
    assert body["choices"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sim/steady", echo])
async def test_a_slow_consumer_bounds_what_is_taken(nothing_left: None, model: Callable[..., Any] | str) -> None:
    """From an endless generator only as many rows are taken as may be in flight and wait to be collected.

    Slow: simulated answers take 0.2 s.
    """
    asked = 0

    def endless() -> Iterator[dict[str, str]]:
        nonlocal asked
        for asked in itertools.count(1):
            yield {"prompt": f"prompt {asked}"}

    collected, ahead = 0, []
    async with contextlib.aclosing(BatchRunner(model, concurrency=4).stream(endless())) as results:
        async for _ in results:
            collected += 1
            await asyncio.sleep(0.01)
            ahead.append(asked - collected)
            if collected == 40:
                break

    assert max(ahead) <= 3 * 4 + 1


async def test_nobody_looking_means_nothing_sent(nothing_left: None) -> None:
    """While the consumer sleeps, calls stop at the bound."""
    calls = 0

    async def counting(row: object) -> object:
        nonlocal calls
        calls += 1
        return row

    async with contextlib.aclosing(BatchRunner(counting, concurrency=5).stream(itertools.count(1))) as results:
        await anext(results)
        await asyncio.sleep(0.1)

    assert calls <= 3 * 5 + 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sim/steady", echo])
async def test_breaking_out_ends_everything(nothing_left: None, model: Callable[..., Any] | str) -> None:
    """Within `aclosing`, requests in flight end at once, the generator of rows is closed, observers hear the end.

    Slow: simulated answers take 0.2 s.
    """
    closed = False
    events: list[Event] = []

    class Watcher:
        def observe(self, event: Event) -> None:
            events.append(event)

    async def rows() -> AsyncIterator[dict[str, str]]:
        nonlocal closed
        try:
            for n in itertools.count():
                yield {"prompt": f"prompt {n}"}
        finally:
            await asyncio.sleep(0)
            closed = True

    async with contextlib.aclosing(BatchRunner(model, observers=[Watcher()]).stream(rows())) as results:
        async for _ in results:
            break

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert closed
    assert isinstance(events[-1], RunEnded)
    assert events[-1].exit_code == 130


@pytest.mark.slow
async def test_breaking_out_without_aclosing_ends_soon(nothing_left: None) -> None:
    """Python closes the stream some turns of the loop later.

    Slow: simulated answers take 0.2 s.
    """
    async for _ in BatchRunner("sim/steady").stream(f"prompt {n}" for n in range(1000)):
        break

    async with asyncio.timeout(60):
        while asyncio.all_tasks() != {asyncio.current_task()}:
            await asyncio.sleep(0.01)


@pytest.mark.slow
def test_breaking_out_at_the_end_of_the_program_is_quiet(recwarn: pytest.WarningsRecorder) -> None:
    """Leaving the loop and the event loop in one go closes sockets and tasks all the same.

    Slow: simulated answers take 0.2 s.
    """

    async def main() -> None:
        async for _ in BatchRunner("sim/steady").stream(f"prompt {n}" for n in range(1000)):
            break

    before = handles()
    asyncio.run(main())
    gc.collect()

    assert handles() <= before
    assert not [str(warning.message) for warning in recwarn]


async def test_a_call_that_cleans_up_slowly_is_waited_for(nothing_left: None) -> None:
    """Closing the stream returns only when no function runs any more."""
    running = 0

    async def careful(row: object) -> object:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0.001 if row == 0 else 10)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
            running -= 1
        return row

    async with contextlib.aclosing(BatchRunner(careful, concurrency=8).stream(range(50))) as results:
        async for _ in results:
            break

    assert running == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sim/outage", echo])
async def test_cancelling_the_consumer_leaves_nothing(nothing_left: None, model: Callable[..., Any] | str) -> None:
    """The cancellation comes out, and no task stays.

    Slow: simulated answers take 0.2 s.
    """
    got = asyncio.Event()

    async def consume() -> None:
        async for _ in BatchRunner(model, concurrency=10).stream(f"prompt {n}" for n in itertools.count()):
            got.set()

    task = asyncio.create_task(consume())
    await got.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancellation_near_the_end_is_never_swallowed(turns: int) -> None:
    """Wherever it falls, a cancelled consumer is cancelled or had finished; it never goes on as if nothing was."""
    finished_at = None

    async def consume() -> None:
        nonlocal finished_at
        async for _ in BatchRunner(echo).stream([1]):
            pass
        await asyncio.sleep(0)
        finished_at = turn
        await asyncio.sleep(10)

    turn = 0
    task = asyncio.create_task(consume())
    await asyncio.sleep(0.001)
    for turn in range(turns):  # noqa: B007 - consume() reads it
        await asyncio.sleep(0)

    task.cancel()

    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("make", [as_generator, as_async_generator])
async def test_what_the_iterable_raises_comes_out(nothing_left: None, make: Callable[..., Any]) -> None:
    """After the results of the rows before it, unchanged."""

    class DatabaseGoneError(Exception):
        pass

    def broken() -> Iterator[object]:
        yield from range(1, 6)
        raise DatabaseGoneError("connection lost")

    async def broken_async() -> AsyncIterator[object]:
        for n in range(1, 6):
            yield n
        raise DatabaseGoneError("connection lost")

    results: list[Result] = []
    with pytest.raises(DatabaseGoneError, match="connection lost"):
        await taken(BatchRunner(echo), broken() if make is as_generator else broken_async(), results)

    assert sorted(numbers(results)) == [1, 2, 3, 4, 5]


@pytest.mark.slow
async def test_two_streams_at_once_of_one_runner(nothing_left: None) -> None:
    """They share the settings and nothing else.

    Slow: simulated answers take 0.2 s.
    """
    runner = BatchRunner("sim/steady", concurrency=10)

    both = await asyncio.gather(*(taken(runner, [f"prompt {n}" for n in range(40)]) for _ in range(2)))

    assert [len(results) for results in both] == [40, 40]


async def test_a_stream_within_a_stream() -> None:
    """One batch's results as the rows of another."""
    first = BatchRunner(echo).stream(range(50))

    async def answers() -> AsyncIterator[object]:
        async for result in first:
            yield result.value

    results = await taken(BatchRunner(echo, concurrency=3), answers())

    assert sorted(numbers(results)) == list(range(50))


async def test_stop_from_the_loop_ends_the_stream(nothing_left: None) -> None:
    """Rows in flight still come; then the loop ends."""
    runner = BatchRunner(echo, concurrency=3)
    seen = 0

    async for _ in runner.stream(itertools.count()):
        seen += 1
        if seen == 10:
            runner.stop()

    assert 10 <= seen <= 30
    assert len(await taken(runner, range(5))) == 5


async def test_a_refused_key_raises_stopped_error_and_loses_no_row(nothing_left: None) -> None:
    """Nothing is marked failed: the rows that were taken come as deferred, then the error says what to do."""
    results: list[Result] = []

    with pytest.raises(StoppedError) as caught:
        await taken(BatchRunner("sim/bad-key"), (f"prompt {n}" for n in range(100)), results)

    assert {result.status for result in results} == {"deferred"}
    assert caught.value.hint


async def test_a_missing_key_is_raised_by_the_stream() -> None:
    """Where no row can be sent, whether there are few rows or no end of them; no row is marked failed."""
    for rows in (["one"], ["one"] * 19, itertools.repeat("one")):
        results: list[Result] = []
        with pytest.raises(UsageError, match="OPENAI_API_KEY"):
            await taken(BatchRunner("openai/gpt-5-mini", environ={}), rows, results)
        assert all(result.status == "deferred" for result in results)


async def test_rows_of_a_stream_without_a_key_fail_alone_where_others_can_be_sent(nothing_left: None) -> None:
    """Also those before the first row that has its key."""
    rows = [{"prompt": str(n), "model": "groq/llama-3.3-70b" if n % 5 else "sim/steady"} for n in range(1, 41)]

    results = await taken(BatchRunner(environ={}), rows)

    codes = {result.number: error_of(result)["code"] for result in results if result.status == "failed"}
    assert len(results) == 40
    assert codes == {n: "no_key" for n in range(1, 41) if n % 5}


class Shaky:
    """Fails with ConnectionError from the call *first* on, for *seconds*."""

    def __init__(self, first: int, seconds: float) -> None:
        self.calls = 0
        self._first = first
        self._seconds = seconds
        self._down_at: float | None = None

    async def __call__(self, row: object) -> object:
        self.calls += 1
        await asyncio.sleep(0.002)
        now = asyncio.get_running_loop().time()
        if self._down_at is None and self.calls >= self._first:
            self._down_at = now
        if self._down_at is not None and now < self._down_at + self._seconds:
            raise ConnectionError("down")
        return row


@pytest.mark.slow
async def test_on_outage_wait_gives_every_row_its_success(nothing_left: None) -> None:
    """Two seconds of failing calls cost no row, and few calls. Slow: the outage is real time."""
    shaky = Shaky(50, 2.0)

    async with asyncio.timeout(120):
        results = await taken(BatchRunner(shaky, concurrency=10, recovery_timeout=1.0), range(200))

    assert Counter(result.status for result in results) == {"success": 200}
    assert sorted(numbers(results)) == list(range(200))
    assert max(result.deferrals for result in results) >= 1
    assert shaky.calls <= 200 + 10 + 5 + 6


@pytest.mark.slow  # attempts over some seconds, until the errors are an outage
async def test_on_outage_defer_gives_the_waiting_rows_last(nothing_left: None) -> None:
    """The loop ends without waiting for recovery; what still waits comes as deferred, with the seconds to wait."""
    results = await taken(BatchRunner(Shaky(20, 60.0), concurrency=5, on_outage="defer"), range(200))

    statuses = [result.status for result in results]
    first_deferred = statuses.index("deferred")
    assert set(statuses[:first_deferred]) == {"success"}
    assert set(statuses[first_deferred:]) == {"deferred"}
    assert all((result.retry_after or 0) > 0 and result.reason and not result.ok for result in results[first_deferred:])
    assert len({result.number for result in results}) == len(results)


@pytest.mark.slow  # attempts over some seconds, until the errors are an outage
async def test_on_outage_fail_gives_every_row_an_error(nothing_left: None) -> None:
    """For those who would rather have an answer now: rows end as failed while the circuit is open."""
    results = await taken(BatchRunner(Shaky(20, 60.0), concurrency=5, on_outage="fail"), range(100))

    statuses = Counter(result.status for result in results)
    assert statuses["failed"] > 70
    assert statuses.total() == 100


@pytest.mark.slow
async def test_max_outage_bounds_the_wait(nothing_left: None) -> None:
    """After so many seconds it ends as `defer` does. Slow: a second of outage."""
    async with asyncio.timeout(120):
        results = await taken(
            BatchRunner(Shaky(20, 60.0), concurrency=5, max_outage=1.0, recovery_timeout=0.3), range(100)
        )

    assert {result.status for result in results} == {"success", "deferred"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [as_generator, as_async_generator])
async def test_many_malformed_rows_and_a_slow_consumer_come_to_an_end(make: Callable[..., Any]) -> None:
    """Rows that need no call fill the queue too; when it drains, reading goes on.

    Slow: the consumer is.
    """
    rows = make([{"nothing": n} for n in range(300)] + ["a prompt"])
    seen = 0

    async with asyncio.timeout(60):
        async for _ in BatchRunner("sim/steady", concurrency=2).stream(rows):
            seen += 1
            await asyncio.sleep(0.001)

    assert seen == 301
