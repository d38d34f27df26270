"""``wait_ready`` and ``wait_ready_sync``: waiting for a circuit instead of polling it; and the sleep of a permit."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, fine, fine_later, half_opened, opened, trip
from breaker_threads import PATIENCE, run_threads, traced

from llmbatch.breaker import CircuitBreaker, CircuitOpenError
from llmbatch.breaker.waiting import Waiters, wait_async
from llmbatch.sim.virtual import run_virtual


@pytest.fixture
def clock() -> Clock:
    return Clock()


def now() -> float:
    return asyncio.get_running_loop().time()


def virtual_breaker(**options: Any) -> CircuitBreaker:
    """One on the clock of the running loop."""
    return CircuitBreaker(**{"failure_threshold": 1, "recovery_timeout": 60.0} | options, clock=now)


def has_waiters(breaker: CircuitBreaker) -> bool:
    """Whether anybody is still written down, which no public name tells."""
    return bool(breaker._circuit.waiters)


async def waiting(breaker: CircuitBreaker, **options: Any) -> asyncio.Task[None]:
    """A task that waits already."""
    task = asyncio.create_task(breaker.wait_ready(**options))
    while not has_waiters(breaker):
        await asyncio.sleep(0)
    return task


# When there is nothing to wait for.


@pytest.mark.parametrize("timeout", [None, 0, -1.0, 5.0, math.inf])
async def test_a_ready_circuit_is_not_waited_for(clock: Clock, timeout: float | None) -> None:
    """Closed, failing, disabled, or half-open with no probe out: it returns without giving way to anybody."""
    failing = CircuitBreaker(5, clock=clock)
    failing.acquire().settle("failure")
    disabled = opened(clock)
    disabled.disable()

    for breaker in (CircuitBreaker(clock=clock), failing, disabled, half_opened(clock)):
        breaker.wait_ready_sync(timeout)
        with pytest.raises(StopIteration):
            breaker.wait_ready(timeout).send(None)
        assert not has_waiters(breaker)


async def test_a_free_place_for_a_second_probe_is_not_waited_for(clock: Clock) -> None:
    """Half-open with two probes allowed and one out."""
    breaker = half_opened(clock, probes=2)
    breaker.acquire()

    await breaker.wait_ready(0)
    breaker.acquire()

    with pytest.raises(TimeoutError):
        await breaker.wait_ready(0)


# The end of the open time.


def test_waiters_wake_when_the_open_time_ends() -> None:
    """At that time and not before, however many."""

    async def main() -> list[float]:
        breaker = virtual_breaker()
        trip(breaker)

        async def wait() -> float:
            await breaker.wait_ready()
            return now()

        return await asyncio.gather(*(wait() for _ in range(20)))

    assert run_virtual(main) == [60.0] * 20


def test_waiters_wake_when_a_longer_wait_ends() -> None:
    """A wait that the server or an operator names meanwhile is kept to."""

    async def main() -> float:
        breaker = virtual_breaker()
        trip(breaker)
        task = await waiting(breaker)
        await asyncio.sleep(59.0)
        breaker.hold(100.0)
        await task
        return now()

    assert run_virtual(main) == 159.0


def test_waiters_wait_a_day_where_the_server_said_so() -> None:
    """Longer than any single sleep."""

    async def main() -> float:
        breaker = virtual_breaker()
        trip(breaker)
        breaker.hold(86_000.5)
        await breaker.wait_ready()
        return now()

    assert run_virtual(main) == 86_000.5


def test_waiters_wake_when_a_hung_probe_loses_its_lease() -> None:
    """It is time for another one then."""

    async def main() -> tuple[float, bool]:
        breaker = virtual_breaker(probe_lease=20.0)
        trip(breaker)
        await asyncio.sleep(60.0)
        breaker.acquire()
        await breaker.wait_ready()
        return now(), breaker.acquire().is_probe

    assert run_virtual(main) == (80.0, True)


def test_threads_wake_when_the_open_time_ends() -> None:
    """By the real clock, which is only as exact as the machine."""
    breaker = CircuitBreaker(1, 0.05)
    trip(breaker)
    started = time.monotonic()

    breaker.wait_ready_sync(PATIENCE)

    assert 0.04 <= time.monotonic() - started < PATIENCE / 2
    assert breaker.call(fine) == "fine"


def test_a_waiter_is_let_in_when_it_comes_at_once() -> None:
    """What the wait promises, over several outages with a growing open time."""

    async def main() -> list[float]:
        breaker = virtual_breaker(first_recovery_timeout=1.0)
        times: list[float] = []
        trip(breaker)
        for _ in range(5):
            await breaker.wait_ready()
            times.append(now())
            with pytest.raises(DownError):
                breaker.call(down)
        return times

    assert run_virtual(main) == [1.0, 3.0, 7.0, 15.0, 31.0]


# Changes.


@pytest.mark.parametrize("change", ["reset", "disable", "a good probe"])
@pytest.mark.parametrize("kind", ["task", "thread"])
async def test_a_change_in_another_thread_wakes(clock: Clock, kind: str, change: str) -> None:
    """A task or a thread waits, and a third party closes the circuit, while the clock stands still."""
    breaker = half_opened(clock)
    probe = breaker.acquire()
    breaker.hold(1000.0)
    if kind == "task":
        task = await waiting(breaker)
    else:
        task = asyncio.create_task(asyncio.to_thread(breaker.wait_ready_sync))
        while not has_waiters(breaker):
            await asyncio.sleep(0.001)

    changes = {"reset": breaker.reset, "disable": breaker.disable, "a good probe": probe.settle}
    thread = threading.Thread(target=changes[change])
    thread.start()

    async with asyncio.timeout(PATIENCE):
        await task
    thread.join()
    assert (breaker.state, has_waiters(breaker)) == ("closed", False)


def test_a_change_on_another_loop_wakes(clock: Clock) -> None:
    """Two loops in two threads: the probe of one ends the wait of the other."""
    breaker = half_opened(clock)
    out = threading.Event()

    async def prober() -> None:
        async def ask() -> str:
            out.set()
            while not has_waiters(breaker):
                await asyncio.sleep(0.001)
            return "answer"

        assert await breaker.async_call(ask) == "answer"

    async def waiter() -> None:
        assert await asyncio.to_thread(out.wait, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            await breaker.wait_ready()
            assert await breaker.async_call(fine_later) == "fine"

    run_threads(lambda: asyncio.run(prober()), lambda: asyncio.run(waiter()))

    assert breaker.state == "closed"


@pytest.mark.parametrize("end", ["release", "neutral", "settle"])
async def test_the_end_of_a_probe_wakes(clock: Clock, end: str) -> None:
    """However it ends, as long as the next may go: cancelled, neutral, good but not the last."""
    breaker = half_opened(clock, success_threshold=2)
    probe = breaker.acquire()
    task = await waiting(breaker)

    if end == "neutral":
        probe.settle("neutral")
    else:
        getattr(probe, end)()

    async with asyncio.timeout(PATIENCE):
        await task
    assert (breaker.state, breaker.acquire().is_probe) == ("half_open", True)


def test_a_failed_probe_does_not_end_the_wait() -> None:
    """Waiters go on until the next open time is over."""

    async def main() -> float:
        breaker = virtual_breaker()
        trip(breaker)
        await asyncio.sleep(60.0)
        probe = breaker.acquire()
        task = await waiting(breaker)
        await asyncio.sleep(5.0)
        probe.settle("failure")
        await task
        return now()

    assert run_virtual(main) == 125.0


def test_forced_open_is_waited_for_until_the_reset() -> None:
    """For days, if need be; forcing it again changes nothing."""

    async def main() -> float:
        breaker = virtual_breaker()
        breaker.force_open("maintenance")
        task = await waiting(breaker)
        await asyncio.sleep(200_000.0)
        breaker.force_open("more maintenance")
        await asyncio.sleep(1.0)
        assert not task.done()
        breaker.reset()
        await task
        return now()

    assert run_virtual(main) == 200_001.0


def test_threads_wait_for_the_reset_of_a_forced_circuit(clock: Clock) -> None:
    """Ten of them, woken by one reset from a task's thread."""
    breaker = CircuitBreaker(clock=clock)
    breaker.force_open()

    def operator() -> None:
        while len(breaker._circuit.waiters._waiting) < 10:
            time.sleep(0.001)
        asyncio.run(reset())

    async def reset() -> None:
        breaker.reset()

    run_threads(operator, *[breaker.wait_ready_sync] * 10)

    assert not has_waiters(breaker)


