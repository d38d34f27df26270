"""Listeners: told outside the lock, in order, shielded from each other, and able to break nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import threading
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, down_later, fine, fine_later, half_opened, opened, refused, trip
from breaker_threads import PATIENCE, frequent_switches, run_threads

from llmbatch.breaker import BreakerEvent, CallEnded, CallRefused, CircuitBreaker, CircuitOpenError, StateChanged


@pytest.fixture
def clock() -> Clock:
    return Clock()


def changes(told: list[BreakerEvent]) -> list[tuple[str, str]]:
    return [(event.old, event.new) for event in told if isinstance(event, StateChanged)]


# What they are told.


def test_a_listener_is_told_of_every_change_of_state(clock: Clock) -> None:
    """The whole way round, with times, reasons and waits; and of nothing else."""
    breaker = CircuitBreaker(2, 60.0, name="openai", clock=clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append)

    trip(breaker)
    clock.advance(20.0)
    refused(breaker)
    clock.advance(40.0)
    with pytest.raises(DownError):
        breaker.call(down)
    clock.advance(60.0)
    breaker.call(fine)
    breaker.call(fine)

    why = "2 calls in a row failed"
    assert told == [
        StateChanged("openai", 1000.0, "closed", "open", why, 60.0),
        StateChanged("openai", 1060.0, "open", "half_open", why, 60.0),
        StateChanged("openai", 1060.0, "half_open", "open", why, 60.0),
        StateChanged("openai", 1120.0, "open", "half_open", why, 60.0),
        StateChanged("openai", 1120.0, "half_open", "closed", "", None),
    ]


def test_an_operators_changes_are_told(clock: Clock) -> None:
    """With infinity for a wait that only an operator ends."""
    breaker = CircuitBreaker(clock=clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append)

    breaker.force_open("maintenance")
    breaker.disable()
    breaker.force_open("again")
    breaker.reset()

    assert told == [
        StateChanged("", 1000.0, "closed", "open", "maintenance", float("inf"), "open"),
        StateChanged("", 1000.0, "open", "closed", "", None, "disabled"),
        StateChanged("", 1000.0, "closed", "open", "again", float("inf"), "open"),
        StateChanged("", 1000.0, "open", "closed", "", None),
    ]


def test_an_event_is_a_line_for_a_log(clock: Clock) -> None:
    """Each kind says what it is, and an opening when it will be probed."""
    breaker = CircuitBreaker(1, 60.0, name="openai", clock=clock)
    lines: list[str] = []
    breaker.add_listener(lambda event: lines.append(str(event)))

    trip(breaker)
    clock.advance(60.0)
    breaker.call(fine)
    breaker.force_open("deploy")
    breaker.disable()
    breaker.reset()

    assert lines == [
        "circuit openai is open: a call failed; next probe in 60.0 s",
        "circuit openai is half-open: a probe checks for recovery",
        "circuit openai is closed",
        "circuit openai is open until it is reset: deploy",
        "circuit openai is disabled: every call passes",
        "circuit openai is closed",
    ]


async def test_with_calls_a_listener_is_told_of_every_call(clock: Clock) -> None:
    """Ended and refused ones, by every way in: verdict, time taken, probe or not, stale or not."""
    breaker = CircuitBreaker(1, 60.0, name="o", clock=clock, count_error=DownError)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)

    def slow() -> None:
        clock.advance(3.0)

    async def late() -> None:
        clock.advance(2.0)

    def neutral() -> None:
        raise LookupError

    def interrupted() -> None:
        raise KeyboardInterrupt

    early = breaker.acquire()
    breaker.call(slow)
    await breaker.async_call(late)
    with breaker.acquire():
        clock.advance(1.0)
    with pytest.raises(LookupError):
        breaker.call(neutral)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupted)
    assert told == [
        CallEnded("o", 1003.0, "success", 3.0, is_probe=False, is_stale=False),
        CallEnded("o", 1005.0, "success", 2.0, is_probe=False, is_stale=False),
        CallEnded("o", 1006.0, "success", 1.0, is_probe=False, is_stale=False),
        CallEnded("o", 1006.0, "neutral", 0.0, is_probe=False, is_stale=False),
        CallEnded("o", 1006.0, None, 0.0, is_probe=False, is_stale=False),
    ]
    told.clear()

    trip(breaker)
    early.settle()
    refused(breaker)
    with pytest.raises(CircuitOpenError):
        await breaker.async_call(fine_later)
    clock.advance(60.0)
    probe = breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    probe.settle()

    why = "a call failed"
    assert told == [
        CallEnded("o", 1006.0, "failure", 0.0, is_probe=False, is_stale=False),
        StateChanged("o", 1006.0, "closed", "open", why, 60.0),
        CallEnded("o", 1006.0, "success", 6.0, is_probe=False, is_stale=True),
        CallRefused("o", 1006.0, "open", 60.0),
        CallRefused("o", 1006.0, "open", 60.0),
        StateChanged("o", 1066.0, "open", "half_open", why, 60.0),
        CallRefused("o", 1066.0, "half_open", 60.0),
        CallEnded("o", 1066.0, "success", 0.0, is_probe=True, is_stale=False),
        StateChanged("o", 1066.0, "half_open", "closed", "", None),
    ]


def test_only_who_asked_for_calls_is_told_of_them(clock: Clock) -> None:
    """Each as it asked, on one breaker."""
    breaker = CircuitBreaker(1, clock=clock)
    calls: list[BreakerEvent] = []
    states: list[BreakerEvent] = []
    breaker.add_listener(calls.append, calls=True)
    breaker.add_listener(states.append)

    breaker.call(fine)
    trip(breaker)
    refused(breaker)

    assert [type(event) for event in calls] == [CallEnded, CallEnded, StateChanged, CallRefused]
    assert [type(event) for event in states] == [StateChanged]


# Adding and removing.


def test_a_removed_listener_is_told_no_more(clock: Clock) -> None:
    """The others go on; to remove it again does nothing."""
    breaker = CircuitBreaker(1, clock=clock)
    gone: list[BreakerEvent] = []
    stays: list[BreakerEvent] = []
    remove = breaker.add_listener(gone.append, calls=True)
    breaker.add_listener(stays.append, calls=True)

    breaker.call(fine)
    remove()
    remove()
    breaker.call(fine)
    trip(breaker)

    assert len(gone) == 1
    assert len(stays) == 4


def test_one_function_may_listen_twice(clock: Clock) -> None:
    """Each time on its own account: removing one leaves the other."""
    breaker = CircuitBreaker(clock=clock)
    told: list[BreakerEvent] = []
    listen = told.append
    remove = breaker.add_listener(listen)
    breaker.add_listener(listen)

    breaker.force_open()
    remove()
    breaker.reset()

    assert changes(told) == [("closed", "open"), ("closed", "open"), ("open", "closed")]


def test_a_listener_may_remove_itself(clock: Clock) -> None:
    """Once is enough for some."""
    breaker = CircuitBreaker(clock=clock)
    told: list[BreakerEvent] = []

    def once(event: BreakerEvent) -> None:
        told.append(event)
        remove()

    remove = breaker.add_listener(once)
    breaker.force_open()
    breaker.reset()

    assert changes(told) == [("closed", "open")]


def test_a_breaker_that_was_listened_to_works_on_without(clock: Clock) -> None:
    """With the last listener to calls gone it counts as before."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    remove = breaker.add_listener(lambda _: None, calls=True)
    with pytest.raises(DownError):
        breaker.call(down)

    remove()

    assert breaker.failures == 1
    breaker.call(fine)
    assert breaker.failures == 0
    trip(breaker)
    clock.advance(60.0)
    breaker.call(fine)
    assert breaker.state == "closed"


