"""``async with breaker.stream(create, …) as chunks`` and ``with``: what a stream counts as, whoever ends it and how."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, fine, half_opened, opened
from breaker_threads import PATIENCE, frequent_switches, run_threads

from llmbatch.breaker import CircuitBreaker, CircuitOpenError, Judgement
from llmbatch.breaker.classify import Verdict

DOWN = DownError("down")


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


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_breaker_may_open_while_a_stream_runs(clock: Clock, is_async: bool) -> None:
    """The stream goes on, and how it ends no longer counts."""
    for end in (None, DownError("cut")):
        breaker = CircuitBreaker(1, clock=clock)
        if is_async:
            async with breaker.stream(source, 3, end) as later:
                assert await anext(later) == 0
                await fails(breaker)
                assert str(breaker.state) == "open"
                assert await anext(later) == 1
        else:
            with breaker.stream(sync_source, 3, end) as chunks:
                assert next(chunks) == 0
                await fails(breaker)
                assert str(breaker.state) == "open"
                assert next(chunks) == 1
        assert str(breaker.state) == "open"
        clock.advance(60.0)
        assert breaker.call(fine) == "fine"
        assert breaker.state == "closed"


async def fails(breaker: CircuitBreaker) -> None:
    """One call that fails."""
    with pytest.raises(DownError):
        await read(breaker, create, 0, DownError("another"))


async def test_a_failure_to_open_a_stream_is_a_failure(clock: Clock) -> None:
    """Of the function, of what it awaits, and of entering what it returned."""

    def refuse() -> AsyncIterator[int]:
        raise DownError("at once")

    async def refuse_later() -> AsyncIterator[int]:
        raise DownError("later")

    @asynccontextmanager
    async def refuse_entry(error: Exception = DOWN) -> AsyncIterator[AsyncIterator[int]]:
        if error:
            raise error
        yield source(1)

    @contextmanager
    def refuse_entry_sync(error: Exception = DOWN) -> Iterator[Iterator[int]]:
        if error:
            raise error
        yield sync_source(1)

    breaker = CircuitBreaker(9, clock=clock)
    for failures, fn in enumerate((refuse, refuse_later, refuse_entry), 1):
        with pytest.raises(DownError):
            await read(breaker, fn)
        assert breaker.failures == failures
    for failures, sync_fn in enumerate((refuse, refuse_entry_sync), 4):
        with pytest.raises(DownError):
            read_sync(breaker, sync_fn)
        assert breaker.failures == failures


async def test_a_cancellation_while_a_stream_is_opened_says_nothing(clock: Clock) -> None:
    """As one of a call."""
    breaker = half_opened(clock)

    async def hang() -> AsyncIterator[int]:
        await asyncio.sleep(3600)
        return source(1)

    task = asyncio.create_task(read(breaker, hang))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert breaker.state == "half_open"
    assert breaker.acquire().is_probe


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("where", ["waiting for a chunk", "between chunks"])
async def test_cancellation_by_the_consumer_counts_only_after_a_chunk(clock: Clock, after: int, where: str) -> None:
    """As a success, wherever the task was; before the first chunk nothing is known."""
    breaker = half_opened(clock)
    reached = asyncio.Event()

    async def hanging() -> AsyncIterator[int]:
        for number in range(after):
            yield number
        if where == "waiting for a chunk":
            reached.set()
            await asyncio.sleep(3600)
        yield 99

    async def consume() -> None:
        async with breaker.stream(hanging) as chunks:
            for _ in range(after):
                await anext(chunks)
            if where == "between chunks":
                reached.set()
                await asyncio.sleep(3600)
            await anext(chunks)

    task = asyncio.create_task(consume())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert breaker.state == ("closed" if after else "half_open")
    assert breaker.acquire().is_probe is not bool(after)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("after", [0, 1])
def test_an_interruption_counts_only_after_a_chunk(clock: Clock, interruption: type[BaseException], after: int) -> None:
    """As a cancellation does."""
    breaker = half_opened(clock)

    def consume() -> None:
        with breaker.stream(sync_source, 3) as chunks:
            for _ in range(after):
                next(chunks)
            raise interruption

    with pytest.raises(interruption):
        consume()

    assert breaker.state == ("closed" if after else "half_open")


async def test_a_return_out_of_the_loop_closes_the_stream(clock: Clock) -> None:
    """And is a success; so is ``aclose`` of a generator around the block."""
    closed: list[str] = []

    async def watched() -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            closed.append("closed")

    async def first(breaker: CircuitBreaker) -> int:
        async with breaker.stream(watched) as chunks:
            async for chunk in chunks:
                return chunk
        raise AssertionError("no chunk")

    async def forward(breaker: CircuitBreaker) -> AsyncGenerator[int, None]:
        async with breaker.stream(watched) as chunks:
            async for chunk in chunks:
                yield chunk

    breaker = half_opened(clock, success_threshold=2)
    assert await first(breaker) == 0
    assert (closed, str(breaker.state)) == (["closed"], "half_open")
    generator = forward(breaker)
    await anext(generator)
    await generator.aclose()

    assert (closed, breaker.state) == (["closed"] * 2, "closed")


async def test_the_time_to_the_first_chunk_and_the_longest_gap_make_a_stream_slow(clock: Clock) -> None:
    """Not 90 s of chunks with a first one after 0.3 s, nor a consumer who takes its time."""
    breaker = CircuitBreaker(slow_call_rate=1.0, slow_call_duration=10.0, minimum_calls=2, rate_window=2, clock=clock)

    async def timed(first: float, gap: float, chunks: int, last: float = 0.0) -> AsyncIterator[int]:
        for number in range(chunks):
            clock.advance(gap if number else first)
            yield number
        clock.advance(last)

    async def opening(seconds: float, first: float) -> AsyncIterator[int]:
        clock.advance(seconds)
        return timed(first, 0.1, 3)

    async def thoughtful() -> None:
        async with breaker.stream(timed, 0.3, 1.0, 3) as chunks:
            clock.advance(500.0)
            async for _ in chunks:
                clock.advance(500.0)

    for _ in range(3):
        await read(breaker, timed, 0.3, 1.0, 90)
        await thoughtful()
    assert str(breaker.state) == "closed"
    for slow in ((timed, 10.1, 1.0, 3), (timed, 0.3, 10.1, 3), (timed, 0.3, 1.0, 3, 10.1), (opening, 6.0, 6.0)):
        breaker.reset()
        for _ in range(2):
            await read(breaker, *slow)
        assert breaker.state == "open", slow


def test_the_waits_of_a_sync_stream_are_measured_as_those_of_an_async_one(clock: Clock) -> None:
    """Without the consumer's own time."""
    breaker = CircuitBreaker(slow_call_rate=1.0, slow_call_duration=10.0, minimum_calls=1, rate_window=1, clock=clock)

    def timed(first: float, gap: float) -> Iterator[int]:
        clock.advance(first)
        yield 0
        clock.advance(gap)
        yield 1

    with breaker.stream(timed, 0.3, 9.9) as chunks:
        for _ in chunks:
            clock.advance(500.0)
    assert str(breaker.state) == "closed"
    read_sync(breaker, timed, 0.3, 10.1)

    assert breaker.state == "open"


