"""Permits: the right to make one call, settled or given back exactly once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, RefusedError, half_opened, opened, refused, trip
from breaker_threads import frequent_switches, run_threads

from llmbatch.breaker import BreakerEvent, CallEnded, CircuitBreaker, CircuitOpenError, Judgement, Permit


@pytest.fixture
def clock() -> Clock:
    return Clock()


def settle(permit: Permit) -> None:
    permit.settle()


def fail(permit: Permit) -> None:
    permit.settle("failure")


def release(permit: Permit) -> None:
    permit.release()


# Settling.


@pytest.mark.parametrize(
    ("verdict", "state", "failures"),
    [
        ("success", "closed", 0),
        ("failure", "closed", 2),
        ("neutral", "closed", 1),
        ("throttled", "closed", 1),
        ("exhausted", "open", 1),
        ("ignored", "closed", 1),
    ],
)
def test_a_permit_counts_as_it_is_settled(clock: Clock, verdict: str, state: str, failures: int) -> None:
    """Each verdict, after one failure and with three to open."""
    breaker = CircuitBreaker(3, clock=clock)
    breaker.acquire().settle("failure")

    breaker.acquire().settle(verdict)  # type: ignore[arg-type]

    assert (breaker.state, breaker.failures) == (state, failures)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        ("success", "closed"),
        ("failure", "open"),
        ("neutral", "half_open"),
        ("throttled", "open"),
        ("exhausted", "open"),
        ("ignored", "half_open"),
    ],
)
def test_a_probe_decides_as_it_is_settled(clock: Clock, verdict: str, state: str) -> None:
    """Each verdict, while half-open."""
    breaker = half_opened(clock)

    breaker.acquire().settle(verdict)  # type: ignore[arg-type]

    assert breaker.state == state


def test_a_permit_is_settled_as_a_success_unless_told(clock: Clock) -> None:
    """``settle()`` alone is the good end."""
    breaker = half_opened(clock)

    breaker.acquire().settle()

    assert breaker.state == "closed"


def test_a_released_permit_says_nothing(clock: Clock) -> None:
    """It neither ends a streak nor adds to it, and gives the place of a probe back."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    breaker.acquire().settle("failure")

    breaker.acquire().release()
    assert (breaker.state, breaker.failures) == ("closed", 1)
    breaker.acquire().settle("failure")
    clock.advance(60.0)
    breaker.acquire().release()

    assert (breaker.state, breaker.acquire().is_probe) == ("half_open", True)


@pytest.mark.parametrize("first", [settle, fail, release])
@pytest.mark.parametrize("second", [settle, fail, release])
@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_a_second_end_is_an_error_and_counts_nothing(
    clock: Clock, state: str, first: Callable[[Permit], None], second: Callable[[Permit], None]
) -> None:
    """Settle or release exactly once, in whatever order."""
    options = {"success_threshold": 3, "failed_probes": 3}
    breaker = half_opened(clock, **options) if state == "half_open" else CircuitBreaker(5, clock=clock)
    permit = breaker.acquire()
    first(permit)
    before = (breaker.state, breaker.failures, breaker.retry_after, breaker.explain().last_failures)

    for _ in range(3):
        with pytest.raises(RuntimeError, match="settled or released before"):
            second(permit)

    assert (breaker.state, breaker.failures, breaker.retry_after, breaker.explain().last_failures) == before


def test_of_two_threads_that_settle_one_permit_one_gets_an_error(clock: Clock) -> None:
    """However they interleave, it counts once."""
    breaker = CircuitBreaker(1000, clock=clock)
    permits = [breaker.acquire() for _ in range(200)]
    errors: list[str] = []

    def work() -> None:
        for permit in permits:
            try:
                permit.settle("failure")
            except RuntimeError as error:
                errors.append(str(error))

    with frequent_switches():
        run_threads(work, work, work)

    assert (breaker.failures, len(errors)) == (200, 400)


