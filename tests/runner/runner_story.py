"""The real engine, caller and verdicts against the simulated provider, under virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llmbatch.core.events import CircuitChanged, Event
from llmbatch.core.ports import Transport
from llmbatch.core.rows import Result
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

Kind = TypeVar("Kind", bound=Event)


@dataclass
class Story:
    """What a simulated run did."""

    ending: RunOutcome
    results: list[Result]
    deferred: list[Result]
    events: list[Event]
    log: list[tuple[float, int]]
    seconds: float
    down_calls: int
    most_in_flight: int
    finished_at: dict[int, float] = field(default_factory=dict)

    @property
    def statuses(self) -> Counter[str]:
        return Counter(result.status for result in self.results)

    @property
    def failed(self) -> dict[int, Result]:
        return {result.number: result for result in self.results if result.status == "failed"}

    def openings(self) -> int:
        return sum(
            isinstance(event, CircuitChanged) and event.old == "closed" and event.new == "open" for event in self.events
        )

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


class Collector:
    """A sink and an observer that keep everything."""

    congested = False

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.events: list[Event] = []
        self.finished_at: dict[int, float] = {}

    def put(self, result: Result) -> None:
        self.results.append(result)
        self.finished_at[result.number] = asyncio.get_running_loop().time()

    async def drained(self) -> None:
        return

    def observe(self, event: Event) -> None:
        self.events.append(event)


def prompts(count: int, *, poison: Iterable[int] = (), status: int = 500, model: str | None = None) -> list[object]:
    bad = set(poison)
    rows: list[object] = []
    for number in range(1, count + 1):
        text = f"row {number}" + (f" [sim:{status}]" if number in bad else "")
        rows.append({"prompt": text} | ({"model": model} if model else {}))
    return rows


def simulate(
    rows: Sequence[object],
    *phases: Phase,
    scenarios: dict[str, Scenario] | None = None,
    latency: float = 0.2,
    seed: int = 1,
    limit: float = 100_000.0,
    answered_before: bool = False,
    during: Callable[[Engine], None] | None = None,
    wrap: Callable[[VirtualTransport], Transport] = lambda transport: transport,
    **options: Any,
) -> Story:
    collector = Collector()
    simulated = SimulatedProvider(Scenario("test", tuple(phases), "for a test"), seed=seed, latency=latency)
    transport = VirtualTransport(simulated, keep_log=True)

    async def main() -> Story:
        connection = ProviderSettings(model="test-model", base_url="http://127.0.0.1:1/v1", environ={})
        provider = HttpProvider(connection, wrap(transport))
        source = IterableSource(rows)
        settings = RunOptions(**({"seed": seed} | options))
        engine = Engine(
            provider,
            source,
            collector,
            settings,
            observers=[collector],
            earlier=EarlierRuns(lambda _: answered_before),
        )
        if during is not None:
            during(engine)
        loop = asyncio.get_running_loop()
        started = loop.time()
        ending = await engine.run()
        stats = transport.stats
        return Story(
            ending,
            collector.results,
            engine.deferred(),
            collector.events,
            transport.log,
            loop.time() - started,
            stats.calls_while_down,
            stats.max_in_flight,
            collector.finished_at,
        )

    story = run_virtual(main, limit=limit)
    rows_done = Counter(result.number for result in story.results)
    assert max(rows_done.values(), default=1) == 1, "a row ended twice"
    waiting = {result.number for result in story.deferred}
    assert not waiting & rows_done.keys(), "a row both ended and waits"
    return story


Simulate = Callable[..., Story]
"""``simulate`` as tests are given it."""
Prompts = Callable[..., list[object]]
"""``prompts`` as tests are given it."""