async def test_a_cancelled_wait_for_a_chunk_counts_as_a_gap(clock: Clock) -> None:
    """A stream that hangs until its consumer gives up is slow, though no chunk ended the gap."""
    breaker = CircuitBreaker(slow_call_rate=1.0, slow_call_duration=10.0, minimum_calls=1, rate_window=1, clock=clock)

    async def hang() -> AsyncIterator[int]:
        yield 0
        clock.advance(10.1)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await read(breaker, hang)

    assert breaker.state == "open"


async def test_chunks_keep_the_slot_of_a_probe(clock: Clock) -> None:
    """A stream much longer than the lease, as long as chunks come, and it closes the circuit."""
    breaker = half_opened(clock, probe_lease=10.0)

    async def long() -> AsyncIterator[int]:
        for number in range(30):
            clock.advance(9.0)
            with pytest.raises(CircuitOpenError):
                breaker.call(fine)
            yield number

    assert len(await read(breaker, long)) == 30

    assert breaker.state == "closed"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("said", "state"), [("failure", "open"), ("exhausted", "open"), ("neutral", "closed")])
async def test_an_error_among_the_chunks_is_judged(clock: Clock, is_async: bool, said: Any, state: str) -> None:
    """The consumer gets the chunk and those after it, and the end no longer counts."""
    breaker = half_opened(clock, neutral_probes=1)

    def judge(chunk: int) -> Verdict | Judgement | None:
        return (None, "success", Judgement(said, retry_after=90.0), None)[chunk]

    if is_async:
        async with breaker.stream(source, 4, judge_chunk=judge) as later:
            assert [chunk async for chunk in later] == [0, 1, 2, 3]
    else:
        with breaker.stream(sync_source, 4, judge_chunk=judge) as chunks:
            assert list(chunks) == [0, 1, 2, 3]

    assert breaker.state == state
    assert state == "closed" or breaker.retry_after == 90.0