# Timeouts and cancellations.


def test_a_timeout_ends_the_wait() -> None:
    """At its time; nobody is left behind."""

    async def main() -> tuple[float, bool]:
        breaker = virtual_breaker()
        trip(breaker)
        with pytest.raises(TimeoutError):
            await breaker.wait_ready(12.5)
        return now(), has_waiters(breaker)

    assert run_virtual(main) == (12.5, False)


@pytest.mark.parametrize("timeout", [0.02, 0, -1.0])
def test_a_timeout_ends_the_wait_of_a_thread(clock: Clock, timeout: float) -> None:
    """Nobody is left behind; the message says how long it was."""
    breaker = opened(clock)

    with pytest.raises(TimeoutError, match=f"within {timeout:g} s"):
        breaker.wait_ready_sync(timeout)

    assert not has_waiters(breaker)


async def test_a_cancelled_wait_leaves_nobody_behind(clock: Clock) -> None:
    """Nor does a timeout around it."""
    breaker = opened(clock)
    tasks = [await waiting(breaker) for _ in range(3)]

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await breaker.wait_ready()

    assert all(task.cancelled() for task in tasks)
    assert not has_waiters(breaker)


async def test_waiters_that_wake_leave_nobody_behind(clock: Clock) -> None:
    """However many rounds."""
    breaker = opened(clock)

    for _ in range(200):
        tasks = [await waiting(breaker) for _ in range(3)]
        breaker.reset()
        await asyncio.gather(*tasks)
        assert not has_waiters(breaker)
        trip(breaker)


