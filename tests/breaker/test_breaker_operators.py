"""What an operator does and sees: force open, disable, reset, hold; state, failures, retry_after, repr."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Callable

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, down_later, fine, fine_later, half_opened, opened, raising, refused, trip

from llmbatch.breaker import BreakerEvent, CircuitBreaker, CircuitOpenError, StateChanged


@pytest.fixture
def clock() -> Clock:
    return Clock()


def closed(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(1, 60.0, clock=clock)


def failing(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    with pytest.raises(DownError):
        breaker.call(down)
    return breaker


def probing(clock: Clock) -> CircuitBreaker:
    breaker = half_opened(clock)
    breaker.acquire()
    return breaker


def hung(clock: Clock) -> CircuitBreaker:
    breaker = probing(clock)
    clock.advance(60.0)
    return breaker


def forced(clock: Clock) -> CircuitBreaker:
    breaker = closed(clock)
    breaker.force_open("maintenance")
    return breaker


def disabled(clock: Clock) -> CircuitBreaker:
    breaker = closed(clock)
    breaker.disable()
    return breaker


STATES = [closed, failing, opened, half_opened, probing, hung, forced, disabled]
in_every_state = pytest.mark.parametrize("make", STATES, ids=[make.__name__ for make in STATES])
Make = Callable[[Clock], CircuitBreaker]


# Forced open.


@in_every_state
async def test_forced_open_refuses_everything(clock: Clock, make: Make) -> None:
    """By every way in, from every state and for ever; who is refused reads the reason."""
    breaker = make(clock)

    breaker.force_open("billing is being moved")

    for _ in range(3):
        for refusal in (lambda: breaker.call(fine), breaker.acquire):
            with pytest.raises(CircuitOpenError) as caught:
                refusal()
            assert (caught.value.retry_after, caught.value.reason) == (math.inf, "billing is being moved")
            assert str(caught.value) == "circuit is open (billing is being moved), until it is reset"
        with pytest.raises(CircuitOpenError):
            await breaker.async_call(fine_later)
        clock.advance(1e9)
    assert (breaker.state, breaker.is_open(), breaker.retry_after) == ("open", True, math.inf)


def test_forced_open_has_a_reason_of_its_own(clock: Clock) -> None:
    """Where the operator gives none."""
    breaker = closed(clock)

    breaker.force_open()

    assert refused(breaker).reason == "forced open"


def test_a_forced_refusal_can_be_pickled(clock: Clock) -> None:
    """Infinity too."""
    error = refused(forced(clock))

    twin = pickle.loads(pickle.dumps(error))

    assert (twin.retry_after, str(twin)) == (math.inf, str(error))


def test_a_probe_that_is_out_cannot_undo_forcing(clock: Clock) -> None:
    """It decides nothing any more; nor do calls from before."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    early = breaker.acquire()
    trip(breaker)
    clock.advance(60.0)
    probe = breaker.acquire()

    breaker.force_open("no")
    probe.settle()
    early.settle()

    assert (breaker.state, breaker.retry_after) == ("open", math.inf)


def test_forcing_again_tells_the_new_reason(clock: Clock) -> None:
    """The last one stands."""
    breaker = forced(clock)

    breaker.force_open("longer maintenance")

    assert refused(breaker).reason == "longer maintenance"


# Disabled.


@in_every_state
async def test_disabled_lets_everything_through_and_counts_nothing(clock: Clock, make: Make) -> None:
    """From every state, by every way in, whatever the calls come to."""
    breaker = make(clock)

    breaker.disable()

    for _ in range(10):
        with pytest.raises(DownError):
            breaker.call(down)
        with pytest.raises(DownError):
            await breaker.async_call(down_later)
        breaker.acquire().settle("exhausted", retry_after=10.0)
        assert breaker.call(fine) == "fine"
    assert (breaker.state, breaker.failures, breaker.retry_after) == ("closed", 0, None)


