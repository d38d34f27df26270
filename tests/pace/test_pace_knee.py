"""The limit finds the knee of a server by itself, stays there, and follows it."""

from __future__ import annotations

import math
from random import Random

import pytest
from closed_loop import KINDS, Kind, drive, lognormal
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.pace.limit import AdaptiveLimit


def auto(ceiling: int = 1000) -> AdaptiveLimit:
    """A limit that searches."""
    return AdaptiveLimit(ceiling, is_auto=True)


@pytest.mark.parametrize("knee", [8, 64, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_knee_within_twenty_round_trips_and_stays(kind: Kind, knee: int) -> None:
    """Within 5 % of the best throughput, and at most 1.3 times the knee in flight."""
    trace = drive(auto(), 100, kind=kind, knees=[(0.0, knee)])

    assert trace.rate(20, 100) >= 0.95 * knee
    assert trace.most(20, 100) <= 1.3 * knee + 1


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("knee", [8, 64, pytest.param(512, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
def test_latencies_that_vary_do_not_mislead_it(kind: Kind, knee: int) -> None:
    """Lognormal with sigma 0.5, as answers of different lengths take."""
    traces = [drive(auto(), 300, kind=kind, knees=[(0.0, knee)], work=lognormal(0.5), seed=seed) for seed in range(3)]

    assert sum(trace.rate(60, 300) for trace in traces) / 3 >= 0.88 * knee
    assert all(trace.rate(60, 300) >= 0.8 * knee for trace in traces)
    assert all(trace.mean(60, 300) <= 1.6 * knee + 2 for trace in traces)


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("knee", [8, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_latencies_that_vary_wildly_neither_shrink_it_nor_let_it_run_away(kind: Kind, knee: int) -> None:
    """Lognormal with sigma 1: a tenth of the rows take more than 2.2 times the mean."""
    traces = [drive(auto(), 400, kind=kind, knees=[(0.0, knee)], work=lognormal(1.0), seed=seed) for seed in range(3)]

    assert sum(trace.rate(60, 400) for trace in traces) / 3 >= 0.75 * knee
    assert sum(trace.mean(60, 400) for trace in traces) / 3 <= 2.2 * knee


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("sigma", [0.0, pytest.param(0.5, marks=pytest.mark.long), 1.0])
def test_without_a_knee_it_doubles_to_the_ceiling(sigma: float) -> None:
    """A hosted API whose latency does not depend on the load; afterwards it is tried only rarely with less."""
    limit = auto()

    trace = drive(limit, 200, work=lognormal(sigma))

    assert trace.most(0, 30) == 1000
    assert trace.rate(40, 200) >= 0.97 * 1000
    assert limit.reason in ("ceiling", "latency")


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("high", "low"), [(512, 64), (64, 8)])
def test_it_follows_a_knee_that_moves(kind: Kind, high: int, low: int) -> None:
    """Down to an eighth, and up again. What is in flight when it falls takes eight round trips to be answered."""
    trace = drive(auto(), 300, kind=kind, knees=[(0.0, high), (100.0, low), (200.0, high)])

    assert trace.rate(60, 100) >= 0.95 * high
    assert trace.rate(165, 200) >= 0.9 * low
    assert trace.mean(170, 200) <= 1.3 * low
    assert trace.rate(245, 300) >= 0.93 * high
    assert trace.mean(260, 300) <= 1.3 * high


def test_a_knee_of_one_request_is_found() -> None:
    """A server that does one thing at a time: its answers take as long as there are requests in flight."""
    trace = drive(auto(), 300, knees=[(0.0, 1)])

    assert trace.rate(150, 300) >= 0.95
    assert trace.mean(150, 300) <= 1.6


@pytest.mark.parametrize("ceiling", [1, 2, 4, 8, 9, 40])
def test_a_low_ceiling_is_reached_and_kept(ceiling: int) -> None:
    """Also one below the eight that it starts with."""
    limit = auto(ceiling)
    assert limit.value == min(8, ceiling)

    trace = drive(limit, 60)

    assert trace.most(0, 60) == ceiling
    assert trace.rate(20, 60) >= 0.96 * ceiling


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
def test_cache_hits_between_slow_answers_are_no_knee() -> None:
    """Half of the rows take 10 ms, the others 3 s: the first hundred answers are hits."""

    def work(rng: Random, _now: float) -> float:
        return 0.01 if rng.random() < 0.5 else 3.0

    free = [drive(auto(), 250, work=work, seed=seed).rate(150, 250) * 1.505 for seed in range(3)]
    bound = [drive(auto(), 400, knees=[(0.0, 64)], work=work, seed=seed).rate(150, 400) * 1.505 for seed in range(3)]

    assert sorted(free)[1] >= 700
    assert min(bound) >= 0.75 * 64


def test_a_few_rows_that_take_a_hundred_times_as_long_are_no_knee() -> None:
    """One in a thousand takes 100 s."""

    def work(rng: Random, _now: float) -> float:
        return 100.0 if rng.random() < 0.001 else 1.0

    trace = drive(auto(), 200, knees=[(0.0, 64)], work=work)

    assert trace.rate(40, 200) >= 0.9 * 64 / 1.099


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
def test_rows_that_get_longer_over_hours_are_no_knee() -> None:
    """Latency quadruples over 3,000 round trips, with spread: the limit stays at the knee."""
    trace = drive(
        auto(), 3000, kind="queue", knees=[(0.0, 64)], work=lambda rng, now: (1 + now / 1000) * lognormal(0.5)(rng, now)
    )

    assert trace.rate(2500, 3000) >= 0.9 * 64 / 3.75
    assert trace.mean(2500, 3000) <= 1.25 * 64


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("limit", [auto(), AdaptiveLimit(200)])
def test_rows_that_suddenly_get_longer_are_no_knee_either(limit: AdaptiveLimit) -> None:
    """A tenth of the input is short, the next tenth five times as long, and so on: less load is tried, in vain."""
    trace = drive(limit, 500, work=lambda rng, now: (1 if int(now / 50) % 2 == 0 else 5) * lognormal(0.5)(rng, now))

    assert trace.mean(50, 500) >= 0.9 * limit.ceiling


@pytest.mark.slow  # hundreds of thousands of answers in virtual time
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.0, *(pytest.param(sigma, marks=pytest.mark.long) for sigma in (0.5, 1.0))])
def test_a_chosen_number_is_never_lowered_by_chance(kind: Kind, sigma: float) -> None:
    """Not once in 500 round trips of a provider without a knee, however latencies vary."""
    for ceiling in (1, 5, 40, 200):
        limit = AdaptiveLimit(ceiling)

        trace = drive(limit, 500, kind=kind, work=lognormal(sigma), seed=ceiling)

        assert trace.mean(1, 500) >= 0.999 * ceiling


@pytest.mark.parametrize("kind", KINDS)
def test_a_chosen_number_gives_way_to_a_knee_that_shows(kind: Kind) -> None:
    """A server loses four fifths of its replicas and gets them back: fewer wait in its queue meanwhile."""
    trace = drive(AdaptiveLimit(40), 400, kind=kind, knees=[(0.0, 100), (50.0, 8), (250.0, 100)])

    assert trace.mean(1, 50) >= 39.9
    assert trace.rate(150, 250) >= 0.9 * 8
    assert trace.mean(150, 250) <= 1.4 * 8
    assert trace.rate(330, 400) >= 0.95 * 40


@pytest.mark.slow  # many calls in virtual time
def test_a_chosen_number_is_not_lowered_where_this_process_may_be_the_bottleneck() -> None:
    """With answers within a millisecond latency tells about our own loop: it rises twofold, and nothing is tried."""
    limit = AdaptiveLimit(40)

    trace = drive(limit, 3, work=lambda _rng, now: 0.001 if now < 1 else 0.01)

    assert set(trace.in_flight[1:]) == {40}


def test_calls_that_time_out_count_as_overload() -> None:
    """The knee falls so far that hardly anything is answered in time: the limit gives way."""
    trace = drive(auto(), 200, kind="queue", knees=[(0.0, 100), (60.0, 20)], timeout=3.0)

    assert trace.rate(120, 200) >= 0.8 * 20
    assert trace.mean(120, 200) <= 3.0 * 20


def test_a_rate_bound_elsewhere_does_not_let_it_grow() -> None:
    """With ``--rpm`` few are in flight, whatever the limit: that tells nothing about more of them."""
    limit = auto()

    drive(limit, 200, supply=lambda now, sent: sent < 5 * now + 3)

    assert limit.value <= 32


@pytest.mark.slow  # many calls in virtual time
def test_a_refusal_ends_the_climb_and_slower_growth_goes_on() -> None:
    """429 for a burst above 100 in a round trip; refusals are few, and most of the rate is used."""
    tokens, at = 100.0, 0.0

    def allows(now: float) -> bool:
        nonlocal tokens, at
        tokens, at = min(100.0, tokens + (now - at) * 100.0), now
        if tokens < 1.0:
            return False
        tokens -= 1.0
        return True

    trace = drive(auto(), 400, allows=allows)

    assert trace.rate(60, 400) >= 0.9 * 100
    assert trace.refused[400] - trace.refused[60] <= 0.06 * (trace.done[400] - trace.done[60])


def test_an_outage_keeps_what_was_learned() -> None:
    """After a wait it ramps up to the knee, not to the ceiling."""
    limit = auto()
    drive(limit, 100, knees=[(0.0, 64)])

    limit.restart(newest=10**6, forget=False)

    assert limit.value == 2
    assert limit.reason == "ramp"
    for serial in range(200):
        limit.on_success(serial)
    assert 55 <= limit.value <= 80


def test_an_outage_of_timeouts_makes_it_search_again() -> None:
    """What was in flight then was too much."""
    limit = auto()
    drive(limit, 100, knees=[(0.0, 64)])

    limit.restart(newest=10**6)

    for serial in range(200):
        limit.on_success(serial)
    assert limit.value == 8


def test_it_says_what_sets_it() -> None:
    """A word for displays."""
    limit = auto()
    reasons: list[str] = [limit.reason]
    drive(limit, 60, knees=[(0.0, 64)])
    reasons.append(limit.reason)
    limit.on_pushback(10**6, 10**6)
    reasons.append(limit.reason)
    limit.resume(in_flight=0)
    reasons.append(limit.reason)

    assert reasons == ["start", "latency", "refusals", "ramp"]
    assert AdaptiveLimit(40).reason == "ceiling"


steps = st.lists(
    st.tuples(
        st.sampled_from(["success"] * 8 + ["timeout", "pushback", "overload", "resume", "restart", "forget"]),
        st.floats(1e-9, 1e5),
        st.integers(1, 60),
    ),
    max_size=60,
)


@pytest.mark.slow  # many calls in virtual time
@given(ceiling=st.integers(1, 1500), is_auto=st.booleans(), story=steps)
@settings(max_examples=200)
def test_the_limit_stays_between_one_and_the_ceiling(
    ceiling: int, is_auto: bool, story: list[tuple[str, float, int]]
) -> None:
    """Whatever happens in whatever order, and however long calls take."""
    limit, serial, now = AdaptiveLimit(ceiling, is_auto=is_auto), 0, 0.0

    for step, seconds, times in story:
        for _ in range(times):
            serial, now = serial + 1, now + seconds / limit.value
            match step:
                case "success":
                    limit.on_success(serial, newest=serial, seconds=seconds, load=limit.value, now=now)
                case "timeout":
                    limit.on_timeout(serial, serial)
                case "pushback":
                    limit.on_pushback(serial, serial)
                case "overload":
                    limit.on_overload(serial, serial)
                case "resume":
                    limit.resume(limit.value // 2)
                case "restart":
                    limit.restart(newest=serial, forget=False)
                case "forget":
                    limit.restart(newest=serial)
            assert 1 <= limit.value <= limit.ceiling == ceiling
            assert limit.reason in ("start", "latency", "refusals", "ramp", "ceiling")


def test_no_bound_of_the_latency_makes_a_comparison_impossible() -> None:
    """Latencies of zero and of hours."""
    limit = auto()

    for serial in range(1, 20_000):
        seconds = (0.0, 1e-300, 3600.0, math.pi)[serial % 4]
        limit.on_success(serial, newest=serial, seconds=seconds, load=limit.value, now=serial * 1e-3)

    assert 1 <= limit.value <= 1000