# Many.


def test_a_thousand_waiters_send_one_probe_at_a_time() -> None:
    """Half-open: each round one is let in and the others wait on; when it closes, all go."""

    async def main() -> tuple[int, list[int], float]:
        breaker = virtual_breaker(success_threshold=3)
        trip(breaker)
        probing = 0
        crowds: list[int] = []
        verdicts = iter(["failure", "cancelled", "success", "success", "success"])

        async def caller() -> str:
            nonlocal probing
            while True:
                await breaker.wait_ready()
                try:
                    permit = breaker.acquire()
                except CircuitOpenError:
                    continue
                if not permit.is_probe:
                    permit.settle()
                    return "done"
                probing += 1
                crowds.append(probing)
                await asyncio.sleep(1.0)
                probing -= 1
                verdict = next(verdicts)
                if verdict == "cancelled":
                    permit.release()
                else:
                    permit.settle(verdict)  # type: ignore[arg-type]

        done = await asyncio.gather(*(caller() for _ in range(1000)))
        return len(done), crowds, now()

    assert run_virtual(main) == (1000, [1] * 5, 125.0)


def test_waiting_before_each_call_gets_everybody_through() -> None:
    """Wait, call, and wait again when refused: nobody is refused for good, and one call is the probe."""

    async def main() -> tuple[set[str], list[float]]:
        breaker = virtual_breaker()
        trip(breaker)
        begun: list[float] = []

        async def caller() -> str:
            while True:
                await breaker.wait_ready()
                with contextlib.suppress(CircuitOpenError):
                    return await breaker.async_call(ask)

        async def ask() -> str:
            begun.append(now())
            await asyncio.sleep(2.0)
            return "answer"

        return set(await asyncio.gather(*(caller() for _ in range(50)))), begun

    assert run_virtual(main) == ({"answer"}, [60.0] + [62.0] * 49)


def test_a_change_from_within_the_waiting_thread_does_not_deadlock(clock: Clock) -> None:
    """As a signal handler, or a call that the garbage collector closes, may make it: at any line until it sleeps."""

    def released_at(line: int) -> bool:
        """Wait in a thread that gives the probe back at its *line*; whether it came so far before it slept."""
        breaker = half_opened(clock)
        probe = breaker.acquire()
        lines = itertools.count(1)
        where: list[str] = []

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if event == "line" and next(lines) == line and not probe.is_settled:
                where.append(f"line {frame.f_lineno} of {frame.f_code.co_name}")
                probe.release()
            return trace

        with traced(trace):
            thread = threading.Thread(target=breaker.wait_ready_sync, daemon=True)
            thread.start()
        thread.join(0.1)
        came_so_far = probe.is_settled
        if not came_so_far:
            probe.release()
        thread.join(PATIENCE / 20)
        assert not thread.is_alive(), f"it hangs when woken at {where}"
        return came_so_far

    reached = list(itertools.takewhile(released_at, itertools.count(1)))

    assert len(reached) > 10


