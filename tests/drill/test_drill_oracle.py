"""The oracle: rates, rows and times by hand."""

from __future__ import annotations

import math

import pytest

from llmbatch.drill.oracle import Workload, oracle_seconds, rows_within, share_of_goodput
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.scenario_file import find_scenario

WORKLOAD = Workload(concurrency=40, latency=2.0, timeout=120.0)
CALM = Scenario("calm", (), "calm")


def scenario(*phases: Phase, **more: object) -> Scenario:
    return Scenario("x", phases, "x", **more)  # type: ignore[arg-type]


def test_forty_places_of_two_seconds_are_twenty_a_second() -> None:
    """Little's law; a rate that the user set bounds it."""
    assert WORKLOAD.full == 20.0
    assert Workload(40, 2.0, 120.0, rpm=300.0).full == 5.0
    assert oracle_seconds(WORKLOAD, CALM, 2000) == pytest.approx(102.0)


@pytest.mark.parametrize(
    ("phase", "rate"),
    [
        (Phase(1), 20.0),
        (Phase(1, "down"), 0.0),
        (Phase(1, "slow", stall=2.0), 10.0),
        (Phase(1, "slow", stall=200.0), 0.0),
        (Phase(1, capacity=0.25), 5.0),
        (Phase(1, capacity=3.0), 20.0),
        # Half of the calls take a fifth of the time and bring nothing: 40 / 1.2 calls a second, half of them good.
        (Phase(1, "errors", share=0.5), 40 / 1.2 / 2),
        (Phase(1, mix={"hang": 0.1}), 40 / (0.9 * 2 + 0.1 * 120) * 0.9),
        (Phase(1, mix={"cut": 0.1}), 18.0),
    ],
)
def test_what_a_phase_allows(phase: Phase, rate: float) -> None:
    """Good answers a second."""
    assert WORKLOAD.goodput(phase) == pytest.approx(rate)


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.traced
def test_an_outage_costs_the_oracle_its_length() -> None:
    """10 s fine, 100 s down: 200 rows before, the rest after."""
    outage = scenario(Phase(10), Phase(100, "down"))

    assert oracle_seconds(WORKLOAD, outage, 100) == pytest.approx(7.0, abs=0.1)
    assert oracle_seconds(WORKLOAD, outage, 400) == pytest.approx(122.0, abs=0.1)
    assert rows_within(WORKLOAD, outage, 120.0) == pytest.approx(400, abs=2)


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.traced
def test_a_repeating_outage_is_waited_through_every_time() -> None:
    """Turns of 10 s."""
    turns = scenario(Phase(10), Phase(10, "down"), repeat=True)

    assert oracle_seconds(WORKLOAD, turns, 500) == pytest.approx(47.0, abs=0.2)


def test_what_never_recovers_never_ends() -> None:
    """A spent account."""
    assert oracle_seconds(WORKLOAD, find_scenario("s14-spent"), 100_000) == math.inf


def test_spared_models_fill_the_outage_of_another() -> None:
    """Half of the rows are done while the other half's model is down."""
    outage = scenario(Phase(100, "down"), models=("a",))

    assert oracle_seconds(WORKLOAD, outage, 2000, unaffected=1000) == pytest.approx(152.0, abs=0.2)
    assert share_of_goodput(WORKLOAD, outage, 50.0) == 0.0
    assert share_of_goodput(WORKLOAD, outage, 150.0) == 1.0