@pytest.mark.parametrize(
    "verdict",
    ["succes", "FAILURE", "", None, 5, True, ("failure", 3.0), Judgement("bad")],  # type: ignore[arg-type]
)
def test_an_unknown_verdict_settles_nothing(clock: Clock, verdict: object) -> None:
    """A ValueError that shows it and what there is; the permit is still there to be settled."""
    breaker = half_opened(clock)
    permit = breaker.acquire()

    with pytest.raises(ValueError, match="must be one of success, failure, neutral, throttled, exhausted, ignored"):
        permit.settle(verdict)  # type: ignore[arg-type]

    assert (permit.is_settled, breaker.state) == (False, "half_open")
    permit.settle()
    assert breaker.state == "closed"


def test_a_wait_that_is_no_number_settles_nothing(clock: Clock) -> None:
    """A header's text given as it came is told at once, and leaves no probe behind."""
    breaker = half_opened(clock)
    permit = breaker.acquire()

    with pytest.raises((TypeError, ValueError)):
        permit.settle("throttled", retry_after="5")  # type: ignore[arg-type]

    assert not permit.is_settled
    permit.release()
    assert breaker.acquire().is_probe


@pytest.mark.parametrize("wait", [0.0, -1.0, float("nan")])
def test_a_wait_that_says_nothing_changes_nothing(clock: Clock, wait: float) -> None:
    """Zero, negative and not-a-number mean unknown."""
    breaker = half_opened(clock)

    breaker.acquire().settle("failure", retry_after=wait)

    assert (breaker.state, breaker.retry_after) == ("open", 60.0)


def test_a_named_wait_and_the_error_are_taken_from_the_settling(clock: Clock) -> None:
    """The wait extends the open time; the error stands in the explanation."""
    breaker = half_opened(clock)

    breaker.acquire(caller="row-7").settle("failure", error=DownError("no upstream"), retry_after=300.0)

    last = breaker.explain().last_failures[-1]
    assert breaker.retry_after == 300.0
    assert (last.error, last.caller, last.retry_after) == ("DownError: no upstream", "row-7", 300.0)


def test_a_permit_may_be_settled_with_a_whole_judgement(clock: Clock) -> None:
    """Verdict, wait and facts at once; a wait that is named beside it goes first."""
    breaker = half_opened(clock)
    judgement = Judgement("failure", retry_after=90.0, status=503, request_id="req_1", message="overloaded")

    breaker.acquire().settle(judgement, retry_after=120.0)

    last = breaker.explain().last_failures[-1]
    assert breaker.retry_after == 120.0
    assert (last.error, last.status, last.request_id) == ("overloaded", 503, "req_1")


def test_a_permit_may_be_settled_in_another_thread(clock: Clock) -> None:
    """It is bound to nothing."""
    breaker = half_opened(clock)
    permit = breaker.acquire()

    run_threads(permit.settle)

    assert (permit.is_settled, breaker.state) == (True, "closed")


def test_an_open_circuit_gives_no_permit(clock: Clock) -> None:
    """Nor does one whose probe is out; the refusal says how long."""
    breaker = opened(clock, name="openai")

    with pytest.raises(CircuitOpenError) as open_:
        breaker.acquire()
    clock.advance(60.0)
    breaker.acquire()
    clock.advance(10.0)
    with pytest.raises(CircuitOpenError) as half_open:
        breaker.acquire()

    assert (open_.value.retry_after, open_.value.name) == (60.0, "openai")
    assert half_open.value.retry_after == 50.0


# As a context manager.


def test_leaving_the_block_settles_by_what_passes(clock: Clock) -> None:
    """Nothing: a success. An exception: as the breaker's judge says. It is raised on."""
    breaker = CircuitBreaker(5, clock=clock, count_error=DownError)

    with pytest.raises(DownError), breaker.acquire():
        raise DownError
    assert breaker.failures == 1
    with pytest.raises(RefusedError), breaker.acquire():
        raise RefusedError
    assert breaker.failures == 1
    with breaker.acquire() as permit:
        assert not permit.is_settled

    assert (permit.is_settled, breaker.failures) == (True, 0)