# Loops of other kinds.


def test_a_closed_loop_among_the_waiters_breaks_nothing(clock: Clock) -> None:
    """Whoever waited there is gone; the others are woken."""
    breaker = half_opened(clock)
    probe = breaker.acquire()
    loop = asyncio.new_event_loop()
    lost = loop.create_task(breaker.wait_ready())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert has_waiters(breaker)
    lost._log_destroy_pending = False  # type: ignore[attr-defined]

    async def main() -> None:
        task = await waiting(breaker)
        probe.settle()
        async with asyncio.timeout(PATIENCE):
            await task

    asyncio.run(main())

    assert (breaker.state, has_waiters(breaker)) == ("closed", False)


def test_a_stopped_loop_holds_nobody_up(clock: Clock) -> None:
    """It takes the news when it runs again."""
    breaker = opened(clock)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(breaker.wait_ready())
        loop.call_soon(loop.stop)
        loop.run_forever()

        breaker.reset()

        assert not task.done()
        loop.run_until_complete(task)


def on_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_it_waits_on_uvloop_too() -> None:
    """Until the open time ends, with a timeout, and for a change from another thread."""

    async def main() -> None:
        breaker = CircuitBreaker(1, 0.05)
        trip(breaker)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await breaker.wait_ready(0.01)
        await breaker.wait_ready(PATIENCE)
        assert time.monotonic() - started >= 0.045
        breaker.force_open()
        task = await waiting(breaker)
        thread = threading.Thread(target=breaker.reset)
        thread.start()
        async with asyncio.timeout(PATIENCE):
            await task
        thread.join()
        assert not has_waiters(breaker)

    on_uvloop(main)


# The sleep of a permit, which retries use.


def test_a_permits_sleep_is_as_long_as_asked() -> None:
    """While nothing changes; it says that the permit still counts."""

    async def main() -> tuple[bool, float]:
        permit = virtual_breaker().acquire()
        return await permit.sleep_async(30.0), now()

    assert run_virtual(main) == (True, 30.0)


def test_a_permits_sleep_ends_when_the_circuit_changes() -> None:
    """And says that the permit counts no more."""

    async def main() -> tuple[bool, float, bool]:
        breaker = virtual_breaker()
        permit = breaker.acquire()
        task = asyncio.create_task(permit.sleep_async(30.0))
        await asyncio.sleep(3.0)
        trip(breaker)
        return await task, now(), has_waiters(breaker)

    assert run_virtual(main) == (False, 3.0, False)


def test_a_permits_sleep_in_a_thread_ends_when_the_circuit_changes(clock: Clock) -> None:
    """From another thread; short sleeps end by themselves."""
    real = CircuitBreaker()
    assert real.acquire().sleep(0.01)
    breaker = CircuitBreaker(1, clock=clock)
    permit = breaker.acquire()
    slept: list[bool] = []

    def change() -> None:
        while not has_waiters(breaker):
            time.sleep(0.001)
        trip(breaker)

    run_threads(lambda: slept.append(permit.sleep(3000.0)), change)

    assert slept == [False]
    assert not permit.sleep(3000.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_permits_sleep_of_no_time_ends_at_once(clock: Clock, seconds: float) -> None:
    """Without waiting for anything."""
    assert CircuitBreaker(clock=clock).acquire().sleep(seconds)


def test_another_probes_end_does_not_cut_a_permits_sleep() -> None:
    """Only a change of state does."""

    async def main() -> tuple[bool, float]:
        breaker = virtual_breaker(probes=2, success_threshold=5)
        trip(breaker)
        await asyncio.sleep(60.0)
        permit, other = breaker.acquire(), breaker.acquire()
        task = asyncio.create_task(permit.sleep_async(30.0))
        await asyncio.sleep(3.0)
        other.settle()
        return await task, now()

    assert run_virtual(main) == (True, 90.0)


async def test_a_timeout_that_is_not_the_waits_own_comes_through_as_it_is() -> None:
    """Whoever works out the seconds may raise one, for one; the waiter is gone."""
    waiters = Waiters()

    def seconds_left(waiter: Callable[[], None]) -> float:
        waiters.add(waiter)
        raise TimeoutError("the clock does not answer")

    with pytest.raises(TimeoutError, match="the clock does not answer"):
        await wait_async(waiters, seconds_left, timeout=60.0)

    assert not waiters