@pytest.mark.parametrize("options", [{"failure_rate": 0.5, "minimum_calls": 1}, {"stall_timeout": 1.0}])
def test_disabled_forgets_rates_and_stalls_too(clock: Clock, options: dict[str, float]) -> None:
    """No rule opens it."""
    breaker = CircuitBreaker(1, clock=clock, **options)  # type: ignore[arg-type]
    breaker.disable()

    for _ in range(10):
        breaker.acquire()
        clock.advance(1000.0)
        with pytest.raises(DownError):
            breaker.call(down)

    assert breaker.state == "closed"


def test_what_was_let_in_while_disabled_decides_nothing_after(clock: Clock) -> None:
    """A failure that ends after the reset."""
    breaker = disabled(clock)
    permit = breaker.acquire()

    breaker.reset()
    permit.settle("failure")

    assert (breaker.state, breaker.failures) == ("closed", 0)


# Reset.


@in_every_state
def test_reset_closes_and_forgets(clock: Clock, make: Make) -> None:
    """From every state: it opens again as a new one would."""
    breaker = make(clock)
    threshold = breaker.policy.failure_threshold
    assert threshold is not None

    breaker.reset()

    assert (breaker.state, breaker.failures, breaker.retry_after) == ("closed", 0, None)
    for _ in range(threshold):
        assert breaker.state == "closed"
        with pytest.raises(DownError):
            breaker.call(down)
    assert (breaker.state, breaker.retry_after) == ("open", 60.0)


def test_reset_forgets_waits_windows_and_grown_open_times(clock: Clock) -> None:
    """Everything that outlasts a closing by itself."""
    breaker = CircuitBreaker(
        None, 100.0, clock=clock, failure_rate=0.5, minimum_calls=4, first_recovery_timeout=10.0, stable_time=1e6
    )
    for verdict in ("success", "success", "failure", "failure"):
        breaker.acquire().settle(verdict)
    clock.advance(10.0)
    breaker.acquire().settle("failure", retry_after=5000.0)
    assert breaker.retry_after == 5000.0

    breaker.reset()

    for verdict in ("success", "success", "failure"):
        breaker.acquire().settle(verdict)  # type: ignore[arg-type]
    assert breaker.state == "closed"
    breaker.acquire().settle("failure")
    assert (breaker.state, breaker.retry_after) == ("open", 10.0)


