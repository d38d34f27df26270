"""Several engines on one virtual loop, which share a board over links that delay, lose and cut."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from llmbatch.core.events import CallEnded, CallSent, CircuitChanged, Event
from llmbatch.core.ports import Transport
from llmbatch.core.rows import Result
from llmbatch.inputs.iterable import IterableSource
from llmbatch.peers.carrier import as_poll_reply, as_reply
from llmbatch.peers.group import Answer, CameBack, Delivery, Heard, WentDown
from llmbatch.peers.local import Hub
from llmbatch.peers.member import Message
from llmbatch.peers.messages import CircuitNews
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

Kind = TypeVar("Kind", bound=Event)


class VirtualChannel:
    """A link of one process in virtual time. *delay*: seconds of each way; *loss*: part of the news that is lost."""

    def __init__(self, hub: Hub, owner: str, *, delay: float = 0.002, loss: float = 0.0, seed: int = 1) -> None:
        self.hub, self.owner, self.delay, self.loss = hub, owner, delay, loss
        self.address, self.part = "virtual", owner
        self.is_cut, self.shares_cost = False, True
        self.sent: list[tuple[float, Message]] = []
        self._random = Random(f"{seed}:{owner}")
        self._delivered: list[Delivery] = []
        self._on_delivery: Callable[[], None] = lambda: None
        self._since = 0
        self._loop = asyncio.get_running_loop()

    def start(self, on_delivery: Callable[[], None]) -> None:
        self._on_delivery = on_delivery
        self.hub.listen(self._hear)
        self._loop.call_later(self.delay, self._come_back)

    def _come_back(self) -> None:
        if not self.is_cut:
            self._deliver(CameBack())
            self._poll()

    def cut(self) -> None:
        self.is_cut = True
        self._deliver(WentDown("cut"))

    def mend(self) -> None:
        self.is_cut = False
        self._come_back()

    def _deliver(self, delivery: Delivery) -> None:
        self._delivered.append(delivery)
        self._on_delivery()

    def take(self) -> Sequence[Delivery]:
        taken, self._delivered = self._delivered, []
        return taken

    def send(self, message: Message) -> None:
        self.sent.append((self._loop.time(), message))
        if not self.is_cut:
            self._loop.call_later(self.delay, self._arrive, message)

    def _arrive(self, message: Message) -> None:
        if self.is_cut:
            return
        answer = self.hub.answer(message.verb, message.args)
        self._loop.call_later(self.delay, self._answer, message, answer)

    def _answer(self, message: Message, answer: list[Any]) -> None:
        if self.is_cut:
            return
        reply = int(answer[0]) if message.verb in ("book", "claim") else as_reply(answer)
        self._deliver(Answer(message, reply))

    def _poll(self) -> None:
        if self.is_cut:
            return
        reply = as_poll_reply(self.hub.answer("poll", (self.owner, self._since)))
        self._since = reply.seq
        self._loop.call_later(self.delay, self._deliver, Heard(reply.news, reply.members))
        self._loop.call_later(self._random.uniform(0.9, 1.1), self._poll)

    def _hear(self, news: CircuitNews) -> None:
        if not self.is_cut and self._random.random() >= self.loss:
            self._loop.call_later(self.delay, lambda: None if self.is_cut else self._deliver(Heard((news,))))


class Collector:
    """A sink and an observer that keep everything."""

    congested = False

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.events: list[Event] = []

    def put(self, result: Result) -> None:
        self.results.append(result)

    async def drained(self) -> None:
        return

    def observe(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class Worker:
    """One engine of a fleet, and what it did."""

    channel: VirtualChannel
    engine: Engine
    collector: Collector
    results: list[Result] = field(default_factory=list)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.collector.events if isinstance(event, kind)]


@dataclass
class Fleet:
    """What the engines did together. Times are those of the loop; *began*: when they started."""

    workers: list[Worker]
    began: float
    ended: float
    endings: list[int]

    def probes(self) -> list[tuple[float, float, int]]:
        """Begin, end and worker of each probe."""
        found = []
        for number, worker in enumerate(self.workers):
            sent = {event.call: event.at for event in worker.of(CallSent) if event.probe}
            for event in worker.of(CallEnded):
                if event.call in sent and event.probe:
                    found.append((sent[event.call] - self.began, event.at - self.began, number))
        return sorted(found)

    def most_probes_at_once(self) -> int:
        steps = sorted([(begin, 1) for begin, _, _ in self.probes()] + [(end, -1) for _, end, _ in self.probes()])
        most = now = 0
        for _, step in steps:
            now += step
            most = max(most, now)
        return most

    def calls_between(self, begin: float, end: float) -> int:
        """Calls, probes included, that were sent from *begin* to *end*, seconds after the start."""
        return sum(begin <= event.at - self.began < end for worker in self.workers for event in worker.of(CallSent))

    def openings(self) -> Counter[int]:
        return Counter(
            number
            for number, worker in enumerate(self.workers)
            for event in worker.of(CircuitChanged)
            if event.old == "closed"
        )


def run_fleet(
    count: int,
    rows: int,
    *phases: Phase,
    latency: float = 0.4,
    seed: int = 1,
    shared: bool = True,
    during: Callable[[list[Worker], Hub], None] = lambda workers, hub: None,
    wrap: Callable[[int, Transport], Transport] = lambda number, transport: transport,
    loss: float = 0.0,
    delay: float = 0.002,
    **options: Any,
) -> Fleet:
    """Run *count* engines with *rows* rows each against one simulated provider; every row must end exactly once."""
    simulated = SimulatedProvider(Scenario("test", tuple(phases), "for a test"), seed=seed, latency=latency)

    async def main() -> Fleet:
        loop = asyncio.get_running_loop()
        hub = Hub(clock=lambda: 1_790_000_000 + loop.time())
        transport = VirtualTransport(simulated)
        workers = []
        for number in range(count):
            channel = VirtualChannel(hub, f"worker-{number}", loss=loss, delay=delay, seed=seed)
            settings = ProviderSettings(model="test-model", base_url="http://127.0.0.1:1/v1", environ={})
            collector = Collector()
            engine = Engine(
                HttpProvider(settings, wrap(number, transport)),
                IterableSource([{"prompt": f"row {row}"} for row in range(rows)]),
                collector,
                RunOptions(**({"seed": seed * 1000 + number, "concurrency": 4} | options)),
                observers=[collector],
                channel=channel if shared else None,
            )
            workers.append(Worker(channel, engine, collector))
        during(workers, hub)
        began = loop.time()
        outcomes = await asyncio.gather(*(worker.engine.run() for worker in workers))
        return Fleet(workers, began, loop.time(), [outcome.exit_code for outcome in outcomes])

    fleet = run_virtual(main, limit=100_000.0)
    for worker, ending in zip(fleet.workers, fleet.endings, strict=True):
        counts = Counter(result.number for result in worker.collector.results)
        assert set(counts.values()) <= {1}, "a row ended twice"
        assert len(counts) == rows or ending, "a row was lost"
    return fleet
