"""What must hold in every outage of the catalogue, with the policy that nobody has tuned."""

from __future__ import annotations

import math
from functools import cache

import pytest

from llmbatch.drill.oracle import Demand
from llmbatch.drill.score import Score
from llmbatch.drill.trial import plan_job, run_trial
from llmbatch.runner.options import RunOptions
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario

pytestmark = pytest.mark.slow  # each plays hours of calls

INCIDENTS = [name for name, scenario in built_in_scenarios().items() if scenario.source]
HARD = [
    "s1-flash",
    "s3-down",
    "s5-two-waves",
    "s6-three-waves",
    "s7-flapping",
    "s10-disguised",
    "s11-isolated",
    "s12-herd",
]
LATENCY = {"s4-partial": 20.0, "s6-three-waves": 12.0, "s13-cuts": 16.0}
"""Where the job would be long: a slower provider, so that there are fewer calls."""


@cache
def score(name: str) -> Score:
    options = RunOptions(seed=7)
    return run_trial(options, plan_job(find_scenario(name), options, latency=LATENCY.get(name), seed=7))


@pytest.mark.parametrize("name", INCIDENTS)
def test_no_outage_costs_a_row_or_more_calls_than_may_be(name: str) -> None:
    """Nothing is lost or fails, and a provider that is down meets what was in flight, the threshold and probes."""
    told = score(name)

    assert told.failed == 0
    assert told.calls_down <= told.allowed_down
    if name == "s14-spent":
        assert told.exit_code == 3
    else:
        assert (told.exit_code, told.waiting) == (0, 0)


@pytest.mark.parametrize("name", HARD)
def test_a_hard_outage_takes_little_longer_than_it_must(name: str) -> None:
    """At most 1.10 times what an oracle takes who knows it beforehand."""
    assert score(name).slowdown <= 1.10


@pytest.mark.parametrize("name", INCIDENTS)
def test_after_an_outage_a_run_is_back_within_a_probe_and_a_ramp(name: str) -> None:
    """The longest wait between probes, jitter included, the probe, and a round trip for each doubling of the ramp."""
    options = RunOptions()
    told = score(name)
    job = plan_job(find_scenario(name), options, latency=LATENCY.get(name))
    slow = 2.5 * Demand(options.concurrency, job.latency, options.timeout).latency
    hung = options.timeout if name == "s13-cuts" else 0.0
    allowed = options.recovery_timeout + slow * (2 + math.log2(options.concurrency)) + hung

    for recovery in told.recoveries:
        if recovery.goodput is not None:
            assert recovery.goodput <= allowed, recovery


def test_background_errors_open_no_circuit() -> None:
    """5 % of errors for hours, and the hangs, cuts and pages of the field."""
    first = find_scenario("s4-partial")
    five = Scenario("five", first.phases[:2], "5 % errors for 2.4 h")
    options = RunOptions(seed=7)

    background = run_trial(options, plan_job(five, options, seed=7))

    assert background.openings == 0
    assert background.failed == 0
    assert background.slowdown < 1.2
    assert score("s13-cuts").openings == 0


def test_a_herd_is_not_joined() -> None:
    """While a fifth is carried, and less the more is offered, not much more than that is offered."""
    told = score("s12-herd")

    assert 0.5 < told.load < 1.2


def test_the_same_seed_gives_the_same_trial() -> None:
    """Virtual time and seeded draws: nothing of this machine gets in."""
    options = RunOptions(seed=3)
    job = plan_job(find_scenario("s1-flash"), options, seed=3)

    first, second = run_trial(options, job), run_trial(options, job)

    assert (first.seconds, first.calls, first.strip) == (second.seconds, second.calls, second.strip)