# Outside the lock, in order.


@pytest.mark.timeout(20)
def test_a_listener_may_wait_for_a_thread_that_uses_the_breaker(clock: Clock) -> None:
    """It runs outside the lock: whatever the other thread does goes through."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    helped: list[str] = []

    def use() -> None:
        _ = (breaker.state, breaker.failures, repr(breaker), breaker.explain())
        breaker.hold(-1.0)
        try:
            helped.append(breaker.call(fine))
        except CircuitOpenError:
            helped.append("refused")

    def listener(event: BreakerEvent) -> None:
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    breaker.add_listener(listener)
    trip(breaker)
    clock.advance(60.0)
    breaker.call(fine)

    assert helped == ["refused", "refused", "fine"]


def test_a_listener_may_use_the_breaker(clock: Clock) -> None:
    """Its calls and changes are made at once; their events come after the one it is told of."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    told: list[BreakerEvent] = []
    states: list[str] = []

    def listener(event: BreakerEvent) -> None:
        told.append(event)
        if isinstance(event, StateChanged) and event.new == "open":
            breaker.reset()
            states.append(breaker.state)
            breaker.call(fine)

    breaker.add_listener(listener, calls=True)
    with pytest.raises(DownError):
        breaker.call(down)

    assert states == ["closed"]
    assert [event.new if isinstance(event, StateChanged) else event for event in told] == [
        CallEnded("", 1000.0, "failure", 0.0, is_probe=False, is_stale=False),
        "open",
        "closed",
        CallEnded("", 1000.0, "success", 0.0, is_probe=False, is_stale=False),
    ]


