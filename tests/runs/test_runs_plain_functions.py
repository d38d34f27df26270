"""Functions that are not async, and wrappers of those that are."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from llmbatch import BatchRunner, StoppedError


async def double(row: int) -> int:
    await asyncio.sleep(0)
    return 2 * row


def counted(call: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(call)
    def wrapper(row: int) -> Any:
        return call(row)

    return wrapper


def into_task(call: Callable[[int], Any]) -> Callable[[int], Any]:
    """Needs the running loop before it returns."""

    def wrapper(row: int) -> Any:
        return asyncio.ensure_future(call(row))

    return wrapper


def blocking(call: Callable[[int], Any]) -> Callable[[int], Any]:
    """Makes a plain function of an async one, as `async_to_sync` does: it must not run on the event loop."""

    @functools.wraps(call)
    def wrapper(row: int) -> Any:
        return asyncio.run(call(row))

    return wrapper


class Later:
    """An awaitable of its own."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self._value


WRAPPERS: dict[str, Callable[[int], Any]] = {
    "wraps": counted(double),
    "lambda": lambda row: double(row),
    "partial": functools.partial(counted(double)),
    "task": into_task(double),
    "blocking": blocking(double),
    "awaitable": lambda row: Later(2 * row),
    "plain": lambda row: 2 * row,
    "twice": counted(counted(double)),
}


@pytest.mark.parametrize("name", WRAPPERS)
async def test_a_wrapped_async_function_was_refused(name: str) -> None:
    """What the call returns decides, not how the function was defined."""
    results = await BatchRunner(WRAPPERS[name], concurrency=3).map(range(20))

    assert [(result.error_message, result.value) for result in results] == [(None, 2 * n) for n in range(20)]
    assert max(result.attempts for result in results) == 1


@pytest.mark.parametrize("kind", [mock.AsyncMock, mock.Mock])
async def test_a_mock_of_a_function_was_taken_for_a_provider(kind: type[mock.Mock]) -> None:
    """It has every attribute that it is asked for; services test their own code with such."""
    function = kind(return_value=5)

    results = await BatchRunner(function).map(["a", "b"])

    assert [result.value for result in results] == [5, 5]
    assert function.call_count == 2


