"""Rows out of Python iterables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from example_lines import drain

from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.iterable import IterableSource


async def test_items_become_rows_numbered_from_one() -> None:
    """Dicts, strings and lists; what is none of them is malformed."""
    source = IterableSource([{"prompt": "a"}, "b", 3])

    rows = await drain(source)

    assert [(row.number, type(row)) for row in rows] == [(1, Row), (2, Row), (3, Malformed)]
    assert (source.rows_read, source.exhausted, source.fraction) == (3, True, None)


async def test_an_iterable_is_asked_only_for_what_is_taken() -> None:
    """Back-pressure reaches the user's generator, and closing closes it."""
    asked: list[int] = []
    closed = False

    def rows() -> Iterator[str]:
        nonlocal closed
        try:
            for number in range(100):
                asked.append(number)
                yield "x"
        finally:
            closed = True

    source = IterableSource(rows())
    source.take()
    source.take()
    await source.wait()
    asked_then = list(asked)

    source.close()

    assert asked_then == [0, 1]
    assert closed
    assert source.take() is None


async def test_an_async_iterable_is_asked_only_when_waited_for() -> None:
    """One item waits at most, however often somebody waits."""
    asked: list[int] = []

    async def rows() -> AsyncIterator[str]:
        for number in range(100):
            asked.append(number)
            yield f"row {number}"

    source = IterableSource(rows())

    assert source.take() is None
    await source.wait()
    await source.wait()
    first = source.take()

    assert asked == [0]
    assert isinstance(first, Row)
    assert first.fields == {"prompt": '"row 0"'}
    await source.aclose()


async def test_a_cancelled_wait_loses_no_item() -> None:
    """The item that was on its way comes with the next wait."""

    async def rows() -> AsyncIterator[str]:
        for text in ("a", "b"):
            await asyncio.sleep(0.03)
            yield text

    source = IterableSource(rows())

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.wait(), 0.01)

    assert [row.fields["prompt"] for row in await drain(source) if isinstance(row, Row)] == ['"a"', '"b"']
    await source.aclose()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_the_iterable_raises_comes_out_once(kind: str) -> None:
    """The rows before it are handed out; after it nothing comes."""

    def rows() -> Iterator[str]:
        yield "a"
        raise KeyError("mine")

    async def async_rows() -> AsyncIterator[str]:
        for row in rows():
            yield row

    source = IterableSource(rows() if kind == "sync" else async_rows())

    with pytest.raises(KeyError, match="mine"):
        await drain(source)

    assert source.rows_read == 1
    assert source.exhausted
    assert source.take() is None
    await source.aclose()


async def test_aclose_ends_an_async_generator_in_the_task_that_ran_it() -> None:
    """Cancel scopes inside a generator must be left by the task that entered them; clean-up may await."""
    events: list[str] = []

    async def rows() -> AsyncIterator[str]:
        with anyio.CancelScope():
            try:
                while True:
                    yield "a"
            finally:
                await asyncio.sleep(0)
                events.append("cleaned up")

    source = IterableSource(rows())
    await source.wait()
    source.take()
    before = asyncio.all_tasks()

    await source.aclose()
    await source.aclose()

    assert events == ["cleaned up"]
    assert len(asyncio.all_tasks()) == len(before) - 1


async def test_aclose_ends_a_pull_that_hangs() -> None:
    """A generator that waits for ever is cancelled."""
    ended = False

    async def rows() -> AsyncIterator[str]:
        nonlocal ended
        try:
            await asyncio.Event().wait()
            yield "never"
        finally:
            ended = True

    source = IterableSource(rows())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.wait(), 0.01)

    await source.aclose()

    assert ended


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_limit_asks_for_no_more(kind: str) -> None:
    """The item after the last row is not even pulled."""
    asked = 0

    def rows() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "a"

    async def async_rows() -> AsyncIterator[str]:
        for row in rows():
            yield row

    source = IterableSource(rows() if kind == "sync" else async_rows(), limit=3)

    taken = await drain(source)

    assert (len(taken), asked) == (3, 3)
    await source.aclose()


async def test_opaque_rows_are_never_malformed() -> None:
    """They go to a function that knows what they are."""
    thing = object()

    rows = await drain(IterableSource([thing, 3, {"any": {1}}], opaque=True))

    assert [row.value for row in rows if isinstance(row, Row)] == [thing, 3, {"any": {1}}]


@pytest.mark.parametrize("rows", ["prompts.jsonl", b"x", {"prompt": "a"}])
def test_one_row_is_no_collection_of_rows(rows: object) -> None:
    """A string would be a row a letter: surely not what was meant."""
    with pytest.raises(InputError, match="not a collection of rows"):
        IterableSource(rows)  # type: ignore[arg-type]
