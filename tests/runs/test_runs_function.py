"""Any `async def call(row)` in place of a provider: what it returns, and everything it may raise."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmbatch import BatchRunner, Provider, Result, StoppedError, UsageError
from llmbatch.core.rows import Status
from llmbatch.runs.make_provider import RowFunction
from llmbatch.sim.virtual import run_virtual


def virtually(call: RowFunction, rows: Iterable[object], **options: Any) -> tuple[dict[int, Result], float]:
    """The results by row, and the seconds it took, in virtual time."""

    async def main() -> tuple[dict[int, Result], float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        results = [result async for result in BatchRunner(call, seed=1, **options).stream(rows)]
        assert len({result.number for result in results}) == len(results), "a row ended twice"
        return {result.number: result for result in results}, loop.time() - started

    return run_virtual(main, limit=100_000.0)


def failing(rows: Container[object], error: BaseException) -> RowFunction:
    """A function of 0.2 s that raises *error* for *rows*, every time."""

    async def call(row: Any) -> Any:
        await asyncio.sleep(0.2)
        if row in rows:
            raise error
        return row

    return call


@pytest.mark.parametrize("value", [None, 0, "", [], {}, "text", {"a": [1]}, 3.5, True])
async def test_the_function_gets_the_row_and_its_value_comes_back(value: Any) -> None:
    """The very object, also where it is empty or None."""
    got = []

    async def call(row: Any) -> Any:
        got.append(row)
        return row

    [result] = [result async for result in BatchRunner(call).stream([value])]

    assert got == [value]
    assert type(got[0]) is type(value)
    assert (result.ok, result.value, result.json()) == (True, value, value)


async def test_values_without_a_json_form_are_kept() -> None:
    """`result.value` is the object itself; the body has the nearest JSON."""

    class Answer:
        def model_dump(self, *, mode: str) -> dict[str, int]:
            return {"answer": 42}

    answers = {1: Answer(), 2: {1, 2}, 3: b"bytes", 4: float("inf"), 5: lambda: None}

    async def call(row: Any) -> Any:
        return answers[row]

    results = {}
    async for result in BatchRunner(call).stream(list(answers)):
        results[result.number] = result

    assert all(results[n].ok and results[n].value is answers[n] for n in answers)
    assert results[1].json() == {"answer": 42}
    assert all(results[n].body for n in answers)


async def test_odd_values_make_valid_lines(tmp_path: Path) -> None:
    """Into a file every line is JSON, whatever was returned."""
    (tmp_path / "in.jsonl").write_text("".join(f'{{"id":{n},"prompt":"p"}}\n' for n in range(5)))
    odd = [{1, 2}, float("nan"), "line\nbreak\u2028\ud800", object(), {("a",): 1}]

    async def call(row: Any) -> Any:
        return odd[row["id"]]

    summary = await BatchRunner(call).run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert summary.success == 5
    assert len((tmp_path / "out.jsonl").read_bytes().split(b"\n")) == 6
    assert all(json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines())


class Kinds:
    async def __call__(self, row: object) -> object:
        return row

    async def method(self, row: object) -> object:
        return row

    @staticmethod
    async def two(prefix: str, row: object) -> object:
        return row


@pytest.mark.parametrize("call", [Kinds(), Kinds().method, functools.partial(Kinds.two, "x")])
async def test_every_kind_of_async_callable(call: RowFunction) -> None:
    """Objects, methods and partials."""
    assert [result.value async for result in BatchRunner(call).stream([7])] == [7]


async def generator(row: object) -> AsyncIterator[object]:
    yield row


class OwnProvider(Provider):
    """An instance of it would do."""


@pytest.mark.parametrize("call", [12, generator, Kinds, OwnProvider])
def test_what_is_no_function_is_refused_clearly(call: Any) -> None:
    """When the runner is made, not at the first row."""
    with pytest.raises(UsageError, match=r", not a function|is not a function") as caught:
        BatchRunner(call)

    assert caught.value.hint


@pytest.mark.parametrize("at", [0, 50, 99])
def test_a_program_error_on_one_row_is_that_rows_end(at: int) -> None:
    """A ValueError is the row's own: three attempts, no circuit, no wait for others; wherever the row stands.

    It was one attempt, and 3 s, before program errors were tried again: two backoffs, 5 s at most, come on top.
    """
    results, seconds = virtually(failing({at}, ValueError("bad row")), range(100))

    failed = [result for result in results.values() if not result.ok]
    assert [(result.number, result.attempts) for result in failed] == [(at + 1, 3)]
    error = failed[0].error
    assert error is not None
    assert (error["code"], error["message"]) == ("value_error", "bad row")
    assert max(result.deferrals for result in results.values()) == 0
    assert seconds < 3 + 5


@pytest.mark.parametrize("error", [RuntimeError("odd"), TimeoutError(), asyncio.CancelledError(), OSError("odd")])
def test_a_row_that_always_fails_costs_its_attempts_only(error: Exception) -> None:
    """Amid good rows it is tried three times and ends as failed; a cancellation from within counts as a failure."""
    results, seconds = virtually(failing({50}, error), range(100))

    assert Counter(result.status for result in results.values()) == {"success": 99, "failed": 1}
    assert results[51].attempts == 3
    assert seconds < 10


def test_the_last_row_failing_ends_soon_with_a_canary() -> None:
    """Nothing comes after it that could tell whether the function still works; the canary does."""
    results, seconds = virtually(failing({99}, RuntimeError("odd")), range(100), canary=-1)

    assert (results[100].status, results[100].attempts) == ("failed", 3)
    assert seconds < 10


def test_the_last_row_failing_ends_at_last_without_a_canary() -> None:
    """It is probed for a while, in case it is an outage, and then given up: no run waits for ever."""
    results, seconds = virtually(failing({99}, RuntimeError("odd")), range(100))

    assert results[100].status == "failed"
    assert seconds < 3600


def test_rows_that_all_raise_from_the_start_stop_the_run() -> None:
    """A function that never worked and raises for ten rows is broken: nothing is failed, and the run says so."""
    with pytest.raises(StoppedError, match=r"call raised .* RuntimeError: odd \(.*test_runs_function"):
        virtually(failing(set(range(10)), RuntimeError("odd")), range(10), recovery_timeout=5.0)


def test_rows_that_never_reach_anything_are_deferred_after_ten_minutes() -> None:
    """Ten rows whose connection is refused, and no canary: nobody waits for ever, and nothing is failed."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    results, seconds = virtually(failing(set(range(10)), refused), range(10))

    assert Counter(result.status for result in results.values()) == {"deferred": 10}
    assert 600 <= seconds < 600 + 60


