"""Runs of several processes share one circuit: whole engines in virtual time, over links that lose and cut."""

from __future__ import annotations

import asyncio
import functools
import math
from itertools import pairwise
from typing import Any

import pytest
from fleet import Fleet, Worker, run_fleet

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import CallEnded, CircuitChanged, Notice, OutageEnded, OutageStarted, Throttled
from llmbatch.core.ports import Transport
from llmbatch.peers.local import Hub
from llmbatch.sim.scenario import Phase

OUTAGE = (Phase(10.0), Phase(60.0, "down"), Phase(math.inf))


@functools.cache
def outage_of_eight(*, shared: bool = True) -> Fleet:
    """Eight processes in the outage."""
    return run_fleet(8, 150, *OUTAGE, shared=shared)


def first_opening(fleet: Fleet) -> float:
    moves = [event.at for worker in fleet.workers for event in worker.of(CircuitChanged) if event.old == "closed"]
    return min(moves) - fleet.began


def closed_at(worker: Worker, fleet: Fleet) -> float:
    return max(event.at for event in worker.of(CircuitChanged) if event.new == "closed") - fleet.began


@pytest.mark.slow  # many calls in virtual time
def test_eight_processes_probe_an_outage_one_at_a_time() -> None:
    """One opening tells all; from then on one probe at a time, and all close with the first that passes."""
    fleet = outage_of_eight()

    opening = first_opening(fleet)
    probes = [probe for probe in fleet.probes() if probe[0] < 70]
    assert fleet.endings == [0] * 8
    assert fleet.most_probes_at_once() == 1
    assert fleet.calls_between(10, 70) <= 8 * 4 + 5 + len(probes) + 8
    assert fleet.calls_between(opening + 0.05, 70) == len(
        [probe for probe in probes if probe[0] >= opening + 0.05]
    )  # within 50 ms
    assert all(closed_at(worker, fleet) < 70 + 10 + 3 for worker in fleet.workers)


def test_the_end_of_an_outage_of_a_minute_is_noticed_within_four_seconds() -> None:
    """Processes that share probes wait for a sixteenth of the time that it has lasted; one alone waits a tenth."""
    fleet = outage_of_eight()

    begins = [begin for begin, _, _ in fleet.probes()]
    first_good = min(end for begin, end, _ in fleet.probes() if begin >= 70)
    assert max(later - earlier for earlier, later in pairwise(begins) if later < 75) <= 4.0
    assert first_good - 70 <= 4.0 + 0.5  # the longest wait, and the answer
    assert 30 <= sum(begin < 70 for begin in begins) <= 42


def test_every_process_opens_confirms_and_ends_the_outage_once() -> None:
    fleet = outage_of_eight()

    assert set(fleet.openings().values()) == {1}
    for worker in fleet.workers:
        assert len(worker.of(OutageStarted)) == len(worker.of(OutageEnded)) == 1


def test_probes_move_between_processes() -> None:
    """Who has failed waits longer than the others, so that one process with its own trouble is not asked for ever."""
    fleet = outage_of_eight()

    probers = [worker for _, _, worker in fleet.probes()]
    assert len(set(probers)) >= 4
    assert all(one != other for one, other in pairwise(probers))


@pytest.mark.slow  # many calls in virtual time
def test_without_sharing_each_process_probes_alone() -> None:
    """What sharing saves: the same outage with eight circuits that know nothing of each other."""
    shared, alone = outage_of_eight(), outage_of_eight(shared=False)

    assert alone.most_probes_at_once() > 1
    assert alone.calls_between(10, 70) > 2 * shared.calls_between(10, 70)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", range(3))
def test_lost_news_are_found_by_the_poll(seed: int) -> None:
    """Half of the news is lost: still one probe at a time, and everybody closes within two polls of the others."""
    fleet = run_fleet(5, 130, *OUTAGE, loss=0.5, seed=seed)

    ends = [closed_at(worker, fleet) for worker in fleet.workers]
    assert fleet.most_probes_at_once() == 1
    assert max(ends) - min(ends) < 2.5


