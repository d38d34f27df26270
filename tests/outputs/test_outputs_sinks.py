"""The sink behind an iterator of results."""

from __future__ import annotations

import asyncio

from llmbatch.core.rows import Result
from llmbatch.outputs.sinks import QueueSink


def result(row: int) -> Result:
    return Result(row, "0" * 16, "success", f'"r{row}"')


async def test_results_come_in_order_until_the_sink_is_closed_and_empty() -> None:
    """A consumer that is ahead waits; what was put before closing still comes."""
    sink = QueueSink(2)
    rows: list[int] = []

    async def consume() -> None:
        async for item in sink.results():
            rows.append(item.number)

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    sink.put(result(1))
    await asyncio.sleep(0)
    sink.put(result(2))
    sink.put(result(3))
    sink.close()
    await asyncio.wait_for(consumer, 60)

    assert rows == [1, 2, 3]


async def test_a_full_sink_is_congested_until_its_consumer_has_taken_one() -> None:
    """So no more calls are made for results that nobody takes."""
    sink = QueueSink(2)
    await asyncio.wait_for(sink.drained(), 60)
    sink.put(result(1))
    before = sink.congested
    sink.put(result(2))
    drained = asyncio.create_task(sink.drained())
    await asyncio.sleep(0)
    waited = not drained.done()

    items = sink.results()
    await anext(items)
    await asyncio.wait_for(drained, 60)

    assert (before, waited, sink.congested) == (False, True, False)
    await items.aclose()  # type: ignore[attr-defined]


async def test_a_closed_sink_ends_with_the_rows_that_wait() -> None:
    """It is empty until something was put, and again once that was taken."""
    sink = QueueSink(2)
    was_empty = sink.is_empty
    sink.put(result(1))
    sink.close()

    filled = sink.is_empty
    taken = [item.number async for item in sink.results()]

    assert (was_empty, filled, sink.is_empty, taken) == (True, False, True, [1])
    assert [item.number for item in sink.last([result(2)])] == [2]