class ServiceDownError(Exception):
    """As SDKs have it: with the answer that it was raised for."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.response = SimpleNamespace(status_code=503, headers={"content-type": "text/plain"}, content=b"down")


OUTAGE_SECONDS = 90.0
PROBES = 10 + math.ceil(math.log(OUTAGE_SECONDS / 10) / math.log(1.09))
"""One a second for ten seconds, then at a tenth of the time the outage has lasted, less a tenth of that."""


@pytest.mark.parametrize("error", [ConnectionError, ServiceDownError, TimeoutError])
@pytest.mark.parametrize("concurrency", [1, 10])
def test_an_outage_of_a_function_costs_no_row(error: type[Exception], concurrency: int) -> None:
    """Ninety seconds of nothing but errors: every row succeeds, and few calls are wasted.

    No more than were in flight, or open the circuit, and the probes. (Probes went ever less often, ten in all, before
    their wait became a share of the outage: an outage is over within a tenth of its length.)
    """
    calls_down = 0
    started = 0.0

    async def call(row: Any) -> Any:
        nonlocal calls_down
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)
        if 2 <= now - started < 2 + OUTAGE_SECONDS:
            calls_down += 1
            raise error("down")
        return row

    async def main() -> tuple[list[Status], float]:
        nonlocal started
        loop = asyncio.get_running_loop()
        started = loop.time()
        runner = BatchRunner(call, seed=1, concurrency=concurrency)
        statuses = [result.status async for result in runner.stream(range(200))]
        return statuses, loop.time() - started

    statuses, seconds = run_virtual(main, limit=100_000.0)

    assert Counter(statuses) == {"success": 200}
    assert calls_down <= max(concurrency, 5) + PROBES
    assert seconds <= 2 + OUTAGE_SECONDS * 1.1 + 200 * 0.2 / concurrency + 10


def test_what_a_function_raises_of_its_own_waits_for_nobody() -> None:
    """A RuntimeError says nothing about a provider: rows that meet it fail after three attempts, without an outage."""

    async def call(row: Any) -> Any:
        await asyncio.sleep(0.2)
        if 50 <= row < 80:
            raise RuntimeError("odd")
        return row

    results, seconds = virtually(call, range(100), concurrency=5)

    failed = [result for result in results.values() if not result.ok]
    assert sorted(result.number for result in failed) == list(range(51, 81))
    assert {(result.attempts, result.deferrals) for result in failed} == {(3, 0)}
    assert seconds < (70 + 3 * 30) * 0.2 / 5 + 5


class TooManyRequestsError(Exception):
    """As SDKs have it: a status and headers, and no common base."""

    status_code = 429

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("rate limit reached")
        self.headers = headers


HINTS = [{"retry-after": "7"}, {"Retry-After": "7"}, {"retry-after-ms": "7000"}]


@pytest.mark.parametrize("headers", HINTS)
def test_a_429_exception_of_one_row_is_that_rows_wait(headers: dict[str, str]) -> None:
    """It is sent again when the named time is over, and not before; others, which pass, go on meanwhile.

    (The whole run waited for one such answer, before it took two to make it the provider's pace.)
    """
    sent: dict[int, list[float]] = {}

    async def call(row: Any) -> Any:
        sent.setdefault(row, []).append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.2)
        if row == 20 and len(sent[20]) == 1:
            raise TooManyRequestsError(headers)
        return row

    results, _ = virtually(call, range(60), concurrency=5)

    assert Counter(result.status for result in results.values()) == {"success": 60}
    first, again = sent[20]
    assert 7.0 <= again - (first + 0.2) < 9.0
    assert max(at for row, times in sent.items() if row != 20 for at in times) < first + 7.0
    assert max(result.deferrals for result in results.values()) <= 1


@pytest.mark.parametrize("headers", HINTS)
def test_429_exceptions_of_all_rows_are_pace(headers: dict[str, str]) -> None:
    """Nothing is sent for as long as they name, no attempt is held against a row, no circuit opens."""
    sent: list[float] = []

    async def call(row: Any) -> Any:
        sent.append(asyncio.get_running_loop().time())
        began = sent[-1] - sent[0]
        await asyncio.sleep(0.2)
        if 1.0 <= began < 1.2:
            raise TooManyRequestsError(headers)
        return row

    results, _ = virtually(call, range(60), concurrency=5, max_attempts=1)

    assert Counter(result.status for result in results.values()) == {"success": 60}
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    assert 7.0 - 0.2 <= max(gaps) < 9.0
    assert max(result.deferrals for result in results.values()) <= 1


def test_a_function_that_hangs_loses_its_time() -> None:
    """The runner's timeout ends the call, and the row is tried again."""
    hung = 0

    async def call(row: Any) -> Any:
        nonlocal hung
        if row == 3 and hung < 2:
            hung += 1
            await asyncio.sleep(10_000)
        await asyncio.sleep(0.2)
        return row

    results, seconds = virtually(call, range(300), timeout=5.0, concurrency=2)

    assert results[4].ok
    assert results[4].attempts == 3
    assert seconds < 100


def test_an_exception_group_is_a_failure_of_its_row() -> None:
    """Task groups inside the function raise groups; one row of them harms nothing else."""

    async def call(row: Any) -> Any:
        await asyncio.sleep(0.001)
        if row == 5:
            raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])
        return row

    async def main() -> Counter[Status]:
        return Counter([result.status async for result in BatchRunner(call, max_attempts=1).stream(range(50))])

    assert run_virtual(main) == {"success": 49, "failed": 1}


