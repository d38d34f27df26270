"""The event loop gets its turns, whatever the calls do."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise
from pathlib import Path

import pytest

from llmbatch import BatchRunner
from llmbatch.runner.engine import MAX_CALLS_PER_TURN


@pytest.mark.slow  # counts turns of thousands of calls
async def test_function_that_never_suspends_leaves_the_loop_its_turns(tmp_path: Path) -> None:
    """A function that answers at once must not keep the loop: lines are written, and other tasks run, on the way."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"prompt": "row {number}"}}\n' for number in range(3000)))
    sizes: list[int] = []

    async def answer(row: object) -> str:
        return "ok"

    async def look() -> None:
        while True:
            sizes.append(output.stat().st_size if output.exists() else 0)
            await asyncio.sleep(0)

    watcher = asyncio.create_task(look())
    summary = await BatchRunner(answer, concurrency=4).run(source, output)
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher

    assert summary.success == 3000
    assert len({size for size in sizes if 0 < size < output.stat().st_size}) > 10


@pytest.mark.slow  # counts turns of thousands of calls
async def test_a_turn_of_the_loop_is_short_however_many_places_there_are(tmp_path: Path) -> None:
    """Functions that answer at once, 200 at a time: some hundred calls a turn, not thousands whose lines pile up."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"prompt": "row {number}"}}\n' for number in range(3000)))
    calls = 0
    at_turns: list[int] = []

    async def answer(row: object) -> str:
        nonlocal calls
        calls += 1
        return "ok"

    async def look() -> None:
        while True:
            at_turns.append(calls)
            await asyncio.sleep(0)

    watcher = asyncio.create_task(look())
    summary = await BatchRunner(answer, concurrency=200).run(source, output)
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher

    assert summary.success == 3000
    assert max(later - earlier for earlier, later in pairwise(at_turns)) <= MAX_CALLS_PER_TURN + 200
