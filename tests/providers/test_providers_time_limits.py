"""Time limits of coroutines that share one timer, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from llmbatch.providers.time_limits import TimeLimits
from llmbatch.sim.virtual import run_virtual


async def limited(limits: TimeLimits, seconds: float, work: Awaitable[object]) -> str:
    """What *work* comes to within *seconds*, and when."""
    loop = asyncio.get_running_loop()
    try:
        with limits.within(seconds):
            await work
    except TimeoutError:
        return f"timed out at {loop.time():g}"
    return f"done at {loop.time():g}"


def test_each_ends_at_its_own_time_whatever_the_order() -> None:
    """A shorter limit that starts later ends first, and one that is met disturbs no other."""

    async def main() -> list[str]:
        limits = TimeLimits()
        works = [(9, 20), (3, 20), (5, 1), (3, 20), (30, 8)]
        return await asyncio.gather(*(limited(limits, most, asyncio.sleep(takes)) for most, takes in works))

    assert run_virtual(main) == [
        "timed out at 9",
        "timed out at 3",
        "done at 1",
        "timed out at 3",
        "done at 8",
    ]


def test_a_limit_that_starts_after_the_timer_rang_is_kept() -> None:
    """The timer is set again, also where nothing was running meanwhile."""

    async def main() -> list[str]:
        limits = TimeLimits()
        told = [await limited(limits, 2, asyncio.sleep(1))]
        await asyncio.sleep(10)
        told.append(await limited(limits, 2, asyncio.sleep(5)))
        limits.close()
        told.append(await limited(limits, 2, asyncio.sleep(5)))
        return told

    assert run_virtual(main) == ["done at 1", "timed out at 13", "timed out at 15"]


def test_a_cancellation_from_outside_stays_one() -> None:
    """Before the limit, and in the same turn of the event loop in which it ends."""

    async def main() -> list[bool]:
        limits, told = TimeLimits(), []
        for seconds in (1.0, 2.0):
            task = asyncio.create_task(limited(limits, 2.0, asyncio.sleep(9)))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + seconds, task.cancel)
            await asyncio.wait([task])
            told.append(task.cancelled())
        return told

    assert run_virtual(main) == [True, True]


def test_after_a_time_out_the_task_is_not_cancelled() -> None:
    """It can await on, and its next limit is whole."""

    async def main() -> tuple[list[str], int]:
        limits = TimeLimits()
        told = [await limited(limits, 2, asyncio.sleep(5)), await limited(limits, 2, asyncio.sleep(1))]
        task = asyncio.current_task()
        return told, -1 if task is None else task.cancelling()

    assert run_virtual(main) == (["timed out at 2", "done at 3"], 0)


def test_an_error_of_the_work_itself_passes() -> None:
    """Whether the limit was met or not."""

    async def broken(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            raise KeyError("mine")

    async def main() -> None:
        limits = TimeLimits()
        for seconds in (1.0, 5.0):
            with pytest.raises(KeyError, match="mine"):
                await limited(limits, 2.0, broken(seconds))

    run_virtual(main)


def test_another_event_loop_starts_anew() -> None:
    """A caller that was used in one loop has limits in the next."""
    limits = TimeLimits()

    told = [run_virtual(lambda: limited(limits, 2, asyncio.sleep(5))) for _ in range(2)]

    assert told == ["timed out at 2", "timed out at 2"]
