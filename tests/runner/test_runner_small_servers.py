"""Servers that work on a few requests at once, with more in flight than they answer within ``--timeout``."""

from __future__ import annotations

import asyncio
import heapq
import math
from random import Random

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.ports import Transport


class SmallServer:
    """Works on *slots* requests at once, some *seconds* on each, and on those that nobody waits for any more, too."""

    def __init__(self, transport: Transport, slots: int, seconds: float) -> None:
        self.transport = transport
        self.seconds = seconds
        self.free_at = [0.0] * slots
        self.chance = Random(7)

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time()
        done = max(now, heapq.heappop(self.free_at)) + self.seconds * math.exp(self.chance.gauss(0.0, 0.1))
        heapq.heappush(self.free_at, done)
        await asyncio.sleep(min(timeout, done - now))
        if timeout < done - now:
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


@pytest.mark.parametrize(
    ("concurrency", "slots", "timeout", "most"),
    [
        (40, 1, 3.0, 2.5),
        (40, 4, 1.5, 2.5),
        (40, 4, 3.0, 2.5),
        (40, 4, 12.0, 1.1),
        (10, 2, 1.5, 2.2),
        (200, 4, 3.0, 3.5),
    ],
)
def test_a_server_that_works_on_abandoned_requests_is_not_overrun_again_and_again(
    simulate: Simulate, prompts: Prompts, concurrency: int, slots: int, timeout: float, most: float
) -> None:
    """Its line takes longer than the time limit. Each ramp after a false outage went up to all slots again.

    Then runs took 3 to 8 times as long as the server needs, and made as many calls.
    """
    story = simulate(
        prompts(400),
        wrap=lambda transport: SmallServer(transport, slots, 1.0),
        concurrency=concurrency,
        timeout=timeout,
        latency=0.0,
    )

    assert story.statuses == {"success": 400}
    assert story.seconds < most * 400 / slots
    assert sum(result.attempts for result in story.results) < most * 400
