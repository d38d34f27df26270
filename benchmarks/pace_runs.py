"""Whole runs of llmbatch in virtual time against simulated providers, for ``pace.py``; and one of a naive script."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmbatch.core.calls import Reply, Request, Route
from llmbatch.core.events import Event
from llmbatch.core.rows import Result
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import make_providers, read_pools
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import FinishedCall, VirtualTransport, run_virtual

MOST_VIRTUAL_SECONDS = 100_000.0
MAX_TOKENS = 80
NAIVE_ATTEMPTS = 6


@dataclass(frozen=True)
class Sent:
    """One call. Times are seconds since the run began; ``base``: what it would have taken on an idle server."""

    place: str
    began: float
    ended: float
    status: int
    tokens: float
    base: float


@dataclass
class Run:
    """What a run did; it is its own sink and observer."""

    calls: list[Sent] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    failed: int = 0
    good: int = 0
    seconds: float = 0.0
    congested = False

    def observe(self, event: Event) -> None:
        self.events.append(event)

    def put(self, result: Result) -> None:
        self.good += result.status == "success"
        self.failed += result.status == "failed"

    async def drained(self) -> None:
        return

    def between(self, begin: float, end: float) -> list[Sent]:
        """The calls that were sent between the two times."""
        return [call for call in self.calls if begin <= call.began < end]


def refused_share(calls: Sequence[Sent]) -> float:
    return sum(call.status == 429 for call in calls) / max(1, len(calls))


class Servers:
    """A transport to several simulated providers, one for each key or model, which notes every call."""

    def __init__(self, run: Run, scenarios: Mapping[str, Scenario], *, latency: float, seed: int) -> None:
        self._run = run
        self._places = {
            place: VirtualTransport(
                SimulatedProvider(scenario, seed=seed, latency=latency), on_call=partial(self._note, place)
            )
            for place, scenario in scenarios.items()
        }
        self._scenarios = scenarios
        self._first: dict[str, float] = {}
        """When each place was called first: the transport's clock starts then."""
        self._loads: dict[int, float] = {}

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        place = key if key in self._places else json.loads(request.body)["model"]
        transport = self._places[place]
        now = asyncio.get_running_loop().time()
        first = self._first.setdefault(place, now)
        knee = self._scenarios[place].at(now - first).knee
        self._loads[id(request)] = 1.0 if knee is None else max(1.0, (transport.stats.in_flight + 1) / knee)
        return await transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        return

    def _note(self, place: str, call: FinishedCall) -> None:
        tokens = len(call.request.body) / 4 + MAX_TOKENS
        base = call.plan.delay / self._loads.pop(id(call.request), 1.0)
        status = call.plan.status if call.arrived else 0
        first = self._first[place]
        self._run.calls.append(Sent(place, first + call.began, first + call.ended, status, tokens, base))


def rows(count: int) -> Iterator[dict[str, object]]:
    return ({"prompt": f"row {number}", "max_tokens": MAX_TOKENS} for number in range(count))


def run_llmbatch(
    count: int,
    scenarios: Mapping[str, Scenario],
    *,
    latency: float,
    model: str = "openai/m",
    fallback: Sequence[str] = (),
    pools: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    seed: int = 1,
    until: float | None = None,
    **options: Any,
) -> Run:
    """Send *count* rows, or those that are sent *until* then, with the options of a run."""
    run = Run()

    async def main() -> None:
        servers = Servers(run, scenarios, latency=latency, seed=seed)
        settings = ProviderSettings(
            model=model, environ={"OPENAI_API_KEY": "sk-a", "MISTRAL_API_KEY": "mk"} | dict(environ or {})
        )
        known = read_pools(dict(pools or {}), "pools")
        provider = make_providers(settings, lambda of: HttpProvider(of, servers), fallback=fallback, pools=known)
        loop = asyncio.get_running_loop()
        given = rows(count)
        if until is not None:
            given = itertools.takewhile(lambda _: loop.time() < until, given)
        chosen = RunOptions(**({"seed": seed} | options))
        await Engine(provider, IterableSource(given), run, chosen, observers=[run]).run()
        run.seconds = loop.time()

    run_virtual(main, limit=MOST_VIRTUAL_SECONDS)
    return run


def run_naive(count: int, scenario: Scenario, *, latency: float, concurrency: int = 40, seed: int = 1) -> Run:
    """``gather`` under a semaphore, six attempts with full-jitter exponential backoff of 1 to 60 s, no header read."""
    run, draw = Run(), random.Random(seed)

    async def main() -> None:
        servers = Servers(run, {"m": scenario}, latency=latency, seed=seed)
        slots = asyncio.Semaphore(concurrency)

        async def send(row: dict[str, object]) -> None:
            prompt = {"role": "user", "content": row["prompt"]}
            body = json.dumps({"model": "m", "messages": [prompt], "max_tokens": MAX_TOKENS}).encode()
            request = Request(Route("m", "m"), "http://127.0.0.1:1/v1/chat/completions", {}, body, "chat", MAX_TOKENS)
            async with slots:
                for attempt in range(NAIVE_ATTEMPTS):
                    reply = await servers.post(request, timeout=120.0)
                    if reply.status == 200:
                        run.good += 1
                        return
                    await asyncio.sleep(draw.uniform(0.0, min(60.0, 2.0**attempt)))
            run.failed += 1

        await asyncio.gather(*(send(row) for row in rows(count)))
        run.seconds = asyncio.get_running_loop().time()

    run_virtual(main, limit=MOST_VIRTUAL_SECONDS)
    return run
