"""The limit of requests in flight: ramp, growth, and giving way."""

from __future__ import annotations

from itertools import count, pairwise
from random import Random

import pytest
from closed_loop import drive, lognormal
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.pace.limit import AdaptiveLimit

calls = count(1)


def round_trips(limit: AdaptiveLimit, count: int) -> list[int]:
    """The limit at each of *count* round trips in which every request that may go goes, and succeeds."""
    values = []
    for _ in range(count):
        values.append(limit.value)
        for serial in [next(calls) for _ in range(limit.value)]:
            limit.on_success(serial)
    return values


def test_it_starts_at_the_ceiling() -> None:
    """No slow start before anything went wrong; successes add nothing."""
    limit = AdaptiveLimit(40)

    assert round_trips(limit, 3) == [40, 40, 40]


def test_a_ramp_starts_at_two_and_doubles_every_round_trip() -> None:
    """Up to the ceiling."""
    limit = AdaptiveLimit(40)

    limit.restart()

    assert round_trips(limit, 7) == [2, 4, 8, 16, 32, 40, 40]


@pytest.mark.parametrize("ceiling", [1, 2])
def test_a_ramp_never_starts_above_the_ceiling(ceiling: int) -> None:
    """A concurrency of one stays one."""
    limit = AdaptiveLimit(ceiling)

    limit.restart()

    assert round_trips(limit, 3) == [ceiling] * 3


def test_pushback_halves_once_a_burst() -> None:
    """Forty calls in flight that are all told to slow down halve the limit once; a call sent afterwards halves anew."""
    limit = AdaptiveLimit(40)

    for serial in range(1, 41):
        limit.on_pushback(serial, newest=40)
    assert limit.value == 20
    limit.on_pushback(41, newest=60)
    assert limit.value == 10
    limit.on_pushback(60, newest=60)

    assert limit.value == 10


def burst(limit: AdaptiveLimit, size: int) -> None:
    """So many calls in flight are all told to slow down."""
    serials = [next(calls) for _ in range(size)]
    for serial in serials:
        limit.on_pushback(serial, newest=serials[-1])


def test_one_request_to_slow_down_costs_a_tenth() -> None:
    """Among many that were answered well."""
    limit = AdaptiveLimit(100)
    round_trips(limit, 3)

    limit.on_pushback(1, newest=1)

    assert limit.value == 90


def test_after_pushback_it_grows_by_one_a_round_trip_and_then_faster() -> None:
    """Additive at first, above the tenth that it gave way by for safety; what stays quiet is soon trusted again."""
    limit = AdaptiveLimit(400)

    burst(limit, 400)
    burst(limit, 200)

    grown = round_trips(limit, 22)
    steps = [later - earlier for earlier, later in pairwise(grown)]
    assert grown[0] == 100
    assert 110 <= grown[5] <= 112
    assert all(step <= 1 for step in steps[5:9])
    assert grown[-1] > 300


def test_the_tenth_it_gave_way_by_is_regained_in_a_few_round_trips() -> None:
    """Half of the distance to what was carried in each, so that a limit is near that most of the time."""
    limit = AdaptiveLimit(100)
    round_trips(limit, 3)

    burst(limit, 1)

    grown = round_trips(limit, 5)
    assert grown[0] == 90
    assert 93 <= grown[1] <= 95
    assert grown[4] >= 98


def test_a_wait_with_calls_in_flight_does_not_drain_them() -> None:
    """Two more than are in flight, and fast only up to the limit that the wait began with."""
    limit = AdaptiveLimit(40)
    limit.on_pushback(1, newest=40)
    assert limit.value == 36

    limit.resume(in_flight=30)

    grown = round_trips(limit, 4)
    assert (grown[0], grown[1]) == (32, 37)
    assert grown[2] < 40


def test_waits_with_no_answer_between_do_not_lower_the_ramp() -> None:
    """Each is told once, but the later ones say nothing about what is carried."""
    limit = AdaptiveLimit(40)
    for serial in range(1, 8):
        limit.on_pushback(serial, newest=serial)
        limit.resume(in_flight=0)

    assert round_trips(limit, 6) == [2, 4, 8, 16, 32, 37]


