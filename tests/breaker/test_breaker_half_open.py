"""Several probes at once, each with its own lease, and what closes the circuit or opens it again."""

from __future__ import annotations

import pytest
from breaker_circuits import circuit, enter, fail, last, probe
from breaker_clock import Clock

from llmbatch.breaker.core import Circuit, SettleVerdict


def half_open(**options: object) -> Circuit:
    """Since second 60, when it may be probed; a probe holds 10 s."""
    subject = circuit(**options)
    fail(subject, 0.0, 2)
    return subject


# Several at once.


@pytest.mark.parametrize("probes", [1, 3, 300])
def test_half_open_admits_as_many_probes_as_asked_for(probes: int) -> None:
    """The other callers are refused, and told to wait for a lease."""
    subject = half_open(probes=probes)

    permits = [subject.acquire(60.0) for _ in range(probes + 7)]

    assert [permit is not None and permit.probe for permit in permits] == [True] * probes + [False] * 7
    assert subject.retry_after(60.0) == 10.0


@pytest.mark.parametrize("how", ["settled", "released"])
def test_a_probe_that_ended_frees_its_place(how: str) -> None:
    """Its own and no other one's."""
    subject = half_open(probes=3, success_threshold=5)
    first, *_ = [enter(subject, 60.0) for _ in range(3)]

    if how == "settled":
        subject.settle(first, "success", 60.0)
    else:
        subject.release(first)

    assert subject.probing
    assert subject.acquire(60.0) is not None
    assert subject.acquire(60.0) is None


def test_while_a_place_is_free_nobody_waits() -> None:
    """One probe of two is out: a second may go at once."""
    subject = half_open(probes=2)
    enter(subject, 60.0)

    assert subject.wait(60.0) == 0.0


def test_the_wait_is_for_the_lease_that_ends_first() -> None:
    """Not for that of the probe that went first."""
    subject = half_open(probes=3)
    subject.acquire(60.0, lease=50.0)
    subject.acquire(61.0, lease=20.0)
    subject.acquire(62.0, lease=30.0)

    assert subject.lease_until == 81.0
    assert subject.retry_after(62.0) == 19.0


def test_the_probe_whose_lease_ended_first_is_taken_over() -> None:
    """The others keep their places, and their answers count."""
    subject = half_open(probes=2)
    long, short = subject.acquire(60.0, lease=50.0), subject.acquire(60.0, lease=20.0)
    assert long is not None
    assert short is not None
    assert subject.acquire(79.9) is None

    enter(subject, 80.0)
    subject.settle(short, "failure", 81.0)
    assert subject.state(81.0) == "half_open"
    subject.settle(long, "success", 82.0)

    assert subject.is_closed


def test_each_hung_probe_is_taken_over_once() -> None:
    """Two hang; two replace them, and a third is refused."""
    subject = half_open(probes=2)
    enter(subject, 60.0)
    enter(subject, 60.0)

    following = [subject.acquire(1000.0) for _ in range(3)]

    assert [permit is not None for permit in following] == [True, True, False]


def test_the_first_probe_that_decides_makes_the_others_stale() -> None:
    """Closed by one; what the second says then counts for nothing."""
    subject = half_open(probes=2)
    first, second = enter(subject, 60.0), enter(subject, 60.0)

    subject.settle(first, "success", 61.0)
    subject.settle(second, "exhausted", 62.0)

    assert subject.is_closed
    assert not subject.probing


def test_opening_again_makes_the_others_stale() -> None:
    """And frees their places for the next spell."""
    subject = half_open(probes=2)
    first, second = enter(subject, 60.0), enter(subject, 60.0)

    subject.settle(first, "failure", 61.0)
    subject.settle(second, "success", 62.0)

    assert subject.state(62.0) == "open"
    assert not subject.probing
    assert subject.acquire(121.0) is not None
    assert subject.acquire(121.0) is not None


# Leases.


def test_without_a_lease_of_its_own_a_probe_may_take_as_long_as_the_open_time() -> None:
    """``probe_lease=None`` follows ``recovery_timeout``."""
    subject = half_open(probe_lease=None, recovery_timeout=60.0)

    enter(subject, 60.0)

    assert subject.lease_until == 120.0


def test_a_lease_doubles_up_to_four_times() -> None:
    """A provider that hangs for a day does not keep probes away for another."""
    subject = half_open()
    leases, now = [], 60.0

    for _ in range(8):
        enter(subject, now)
        leases.append(subject.lease_until - now)
        now = subject.lease_until

    assert leases == [10, 20, 40, 40, 40, 40, 40, 40]


def test_a_lease_that_a_caller_brings_doubles_too() -> None:
    """A replacement holds longer, whoever named the lease."""
    subject = half_open()
    enter(subject, 60.0)

    subject.acquire(70.0, lease=3.0)

    assert subject.lease_until == 76.0


def test_a_probe_that_was_given_back_lengthens_no_lease() -> None:
    """Only takeovers do."""
    subject = half_open()
    for _ in range(5):
        subject.release(enter(subject, 60.0))

    enter(subject, 60.0)

    assert subject.lease_until == 70.0


# How many failures open it again.


def test_several_failed_probes_may_be_asked_for() -> None:
    """Two leave it half-open, and the next may go at once; the third opens."""
    subject = half_open(failed_probes=3)

    probe(subject, 60.0, "failure")
    probe(subject, 60.0, "failure")
    assert subject.state(60.0) == "half_open"
    assert not subject.probing
    probe(subject, 60.0, "failure")

    assert subject.state(60.0) == "open"
    assert subject.until == 120.0


