"""Whole runs in virtual time against rate limits, and transports that throttle for other reasons."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from runner_story import Collector, Story

from llmbatch.core.calls import Reply, Request
from llmbatch.core.ports import Transport
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.report.stats import RunStats
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

MINUTE = 60.0
DAY = 86_400.0


@dataclass
class Run:
    story: Story
    log: list[tuple[float, int]]
    stats: RunStats

    def rate(self, begin: float, end: float) -> float:
        """Good answers a minute to calls sent between the two times."""
        return sum(status == 200 and begin <= at < end for at, status in self.log) * MINUTE / (end - begin)

    @property
    def refused(self) -> float:
        """Share of the calls that were answered 429."""
        return sum(status == 429 for _, status in self.log) / len(self.log)

    def refused_from(self, begin: float) -> float:
        """The same of the calls that were sent from then on."""
        statuses = [status for at, status in self.log if at >= begin]
        return sum(status == 429 for status in statuses) / len(statuses)


def send(
    count: int,
    limits: RateLimits | None,
    *phases: Phase,
    latency: float = 1.0,
    wrap: Callable[[VirtualTransport], Any] = lambda transport: transport,
    beside: Callable[[VirtualTransport], Any] | None = None,
    requests_today: tuple[int, float] = (0, math.inf),
    **options: Any,
) -> Run:
    """Send *count* rows of about 110 tokens."""
    collector, stats = Collector(), RunStats()
    simulated = SimulatedProvider(Scenario("test", phases, "for a test", limits=limits), seed=1, latency=latency)
    transport = VirtualTransport(simulated, keep_log=True)
    rows: Iterable[object] = ({"prompt": f"row {number}", "max_tokens": 80} for number in range(count))

    async def main() -> Story:
        settings = ProviderSettings(model="m", base_url="http://127.0.0.1:1/v1", environ={})
        engine = Engine(
            HttpProvider(settings, wrap(transport)),
            IterableSource(rows),
            collector,
            RunOptions(**({"seed": 1} | options)),
            observers=[collector, stats],
            earlier=EarlierRuns(requests_today=requests_today),
        )
        loop = asyncio.get_running_loop()
        started = loop.time()
        other = None if beside is None else asyncio.create_task(beside(transport))
        ending = await engine.run()
        if other is not None:
            other.cancel()
        return Story(
            *(ending, collector.results, engine.deferred(), collector.events, []),
            *(loop.time() - started, 0, 0, collector.finished_at),
        )

    return Run(run_virtual(main, limit=10 * DAY), transport.log, stats)


class ThrottledAtRandom:
    """Answers a share of all calls with 429 and a wait, whatever is sent: no row is to blame."""

    def __init__(self, transport: Transport, share: float, wait: float, seed: int) -> None:
        self._transport = transport
        self._share = share
        self._wait = wait
        self._draws = Random(seed)

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self._draws.random() >= self._share:
            return await self._transport.post(request, timeout=timeout)
        await asyncio.sleep(0.1)
        error = {"message": "Slow down", "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}
        return Reply(429, {"retry-after": f"{self._wait:g}"}, json.dumps({"error": error}).encode())

    async def aclose(self) -> None:
        await self._transport.aclose()


class MostInFlight:
    """Answers 429 *after* so many seconds while *most* requests are in flight, and names no wait."""

    def __init__(self, transport: Transport, most: int, after: float = 0.1) -> None:
        self._transport = transport
        self._most = most
        self._after = after
        self._in_flight = 0

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self._in_flight >= self._most:
            await asyncio.sleep(self._after)
            return Reply(429, {}, b'{"error": {"message": "Slow down", "code": "429"}}')
        self._in_flight += 1
        try:
            return await self._transport.post(request, timeout=timeout)
        finally:
            self._in_flight -= 1

    async def aclose(self) -> None:
        await self._transport.aclose()


class MinuteWindows:
    """Takes *most* requests in each minute of the loop's clock; then answers 429 and names the rest of the minute."""

    def __init__(self, transport: Transport, most: int) -> None:
        self._transport = transport
        self._most = most
        self._minute = self._taken = 0

    async def post(self, request: Request, *, timeout: float) -> Reply:
        minute, seconds = divmod(asyncio.get_running_loop().time(), MINUTE)
        if minute != self._minute:
            self._minute, self._taken = int(minute), 0
        if self._taken >= self._most:
            await asyncio.sleep(0.1)
            error = b'{"error": {"message": "Slow down", "code": "429"}}'
            return Reply(429, {"retry-after": f"{MINUTE - seconds:.1f}"}, error)
        self._taken += 1
        return await self._transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._transport.aclose()
