"""``idle_timeout`` and ``first_timeout``: a gap is a failure, the stream is closed, and ``TimeoutError`` is raised."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmbatch.breaker import CircuitBreaker
from llmbatch.breaker.idle import IdleTimer
from llmbatch.sim.virtual import run_virtual

closed: list[str] = []


async def paced(*gaps: float) -> AsyncIterator[int]:
    """A chunk after each gap, in seconds."""
    try:
        for number, gap in enumerate(gaps):
            if gap:
                await asyncio.sleep(gap)
            yield number
    finally:
        closed.append("closed")


async def create(delay: float, *gaps: float) -> AsyncIterator[int]:
    await asyncio.sleep(delay)
    return paced(*gaps)


def virtual(main: Callable[[CircuitBreaker], Any], **options: Any) -> Any:
    """What *main* returns under virtual time; the breaker's clock is the loop's."""
    closed.clear()

    async def run() -> Any:
        breaker = CircuitBreaker(**options, clock=asyncio.get_running_loop().time)
        return await main(breaker)

    return run_virtual(run)


async def read(breaker: CircuitBreaker, fn: Any, *args: Any, **options: Any) -> list[int]:
    """The chunks of a stream."""
    async with breaker.stream(fn, *args, **options) as chunks:
        return [chunk async for chunk in chunks]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("timeouts", [{"idle_timeout": 30.0}, {"idle_timeout": 30.0, "first_timeout": 60.0}])
def test_a_gap_fails_the_stream_after_the_timeout(timeouts: dict[str, Any]) -> None:
    """Counted, closed and raised at once, while the block is still open."""
    options = timeouts

    async def main(breaker: CircuitBreaker) -> tuple[float, int, list[int]]:
        got: list[int] = []
        began = now()

        async def consume() -> None:
            async with breaker.stream(paced, 5.0, 29.0, 3600.0, **options) as chunks:
                try:
                    async for chunk in chunks:
                        got.append(chunk)
                finally:
                    assert (breaker.failures, closed) == (1, ["closed"])

        with pytest.raises(TimeoutError, match="the stream brought no further chunk within 30 s"):
            await consume()
        return now() - began, breaker.failures, got

    assert virtual(main) == (64.0, 1, [0, 1])


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        ({"idle_timeout": 30.0}, 30.0),
        ({"first_timeout": 40.0}, 40.0),
        ({"idle_timeout": 9.0, "first_timeout": 40.0}, 40.0),
    ],
)
@pytest.mark.parametrize("hangs", ["in create", "before the first chunk", "half of each"])
def test_the_first_chunk_has_a_time_limit_that_begins_with_the_call(
    timeouts: dict[str, Any], seconds: float, hangs: str
) -> None:
    """``first_timeout``, or else ``idle_timeout``, for opening and waiting together."""

    async def main(breaker: CircuitBreaker) -> tuple[float, int]:
        delay, gap = {"in create": (3600.0, 1.0), "before the first chunk": (0.0, 3600.0)}.get(hangs, (20.0, 3600.0))
        began = now()
        with pytest.raises(TimeoutError, match=r"no first chunk within|was not opened within"):
            async with breaker.stream(create, delay, gap, **timeouts) as chunks:
                await anext(chunks)
        return now() - began, breaker.failures

    assert virtual(main) == (seconds, 1)


def test_a_steady_stream_meets_no_timeout_however_long_it_is() -> None:
    """The timer of the first wait serves all the others; a slow consumer does not count."""

    async def main(breaker: CircuitBreaker) -> int:
        read = 0
        async with breaker.stream(paced, 50.0, *[29.0] * 100, idle_timeout=30.0, first_timeout=60.0) as chunks:
            async for _ in chunks:
                read += 1
                if read % 10 == 0:
                    await asyncio.sleep(100.0)
        return read

    assert virtual(main) == 101


def test_only_the_first_chunk_has_a_limit_if_no_other_is_set() -> None:
    """``first_timeout`` alone."""

    async def main(breaker: CircuitBreaker) -> int:
        async with breaker.stream(paced, 1.0, 3600.0, first_timeout=2.0) as chunks:
            return len([chunk async for chunk in chunks])

    assert virtual(main) == 2


@pytest.mark.parametrize("count_error", [KeyError, lambda error: False])
def test_a_gap_is_a_failure_whatever_errors_count(count_error: Any) -> None:
    """It was asked for by this option, not by the exception."""

    async def main(breaker: CircuitBreaker) -> tuple[int, str]:
        for gaps in ((3600.0,), (0.0, 3600.0)):
            with pytest.raises(TimeoutError):
                await read(breaker, paced, *gaps, idle_timeout=30.0)
        with pytest.raises(TimeoutError):
            await read(breaker, create, 3600.0, idle_timeout=30.0)
        return breaker.failures, breaker.explain().last_failures[-2].error

    failures, error = virtual(main, count_error=count_error)
    assert failures == 3
    assert error == "TimeoutError: the stream brought no further chunk within 30 s"


def test_a_timeout_of_the_stream_itself_is_judged_as_any_error() -> None:
    """Only this option's own says that it was too long."""

    async def main(breaker: CircuitBreaker) -> int:
        async def timed_out(opened: bool) -> AsyncIterator[int]:
            if not opened:
                raise TimeoutError("its own")

            async def chunks() -> AsyncIterator[int]:
                yield 1
                raise TimeoutError("its own")

            return chunks()

        for opened in (False, True):
            with pytest.raises(TimeoutError, match="its own"):
                await read(breaker, timed_out, opened, idle_timeout=30.0)
        return breaker.failures

    assert virtual(main, count_error=KeyError) == 0
    assert virtual(main) == 2