def test_every_listener_sees_one_order(clock: Clock) -> None:
    """Also when the first of them changes the state while the second has not been told yet."""
    breaker = CircuitBreaker(1, clock=clock)
    first: list[BreakerEvent] = []
    second: list[BreakerEvent] = []

    def meddling(event: BreakerEvent) -> None:
        first.append(event)
        if len(first) < 4:
            (breaker.reset if breaker.is_open() else breaker.force_open)()

    breaker.add_listener(meddling)
    breaker.add_listener(second.append)
    breaker.force_open()

    assert changes(first) == [("closed", "open"), ("open", "closed")] * 2
    assert second == first


def test_events_come_in_order_and_one_at_a_time() -> None:
    """Six threads open, close and call; the clock counts what happens under the lock."""
    ticks = itertools.count()
    breaker = CircuitBreaker(2, 1.0, clock=lambda: float(next(ticks)), count_error=DownError)
    told: list[BreakerEvent] = []
    inside: list[int] = []
    crowds: set[int] = set()

    def listener(event: BreakerEvent) -> None:
        inside.append(1)
        told.append(event)
        crowds.add(len(inside))
        inside.pop()

    def work(seed: int) -> None:
        for number in range(300):
            with contextlib.suppress(DownError, CircuitOpenError):
                breaker.call(down if (number + seed) % 3 else fine)
            if number % 50 == seed:
                breaker.reset()

    breaker.add_listener(listener, calls=True)
    with frequent_switches():
        run_threads(*[lambda seed=seed: work(seed) for seed in range(6)])

    times = [event.at for event in told]
    assert times == sorted(times)
    assert crowds == {1}
    states = changes(told)
    assert [old for old, _ in states] == ["closed", *(new for _, new in states[:-1])]
    assert len(told) - len(states) == 1800
    assert len(states) > 20


def test_a_slow_listener_holds_only_the_one_who_tells_up(clock: Clock) -> None:
    """Calls of other threads go through meanwhile; their events are told by the first, in order."""
    breaker = CircuitBreaker(clock=clock)
    in_listener, go_on = threading.Event(), threading.Event()
    told: list[BreakerEvent] = []
    tellers: set[int] = set()

    def listener(event: BreakerEvent) -> None:
        told.append(event)
        tellers.add(threading.get_ident())
        in_listener.set()
        assert go_on.wait(PATIENCE)

    def others() -> None:
        assert in_listener.wait(PATIENCE)
        for _ in range(5):
            breaker.call(fine)
        assert len(told) == 1
        go_on.set()

    breaker.add_listener(listener, calls=True)
    run_threads(lambda: breaker.call(fine), others)

    assert len(told) == 6
    assert len(tellers) == 1


# Listeners that raise.


def test_a_listener_that_raises_changes_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Results, errors, states and the other listeners are as without it."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    before: list[BreakerEvent] = []
    after: list[BreakerEvent] = []

    def broken(event: BreakerEvent) -> None:
        raise LookupError("a broken dashboard")

    breaker.add_listener(before.append, calls=True)
    breaker.add_listener(broken, calls=True)
    breaker.add_listener(after.append, calls=True)

    assert breaker.call(fine) == "fine"
    trip(breaker)
    assert refused(breaker).retry_after == 60.0
    clock.advance(60.0)
    assert breaker.call(fine) == "fine"

    assert breaker.state == "closed"
    assert before == after
    assert len(before) == 8


