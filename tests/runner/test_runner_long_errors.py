"""Errors that take longer than good answers, in a run of few slots: they cost time, and no row."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.ports import Transport


class LongErrors:
    """A *share* of the calls fails with a 500 that comes after *seconds*."""

    def __init__(self, transport: Transport, share: float, seconds: float) -> None:
        self.transport = transport
        self.share = share
        self.seconds = seconds
        self.busy = 0.0
        """Seconds that calls took, together."""
        self._rng = Random(5)

    async def post(self, request: Request, *, timeout: float) -> Reply:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            if self._rng.random() < self.share:
                await asyncio.sleep(self.seconds)
                return Reply(500, {}, b'{"error":{"message":"oops"}}')
            return await self.transport.post(request, timeout=timeout)
        finally:
            self.busy += loop.time() - began

    async def aclose(self) -> None:
        await self.transport.aclose()


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize(("share", "seconds"), [(0.1, 60.0), (0.3, 20.0), (0.5, 5.0)])
def test_long_errors_cost_no_row_and_little_more_than_their_own_time(
    simulate: Simulate, prompts: Prompts, slots: int, share: float, seconds: float
) -> None:
    """Good rows succeed, bad ones fail, and but for the waits of one row the slots are always busy."""
    carriers: list[LongErrors] = []

    def wrap(transport: Transport) -> Transport:
        carriers.append(LongErrors(transport, share, seconds))
        return carriers[0]

    story = simulate(prompts(200, poison=[50, 100, 101]), wrap=wrap, latency=1.0, concurrency=slots, timeout=120.0)

    assert set(story.failed) == {50, 100, 101}
    assert story.statuses["success"] == 197
    assert story.openings() == 0
    assert story.seconds <= carriers[0].busy / slots + 120.0
