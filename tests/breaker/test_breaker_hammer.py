"""Everything at once: threads, loops, blocks, permits, retries, waiters, listeners and an operator on one breaker."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from breaker_provider import DownError, RefusedError
from breaker_threads import PATIENCE, frequent_switches, run_threads

from llmbatch.breaker import (
    BreakerEvent,
    BreakerMetrics,
    CallEnded,
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    Permit,
    Retry,
    StateChanged,
)

SECONDS = 1.0
PROBES = 3
LEGAL = {
    ("closed", "open"),
    ("open", "half_open"),
    ("half_open", "open"),
    ("half_open", "closed"),
    # By an operator only:
    ("open", "closed"),
    ("open", "open"),
    ("closed", "closed"),
}


class Ground:
    """One breaker, a provider that is up and down in turns, and everybody's tallies."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker(
            4,
            0.004,
            2,
            count_error=DownError,
            failure_rate=0.6,
            slow_call_rate=0.5,
            slow_call_duration=0.003,
            rate_window=60,
            minimum_calls=20,
            stall_timeout=0.05,
            probes=PROBES,
            failed_probes=2,
            probe_lease=1e6,
        )
        self.metrics = BreakerMetrics()
        self.told: list[BreakerEvent] = []
        self.breaker.add_listener(self.told.append, calls=True)
        self.breaker.add_listener(self.metrics, calls=True)
        self.until = time.monotonic() + SECONDS
        self.tallies: list[Counter[str]] = []
        self.probes_out: set[Permit] = set()
        self.crowds: set[int] = set()
        self.permits: list[list[Permit]] = []
        self.waits: set[float] = set()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def outcome(self, draw: random.Random) -> BaseException | None:
        """Down for 30 ms out of 60, flaky between."""
        chance = 0.9 if time.monotonic() % 0.06 < 0.03 else 0.1
        if draw.random() < 0.03:
            time.sleep(0.004)
        if draw.random() < chance:
            return DownError()
        return draw.choice([None, None, None, None, RefusedError(), KeyboardInterrupt()])

    def looked_after(self, permit: Permit) -> None:
        """Note a permit that has just been taken, and how many current probes are out.

        A permit in the set has not been given back, and one that is still current was so all the time: so at the
        moment of the copy all of those that are counted were out together.
        """
        if permit.is_probe:
            self.probes_out.add(permit)
            self.crowds.add(sum(probe.is_current for probe in self.probes_out.copy()))


def thread(ground: Ground, seed: int) -> None:
    """Calls, blocks and permits, one after another."""
    draw, tally, taken = random.Random(seed), Counter[str](), list[Permit]()
    ground.tallies.append(tally)
    ground.permits.append(taken)
    breaker = ground.breaker
    retry = Retry(breaker, attempts=2, first_wait=1e-4, longest_wait=1e-3)

    def ask() -> None:
        error = ground.outcome(draw)
        if error is not None:
            raise error

    def block() -> None:
        with breaker.acquire() as permit:
            taken.append(permit)
            ground.looked_after(permit)
            try:
                ask()
            finally:
                ground.probes_out.discard(permit)

    def by_hand() -> None:
        permit = breaker.acquire(caller=draw.randrange(20))
        taken.append(permit)
        ground.looked_after(permit)
        error = ground.outcome(draw)
        ground.probes_out.discard(permit)
        if draw.random() < 0.1:
            permit.release()
        else:
            permit.settle("success" if error is None else "failure", retry_after=0.001)

    ways: list[Callable[[], object]] = [block, by_hand, lambda: breaker.call(ask), lambda: retry.call(ask)]
    while ground.goes_on:
        try:
            draw.choice(ways)()
            tally["let in"] += 1
        except CircuitOpenError as error:
            ground.waits.add(error.retry_after)
            tally["refused"] += 1
            if draw.random() < 0.3:
                wait_for_it(breaker, tally)
        except (DownError, RefusedError, KeyboardInterrupt):
            tally["let in"] += 1


def wait_for_it(breaker: CircuitBreaker, tally: Counter[str]) -> None:
    try:
        breaker.wait_ready_sync(0.02)
        tally["woken"] += 1
    except TimeoutError:
        tally["timed out"] += 1


