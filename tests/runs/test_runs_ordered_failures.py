"""Results in order while rows fail: which rows end, and that the stream goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmbatch import BatchRunner
from llmbatch.sim.virtual import run_virtual


async def in_order(call: Callable[[int], Any], rows: Any, **options: Any) -> Counter[str]:
    """The statuses of all rows; checks their order."""
    statuses: Counter[str] = Counter()
    number = 0
    async with BatchRunner(call, seed=1, concurrency=10, **options).stream(rows, ordered=True) as stream:
        async for result in stream:
            number += 1
            assert result.number == number
            statuses[result.status] += 1
    return statuses


async def as_async(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("bad", [{0}, {0, 50, 99}, set(range(0, 1000, 10))])
def test_a_bad_row_at_the_head_of_an_ordered_stream_stopped_it_for_ever(bad: set[int], is_async: bool) -> None:
    """No more rows were read ahead of it, and it waited for their answers."""

    async def call(row: int) -> int:
        await asyncio.sleep(0.1)
        if row in bad:
            raise ConnectionError("always")
        return row

    statuses = run_virtual(lambda: in_order(call, as_async(1000) if is_async else range(1000)), limit=1_000.0)

    assert statuses == {"success": 1000 - len(bad), "failed": len(bad)}


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("bad", [range(99), range(100), range(250), range(300, 550)])
def test_a_block_of_bad_rows_stopped_an_ordered_stream_for_ever(bad: range, is_async: bool) -> None:
    """Longer than what is read ahead: only those rows probed the open circuit, although good ones followed."""

    async def call(row: int) -> int:
        await asyncio.sleep(0.1)
        if row in bad:
            raise ConnectionError("always")
        return row

    statuses = run_virtual(lambda: in_order(call, as_async(1000) if is_async else range(1000)), limit=1_000.0)

    assert statuses == {"success": 1000 - len(bad), "failed": len(bad)}


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seconds", [50.0, 3_000.0])
def test_a_slow_row_that_an_outage_meets_alone_is_kept_in_an_ordered_stream(seconds: float) -> None:
    """It is told from a bad row by rows that are read for that, beyond the bound."""

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        started = loop.time()

        def check() -> None:
            if 50.0 < loop.time() - started < 50.0 + seconds:
                raise ConnectionError("down")

        async def call(row: int) -> int:
            check()
            await asyncio.sleep(60.0 if row == 5 and loop.time() - started < 10.0 else 0.1)
            check()
            return row

        return await in_order(call, range(1000))

    assert run_virtual(main, limit=5_000.0) == {"success": 1000}


@pytest.mark.slow  # many calls in virtual time
def test_an_ordered_stream_reads_a_bounded_number_of_rows_ahead_of_a_failing_one() -> None:
    most = 0

    async def main() -> None:
        nonlocal most
        read = 0

        def rows() -> Any:
            nonlocal read
            for number in range(5_000):
                read += 1
                yield number

        async def call(row: int) -> int:
            await asyncio.sleep(0.1)
            if row == 0:
                raise ConnectionError("always")
            return row

        async with BatchRunner(call, seed=1, concurrency=10).stream(rows(), ordered=True) as stream:
            async for result in stream:
                most = max(most, read - result.number)

    run_virtual(main, limit=1_000.0)

    assert 99 <= most <= 200
