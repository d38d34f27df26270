"""Exceptions of a function's own, in virtual time: its rows' fault, never an outage; and a function that is broken."""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from llmbatch import BatchRunner, Result, StoppedError
from llmbatch.runs.make_provider import RowFunction
from llmbatch.sim.virtual import run_virtual


class OwnError(Exception):
    """A class of the user's own."""


class Story:
    """Streams rows through a function that raises what *raises* gives for a row and its attempt, None for nothing."""

    def __init__(self, raises: Callable[[int, int], Exception | None], *, seconds: float = 2.0) -> None:
        self.raises = raises
        self.seconds = seconds
        self.calls: Counter[int] = Counter()
        self.took = 0.0

    async def call(self, row: int) -> int:
        self.calls[row] += 1
        attempt = self.calls[row]
        await asyncio.sleep(self.seconds)
        error = self.raises(row, attempt)
        if error is not None:
            raise error
        return row

    def run(self, rows: int, **options: Any) -> list[Result]:
        async def main() -> list[Result]:
            loop = asyncio.get_running_loop()
            started = loop.time()
            function: RowFunction = self.call
            try:
                return [result async for result in BatchRunner(function, seed=1, **options).stream(range(rows))]
            finally:
                self.took = loop.time() - started

        return run_virtual(main, limit=1_000_000.0)


def bad(share: float, seed: int = 1) -> set[int]:
    return set(random.Random(seed).sample(range(2000), int(2000 * share)))


@pytest.mark.slow  # two thousand rows a case
@pytest.mark.no_cover
@pytest.mark.parametrize(("share", "minutes"), [(0.01, 2), (0.1, 3), (0.25, 3), (0.5, 4), (0.9, 6)])
def test_a_share_of_bad_rows_took_days(share: float, minutes: float) -> None:
    """2,000 rows of 2 s, forty at a time, no canary: 30 h for a tenth of them, 163 h for a quarter.

    Every bad row costs three attempts and no more, every good row one.
    """
    rows = bad(share)
    story = Story(lambda row, _: OwnError(f"row {row}") if row in rows else None)

    results = story.run(2000)

    assert Counter(result.status for result in results) == {"success": 2000 - len(rows), "failed": len(rows)}
    assert {(result.status, result.attempts) for result in results} == {("success", 1), ("failed", 3)}
    assert max(result.deferrals for result in results) <= 1  # where all of the first rows are bad
    assert story.took <= 60 * minutes
    assert sum(story.calls.values()) == 2000 + 2 * len(rows)


@pytest.mark.slow  # two thousand rows
@pytest.mark.no_cover
def test_bad_rows_amid_errors_of_the_provider_took_days() -> None:
    """A quarter of the rows raises, and a twentieth of the other calls is reset: no good row is lost to either."""
    rows, chance = bad(0.25), random.Random(7)

    def raises(row: int, _: int) -> Exception | None:
        if row in rows:
            return OwnError("bad row")
        return ConnectionResetError("gone") if chance.random() < 0.05 else None

    story = Story(raises)
    results = story.run(2000)

    assert {result.value for result in results if result.ok} == set(range(2000)) - rows
    assert {result.attempts for result in results if not result.ok} == {3}
    assert story.took < 60 * 5


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("odd"),
        OwnError("odd"),
        FileNotFoundError(errno.ENOENT, "No such file", "a.txt"),
        PermissionError(errno.EACCES, "Permission denied"),
        httpx2.InvalidURL("odd"),
        httpx2.LocalProtocolError("odd"),
        ExceptionGroup("tasks", [ValueError("odd")]),
        TypeError("odd"),
        KeyError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_programming_error_of_every_row_waited_as_in_an_outage(error: Exception) -> None:
    """The run stops within seconds, marks nothing as failed, and shows the exception and the line that raised it."""
    story = Story(lambda *_: error, seconds=0.2)

    with pytest.raises(StoppedError) as caught:
        story.run(1000)

    shown = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert f"{type(shown).__name__}: {shown}" in caught.value.message
    assert "test_runs_raised.py:" in caught.value.message
    assert "in call)" in caught.value.message
    assert "function" in caught.value.hint
    assert story.took < 10
    assert set(story.calls.values()) == {1}
    assert len(story.calls) <= 40 + 9


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_the_rows_of_a_small_input_that_all_raise_were_sent_a_hundred_times(rows: int, max_attempts: int) -> None:
    """Fewer than it takes to stop: each fails after its attempts, within seconds. (110 each, in six minutes.)"""
    story = Story(lambda *_: KeyError("x"), seconds=0.2)

    results = story.run(rows, max_attempts=max_attempts)

    assert {(result.status, result.attempts) for result in results} == {("failed", max_attempts)}
    assert set(story.calls.values()) == {max_attempts}
    assert story.took < 30


@pytest.mark.parametrize("concurrency", [1, 2, 40])
def test_a_broken_function_stops_the_run_even_where_each_row_has_one_attempt(concurrency: int) -> None:
    """Rows that have ended count too, or a million rows would fail one by one."""
    story = Story(lambda *_: OwnError("x"), seconds=0.2)

    with pytest.raises(StoppedError, match="raised an exception for each of the first rows: OwnError: x"):
        story.run(100_000, max_attempts=1, concurrency=concurrency)

    assert len(story.calls) <= concurrency + 9


def test_a_single_bad_row_that_others_wait_for_ends_by_itself() -> None:
    """Rows that come one by one, each once the one before has its result: nobody waits for a success first."""

    async def main() -> list[str]:
        story = Story(lambda row, _: OwnError("x") if row < 3 else None, seconds=0.2)
        ended = asyncio.Semaphore(1)

        async def rows() -> AsyncIterator[int]:
            for row in range(6):
                await ended.acquire()
                yield row

        statuses: list[str] = []
        function: RowFunction = story.call
        async for result in BatchRunner(function, seed=1).stream(rows()):
            statuses.append(result.status)
            ended.release()
        return statuses

    assert run_virtual(main, limit=1000.0) == ["failed"] * 3 + ["success"] * 3


@pytest.mark.slow  # some thousand calls
@pytest.mark.no_cover
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_exceptions_that_pass_on_another_attempt_cost_no_good_row(share: float) -> None:
    """A model's answers that do not parse, now and then: as many attempts as the measured rate asks for."""
    chance = random.Random(3)
    story = Story(lambda *_: ValueError("not JSON") if chance.random() < share else None)

    results = story.run(1000)

    assert Counter(result.status for result in results) == {"success": 1000}