@pytest.mark.parametrize("interruption", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_block_gives_its_permit_back(clock: Clock, interruption: type[BaseException]) -> None:
    """Cancellations and the like are no verdict on the provider."""
    breaker = half_opened(clock)

    with pytest.raises(interruption), breaker.acquire() as permit:
        raise interruption

    assert (permit.is_settled, breaker.state) == (True, "half_open")
    assert breaker.acquire().is_probe


def test_what_was_settled_inside_stands(clock: Clock) -> None:
    """Neither a good nor a bad end of the block counts after that."""
    breaker = CircuitBreaker(5, clock=clock)

    def block(end: Callable[[Permit], None]) -> None:
        with breaker.acquire() as permit:
            end(permit)
            raise DownError

    with breaker.acquire() as permit:
        permit.settle("failure")
    assert breaker.failures == 1
    with pytest.raises(DownError):
        block(release)
    assert breaker.failures == 1
    with pytest.raises(DownError):
        block(settle)

    assert breaker.failures == 0


async def test_async_blocks_settle_likewise(clock: Clock) -> None:
    """``async with breaker.acquire()``: success, failure, a cancelled task."""
    breaker = half_opened(clock, success_threshold=2)
    started = asyncio.Event()

    async def hang() -> None:
        async with breaker.acquire():
            started.set()
            await asyncio.Event().wait()

    async def fail_later() -> None:
        async with breaker.acquire():
            await asyncio.sleep(0)
            raise DownError

    task = asyncio.create_task(hang())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    async with breaker.acquire():
        await asyncio.sleep(0)
    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    with pytest.raises(DownError):
        await fail_later()

    assert breaker.state == "open"


def test_a_permit_without_a_breaker_in_sight_holds_it(small_heap: None, clock: Clock) -> None:
    """The permit alone keeps its breaker alive, and its verdict still counts."""
    breaker = half_opened(clock)
    events: list[BreakerEvent] = []
    breaker.add_listener(events.append)
    permit = breaker.acquire()

    del breaker
    gc.collect()
    permit.settle()

    assert events[-1].new == "closed"  # type: ignore[union-attr]


# What a permit knows.


def test_a_permit_knows_what_it_is(clock: Clock) -> None:
    """Probe or not, current or not, settled or not."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    early, failing = breaker.acquire(), breaker.acquire()
    assert (early.is_probe, early.is_current, early.is_settled) == (False, True, False)

    failing.settle("failure")
    assert (early.is_current, early.is_settled, failing.is_settled) == (False, False, True)
    clock.advance(60.0)
    probe = breaker.acquire()

    assert (probe.is_probe, probe.is_current, probe.is_settled) == (True, True, False)
    probe.settle()
    assert (probe.is_current, probe.is_settled) == (False, True)


@pytest.mark.parametrize("change", ["reset", "disable", "force_open"])
def test_an_operator_makes_permits_out_of_date(clock: Clock, change: str) -> None:
    """What was let in before decides nothing after."""
    breaker = CircuitBreaker(1, clock=clock)
    permit = breaker.acquire()

    getattr(breaker, change)()
    assert not permit.is_current
    state = breaker.state
    permit.settle("failure")

    assert (breaker.state, breaker.failures) == (state, 0)


def test_a_replaced_probe_is_no_longer_current(clock: Clock) -> None:
    """A failure that it reports does not count, as ``is_current`` promises to say; a success would."""
    breaker = half_opened(clock)
    hung = breaker.acquire()
    clock.advance(60.0)
    breaker.acquire()

    current = hung.is_current
    hung.settle("failure")

    assert breaker.state == "half_open"
    assert not current


def test_the_end_of_a_replaced_probe_is_told_as_stale(clock: Clock) -> None:
    """Unless it succeeds it decides nothing, as ``is_stale`` promises to say."""
    breaker = half_opened(clock, success_threshold=2)
    hung = breaker.acquire()
    clock.advance(60.0)
    late = breaker.acquire()
    events: list[BreakerEvent] = []
    breaker.add_listener(events.append, calls=True)

    clock.advance(120.0)
    breaker.acquire()
    hung.settle("failure")
    late.settle()

    assert breaker.state == "half_open"
    assert [event.is_stale for event in events if isinstance(event, CallEnded)] == [True, False]


def test_the_repr_tells_a_permit(clock: Clock) -> None:
    """Probe or call, its number, its breaker, whether it is settled."""
    breaker = CircuitBreaker(1, 60.0, name="openai", clock=clock)
    call = breaker.acquire()
    assert repr(call) == "<Permit call 1 of <CircuitBreaker openai closed>>"

    call.settle("failure")
    clock.advance(60.0)
    probe = breaker.acquire()

    assert repr(call) == "<Permit call 1 of <CircuitBreaker openai half_open, retry in 60.0 s>, settled>"
    assert repr(probe) == "<Permit probe 2 of <CircuitBreaker openai half_open, retry in 60.0 s>>"


# Dropped.


def test_a_dropped_probe_is_replaced_when_its_lease_is_over(small_heap: None, clock: Clock) -> None:
    """Nobody can give it back, so its place is kept until then and no longer; the next lease is twice as long."""
    breaker = half_opened(clock, probe_lease=20.0)

    breaker.acquire()
    gc.collect()
    assert refused(breaker).retry_after == 20.0
    clock.advance(20.0)
    with breaker.acquire() as permit:
        assert permit.is_probe
        assert refused(breaker).retry_after == 40.0

    assert breaker.state == "closed"


def test_a_dropped_call_is_not_counted(clock: Clock) -> None:
    """Any number of them, while closed."""
    breaker = CircuitBreaker(2, clock=clock)
    breaker.acquire().settle("failure")

    for _ in range(100):
        breaker.acquire()

    assert (breaker.state, breaker.failures) == ("closed", 1)


# Callers.


def test_one_callers_failures_count_once(clock: Clock) -> None:
    """However often it tries again; the next caller's count, and so do those without a name."""
    breaker = CircuitBreaker(4, clock=clock)

    for _ in range(10):
        breaker.acquire(caller="row-1").settle("failure")
    assert breaker.failures == 1
    breaker.acquire(caller="row-2").settle("failure")
    assert breaker.failures == 2
    breaker.acquire().settle("failure")
    assert (breaker.state, breaker.failures) == ("closed", 3)
    breaker.acquire().settle("failure")

    assert breaker.is_open()


def test_a_success_lets_the_caller_count_again(clock: Clock) -> None:
    """It ends the streak, whoever had it."""
    breaker = CircuitBreaker(2, clock=clock)

    for _ in range(5):
        breaker.acquire(caller=17).settle("failure")
        breaker.acquire(caller=18).settle()
    assert breaker.state == "closed"
    breaker.acquire(caller=17).settle("failure")

    assert breaker.failures == 1


def test_a_callers_calls_and_plain_calls_share_the_streak(clock: Clock) -> None:
    """One circuit, whatever the way in."""
    breaker = CircuitBreaker(3, clock=clock)
    breaker.acquire(caller="a").settle("failure")
    breaker.acquire(caller="b").settle("failure")

    trip(breaker)

    assert breaker.failures == 3


def test_a_caller_that_cannot_be_told_apart_is_refused_at_once(clock: Clock) -> None:
    """A TypeError from ``acquire``, not from the settling of the first failure, which it would swallow."""
    breaker = CircuitBreaker(1, clock=clock)

    with pytest.raises(TypeError, match="unhashable"):
        breaker.acquire(caller=["row", 1])  # type: ignore[arg-type]
