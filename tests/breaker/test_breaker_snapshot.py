"""The state over a restart: a snapshot as JSON, and a breaker that takes it over."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, down, fine, half_opened, opened, raising, refused, state_of, trip

from llmbatch.breaker import CircuitBreaker


@pytest.fixture
def clock() -> Clock:
    return Clock()


def over_a_restart(breaker: CircuitBreaker, *, after: float = 0.0, **options: Any) -> CircuitBreaker:
    """The breaker of a process that starts *after* seconds of wall time, with the same policy and a new clock."""
    snapshot = json.loads(json.dumps(breaker.snapshot(), allow_nan=False))
    snapshot["saved_at"] -= after
    all_options: Any = {"policy": breaker.policy, "clock": Clock(5.0)} | options
    return CircuitBreaker.from_snapshot(snapshot, **all_options)


def about(seconds: float) -> Any:
    """The test itself takes a moment between writing and reading."""
    return pytest.approx(seconds, abs=PATIENCE_S)


PATIENCE_S = 30.0


def test_an_open_circuit_was_closed_after_a_restart(clock: Clock) -> None:
    """It refuses for the rest of its time, for the same reason, under the same name."""
    breaker = opened(clock, name="openai", recovery_timeout=1000.0)
    clock.advance(100.0)

    again = over_a_restart(breaker)

    error = refused(again)
    assert (error.name, error.reason) == ("openai", "a call failed")
    assert error.retry_after <= 900.0
    assert error.retry_after == about(900.0)
    assert (again.state, again.failures) == ("open", 1)
    assert again.explain().at - (again.explain().since or 0.0) == about(100.0)


def test_the_time_between_two_processes_counts(clock: Clock) -> None:
    """By the wall clock; then it is half-open, and a probe decides."""
    breaker = opened(clock, recovery_timeout=1000.0)

    assert over_a_restart(breaker, after=400.0).retry_after == about(600.0)
    again = over_a_restart(breaker, after=1000.0)

    assert state_of(again) == "half_open"
    again.call(fine)
    assert state_of(again) == "closed"


def test_a_snapshot_a_day_old_is_half_open_not_closed(clock: Clock) -> None:
    """However old; a failed probe opens it again."""
    again = over_a_restart(opened(clock), after=86_400.0)

    assert state_of(again) == "half_open"
    with pytest.raises(DownError):
        again.call(down)
    assert state_of(again) == "open"


@pytest.mark.parametrize("ahead", [100.0, 86_400.0, 1e10])
def test_a_clock_that_was_set_back_makes_no_wait_longer(clock: Clock, ahead: float) -> None:
    """A snapshot from the future: as if it had been made now."""
    again = over_a_restart(opened(clock, recovery_timeout=1000.0), after=-ahead)

    assert again.retry_after == 1000.0


def test_a_half_open_circuit_stays_half_open(clock: Clock) -> None:
    """A probe that was out is gone."""
    breaker = half_opened(clock)
    breaker.acquire()

    again = over_a_restart(breaker)

    assert state_of(again) == "half_open"
    assert again.acquire().is_probe


def test_a_closed_circuit_keeps_its_streak_and_named_wait(clock: Clock) -> None:
    """And is closed."""
    breaker = CircuitBreaker(2, clock=clock)
    with pytest.raises(HintedError):
        breaker.call(raising(HintedError(5000.0)))

    again = over_a_restart(breaker)
    assert (again.state, again.failures) == ("closed", 1)
    with pytest.raises(DownError):
        again.call(down)

    assert state_of(again) == "open"
    assert again.retry_after == about(5000.0)


def test_a_new_circuit_is_new_again() -> None:
    """Nothing has changed yet."""
    again = over_a_restart(CircuitBreaker(name="p"))

    assert (again.state, again.failures, again.retry_after) == ("closed", 0, None)
    assert again.explain().since is None
    assert again.name == "p"


def test_a_grown_open_time_goes_on_growing(clock: Clock) -> None:
    """And starts over when the circuit has been closed for long enough, as in one process."""
    breaker = opened(clock, first_recovery_timeout=2.0, recovery_timeout=4000.0, growth=10.0, stable_time=3600.0)
    for _ in range(2):
        clock.advance(breaker.retry_after or 0.0)
        with pytest.raises(DownError):
            breaker.call(down)
    assert breaker.retry_after == 200.0

    again = over_a_restart(breaker, after=200.0)
    with pytest.raises(DownError):
        again.call(down)
    assert again.retry_after == 2000.0

    clock.advance(200.0)
    breaker.call(fine)
    soon, later = over_a_restart(breaker), over_a_restart(breaker, after=3600.0)
    trip(soon)
    trip(later)
    assert (soon.retry_after, later.retry_after) == (200.0, 2.0)


@pytest.mark.parametrize("judged", ["exhausted", "failure"])
def test_what_opened_it_is_known_after_a_restart(clock: Clock, judged: Any) -> None:
    """Where refusals did, a refused probe has failed."""
    breaker = CircuitBreaker(1, judge_error=lambda _: judged, clock=clock)
    trip(breaker)

    again = over_a_restart(breaker, after=60.0, judge_error=lambda _: "neutral")
    with pytest.raises(DownError):
        again.call(down)

    assert state_of(again) == ("open" if judged == "exhausted" else "half_open")


def test_what_was_forced_stays_forced(clock: Clock) -> None:
    """For good, for the rest of its time, or disabled with what it has told."""
    good, timed, disabled = (CircuitBreaker(1, 60.0, name="p", clock=clock) for _ in range(3))
    good.force_open("deploy")
    timed.force_open("deploy", for_seconds=5000.0)
    disabled.disable()
    with pytest.raises(DownError):
        disabled.call(down)

    assert over_a_restart(good, after=1e6).retry_after == math.inf
    again = over_a_restart(timed, after=1000.0)
    assert (again.retry_after, again.is_forced) == (about(4000.0), True)
    again = over_a_restart(timed, after=5000.0)
    assert (again.state, again.is_forced) == ("half_open", False)
    with pytest.raises(DownError):
        again.call(down)
    assert again.explain().reason == "a probe failed"
    again = over_a_restart(disabled)
    told: list[Any] = []
    again.add_listener(told.append)
    with pytest.raises(DownError):
        again.call(down)
    assert (again.state, again.is_forced, told) == ("closed", True, [])
    assert "it would have opened: a call failed" in str(again.explain())


def test_a_time_of_forcing_that_is_over_is_not_saved(clock: Clock) -> None:
    """It is half-open already."""
    breaker = CircuitBreaker(clock=clock)
    breaker.force_open(for_seconds=5.0)
    clock.advance(5.0)

    snapshot = breaker.snapshot()

    assert (snapshot["state"], snapshot["forced"], snapshot["forced_for"]) == ("half_open", "", 0.0)
    assert over_a_restart(breaker).state == "half_open"


def test_a_wait_is_cut_to_what_the_policy_allows(clock: Clock) -> None:
    """Whoever wrote it."""
    snapshot = opened(clock).snapshot() | {"wait": 1e9}

    again = CircuitBreaker.from_snapshot(snapshot, longest_hint=70.0, jitter=0.5, clock=clock)

    assert again.retry_after == 90.0
    assert CircuitBreaker.from_snapshot(snapshot, longest_hint=170.0, clock=clock).retry_after == 170.0


def test_options_go_before_the_snapshot(clock: Clock) -> None:
    """A name of its own."""
    assert over_a_restart(opened(clock, name="old"), name="new").name == "new"
    assert refused(over_a_restart(opened(clock, name="old"), name="new")).name == "new"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", 2),
        ("saved_at", "yesterday"),
        ("saved_at", math.nan),
        ("saved_at", -1.0),
        ("saved_at", 10**400),
        ("name", None),
        ("state", "ajar"),
        ("state", ["open"]),
        ("reason", 3),
        ("cause", ""),
        ("failures", -1),
        ("failures", True),
        ("failures", 1.5),
        ("failures", 2**60),
        ("level", None),
        ("wait", -1.0),
        ("wait", math.inf),
        ("wait", None),
        ("wait", True),
        ("since", "long"),
        ("since", None),
        ("forced", "ajar"),
        ("forced", "disabled"),
        ("forced_for", -1.0),
        ("forced_for", None),
        ("would_have_opened", 1),
    ],
)
def test_a_malformed_snapshot_is_refused_by_name(clock: Clock, member: str, value: object) -> None:
    """Out of range, of another type, or missing."""
    snapshot = opened(clock).snapshot()

    with pytest.raises(ValueError, match=f"^snapshot: {member} is "):
        CircuitBreaker.from_snapshot(snapshot | {member: value})
    assert CircuitBreaker.from_snapshot(snapshot | {"saved_at": 1e12, "failures": 2**53}).failures == 2**53
    del snapshot[member]
    with pytest.raises(ValueError, match=f"^snapshot: {member} is (missing|None)"):
        CircuitBreaker.from_snapshot(snapshot)


def test_a_malformed_snapshot_is_told_what_may_stand_there(clock: Clock) -> None:
    """And what does."""
    breaker = CircuitBreaker(clock=clock)
    breaker.force_open()
    snapshot = breaker.snapshot()

    with pytest.raises(ValueError, match=r"^snapshot: cause is 'chance', must be one of 'rule', 'refusal', 'hand'$"):
        CircuitBreaker.from_snapshot(snapshot | {"cause": "chance"})
    with pytest.raises(ValueError, match=r"^snapshot: version is 2, must be 1$"):
        CircuitBreaker.from_snapshot(snapshot | {"version": 2})
    del snapshot["forced_for"]
    with pytest.raises(ValueError, match=r"^snapshot: forced_for is missing$"):
        CircuitBreaker.from_snapshot(snapshot)


@pytest.mark.parametrize("snapshot", [None, [], "{}", 3])
def test_what_is_no_dictionary_is_no_snapshot(snapshot: Any) -> None:
    """The message shows it."""
    with pytest.raises(ValueError, match="must be a dictionary"):
        CircuitBreaker.from_snapshot(snapshot)


def test_a_snapshot_can_be_read_and_more_may_stand_in_it(clock: Clock) -> None:
    """Wall time, and plain members."""
    snapshot = opened(clock, name="p", recovery_timeout=60.0).snapshot()

    assert abs(snapshot.pop("saved_at") - time.time()) < PATIENCE_S  # type: ignore[operator]
    assert snapshot == {
        "version": 1,
        "name": "p",
        "state": "open",
        "reason": "a call failed",
        "cause": "rule",
        "failures": 1,
        "wait": 60.0,
        "level": 0,
        "since": 0.0,
        "forced": "",
        "forced_for": 0.0,
        "would_have_opened": False,
    }
    again = CircuitBreaker.from_snapshot(snapshot | {"saved_at": time.time(), "host": "a"})
    assert state_of(again) == "open"
