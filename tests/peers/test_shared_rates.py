"""``--rpm``, ``--tpm`` and ``--max-cost`` mean the whole where processes share a board."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from decimal import Decimal
from functools import partial
from random import Random

import pytest
from fleet import Fleet, Worker, run_fleet

from llmbatch.core.events import CallSent
from llmbatch.money.cap import CostCap
from llmbatch.peers.board import Board
from llmbatch.peers.booked_rate import BookedRate
from llmbatch.peers.claimed_cap import ClaimedCap
from llmbatch.peers.local import Hub
from llmbatch.peers.member import Message
from llmbatch.peers.messages import MICROS
from llmbatch.runner.control import Change
from llmbatch.sim.scenario import Phase


def sent(fleet: Fleet) -> list[float]:
    return sorted(event.at - fleet.began for worker in fleet.workers for event in worker.of(CallSent))


def most_in(times: list[float], seconds: float) -> int:
    """Most calls in any span of so many seconds."""
    return max(sum(begin <= at < begin + seconds for at in times[index:]) for index, begin in enumerate(times))


@pytest.mark.slow  # many calls in virtual time
def test_four_processes_keep_one_rate_of_requests() -> None:
    """600 a minute for all: within 1 %, and in no ten seconds more than 2 % above it."""
    fleet = run_fleet(4, 150, Phase(math.inf), latency=0.3, rpm=600, concurrency=8)

    times = sent(fleet)
    steady = [at for at in times if 2.0 <= at < 42.0]
    assert abs(len(steady) - 400) <= 4
    assert most_in(times, 10.0) <= 102


def test_a_rate_that_is_set_while_the_store_is_away_is_kept_without_it() -> None:
    """Rows do not wait for a store that may never be back: each process keeps to its part."""

    def change(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(3.0, worker.channel.cut)
            options = replace(worker.engine._options, rpm=1200.0)
            loop.call_later(6.0, worker.engine.control, Change(options))

    fleet = run_fleet(2, 150, Phase(math.inf), latency=0.3, rpm=600, concurrency=8, during=change)

    times = [at for at in sent(fleet) if 8.0 <= at < 13.0]
    assert abs(len(times) - 100) <= 4


@pytest.mark.slow  # many calls in virtual time
def test_the_rate_is_dealt_evenly() -> None:
    fleet = run_fleet(4, 100, Phase(math.inf), latency=0.3, rpm=600, concurrency=8)

    counts = [sum(event.at - fleet.began < 30 for event in worker.of(CallSent)) for worker in fleet.workers]
    assert max(counts) - min(counts) <= 6


@pytest.mark.slow  # many calls in virtual time
def test_what_some_processes_do_not_use_others_may() -> None:
    """Three of four have little to do: the last one soon gets the whole rate."""

    def idle(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for worker in workers[1:]:
            loop.call_later(5.0, partial(worker.engine.stop, 130, "idle", now=True))

    fleet = run_fleet(4, 300, Phase(math.inf), latency=0.3, rpm=600, concurrency=8, during=idle)

    late = [event for event in fleet.workers[0].of(CallSent) if 12 <= event.at - fleet.began < 22]
    assert len(late) >= 97


def test_without_the_board_each_process_keeps_to_its_part() -> None:
    def cut(workers: list[Worker], hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(10.0, worker.channel.cut)

    fleet = run_fleet(4, 100, Phase(math.inf), latency=0.3, rpm=600, concurrency=8, during=cut)

    apart = [at for at in sent(fleet) if 12 <= at < 32]
    assert 190 <= len(apart) <= 210


def test_tokens_are_shared_too() -> None:
    """What a request turns out not to use is booked again by the next one."""
    fleet = run_fleet(4, 60, Phase(math.inf), latency=0.2, tpm=60_000, concurrency=8)

    assert fleet.endings == [0] * 4


def note(sent: list[tuple[str, Message]], owner: str, message: Message) -> None:
    sent.append((owner, message))


class VirtualBoard:
    """A board and processes that book at it, each answer a moment late."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.board = Board()
        self.sent: list[tuple[str, Message]] = []

    def answer_all(self, rates: dict[str, BookedRate]) -> None:
        waiting = list(self.sent)
        self.sent.clear()
        for owner, message in waiting:
            wait = self.board.book(*message.args, now=round(self.now * MICROS))
            if owner in rates:
                rates[owner].answered(message, wait, self.now)