def test_a_cancellation_by_the_consumer_is_no_timeout() -> None:
    """Also where both come at the same moment: the cancellation goes on."""

    async def main(breaker: CircuitBreaker) -> int:
        for seconds in (10.0, 30.0):
            task = asyncio.create_task(read(breaker, paced, 0.0, 3600.0, idle_timeout=30.0))
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
        return breaker.failures

    assert virtual(main) == 0


def test_a_timeout_around_the_block_is_the_consumers() -> None:
    """``asyncio.timeout`` cancels, and that counts as leaving after a chunk."""

    async def main(breaker: CircuitBreaker) -> tuple[float, int]:
        began = now()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(breaker, paced, 0.0, 3600.0, idle_timeout=30.0), 10.0)
        return now() - began, breaker.failures

    assert virtual(main) == (10.0, 0)


def test_the_task_goes_on_after_a_timeout() -> None:
    """It is not left cancelled: it may await, be cancelled, and time out again."""

    async def main(breaker: CircuitBreaker) -> int:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with breaker.stream(paced, 3600.0, idle_timeout=30.0) as chunks:
                    await anext(chunks)
            await asyncio.sleep(1.0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert virtual(main, failure_threshold=9) == 0


def test_a_consumer_that_catches_the_timeout_finds_the_stream_closed() -> None:
    """No chunk comes any more, and the end of the block closes nothing again."""

    async def main(breaker: CircuitBreaker) -> list[str]:
        async with breaker.stream(paced, 3600.0, idle_timeout=30.0) as chunks:
            with pytest.raises(TimeoutError):
                await anext(chunks)
            assert [chunk async for chunk in chunks] == []
        return closed

    assert virtual(main) == ["closed"]


class Stuck:
    """Swallows the cancellation of a read, or hangs or raises while it is closed, as asked."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.reads = 0

    def __aiter__(self) -> Stuck:
        return self

    async def __anext__(self) -> int:
        self.reads += 1
        if self.reads > 2:
            raise StopAsyncIteration
        try:
            await asyncio.sleep(3600.0 if self.reads == 1 else 0.0)
        except asyncio.CancelledError:
            if self.how == "swallows":
                return 1
            if self.how == "converts":
                raise ConnectionError("cancelled") from None
            raise
        return 2

    async def aclose(self) -> None:
        if self.how == "hangs":
            await asyncio.sleep(3600.0)
        if self.how == "raises":
            raise ConnectionError("while closing")


@pytest.mark.parametrize(("how", "seconds"), [("hangs", 60.0), ("raises", 30.0)])
def test_a_dead_stream_that_cannot_be_closed_still_times_out(how: str, seconds: float) -> None:
    """Closing has as long as a chunk, and what it raises is not shown in place of the time-out."""

    async def main(breaker: CircuitBreaker) -> tuple[float, int]:
        began = now()
        with pytest.raises(TimeoutError, match="no first chunk"):
            async with breaker.stream(Stuck, how, idle_timeout=30.0) as chunks:
                await anext(chunks)
        return now() - began, breaker.failures

    assert virtual(main) == (seconds, 1)


def test_a_stream_that_swallows_the_cancellation_goes_on() -> None:
    """As under ``asyncio.timeout``: a chunk came after all, and the task is not left cancelled."""

    async def main(breaker: CircuitBreaker) -> list[int]:
        async with breaker.stream(Stuck, "swallows", idle_timeout=30.0) as chunks:
            got = [chunk async for chunk in chunks]
        await asyncio.sleep(1.0)
        return got

    assert virtual(main) == [1, 2]


def test_a_stream_that_converts_the_cancellation_fails_with_its_own_error() -> None:
    """It is judged, and the task is not left cancelled."""

    async def main(breaker: CircuitBreaker) -> int:
        with pytest.raises(ConnectionError):
            async with breaker.stream(Stuck, "converts", idle_timeout=30.0) as chunks:
                await anext(chunks)
        await asyncio.sleep(1.0)
        return breaker.failures

    assert virtual(main) == 1


def test_the_event_loop_keeps_no_stream_alive() -> None:
    """The timer that is left refers to it weakly, and finds nothing to do."""

    async def main(breaker: CircuitBreaker) -> int:
        chunks = await breaker.stream(paced, 0.0, 0.0, idle_timeout=30.0).__aenter__()
        await anext(chunks)
        kept = weakref.ref(chunks)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del chunks
            gc.collect()
        assert [told.pop().category, *told] == [ResourceWarning]  # it holds the stream
        assert kept() is None
        await asyncio.sleep(60.0)
        return breaker.failures

    assert virtual(main) == 0


def test_a_timer_that_fires_between_chunks_cancels_nobody() -> None:
    """The consumer takes its time."""

    async def main(breaker: CircuitBreaker) -> int:
        async with breaker.stream(paced, 0.0, 0.0, idle_timeout=30.0) as chunks:
            async for _ in chunks:
                await asyncio.sleep(100.0)
        return breaker.failures

    assert virtual(main) == 0


@pytest.mark.parametrize("name", ["idle_timeout", "first_timeout"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "30"])
def test_a_timeout_out_of_range_is_refused(name: str, value: object) -> None:
    """When the stream is made."""
    with pytest.raises(ValueError, match=f"{name} is .*, must be a finite number of seconds above 0"):
        CircuitBreaker().stream(paced, **{name: value})


@pytest.mark.parametrize("name", ["idle_timeout", "first_timeout"])
def test_a_sync_stream_takes_no_timeout(name: str) -> None:
    """A read that blocks cannot be ended from outside; nothing is acquired."""
    breaker = CircuitBreaker(1)

    with pytest.raises(TypeError, match=r"need `async with`.*set the read timeout of the client"):
        breaker.stream(lambda: iter([1]), **{name: 30.0}).__enter__()  # type: ignore[call-overload]

    assert breaker.failures == 0


def test_a_timeout_outside_of_tasks_of_asyncio_is_a_clear_error() -> None:
    """As on the event loop of trio."""
    breaker = CircuitBreaker(1)

    async def main() -> None:
        IdleTimer().start(30.0)

    with pytest.raises(RuntimeError, match="need asyncio"):
        main().send(None)
    with pytest.raises(RuntimeError, match="need asyncio"):
        read(breaker, paced, 0.0, idle_timeout=30.0).send(None)

    assert breaker.failures == 0


def test_a_callback_of_the_event_loop_is_no_task() -> None:
    """It cannot be cancelled."""

    async def main(breaker: CircuitBreaker) -> BaseException | None:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                IdleTimer().start(30.0)
            except RuntimeError as error:
                failed.set_exception(error)

        asyncio.get_running_loop().call_soon(callback)
        await asyncio.wait([failed])
        return failed.exception()

    assert "need asyncio" in str(virtual(main))
