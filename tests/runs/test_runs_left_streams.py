"""Runs that are left, cut off or broken by what a program gave them: what is cleaned up, and what is raised."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from llmbatch import BatchRunner, InputError, Judgement, Outcome, Request, Route, UsageError, WriteError, run_job
from llmbatch.core.errors import LlmbatchError, MalformedRowError, RowFailedError, StoppedError, TransportError
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Result, Row
from llmbatch.inputs.iterable import IterableSource


async def echo(row: Any) -> Any:
    return row


class Work:
    """Takes long, and takes a moment to clean up."""

    def __init__(self) -> None:
        self.begun = self.cleaned = 0

    async def __call__(self, row: int) -> int:
        if row == 0:
            return row
        self.begun += 1
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.02)
            self.cleaned += 1
        return row


async def by_timeout(work: Work) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await BatchRunner(work, concurrency=3).map(range(9))


async def by_scope(work: Work) -> None:
    with anyio.move_on_after(0.3) as scope:
        await BatchRunner(work, concurrency=3).map(range(9))
    assert scope.cancelled_caught


async def by_cancelling(work: Work) -> None:
    task = asyncio.create_task(BatchRunner(work, concurrency=3).map(range(9)))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_leaving(work: Work) -> None:
    async with BatchRunner(work, concurrency=3).stream(range(9)) as results:
        async for _ in results:
            await asyncio.sleep(0.1)
            break


async def by_stopping(work: Work) -> None:
    runner = BatchRunner(work, concurrency=3)
    asyncio.get_running_loop().call_later(0.3, lambda: runner.stop(now=True))
    await runner.map(range(9))


@pytest.mark.parametrize("leave", [by_timeout, by_scope, by_cancelling, by_leaving, by_stopping])
async def test_the_cleanup_of_functions_was_cut_off(leave: Callable[[Work], Any]) -> None:
    """Each is canceled once, and what it awaits then is awaited, as by a TaskGroup; no task is left."""
    work = Work()

    await leave(work)

    assert work.begun >= 2
    assert work.cleaned == work.begun
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_function_that_catches_the_cancellation_of_the_run_is_not_given_another_row() -> None:
    calls = 0

    async def stubborn(row: int) -> int:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return row
        return row

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await BatchRunner(stubborn, concurrency=3).map(range(100))

    assert calls == 3


async def test_calls_that_have_not_begun_give_their_permits_back() -> None:
    """A run that is canceled in the turn in which its calls are started has them among its deferred rows."""
    runner = BatchRunner(echo, concurrency=5)
    stream = runner.stream(range(100))
    task = asyncio.create_task(anext(stream))
    while not asyncio.all_tasks() - {asyncio.current_task(), task}:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.aclose()

    assert stream.summary.exit_code == 130


@pytest.mark.parametrize("bound", [{"max_outage": 0.5}, {"on_outage": "defer"}, {"on_outage": "fail"}], ids=str)
async def test_map_left_out_rows_that_were_not_read(bound: dict[str, Any]) -> None:
    """15 results of 1,500 rows, without a word; each row has one now, in order."""

    async def dies(row: int) -> int:
        if row >= 10:
            raise ConnectionError("the provider is down")
        return row

    results = await BatchRunner(dies, concurrency=5, **bound).map(range(1500))

    assert [result.number for result in results] == list(range(1, 1501))
    assert [result.row for result in results] == list(range(1500))
    assert Counter(result.status for result in results) == {
        "success": 10,
        "failed" if bound == {"on_outage": "fail"} else "deferred": 1490,
    }
    waiting = [result for result in results if result.status == "deferred"]
    assert all(result.reason and result.retry_at for result in waiting)


async def test_map_reads_what_an_async_iterable_has_left() -> None:
    async def rows() -> AsyncIterator[int]:
        for row in range(50):
            await asyncio.sleep(0)
            yield row

    async def dies(row: int) -> int:
        raise ConnectionError("the provider is down")

    results = await BatchRunner(dies, concurrency=2, max_outage=0.5).map(rows())

    assert [result.number for result in results] == list(range(1, 51))


async def test_after_a_stop_map_has_no_results_of_rows_that_were_not_read() -> None:
    runner = BatchRunner(echo, concurrency=2)

    def rows() -> Any:
        for row in range(1000):
            if row == 20:
                runner.stop()
            yield row

    assert len(await runner.map(rows())) < 30


@pytest.mark.parametrize("ordered", [False, True])
async def test_an_iterable_in_which_something_was_canceled_looked_as_if_it_had_ended(*, ordered: bool) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2
        page = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(0)
        page.cancel()
        await page
        yield 3

    got = []

    async def read() -> None:
        async for result in BatchRunner(echo).stream(rows(), ordered=ordered):
            got.append(result.value)

    with pytest.raises(InputError, match="something that it awaited was canceled") as caught:
        await read()

    assert got == [1, 2]
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


class PanicException(BaseException):
    """As of libraries that are written in Rust."""


@pytest.mark.parametrize("is_async", [False, True])
def test_a_panic_for_one_row_ended_each_run(tmp_path: Path, *, is_async: bool) -> None:
    def count(row: dict[str, Any]) -> int:
        if row["id"] == "r25":
            raise PanicException("byte index 1 is not a char boundary")
        return 1

    async def count_async(row: dict[str, Any]) -> int:
        return count(row)

    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": f"r{number}", "prompt": "x"}) + "\n" for number in range(100)))

    summary = BatchRunner(count_async if is_async else count, concurrency=4).run_sync(source, output)

    assert (summary.exit_code, summary.success, summary.failed) == (1, 99, 1)
    failed = [json.loads(line) for line in output.read_text().splitlines() if '"failed"' in line]
    assert failed[0]["error"] == {"code": "panic_exception", "message": "byte index 1 is not a char boundary"}


class Plain(Provider):
    """Answers at once; raises *error* in *method*."""

    def __init__(self, method: str = "", error: Exception | None = None) -> None:
        self.method, self.error = method, error

    def _may_raise(self, method: str) -> None:
        if method == self.method and self.error is not None:
            raise self.error

    def routes(self, row: Row) -> list[Route]:
        return [] if self.method == "none" else [Route("mine", "me")]

    def request(self, row: Row, route: Route) -> Request:
        return Request(route, "", {}, b"", "raw", tokens=1)

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        self._may_raise("lookup")
        return None

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:
        await asyncio.sleep(0.001)
        self._may_raise("call")
        return Outcome("success", status=200, text="fine")


class Full:
    """A sink that takes five results."""

    congested = False
    taken = 0

    def put(self, result: Result) -> None:
        self.taken += 1
        if self.taken > 5:
            raise WriteError("/data/out: no space left", hint="free some space")

    async def drained(self) -> None:
        """At once."""


async def test_the_error_of_a_sink_is_raised_by_itself() -> None:
    """It came in a group of 35."""
    with pytest.raises(WriteError, match="no space left"):
        await run_job(IterableSource([f"p{number}" for number in range(50)]), Full(), Plain())


@pytest.mark.parametrize("method", ["call", "lookup"])
async def test_a_bug_of_a_provider_is_raised_by_itself(method: str) -> None:
    with pytest.raises(OSError, match="a bug") as caught:
        await BatchRunner(Plain(method, OSError("a bug"))).map(["one", "two"])

    if method == "call":
        assert caught.value.__notes__ in (["raised by Plain.call for row 1"], ["raised by Plain.call for row 2"])


async def test_a_provider_without_a_route_for_a_row_is_named() -> None:
    with pytest.raises(UsageError, match=r"Plain.routes\(\) gave none for row 1"):
        await BatchRunner(Plain("none")).map(["one"])


async def test_a_cache_that_cannot_be_used_is_a_usage_error_of_map(tmp_path: Path) -> None:
    runner = BatchRunner("sim/steady", cache=tmp_path / "missing" / "answers.db")

    with pytest.raises(UsageError, match="the cache cannot be used"):
        await runner.map(["What is 2 + 2?"])


ERRORS: list[LlmbatchError] = [
    RowFailedError("r1", "timeout", "too slow"),
    MalformedRowError("input_bad_json", "no JSON"),
    TransportError("reset", "lost", sent=True, hint="again"),
    UsageError("wrong", hint="right"),
    InputError("changed", line=3),
    StoppedError("refused", hint="pay"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_copied_to_another_process(error: LlmbatchError) -> None:
    """A pool of processes broke."""
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


def test_an_exception_in_the_body_of_a_loop_comes_without_others() -> None:
    """The run's own generators complained on standard error, in whatever order they were closed."""
    program = """
import asyncio
from llmbatch import BatchRunner

async def echo(row):
    await asyncio.sleep(0.001)
    return row

async def main():
    stream = BatchRunner(echo, concurrency=5).stream(range(1000))
    async for result in stream:
        raise KeyError("the consumer's")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.strip().endswith('KeyError: "the consumer\'s"')


class Indexed:
    """As a data set of PyTorch."""

    def __getitem__(self, index: int) -> str:
        if index >= 3:
            raise IndexError(index)
        return f"row {index}"


async def test_rows_that_can_only_be_indexed_are_read() -> None:
    results = await BatchRunner(echo).map(Indexed())  # type: ignore[arg-type]  # older than iterators

    assert [result.value for result in results] == ["row 0", "row 1", "row 2"]


async def test_an_endless_wait_of_a_judge_is_a_day() -> None:
    """All results were lost at the end."""
    calls = 0

    async def ask(row: int) -> int:
        nonlocal calls
        calls += 1
        if calls < 8:
            raise KeyError(row)
        return row

    def judge(error: Exception) -> Judgement:
        return Judgement("failure", retry_after=float("inf"))

    results = await BatchRunner(ask, judge_error=judge, max_outage=1.0, on_outage="defer").map(range(10))

    assert len(results) == 10
    assert max(result.retry_after or 0.0 for result in results) <= 86_400.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("params", "x"),
        ("params", {"stop": {1, 2}}),
        ("params", {"temperature": float("nan")}),
        ("base_url", 5),
        ("environ", {"OPENAI_API_KEY": 5}),
        ("proxy", 5),
        ("transport", 5),
        ("system", 5),
        ("cache", 5),
        ("judge_error", echo),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(name: str, value: object) -> None:
    given: dict[str, Any] = {"environ": {"OPENAI_API_KEY": "k"}, name: value}

    with pytest.raises(UsageError, match=name):
        BatchRunner(echo if name == "judge_error" else "openai/gpt-5-mini", **given)