@pytest.mark.slow  # many calls in virtual time
def test_a_store_that_forgets_in_an_outage_changes_nothing() -> None:
    def forget(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for seconds in (12.0, 25.0, 40.3):
            loop.call_later(seconds, hub.forget)

    fleet = run_fleet(5, 130, *OUTAGE, during=forget)

    assert fleet.most_probes_at_once() == 1
    assert all(closed_at(worker, fleet) < 83 for worker in fleet.workers)


@pytest.mark.slow  # many calls in virtual time
def test_without_the_store_each_process_goes_on_with_its_own_circuit() -> None:
    """The links are cut in the outage: every process probes by itself, tells so once, and recovers."""

    def cut(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(20.0, worker.channel.cut)

    fleet = run_fleet(5, 130, *OUTAGE, during=cut)

    assert fleet.endings == [0] * 5
    assert 1 < fleet.most_probes_at_once() <= 5
    for worker in fleet.workers:
        assert [notice.level for notice in worker.of(Notice)] == ["warning"]
        assert "is gone (cut): this process goes on with its own circuits" in worker.of(Notice)[0].message
        assert closed_at(worker, fleet) < 80


@pytest.mark.slow  # many calls in virtual time
def test_a_store_that_comes_back_in_the_outage_coordinates_again() -> None:
    def cut(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for number, worker in enumerate(workers):
            loop.call_later(20.0, worker.channel.cut)
            loop.call_later(30.0 + number / 10, worker.channel.mend)
        loop.call_later(25.0, hub.forget)

    fleet = run_fleet(5, 130, *OUTAGE, during=cut)

    late = [probe for probe in fleet.probes() if probe[0] > 33]
    assert late
    assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(late))
    for worker in fleet.workers:
        assert [notice.message.split(" (")[0] for notice in worker.of(Notice)] == [
            "the shared store virtual is gone",
            "the shared store virtual is back",
        ]


@pytest.mark.slow  # many calls in virtual time
def test_an_outage_while_the_store_is_away_is_told_when_it_is_back() -> None:
    """Openings that nobody heard are offered again; a process that saw nothing of the outage hears of it."""

    def cut(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(5.0, worker.channel.cut)
            loop.call_later(30.0, worker.channel.mend)

    fleet = run_fleet(5, 130, *OUTAGE, during=cut)

    late = [probe for probe in fleet.probes() if probe[0] > 33]
    assert late
    assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(late))


class Sick:
    """The connections of one process, which break between *begin* and *end*, seconds of the loop's clock."""

    def __init__(self, inner: Transport, begin: float, end: float) -> None:
        self._inner, self._begin, self._end = inner, begin, end
        self._from = asyncio.get_running_loop().time()

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time() - self._from
        if self._begin <= now < self._end:
            raise TransportError("reset", "the connection was reset", sent=True)
        return await self._inner.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.slow  # many calls in virtual time
def test_one_sick_process_does_not_stop_the_others() -> None:
    """Its opening meets a second opinion, which passes at once: the others lose a moment, and once only in a minute."""

    def wrap(number: int, transport: Transport) -> Transport:
        return Sick(transport, 10.0, 40.0) if number == 0 else transport

    fleet = run_fleet(6, 400, Phase(math.inf), wrap=wrap, latency=0.5)

    others = fleet.workers[1:]
    lost = [
        after.at - before.at
        for worker in others
        for before, after in pairwise(worker.of(CircuitChanged))
        if before.old == "closed"
    ]
    assert fleet.endings == [0] * 6
    assert all(fleet.openings()[number] == 1 for number in range(1, 6))
    assert not any(worker.of(OutageStarted) for worker in others)
    assert len(fleet.workers[0].of(OutageStarted)) == 1
    assert sum(lost) / len(others) < 1.0
    well = run_fleet(6, 400, Phase(math.inf), latency=0.5)
    assert good_calls(fleet, 10, 40) >= 0.97 * good_calls(well, 10, 40)


def good_calls(fleet: Fleet, begin: float, end: float) -> int:
    """Good answers that all processes but the first got from *begin* to *end*."""
    return sum(
        begin <= event.at - fleet.began < end and event.verdict == "success"
        for worker in fleet.workers[1:]
        for event in worker.of(CallEnded)
    )


def test_a_named_wait_of_one_holds_all() -> None:
    """A 429 that names a minute is told to the others, which wait without a refusal of their own."""
    fleet = run_fleet(4, 130, Phase(10.0), Phase(20.0, "throttle", retry_after=20.0), Phase(math.inf))

    first = min(event.at for worker in fleet.workers for event in worker.of(Throttled)) - fleet.began
    assert fleet.endings == [0] * 4
    assert fleet.calls_between(first + 0.05, 29.5) == 0


def test_deferring_processes_all_end_with_the_outage() -> None:
    fleet = run_fleet(4, 130, *OUTAGE, on_outage="defer")

    assert fleet.endings == [75] * 4
    assert fleet.ended - fleet.began < 20


def test_a_single_process_with_a_store_recovers_as_one_without() -> None:
    with_store, without = run_fleet(1, 130, *OUTAGE), run_fleet(1, 130, *OUTAGE, shared=False)

    assert with_store.endings == [0]
    assert with_store.ended - with_store.began < without.ended - without.began + 10


@pytest.mark.slow  # many calls in virtual time
def test_a_slow_store_delays_news_and_nothing_else() -> None:
    """400 ms each way: healthy calls do not wait for it, and an outage still has one probe at a time."""
    slow, fast = (run_fleet(4, 130, *OUTAGE, delay=delay) for delay in (0.4, 0.002))

    assert slow.most_probes_at_once() == 1
    assert slow.calls_between(0, 10) >= 0.99 * fast.calls_between(0, 10)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_rows_end_once_in_many_random_fleets() -> None:
    """Random faults of links and board in an outage: no row is lost or ends twice (run_fleet checks)."""
    from random import Random

    for seed in range(6):
        random = Random(seed)

        def harm(workers: list[Worker], hub: Hub, random: Random = random) -> None:
            loop = asyncio.get_running_loop()
            for _ in range(8):
                worker, at = random.choice(workers), random.uniform(0, 70)
                loop.call_later(at, worker.channel.cut)
                loop.call_later(at + random.uniform(0.1, 20), worker.channel.mend)
            loop.call_later(random.uniform(5, 60), hub.forget)

        options: dict[str, Any] = {"loss": random.choice((0.0, 0.3)), "delay": random.choice((0.001, 0.1))}
        fleet = run_fleet(4, 130, *OUTAGE, seed=seed, during=harm, **options)

        assert fleet.endings == [0] * 4