def test_calls_that_are_out_decide_nothing_after_a_reset(clock: Clock) -> None:
    """Neither a probe nor a call from before, by every way in."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)

    def reset_and_fail() -> None:
        breaker.reset()
        raise DownError

    async def reset_and_fail_later() -> None:
        reset_and_fail()

    def run_later() -> None:
        asyncio.run(breaker.async_call(reset_and_fail_later))

    for _ in range(2):
        outcomes: tuple[Callable[[], None], ...] = (lambda: breaker.call(reset_and_fail), run_later)
        for outcome in outcomes:
            with pytest.raises(DownError):
                outcome()
            assert (breaker.state, breaker.failures) == ("closed", 0)
        trip(breaker)
        clock.advance(60.0)


# Hold.


def test_hold_keeps_probes_back(clock: Clock) -> None:
    """While open: not before the later of the two, and never shorter."""
    breaker = opened(clock)

    breaker.hold(10.0)
    assert breaker.retry_after == 60.0
    breaker.hold(200.0)
    assert breaker.retry_after == 200.0
    breaker.hold(5.0)
    assert breaker.retry_after == 200.0
    clock.advance(199.0)
    assert refused(breaker).retry_after == 1.0
    clock.advance(1.0)

    assert breaker.call(fine) == "fine"


def test_hold_while_half_open_keeps_the_next_probe_back(clock: Clock) -> None:
    """The one that is out goes on."""
    breaker = half_opened(clock, success_threshold=2)
    probe = breaker.acquire()

    breaker.hold(30.0)
    probe.settle()
    assert refused(breaker).retry_after == 30.0
    clock.advance(30.0)

    assert breaker.call(fine) == "fine"
    assert breaker.state == "closed"


@pytest.mark.parametrize("seconds", [1e9, math.inf])
def test_hold_is_believed_up_to_longest_hint(clock: Clock, seconds: float) -> None:
    """To keep a circuit open, force it."""
    breaker = opened(clock, longest_hint=3600.0)

    breaker.hold(seconds)

    assert breaker.retry_after == 3600.0


@pytest.mark.parametrize("seconds", [0.0, -5.0, -math.inf, math.nan])
def test_hold_for_no_time_changes_nothing(clock: Clock, seconds: float) -> None:
    """Nothing is shortened, nothing opens, nothing breaks."""
    breaker, other = opened(clock), closed(clock)

    breaker.hold(seconds)
    other.hold(seconds)

    assert (breaker.retry_after, other.state) == (60.0, "closed")


# What one can ask.


@in_every_state
def test_retry_after_is_finite_and_above_zero_but_while_forced(clock: Clock, make: Make) -> None:
    """In every state, at every time, as told by the breaker and by its refusals; None while closed."""
    breaker = make(clock)

    for seconds in (0.0, 0.01, 30.0, 29.985, 0.0051, 1e-9, 60.0, 1e6):
        clock.advance(seconds)
        told = breaker.retry_after
        if breaker.state == "closed":
            assert told is None
            continue
        assert told is not None
        assert told == math.inf if make is forced else 0.05 <= told <= 120.0
        try:
            breaker.acquire().release()
            refusal = told
        except CircuitOpenError as error:
            refusal = error.retry_after
        assert refusal == told


@pytest.mark.parametrize("make", [make for make in STATES if make is not forced])
def test_who_comes_back_in_time_is_let_in(clock: Clock, make: Make) -> None:
    """``retry_after`` is the truth where nobody else takes the place."""
    breaker = make(clock)

    clock.advance(breaker.retry_after or 0.0)
    breaker.acquire().settle()

    assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (closed, "<CircuitBreaker unnamed closed>"),
        (failing, "<CircuitBreaker unnamed closed, 1 failed in a row>"),
        (opened, "<CircuitBreaker unnamed open, retry in 60.0 s>"),
        (half_opened, "<CircuitBreaker unnamed half_open, retry in 0.1 s>"),
        (probing, "<CircuitBreaker unnamed half_open, retry in 60.0 s>"),
        (hung, "<CircuitBreaker unnamed half_open, retry in 0.1 s>"),
        (forced, "<CircuitBreaker unnamed open, until reset>"),
        (disabled, "<CircuitBreaker unnamed disabled>"),
    ],
    ids=[make.__name__ for make in STATES],
)
def test_the_repr_in_every_state(clock: Clock, make: Make, shown: str) -> None:
    """State, wait where there is one, failures where they matter."""
    assert repr(make(clock)) == shown


@in_every_state
def test_asking_changes_nothing(clock: Clock, make: Make) -> None:
    """State, failures, waits, repr and explanation, as often as one likes."""
    breaker = make(clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)

    def ask() -> list[object]:
        return [
            breaker.state,
            breaker.failures,
            breaker.is_open(),
            breaker.retry_after,
            repr(breaker),
            breaker.explain(),
            breaker.name,
        ]

    first = ask()
    assert [ask() for _ in range(5)] == [first] * 5
    assert told == []


def test_a_half_open_circuit_that_was_only_looked_at_is_told_by_its_probe(clock: Clock) -> None:
    """The state turns with the time; the event comes with the first probe."""
    breaker = half_opened(clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append)
    assert breaker.state == "half_open"
    assert told == []

    breaker.call(fine)

    assert [(event.old, event.new) for event in told if isinstance(event, StateChanged)] == [
        ("open", "half_open"),
        ("half_open", "closed"),
    ]


def test_the_options_can_be_read_and_not_changed() -> None:
    """``policy`` holds them."""
    breaker = CircuitBreaker(7, 30.0, 2, probes=3)

    assert (breaker.policy.failure_threshold, breaker.policy.recovery_timeout, breaker.policy.probes) == (7, 30.0, 3)
    with pytest.raises(AttributeError):
        breaker.policy.probes = 4
    with pytest.raises(AttributeError):
        breaker.state = "closed"  # type: ignore[misc]


def test_an_interruption_of_an_operator_is_no_failure(clock: Clock) -> None:
    """Ctrl-C in a disabled, a forced and a failing circuit leaves all as it is."""
    breaker = failing(clock)

    with pytest.raises(KeyboardInterrupt):
        breaker.call(raising(KeyboardInterrupt()))

    assert breaker.failures == 1