def test_a_listener_that_raises_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback and its name, on the logger of the breaker; each listener for itself."""
    breaker = CircuitBreaker(1, name="openai", clock=clock)

    def broken(event: BreakerEvent) -> None:
        raise LookupError("a broken dashboard")

    def broken_too(event: BreakerEvent) -> None:
        raise OSError("a full disk")

    breaker.add_listener(broken, calls=True)
    breaker.add_listener(broken_too, calls=True)
    for _ in range(5):
        breaker.force_open()
        refused(breaker)
        breaker.reset()

    assert [(record.name, record.levelno) for record in caplog.records] == [("llmbatch.breaker", logging.ERROR)] * 2
    first, second = caplog.records
    assert "broken" in first.getMessage()
    assert "StateChanged of circuit 'openai'" in first.getMessage()
    assert first.exc_info is not None
    assert isinstance(first.exc_info[1], LookupError)
    assert second.exc_info is not None
    assert isinstance(second.exc_info[1], OSError)


def test_an_interruption_in_a_listener_passes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C is for the program; the circuit is as it should be, and later events are told."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    told: list[BreakerEvent] = []

    def interrupted(event: BreakerEvent) -> None:
        told.append(event)
        if len(told) == 1:
            raise KeyboardInterrupt

    breaker.add_listener(interrupted)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(down)
    assert breaker.state == "open"
    clock.advance(60.0)
    breaker.call(fine)

    assert changes(told) == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert caplog.records == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("way", ["call", "async_call", "permit"])
def test_an_interruption_in_a_listener_leaves_no_probe_behind(
    clock: Clock, way: str, interruption: type[BaseException]
) -> None:
    """Raised while it is told of the half-open state: the next caller may probe at once."""
    breaker = half_opened(clock)

    def interrupted(event: BreakerEvent) -> None:
        raise interruption

    remove = breaker.add_listener(interrupted)
    ways: dict[str, Callable[[], object]] = {
        "call": lambda: breaker.call(fine),
        "async_call": lambda: breaker.async_call(fine_later).send(None),
        "permit": breaker.acquire,
    }
    with pytest.raises(interruption):
        ways[way]()
    remove()

    assert breaker.call(fine) == "fine"


async def test_listeners_hear_of_cancelled_calls(clock: Clock) -> None:
    """As calls that count as nothing."""
    breaker = half_opened(clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)

    task = asyncio.create_task(breaker.async_call(asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [(event.verdict, event.is_probe) for event in told if isinstance(event, CallEnded)] == [(None, True)]


@types.coroutine
def suspend() -> Generator[None, None, None]:
    yield


@pytest.mark.parametrize("ask", ["state", "explain"])
def test_an_event_from_the_garbage_collector_is_told_at_once(small_heap: None, ask: str) -> None:
    """A call's coroutine that is collected while the breaker is being asked: told when the asking is done."""
    collecting: list[bool] = []

    def clock() -> float:
        if collecting:
            gc.collect()
        return 1.0

    breaker = CircuitBreaker(clock=clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)
    abandoned = breaker.async_call(suspend)
    abandoned.send(None)
    cycle: list[Any] = [abandoned]
    cycle.append(cycle)
    del abandoned, cycle

    collecting.append(True)
    asked = getattr(breaker, ask)
    if callable(asked):
        asked()
    collecting.clear()
    if not told:
        gc.collect()

    assert [type(event) for event in told] == [CallEnded]


def test_a_listener_on_a_loop_and_one_in_a_thread_see_the_same(clock: Clock) -> None:
    """Events from both sides, each told once."""
    breaker = CircuitBreaker(10**6, clock=clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)

    async def loop() -> None:
        await asyncio.gather(*(breaker.async_call(down_later) for _ in range(100)), return_exceptions=True)

    def thread() -> None:
        for _ in range(100):
            breaker.call(fine)

    with frequent_switches():
        run_threads(lambda: asyncio.run(loop()), thread)

    verdicts = [event.verdict for event in told if isinstance(event, CallEnded)]
    assert (verdicts.count("failure"), verdicts.count("success"), len(told)) == (100, 100, 200)


def test_opened_before_the_listener_came_is_not_told(clock: Clock) -> None:
    """It hears of what happens from now on."""
    breaker = opened(clock)
    told: list[BreakerEvent] = []

    breaker.add_listener(told.append, calls=True)

    assert told == []