def test_a_function_that_cancels_its_own_task_loses_no_row() -> None:
    """A stray cancellation, as leaky time-out libraries leave it, is that call's failure, not the end of the run."""

    async def call(row: Any) -> Any:
        await asyncio.sleep(0.001)
        if row == 5:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        return row

    async def main() -> int:
        async with asyncio.timeout(60):
            return len([row async for row in BatchRunner(call, concurrency=2, max_attempts=1).stream(range(20))])

    assert run_virtual(main) == 20


Virtually = Callable[[Callable[[Any], bool], int], tuple[float, Counter[Status]]]


def test_bad_rows_of_a_function_come_to_an_end(
    run_function_virtually: Virtually,
) -> None:
    """Fourteen of a hundred rows always raise and no canary is given: they end soon after the others."""
    seconds, statuses = run_function_virtually(lambda row: row["n"] % 7 == 3, 100)

    assert statuses == {"success": 86, "failed": 14}
    assert seconds < 60


@pytest.fixture
def run_function_virtually() -> Virtually:
    """Streams rows through a function that raises for some of them, under virtual time."""

    def run(is_bad: Callable[[Any], bool], count: int) -> tuple[float, Counter[Status]]:
        async def main() -> tuple[float, Counter[Status]]:
            async def call(row: Any) -> Any:
                await asyncio.sleep(0.05)
                if is_bad(row):
                    raise RuntimeError("no answer for this row")
                return "ok"

            loop = asyncio.get_running_loop()
            started = loop.time()
            rows = [{"n": number} for number in range(count)]
            statuses = Counter([result.status async for result in BatchRunner(call).stream(rows)])
            return loop.time() - started, statuses

        return run_virtual(main)

    return run
