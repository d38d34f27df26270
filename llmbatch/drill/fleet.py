"""A fleet of many processes in an outage, in virtual time: its circuits are shared, and everything that can fail does.

News are lost, probers die, and the board forgets. This is a simulation: the processes are no more than a circuit, the
shared state's own code and calls that take time; machines, networks and stores are not in it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from llmbatch.breaker.core import Circuit
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.peers.board import Board
from llmbatch.peers.group import Answer, CameBack, Delivery, Group, Heard, longest_wait, probe_share
from llmbatch.peers.member import Effect, Message
from llmbatch.peers.messages import MICROS, CircuitNews, Reply
from llmbatch.route.outage import SHARE, probe_wait

__all__ = ["BrokenFleetError", "FleetPlan", "FleetScore", "run_fleet"]

_START = 1_000_000_000.0
"""The board's clock at the beginning; the fleet's own begins at 0."""

_WARM_UP = 1.0
_ROUTE = "route"
_LINK = 0.002
"""Median seconds of one way to the board."""

_RESTART = 5.0
"""Seconds until a process that died is started again."""

_MOST_SECONDS = 600.0
"""When a fleet that has not recovered is given up."""


class BrokenFleetError(AssertionError):
    """Something happened that sharing must prevent."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """How large a fleet, how long an outage, and what fails. Durations are seconds, shares 0 to 1."""

    workers: int
    slots: int = 40
    outage: float = 60.0
    latency: float = 0.5
    recovery_timeout: float = 60.0
    failure_threshold: int = 5
    lost_news: float = 0.1
    dead_probers: float = 0.1
    forgets: int = 1
    """How often the board loses all that it knows, spread over the outage."""
    shared: bool = True
    seed: int = 0


@dataclass(slots=True)
class FleetScore:
    """What a fleet did. Times are seconds after the beginning, or the end, of the outage."""

    workers: int
    slots: int
    shared: bool
    calls_down: int = 0
    """Calls that met the outage, probes included."""
    probes: int = 0
    probes_at_once: int = 0
    deaths: int = 0
    all_open_after: float = math.nan
    """When the last process had stopped, after the first one opened."""
    first_good_after: float = math.nan
    all_closed_after: float = math.nan
    longest_wait: float = math.nan
    """Longest wait between two probes, as shared."""
    events: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    circuit: Circuit
    group: Group | None
    since: int = 0
    generation: int = 0
    """Rises with each death: what a dead process had begun is void."""
    opened_at: float = math.nan
    wakes_at: float = math.inf
    versions: int = 0
    told: list[Message] = field(default_factory=list)


def run_fleet(plan: FleetPlan) -> FleetScore:
    """Send a fleet through an outage until every circuit is closed again.

    Raises:
        BrokenFleetError: a fence was given twice, a version went back, or a process sent more than its probe after it
            had heard of the outage.
    """
    return _Simulation(plan).run()


class _Simulation:
    """The events of one fleet, in order of time."""

    def __init__(self, plan: FleetPlan) -> None:
        self._plan = plan
        self._random = Random(f"fleet:{plan.seed}")
        self._now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._begin = _WARM_UP
        self._end = _WARM_UP + plan.outage
        self._board = Board(self._publish)
        self._fences: set[int] = set()
        self._probing: set[tuple[int, int]] = set()
        self._score = FleetScore(plan.workers, plan.slots, plan.shared)
        self._longest = longest_wait(plan.recovery_timeout, plan.workers if plan.shared else 1)
        self._share = probe_share(plan.workers) if plan.shared and plan.workers > 1 else SHARE
        self._score.longest_wait = self._longest
        self._workers = [self._worker(number, 0) for number in range(plan.workers)]
        self._open = 0
        self._first_open = math.nan

    def _worker(self, number: int, generation: int) -> _Worker:
        policy = BreakerPolicy(
            failure_threshold=self._plan.failure_threshold,
            recovery_timeout=self._plan.recovery_timeout,
            first_recovery_timeout=min(1.0, self._plan.recovery_timeout),
            growth=1.0,
        )
        worker = _Worker(number, Circuit(policy), None, generation=generation)
        if self._plan.shared:
            owner = f"w{number}-{generation}"
            worker.group = Group(owner, lambda message: self._send(worker, message), chance=self._random.random)
            worker.group.join(_ROUTE, self._now)
        return worker

    # Time.

    def _at(self, seconds: float, do: Callable[..., None], *args: object) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self._now + seconds, self._count, do, args))

    def run(self) -> FleetScore:
        """Run until all circuits are closed after the outage."""
        plan = self._plan
        for worker in self._workers:
            for _ in range(plan.slots):
                self._at(self._random.uniform(0, plan.latency), self._call, worker, worker.generation)
            if worker.group is not None:
                self._at(self._way(), self._deliver, worker, worker.generation, CameBack())
                self._at(self._random.random(), self._poll, worker, worker.generation)
        for forgotten in range(plan.forgets if plan.shared else 0):
            self._at(self._begin + plan.outage * (forgotten + 1) / (plan.forgets + 1), self._forget)
        while self._heap and self._now < _MOST_SECONDS:
            self._now, _, do, args = heapq.heappop(self._heap)
            self._score.events += 1
            do(*args)
            if self._now > self._end and not self._open and self._score.all_closed_after >= 0:
                return self._score
        raise BrokenFleetError("the fleet did not recover")

    def _is_down(self) -> bool:
        return self._begin <= self._now < self._end

    # Calls.

    def _call(self, worker: _Worker, generation: int) -> None:
        """One slot sends a call, or ends if the circuit is open; it is taken up again when that has closed."""
        if worker.generation != generation or not worker.circuit.is_closed:
            return
        permit = worker.circuit.acquire(self._now)
        if permit is not None:
            self._answer_later(worker, permit)

    def _answer_later(self, worker: _Worker, permit: PermitState) -> None:
        is_down = self._is_down()
        self._score.calls_down += is_down
        median = 0.05 if is_down else self._plan.latency
        self._at(median * self._random.lognormvariate(0, 0.3), self._answer, worker, worker.generation, permit, is_down)

    def _answer(self, worker: _Worker, generation: int, permit: PermitState, is_down: bool) -> None:
        if permit.probe:
            self._probing.discard((worker.number, permit.serial))
        if worker.generation != generation:
            return
        circuit, was = worker.circuit, worker.circuit.phase
        current = circuit.is_current(permit)
        circuit.settle(permit, "failure" if is_down else "success", self._now)
        if permit.probe and current:
            self._probe_ended(worker, is_down=is_down)
        elif was == "closed" and not circuit.is_closed:
            self._opened(worker)
            if worker.group is not None:
                member, _ = worker.group.join(_ROUTE, self._now)
                member.opened(max(0.0, circuit.until - self._now), circuit.reason, self._now)
        if not is_down and self._now > self._end and math.isnan(self._score.first_good_after):
            self._score.first_good_after = self._now - self._end
        if circuit.is_closed and was == "closed":
            self._call(worker, generation)

    def _opened(self, worker: _Worker) -> None:
        self._open += 1
        worker.opened_at = self._now
        if math.isnan(self._first_open):
            self._first_open = self._now
        if self._open == len(self._workers) and math.isnan(self._score.all_open_after):
            self._score.all_open_after = self._now - self._first_open
        self._wake(worker)

    def _closed(self, worker: _Worker) -> None:
        self._open -= 1
        if not self._open and self._now > self._end:
            self._score.all_closed_after = self._now - self._end
        for _ in range(self._plan.slots):
            self._at(0.0, self._call, worker, worker.generation)

    # Probes.

    def _wake(self, worker: _Worker) -> None:
        """Look at an open circuit when its next probe may be due."""
        circuit = worker.circuit
        if circuit.is_closed:
            return
        due = max(circuit.until, circuit.lease_until if circuit.probing else 0.0)
        member = None if worker.group is None else worker.group.get(_ROUTE)
        if member is not None and due <= self._now:
            due = member.next_change(self._now) or math.inf
        if due < math.inf and (due < worker.wakes_at or worker.wakes_at <= self._now):
            worker.wakes_at = due
            self._at(max(0.0, due - self._now), self._probe, worker, worker.generation)

    def _probe(self, worker: _Worker, generation: int) -> None:
        circuit = worker.circuit
        if worker.generation != generation or circuit.is_closed:
            return
        worker.wakes_at = math.inf
        member = None if worker.group is None else worker.group.get(_ROUTE)
        if self._now < circuit.until or (member is not None and not member.may_probe(15.0, self._now)):
            self._wake(worker)
            return
        permit = circuit.acquire(self._now, lease=15.0)
        if permit is None:
            self._wake(worker)
            return
        self._score.probes += 1
        self._probing.add((worker.number, permit.serial))
        self._score.probes_at_once = max(self._score.probes_at_once, len(self._probing))
        if self._is_down() and self._random.random() < self._plan.dead_probers:
            self._score.calls_down += 1
            self._die(worker, permit)
        else:
            self._answer_later(worker, permit)

    def _probe_ended(self, worker: _Worker, *, is_down: bool) -> None:
        circuit = worker.circuit
        member = None if worker.group is None else worker.group.get(_ROUTE)
        if circuit.is_closed:
            if member is not None:
                member.probe_ended("success", 0.0, self._now, is_named=False)
            self._closed(worker)
            return
        circuit.hold(
            self._now + probe_wait(self._now - worker.opened_at, self._longest, self._random.random(), self._share)
        )
        if member is not None:
            member.probe_ended("failure", max(0.0, circuit.until - self._now), self._now, is_named=False)
        self._wake(worker)

    def _die(self, worker: _Worker, permit: PermitState) -> None:
        """The process ends without a word, and is started again, knowing nothing."""
        self._score.deaths += 1
        self._probing.discard((worker.number, permit.serial))
        self._open -= 1
        worker.generation += 1
        self._at(_RESTART, self._restart, worker.number, worker.generation)

    def _restart(self, number: int, generation: int) -> None:
        worker = self._workers[number] = self._worker(number, generation)
        if worker.group is not None:
            self._at(self._way(), self._deliver, worker, generation, CameBack())
            self._at(2 * self._way(), self._poll, worker, generation)
        for _ in range(self._plan.slots):
            self._at(1.0 + self._random.random(), self._call, worker, generation)

    # The board.

    def _way(self) -> float:
        return _LINK * self._random.lognormvariate(0, 0.5)

    def _micros(self) -> int:
        return round((_START + self._now) * MICROS)

    def _forget(self) -> None:
        self._board = Board(self._publish)

    def _send(self, worker: _Worker, message: Message) -> None:
        if self._random.random() >= self._plan.lost_news / 4:  # messages are lost more rarely than news
            self._at(self._way(), self._arrive, worker, worker.generation, message)

    def _arrive(self, worker: _Worker, generation: int, message: Message) -> None:
        board, now, args = self._board, self._micros(), message.args
        if message.verb == "open":
            reply = board.open(*args[:5], is_named=args[5], now=now)
        elif message.verb == "ask":
            reply = board.ask(*args, now=now)
            self._check_fence(reply)
        else:
            reply = board.tell(*args[:6], is_named=args[6], now=now)
        self._at(self._way(), self._deliver, worker, generation, Answer(message, reply))

    def _check_fence(self, reply: Reply) -> None:
        if reply.kind != "granted":
            return
        if reply.fence in self._fences:
            raise BrokenFleetError(f"fence {reply.fence} was given twice")
        self._fences.add(reply.fence)

    def _poll(self, worker: _Worker, generation: int) -> None:
        group = worker.group
        if worker.generation != generation or group is None:
            return
        reply = self._board.poll(group.owner, worker.since, now=self._micros())
        worker.since = reply.seq
        self._at(self._way(), self._deliver, worker, generation, Heard(reply.news, reply.members))
        self._at(self._random.uniform(0.9, 1.1), self._poll, worker, generation)

    def _publish(self, news: CircuitNews) -> None:
        heard = Heard((news,))
        for worker in self._workers:
            if self._random.random() >= self._plan.lost_news:
                self._at(self._way(), self._deliver, worker, worker.generation, heard)

    def _deliver(self, worker: _Worker, generation: int, delivery: Delivery) -> None:
        group = worker.group
        if worker.generation != generation or group is None:
            return
        for _, effect in group.receive(delivery, self._now):
            self._apply(worker, effect)
        member = group.get(_ROUTE)
        if member is not None:
            if member.version < worker.versions:
                raise BrokenFleetError("a version went back")
            worker.versions = member.version

    def _apply(self, worker: _Worker, effect: Effect) -> None:
        circuit = worker.circuit
        if effect.kind == "open" and circuit.is_closed:
            circuit.trip(self._now, "elsewhere", wait=effect.wait)
            self._opened(worker)
        elif effect.kind == "failed" and not circuit.is_closed and not circuit.probing:
            circuit.hold(self._now + effect.wait)
        elif effect.kind == "close" and not circuit.is_closed:
            circuit.close(self._now)
            self._closed(worker)
        if not circuit.is_closed:
            self._at(0.0, self._probe, worker, worker.generation)