def test_a_refusal_ends_the_fast_growth() -> None:
    """It starts over with one a round trip."""
    limit = AdaptiveLimit(400)
    burst(limit, 400)
    burst(limit, 200)
    round_trips(limit, 8)

    burst(limit, 1)

    grown = round_trips(limit, 4)
    assert grown[-1] <= grown[0] / 0.9 + 1


def test_pushback_during_a_ramp_ends_the_doubling() -> None:
    """It gives way from where the ramp is, and goes on slowly."""
    limit = AdaptiveLimit(100)
    limit.restart()
    round_trips(limit, 4)
    assert limit.value == 32

    burst(limit, 1)

    grown = round_trips(limit, 4)
    assert grown[0] == 28
    assert grown[-1] <= 31


def test_a_restart_ramps_again_to_the_ceiling() -> None:
    """What was learnt before the outage does not bound the ramp after it."""
    limit = AdaptiveLimit(40)
    limit.on_pushback(1, newest=1)
    limit.on_pushback(2, newest=2)

    limit.restart()

    assert round_trips(limit, 6) == [2, 4, 8, 16, 32, 40]


def test_it_never_gives_way_below_one() -> None:
    """However often it is told to slow down, one request may be out."""
    limit = AdaptiveLimit(40)

    for serial in range(1, 100):
        limit.on_pushback(serial, newest=serial)
    assert limit.value == 1

    assert round_trips(limit, 4)[-1] > 1


steps = st.lists(
    st.sampled_from(["success", "restart", "resume", "pushback"]),
    max_size=200,
)