async def test_an_ignored_chunk_gives_the_permit_back(clock: Clock) -> None:
    """Nothing is counted, as if the stream had never been."""
    breaker = half_opened(clock)

    async with breaker.stream(source, 2, judge_chunk=lambda chunk: "ignored") as chunks:
        assert await anext(chunks) == 0
        assert chunks.permit.is_settled

    assert breaker.state == "half_open"


@pytest.mark.parametrize("wrong", ["raises", "no verdict"])
async def test_a_judge_of_chunks_that_is_wrong_is_the_consumers_fault(clock: Clock, wrong: str) -> None:
    """Its exception comes out of the loop, and nothing is counted."""
    breaker = half_opened(clock)

    def judge(chunk: int) -> Any:
        if wrong == "raises":
            raise KeyError(chunk)
        return "bad"

    async def consume() -> None:
        async with breaker.stream(source, 3, judge_chunk=judge) as chunks:
            await anext(chunks)

    with pytest.raises(KeyError if wrong == "raises" else ValueError):
        await consume()

    assert breaker.state == "half_open"
    assert breaker.acquire().is_probe


async def test_a_stream_counts_once(clock: Clock) -> None:
    """Whatever happens after its end: another read, an error in the block, closing twice."""
    breaker = CircuitBreaker(5, clock=clock)
    verdicts: list[object] = []
    breaker.add_listener(lambda event: verdicts.append(getattr(event, "verdict", None)), calls=True)

    async def consume() -> None:
        async with breaker.stream(source, 1) as chunks:
            assert [chunk async for chunk in chunks] == [0]
            assert [chunk async for chunk in chunks] == []
            await chunks.aclose()
            await chunks.aclose()
            raise KeyError("the consumer's")

    def consume_sync() -> None:
        with breaker.stream(sync_source, 1, DownError("cut")) as chunks:
            with pytest.raises(DownError):
                list(chunks)
            assert list(chunks) == []
            chunks.close()
            chunks.close()
            raise KeyError("the consumer's")

    with pytest.raises(KeyError):
        await consume()
    with pytest.raises(KeyError):
        consume_sync()

    assert verdicts == ["success", "failure"]


async def test_the_stream_of_a_disabled_or_forced_circuit(clock: Clock) -> None:
    """Admitted and not counted; refused."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.disable()
    with pytest.raises(DownError):
        await read(breaker, source, 1, DownError("cut"))
    assert str(breaker.state) == "closed"
    breaker.force_open("maintenance")

    with pytest.raises(CircuitOpenError, match="maintenance"):
        await read(breaker, source, 1)


def test_nothing_is_acquired_before_the_block_is_entered(clock: Clock) -> None:
    """Nor is it an error to drop it."""
    breaker = half_opened(clock)

    breaker.stream(sync_source, 3)

    assert breaker.acquire().is_probe


# Consumers in other tasks and threads.


async def test_another_task_may_read_the_chunks(clock: Clock) -> None:
    """Each chunk may go to another one, and the block may be left elsewhere than it was entered."""
    breaker = half_opened(clock)
    block = breaker.stream(source, 3)
    chunks = await asyncio.create_task(_enter(block))

    async def next_one() -> int:
        return await anext(chunks)

    assert [await asyncio.create_task(next_one()) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    await asyncio.create_task(_leave(block))

    assert breaker.state == "closed"


async def _enter(block: Any) -> Any:
    return await block.__aenter__()


async def _leave(block: Any) -> None:
    await block.__aexit__(None, None, None)


async def test_two_consumers_at_a_time_are_told_so_and_not_taken_for_a_fault(clock: Clock) -> None:
    """The source would raise RuntimeError, which would count as the provider's failure."""
    breaker = CircuitBreaker(1, clock=clock)

    async with breaker.stream(source, 2) as chunks:
        first, second = asyncio.create_task(_next(chunks)), asyncio.create_task(_next(chunks))
        done = await asyncio.gather(first, second, return_exceptions=True)
        assert done[0] == 0
        assert isinstance(done[1], RuntimeError)
        assert "one at a time" in str(done[1])
        assert await anext(chunks) == 1

    assert breaker.failures == 0