def test_a_dead_process_wastes_half_a_second_of_its_part_at_most() -> None:
    """Two equal processes of 100 a second; one dies. The other misses at most half of that half second."""
    world = VirtualBoard()
    rates: dict[str, BookedRate] = {}
    for owner in ("ann", "bob"):
        rates[owner] = BookedRate("rpm", 6000, partial(note, world.sent, owner), members=lambda: 2)
        rates[owner].came_back(world.now)
    used: dict[str, list[float]] = {"ann": [], "bob": []}
    for _ in range(8000):
        world.now += 0.001
        for owner, rate in list(rates.items()):
            if rate.wait(1, world.now) == 0.0:
                rate.reserve(1, world.now)
                used[owner].append(world.now - 1000)
        world.answer_all(rates)
        if world.now >= 1004.0 and "bob" in rates:
            del rates["bob"]

    after = sum(4.0 <= at < 7.0 for at in used["ann"])
    assert after >= 300 - 50 * 0.5 - 3


def test_a_slow_rate_is_used_from_the_start_and_in_full() -> None:
    """Four processes with two rows each, at two a minute: one row each 30 s, of which the first goes at once.

    Each had booked a block before it was connected and one when it was, and then one ahead for a row that it did not
    have: the first row went after half a minute, and the others at half the rate.
    """
    world = VirtualBoard()
    rates = {
        owner: BookedRate("rpm", 2, partial(note, world.sent, owner), members=lambda: 4)
        for owner in ("ann", "bob", "cid", "dan")
    }
    rows = dict.fromkeys(rates, 2)
    used: list[float] = []
    for step in range(30_000):
        for owner, rate in rates.items():
            if rows[owner] and rate.wait(1, world.now) == 0.0:
                rate.reserve(1, world.now)
                rows[owner] -= 1
                used.append(world.now - 1000.0)
        if step == 0:
            for rate in rates.values():
                rate.came_back(world.now)
        world.answer_all(rates)
        world.now += 0.01

    assert used == pytest.approx([30.0 * number for number in range(8)], abs=0.5)


def test_a_rate_that_comes_back_is_not_used_twice() -> None:
    """Alone, a process keeps to its part; back at the board, what it had booked before is void."""
    sent: list[Message] = []
    rate = BookedRate("rpm", 600, sent.append, members=lambda: 4)
    rate.came_back(0.0)
    assert rate.wait(1, 0.0) > 0
    rate.answered(sent[-1], 0, 0.0)
    assert rate.wait(1, 0.0) == 0.0

    rate.went_down(1.0)
    rate.came_back(2.0)

    assert rate.wait(1, 2.0) > 0.0


# Money.


@pytest.mark.parametrize("seed", range(20))
def test_claims_never_pass_the_limit_together(seed: int) -> None:
    """Processes that spend, settle, die and come back, with a board that forgets: never more than the cap is spent."""
    random, board, limit = Random(seed), Board(), Decimal("1.00")
    queue: list[tuple[str, Message]] = []
    clock = [0.0]
    caps = {}
    for owner in ("ann", "bob", "cid"):
        caps[owner] = ClaimedCap(
            CostCap(limit),
            owner,
            partial(note, queue, owner),
            members=lambda: 3,
            clock=lambda: clock[0],
        )
        caps[owner].came_back(0.0)
    flying: list[tuple[str, Decimal]] = []
    for _ in range(2000):
        clock[0] += 0.5
        owner = random.choice(list(caps))
        cost = Decimal(random.randint(1, 40)) / 1000
        if random.random() < 0.5 and caps[owner].allows(cost):
            caps[owner].reserve(cost)
            flying.append((owner, cost))
        elif flying:
            one, reserved = flying.pop(random.randrange(len(flying)))
            caps[one].settle(reserved, reserved * Decimal(random.choice(("0", "0.5", "1"))))
        while queue and random.random() < 0.7:
            one, message = queue.pop(0)
            if random.random() < 0.9:
                caps[one].answered(message, board.claim(*message.args), clock[0])

        assert sum(cap.spent + cap.reserved for cap in caps.values()) <= limit

    assert sum(cap.spent + cap.reserved for cap in caps.values()) > limit * Decimal("0.9")
    assert any(cap.is_final for cap in caps.values())


def test_without_the_board_a_process_spends_what_it_has_claimed() -> None:
    sent: list[Message] = []
    cap = ClaimedCap(CostCap(Decimal(1)), "ann", sent.append, members=lambda: 2, clock=lambda: 0.0)
    cap.came_back(0.0)
    assert not cap.allows(Decimal("0.1"))
    cap.answered(sent[-1], sent[-1].args[2], 0.0)
    cap.went_down(0.0)

    assert cap.allows(Decimal("0.1"))
    cap.reserve(Decimal("0.1"))
    assert not cap.allows(Decimal("0.1"))
    assert not cap.is_final  # it waits for the board