def loop(ground: Ground, seed: int) -> None:
    """Ten tasks of the same on an event loop, some of which are cancelled."""
    draw, tally, taken = random.Random(seed), Counter[str](), list[Permit]()
    ground.tallies.append(tally)
    ground.permits.append(taken)
    breaker = ground.breaker
    retry = Retry(breaker, attempts=2, first_wait=1e-4, longest_wait=1e-3)

    async def ask() -> None:
        await asyncio.sleep(draw.random() / 1000)
        error = ground.outcome(draw)
        if isinstance(error, Exception):
            raise error

    async def block() -> None:
        async with breaker.acquire() as permit:
            taken.append(permit)
            ground.looked_after(permit)
            try:
                await ask()
            finally:
                ground.probes_out.discard(permit)

    async def task() -> None:
        ways: list[Callable[[], Any]] = [block, lambda: breaker.async_call(ask), lambda: retry.async_call(ask)]
        while ground.goes_on:
            try:
                if draw.random() < 0.2:
                    async with asyncio.timeout(draw.random() / 1000):
                        await draw.choice(ways)()
                else:
                    await draw.choice(ways)()
                tally["let in"] += 1
            except CircuitOpenError:
                tally["refused"] += 1
                try:
                    await breaker.wait_ready(0.02)
                    tally["woken"] += 1
                except TimeoutError:
                    tally["timed out"] += 1
            except (DownError, RefusedError, TimeoutError):
                tally["let in"] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(10)))

    asyncio.run(main())


def operator(ground: Ground) -> None:
    """Meddles now and then, and puts everything right in the end."""
    breaker = ground.breaker
    meddling: list[Callable[[], object]] = [
        lambda: breaker.hold(0.002),
        lambda: breaker.force_open("maintenance"),
        breaker.reset,
        breaker.disable,
        breaker.reset,
        lambda: (repr(breaker), str(breaker.explain()), breaker.retry_after),
    ]
    number = 0
    while ground.goes_on:
        time.sleep(0.02)
        meddling[number % len(meddling)]()
        number += 1
    breaker.reset()


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_second_of_everything_at_once_loses_nothing() -> None:
    """Never too many probes, legal states in order, every call told once, every permit settled, nobody left waiting.

    Slow, for chance needs its time.
    """
    ground = Ground()
    breaker = ground.breaker
    stuck = threading.Thread(target=breaker.wait_ready_sync, args=(PATIENCE,))

    with frequent_switches():
        stuck.start()
        run_threads(
            lambda: operator(ground),
            *[lambda seed=seed: thread(ground, seed) for seed in range(3)],
            *[lambda seed=seed: loop(ground, seed) for seed in (10, 11)],
        )
        breaker.reset()
        stuck.join(PATIENCE)

    tally = sum(ground.tallies, Counter())
    kinds = Counter(type(event) for event in ground.told)
    changes = [event for event in ground.told if isinstance(event, StateChanged)]
    numbers = ground.metrics.numbers()

    assert (kinds[CallEnded], kinds[CallRefused]) == (tally["let in"], tally["refused"])
    assert (numbers.ended.total(), numbers.refused) == (tally["let in"], tally["refused"])

    assert 1 in ground.crowds
    assert max(ground.crowds) <= PROBES
    assert {(event.old, event.new) for event in changes} <= LEGAL
    assert [event.old for event in changes] == ["closed", *(event.new for event in changes[:-1])]
    assert [event.at for event in ground.told] == sorted(event.at for event in ground.told)
    assert all(event.retry_after is None or event.retry_after >= 0.05 for event in changes)
    assert min(ground.waits) >= 0.05

    assert all(permit.is_settled for taken in ground.permits for permit in taken)
    assert not ground.probes_out
    assert not stuck.is_alive()
    assert not breaker._circuit.waiters
    assert (breaker.state, breaker.failures, breaker.retry_after) == ("closed", 0, None)

    # That something has happened at all.
    assert tally["let in"] > 200
    assert tally["refused"] > 50
    assert tally["woken"] > 5
    assert numbers.openings > 5
    assert numbers.probes > 5
    assert numbers.stale > 0