def test_good_and_failed_probes_need_not_come_in_a_row() -> None:
    """Whichever number is reached first decides."""
    closing = half_open(failed_probes=3, success_threshold=3)
    opening = half_open(failed_probes=3, success_threshold=3)

    for verdict in ("failure", "success", "failure", "success"):
        probe(closing, 60.0, verdict)
        probe(opening, 60.0, verdict)
    probe(closing, 60.0, "success")
    probe(opening, 60.0, "failure")

    assert closing.is_closed
    assert opening.state(60.0) == "open"


def test_each_spell_counts_its_own_failed_probes() -> None:
    """Two in this one and one in the next are not three."""
    subject = half_open(failed_probes=3)
    probe(subject, 60.0, "failure")
    probe(subject, 60.0, "failure")
    subject.trip(61.0, "told so")

    probe(subject, 121.0, "failure")
    probe(subject, 121.0, "failure")

    assert subject.state(121.0) == "half_open"


def test_the_open_time_grows_once_for_a_spell() -> None:
    """Not for each failed probe of it."""
    subject = circuit(first_recovery_timeout=2.0, failed_probes=3)
    fail(subject, 0.0, 2)

    for _ in range(3):
        probe(subject, 2.0, "failure")

    assert subject.until == 6.0


def test_an_exhausted_probe_opens_again_at_once() -> None:
    """However many failed ones are asked for; the open time grows."""
    subject = circuit(first_recovery_timeout=2.0, failed_probes=3)
    fail(subject, 0.0, 2)

    probe(subject, 2.0, "exhausted")

    assert subject.until == 6.0


def test_an_exhausted_probe_counts_as_a_refusal() -> None:
    """From then on a neutral probe is no recovery; a good one is."""
    subject = half_open(neutral_probes=1)
    probe(subject, 60.0, "exhausted")

    probe(subject, 120.0, "neutral")
    assert subject.state(120.0) == "open"
    probe(subject, 180.0, "success")

    assert subject.is_closed


def test_a_failed_probe_is_no_refusal() -> None:
    """After it neutral probes still close."""
    subject = half_open(neutral_probes=1)
    probe(subject, 60.0, "failure")

    probe(subject, 120.0, "neutral")

    assert subject.is_closed


def test_a_neutral_probe_of_a_refusal_is_one_failed_probe() -> None:
    """As many are needed as of any other kind."""
    subject = circuit(failed_probes=2, neutral_probes=1)
    subject.trip(0.0, "5 rows refused", by_refusal=True)

    probe(subject, 60.0, "neutral")
    assert subject.state(60.0) == "half_open"
    probe(subject, 60.0, "failure")

    assert subject.state(60.0) == "open"


def test_a_throttled_probe_opens_again_at_once() -> None:
    """It is asked to wait, however many failed ones it takes; the reason stays."""
    subject = half_open(failed_probes=3)

    probe(subject, 60.0, "throttled", retry_after=200.0)

    assert subject.state(60.0) == "open"
    assert (subject.until, subject.reason) == (260.0, "2 calls in a row failed")


def test_the_number_of_neutral_probes_may_be_chosen() -> None:
    """Good ones do not count among them."""
    subject = half_open(neutral_probes=2, success_threshold=2)

    probe(subject, 60.0, "neutral")
    probe(subject, 60.0, "success")
    assert subject.state(60.0) == "half_open"
    probe(subject, 60.0, "neutral")

    assert subject.is_closed


@pytest.mark.parametrize("verdict", ["failure", "exhausted"])
def test_opening_again_keeps_the_reason(verdict: SettleVerdict) -> None:
    """What was wrong in the first place."""
    subject = half_open()

    probe(subject, 60.0, verdict)

    assert subject.reason == "2 calls in a row failed"


# Slow probes.


def slowly(**options: object) -> Circuit:
    """Calls of over 10 s are slow."""
    return half_open(slow_call_rate=0.5, slow_call_duration=10.0, **options)


def test_a_slow_probe_is_a_failed_one() -> None:
    """Though it ended well; the open time grows."""
    subject = slowly(first_recovery_timeout=2.0)
    clock = Clock(60.0)

    last(subject, clock, 10.5)

    assert subject.state(clock.now) == "open"
    assert subject.until == clock.now + 4.0


def test_a_probe_that_is_just_in_time_closes() -> None:
    """Exactly as long as the bound is not slow."""
    subject = slowly()

    last(subject, Clock(60.0), 10.0)

    assert subject.is_closed


def test_without_a_slow_call_rate_a_slow_probe_closes() -> None:
    """Nothing is slow then."""
    subject = half_open(slow_call_duration=10.0)

    last(subject, Clock(60.0), 1000.0)

    assert subject.is_closed


def test_slow_probes_are_counted_as_failed_ones() -> None:
    """With ``failed_probes=2`` the second opens, and neither counts as good."""
    subject = slowly(failed_probes=2, success_threshold=2)
    clock = Clock(60.0)

    last(subject, clock, 11.0)
    last(subject, clock, 1.0)
    assert subject.state(clock.now) == "half_open"
    last(subject, clock, 11.0)

    assert subject.state(clock.now) == "open"


def test_a_slow_probe_is_no_refusal() -> None:
    """Neutral probes may still close."""
    subject = slowly(neutral_probes=1)
    clock = Clock(60.0)
    last(subject, clock, 11.0)

    probe(subject, subject.until, "neutral")

    assert subject.is_closed