async def _next(chunks: Any) -> int:
    return int(await anext(chunks))


def test_two_threads_at_a_time_are_told_so_and_not_taken_for_a_fault(clock: Clock) -> None:
    """A generator would raise ValueError, which would count as the provider's failure."""
    breaker = CircuitBreaker(1, clock=clock)
    waiting, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        waiting.set()
        assert go_on.wait(PATIENCE)
        yield 0
        yield 1

    got: list[int] = []
    with breaker.stream(slow) as chunks:
        thread = threading.Thread(target=lambda: got.append(next(chunks)))
        thread.start()
        assert waiting.wait(PATIENCE)
        with pytest.raises(RuntimeError, match="one at a time"):
            next(chunks)
        go_on.set()
        thread.join(PATIENCE)
        assert next(chunks) == 1

    assert (got, breaker.failures) == ([0], 0)


def test_many_threads_with_streams_count_each_once() -> None:
    """Ends, cuts and early leaves at the same time, as many as there were."""
    breaker = CircuitBreaker(None, failure_rate=1.0, minimum_calls=100_000, rate_window=100_000)
    counts: Counter[object] = Counter()
    breaker.add_listener(lambda event: counts.update([getattr(event, "verdict", None)]), calls=True)

    def consume() -> None:
        for _ in range(30):
            read_sync(breaker, sync_source, 3)
            read_sync(breaker, sync_source, 3, leave_after=1)
            with pytest.raises(DownError):
                read_sync(breaker, sync_source, 3, DownError("cut"))

    with frequent_switches():
        run_threads(*[consume] * 4)

    assert counts == {"success": 240, "failure": 120}


def test_a_stream_that_reads_itself_is_told_so(clock: Clock) -> None:
    """Re-entrance: the chunks are asked for from inside the source."""
    breaker = CircuitBreaker(1, clock=clock, count_error=DownError)
    holder: list[Any] = []

    def selfish() -> Iterator[int]:
        with pytest.raises(RuntimeError, match="one at a time"):
            next(holder[0])
        yield 1

    with breaker.stream(selfish) as chunks:
        holder.append(chunks)
        assert list(chunks) == [1]


def test_streams_within_a_stream_have_permits_of_their_own(clock: Clock) -> None:
    """A tool call inside the loop, through the same breaker."""
    breaker = CircuitBreaker(1, clock=clock)

    with breaker.stream(sync_source, 2) as outer:
        assert next(outer) == 0
        with pytest.raises(DownError):
            read_sync(breaker, sync_source, 1, DownError("inner"))
        assert next(outer) == 1

    assert breaker.state == "open"


def test_a_stream_is_closed_by_a_handler_within_a_step_of_the_circuit() -> None:
    """As a signal handler or the garbage collector may: it is settled once, after the step."""
    holder: list[Any] = []

    def clock() -> float:
        if holder:
            holder.pop().close()
        return 1000.0

    breaker = CircuitBreaker(5, clock=clock)
    verdicts: list[object] = []
    breaker.add_listener(lambda event: verdicts.append(getattr(event, "verdict", None)), calls=True)
    block = breaker.stream(sync_source, 3)
    chunks = block.__enter__()
    next(chunks)

    holder.append(chunks)
    chunks.permit.end()
    chunks.close()

    assert verdicts == ["success"]