@given(ceiling=st.integers(1, 100), story=steps)
def test_it_stays_between_one_and_the_ceiling(ceiling: int, story: list[str]) -> None:
    """Whatever happens in whatever order; only a success raises it, and by one at most."""
    limit = AdaptiveLimit(ceiling)

    for serial, step in enumerate(story, start=1):
        before = limit.value
        match step:
            case "success":
                limit.on_success(serial)
                assert before <= limit.value <= before + 1
            case "pushback":
                limit.on_pushback(serial, newest=serial)
                assert before // 2 <= limit.value <= before
            case "resume":
                limit.resume(in_flight=before // 2)
                assert limit.value <= max(2, before)
            case "restart":
                limit.restart()
                assert limit.value <= 2
        assert 1 <= limit.value <= limit.ceiling <= ceiling


def rounds(
    limit: AdaptiveLimit, number: int, *, chance: float = 0.0, carried: int = 10_000, seed: int = 1
) -> list[int]:
    """The limit at each of *number* round trips; so many are carried, and of those some refused by chance."""
    rng, values = Random(seed), []
    for _ in range(number):
        values.append(limit.value)
        serials = [next(calls) for _ in range(limit.value)]
        for place, serial in enumerate(serials):
            if place >= carried or rng.random() < chance:
                limit.on_overload(serial, serials[-1])
            else:
                limit.on_success(serial)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_overloads_that_the_load_does_not_cause_do_not_keep_the_limit_low(seed: int) -> None:
    """One in twenty refused whatever the load: halving for each would leave five of forty places."""
    values = rounds(AdaptiveLimit(40), 400, chance=0.05, seed=seed)

    late = values[200:]
    assert min(values) < 36, "at first it gives way"
    assert sum(late) / len(late) > 25


@pytest.mark.parametrize("carried", [4, 12, 30])
def test_the_limit_settles_where_the_provider_carries_it(carried: int) -> None:
    """Overload by the run's own load is never taken for usual."""
    limit = AdaptiveLimit(40)

    values = rounds(limit, 400, carried=carried)

    late = values[100:]
    assert max(late) <= carried + 4
    assert sum(late) / len(late) <= 1.6 * carried
    assert sum(late) / len(late) > 0.6 * carried


def test_what_was_usual_is_forgotten_when_it_stops() -> None:
    """A provider that recovers and then runs short is given way to at once again."""
    limit = AdaptiveLimit(40)
    assert rounds(limit, 300, chance=0.05)[-1] > 25

    rounds(limit, 200)
    late = rounds(limit, 200, carried=12)[50:]

    assert max(late) <= 18


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_share_that_is_refused_whatever_the_load_leaves_the_limit_high(share: float) -> None:
    """Less load is tried, brings fewer good answers in proportion, and is given up again for longer and longer."""
    for seed in range(3):
        values = rounds(AdaptiveLimit(40), 300, chance=share, seed=seed)

        assert sum(values[50:]) / len(values[50:]) > 0.85 * 40


def test_a_provider_that_breaks_down_under_load_gets_less() -> None:
    """Of 40 in flight it answers one in 25, of 8 all of them: goodput grows as the limit gives way."""
    limit, rng, values = AdaptiveLimit(40), Random(1), []
    for _ in range(300):
        values.append(limit.value)
        good = min(1.0, (8 / limit.value) ** 2)
        serials = [next(calls) for _ in range(limit.value)]
        for serial in serials:
            if rng.random() < good:
                limit.on_success(serial)
            else:
                limit.on_overload(serial, serials[-1])

    late = values[50:]
    assert sum(late) / len(late) <= 10
    assert sum(value * min(1.0, (8 / value) ** 2) for value in late) / len(late) > 0.8 * 8


def test_the_limit_shows_what_it_tries() -> None:
    """Its repr tells the limit, the ceiling, and a trial that goes on."""
    limit = AdaptiveLimit(40)

    for serial in range(1, 41):
        limit.on_overload(serial, 40)

    assert repr(limit) == "<AdaptiveLimit 20 of 40, tried from 40>"


def test_no_answer_brings_more_than_one_request_more() -> None:
    """After a wait a refusal took the limit down to one: the next good answer alone brought twelve."""
    limit = AdaptiveLimit(40)
    for serial in range(1, 41):
        limit.on_success(serial)
    limit.on_pushback(41, 41)
    limit.resume(0)
    limit.on_overload(42, 42)
    assert limit.value == 1

    values = [limit.value]
    for serial in range(43, 60):
        limit.on_success(serial)
        values.append(limit.value)

    assert all(after <= before + 1 for before, after in pairwise(values))
    assert values[-1] > 5


def test_a_ramp_after_a_wait_begins_with_one_where_two_were_too_many() -> None:
    """A server that takes one at a time refused each row beside the first call after every wait, for ever."""
    limit = AdaptiveLimit(8)
    for serial in range(1, 20):
        limit.on_pushback(serial, serial)
    assert limit.value == 1

    limit.resume(0)
    assert limit.value == 1, "as many as before the wait"

    limit.on_success(100)
    assert limit.value == 2, "and more as soon as one succeeds"


@pytest.mark.parametrize(
    ("ceiling", "knee", "timeout", "least"), [(40, 4, 5.0, 0.65), (40, 8, 4.0, 0.85), (200, 20, 5.0, 0.65)]
)
def test_a_chosen_limit_is_lowered_where_most_calls_wait_in_line_until_they_time_out(
    ceiling: int, knee: int, timeout: float, least: float
) -> None:
    """A small server that works on few requests at once, also on those that nobody waits for any more."""
    limit = AdaptiveLimit(ceiling)

    trace = drive(limit, 200, kind="queue", knees=[(0.0, knee)], work=lognormal(0.3), timeout=timeout)

    assert trace.rate(50, 200) / knee > least
    assert limit.value < ceiling


def test_a_chosen_limit_stays_where_some_rows_time_out() -> None:
    """A third of the rows takes too long: not the load is the reason."""
    limit = AdaptiveLimit(40)

    for serial in range(1, 3000):
        if serial % 3:
            limit.on_success(serial, newest=serial)
        else:
            limit.on_timeout(serial, serial)
        assert limit.value == 40