async def test_a_plain_function_runs_in_as_many_threads_as_may_be_in_flight() -> None:
    """Not more, also where the machine's usual pool is smaller; the event loop goes on meanwhile."""
    lock = threading.Lock()
    running = most = 0
    names = set()

    def call(row: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            names.add(threading.current_thread().name)
        time.sleep(0.01)
        with lock:
            running -= 1
        return row

    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    task = asyncio.create_task(turn())
    results = await BatchRunner(call, concurrency=12).map(range(60))
    task.cancel()

    assert [result.value for result in results] == list(range(60))
    assert 1 < most <= 12
    assert names == {"llmbatch call"}
    assert turns > 5


async def test_what_a_plain_function_raises_is_its_rows() -> None:
    """StopIteration too, which no future carries: as from a coroutine, it is a RuntimeError."""

    def call(row: int) -> int:
        if row == 3:
            raise StopIteration("odd")
        if row == 4:
            raise ValueError("odder")
        return row

    results = await BatchRunner(call, max_attempts=1).map(range(10))

    assert [result.number for result in results if not result.ok] == [4, 5]
    assert [result.error_code for result in results if not result.ok] == ["runtime_error", "value_error"]


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
async def test_a_thread_that_hangs_costs_its_row_an_attempt_and_not_the_run() -> None:
    """The time limit ends the waiting; the run ends although the thread has not."""
    release = threading.Event()
    hung = 0

    def call(row: int) -> int:
        nonlocal hung
        if row == 5 and hung < 2:
            hung += 1
            release.wait(60)
        return row

    try:
        results = await BatchRunner(call, timeout=0.5, concurrency=4).map(range(20))
        left = [thread for thread in threading.enumerate() if thread.name == "llmbatch call"]
    finally:
        release.set()

    assert [result.value for result in results] == list(range(20))
    assert results[5].attempts == 3
    assert len(left) >= 2
    for thread in left:
        thread.join(60)
    assert not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("leave", ["break", "stop"])
async def test_leaving_a_stream_does_not_wait_for_threads_that_hang(leave: str) -> None:
    """Their rows are deferred, or nobody asks for them any more."""
    release = threading.Event()

    def call(row: int) -> int:
        if row:
            release.wait(60)
        return row

    runner = BatchRunner(call, concurrency=3)
    statuses = []
    try:
        async with asyncio.timeout(50), runner.stream(range(10)) as stream:
            async for result in stream:
                statuses.append(result.status)
                if leave == "break":
                    break
                runner.stop(now=True)
        hung = [thread for thread in threading.enumerate() if thread.name == "llmbatch call"]
    finally:
        release.set()

    assert hung
    assert stream.summary.exit_code == 130
    assert statuses == ["success"] if leave == "break" else ["success", *["deferred"] * (len(statuses) - 1)]


@pytest.mark.slow
async def test_a_function_that_always_hangs_stops_the_run_and_says_why() -> None:
    """Threads are bounded: as many as may be in flight, and as many again that are given up.

    Slow: waits out time limits and a few probes.
    """
    release = threading.Event()
    hung = 0

    def call(row: int) -> int:
        nonlocal hung
        if row >= 3:
            hung += 1
            release.wait(60)
        return row

    try:
        with pytest.raises(StoppedError, match="do not return: too many still run") as caught:
            async with asyncio.timeout(120):
                await BatchRunner(call, timeout=1, concurrency=4, recovery_timeout=0.05).map(range(200))
    finally:
        release.set()

    assert "time limit of its own" in caught.value.hint
    assert hung <= 8
    assert [result.value for result in caught.value.results if result.ok] == [0, 1, 2]


def never_awaited(row: int) -> Any:
    return double(row)


async def forgotten(row: int) -> Any:
    return double(row)


async def a_task(row: int) -> Any:
    return asyncio.ensure_future(double(row))


@pytest.mark.parametrize("call", [never_awaited, forgotten, a_task])
async def test_a_coroutine_that_an_async_function_returned_was_a_success_and_never_ran(call: Any) -> None:
    results = await BatchRunner(call).map(range(3))

    assert [result.value for result in results] == [0, 2, 4]


def _parts(row: int) -> Any:
    yield row


async def _async_parts(row: int) -> Any:
    yield row


async def _forgotten(row: int) -> Any:
    return _async_parts(row)


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
@pytest.mark.parametrize(
    "call",
    [
        lambda row: _parts(row),
        lambda row: (part for part in (row,)),
        counted(_parts),
        lambda row: _async_parts(row),
        _forgotten,
        lambda row: SdkStream(row),
    ],
    ids=["call", "expression", "wrapper", "async call", "async", "client"],
)
async def test_a_generator_that_a_function_returned_was_a_success_and_never_ran(call: Any) -> None:
    """All first rows alike: the run stops, and says what to do."""
    with pytest.raises(StoppedError, match=r"which has not been read: collect what it yields and return that"):
        await BatchRunner(call).map(range(20))


class SdkStream:
    """As openai's ``Stream``: an iterator of chunks that have not come."""

    def __init__(self, row: int) -> None:
        self._chunks = iter([row])

    def __iter__(self) -> SdkStream:
        return self

    def __next__(self) -> int:
        return next(self._chunks)

    def close(self) -> None:
        pass


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
async def test_a_stream_of_one_row_fails_that_row_alone() -> None:
    """And ``judge_result`` may take it all the same."""

    async def call(row: int) -> Any:
        return _parts(row) if row == 7 else row

    results = await BatchRunner(call).map(range(20))
    taken = await BatchRunner(call, judge_result=lambda result: "success").map(range(20))

    assert [result.number for result in results if not result.ok] == [8]
    assert (results[7].error_code, results[7].value) == ("type_error", None)
    assert list(taken[7].unwrap()) == [7]


async def test_whole_answers_that_can_be_iterated_over_are_results() -> None:
    """Iterators without ``close``, pages of an SDK, and files are no streams."""

    class Page:
        def __aiter__(self) -> Any:
            return _async_parts(0)

    with tempfile.TemporaryFile() as file:
        for value in (iter([1]), map(str, [1]), Page(), file):
            results = await BatchRunner({1: value}.__getitem__).map([1])
            assert results[0].value is value


@pytest.mark.slow
def test_a_program_ends_although_a_thread_hangs() -> None:
    """The threads of `concurrent.futures` would be joined. Slow: a process of its own."""
    script = """
import threading
from llmbatch import BatchRunner

def call(row):
    if row == 1:
        threading.Event().wait()
    return row

for result in BatchRunner(call, timeout=1, max_attempts=1).stream_sync(range(3)):
    print(result.row, result.status)
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["0 success", "1 failed", "2 success"]
