"""Scenarios: which phase holds when, and what is refused at birth."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.errors import UsageError
from llmbatch.sim.scenario import SCENARIOS, Phase, Scenario, find_scenario


def test_outage_is_fine_then_down_then_fine_for_ever():
    """A phase begins at its first instant, and after the last one everything is fine."""
    scenario = find_scenario("outage")

    seen = [scenario.at(elapsed).behaviour for elapsed in (0, 2.999, 3, 14.999, 15, 1e9)]

    assert seen == ["fine", "fine", "down", "down", "fine", "fine"]


def test_repeating_scenario_starts_again():
    """Flapping goes on for ever, in turns of three seconds."""
    scenario = find_scenario("flapping")

    seen = [scenario.at(elapsed).behaviour for elapsed in (0, 3, 6, 9, 6000, 6003.5)]

    assert seen == ["fine", "down", "fine", "down", "fine", "down"]


@given(
    st.floats(min_value=0, max_value=1e12), st.lists(st.floats(min_value=1e-3, max_value=1e4), min_size=1, max_size=5)
)
def test_every_instant_of_a_repeating_scenario_has_one_of_its_phases(elapsed, lengths):
    """Rounding never lets an instant fall between the phases."""
    phases = tuple(Phase(length, "down") for length in lengths)
    scenario = Scenario("mine", phases, "mine", repeat=True)

    phase = scenario.at(elapsed)

    assert phase in phases


def test_speed_compresses_lengths_stalls_and_hints():
    """Ten times faster: phases, stalls and hints take a tenth, shares stay."""
    scenario = Scenario("mine", (Phase(30, "throttle", share=0.5, stall=20, retry_after=10),), "mine").compressed(10)

    assert scenario.phases == (Phase(3, "throttle", share=0.5, stall=2, retry_after=1),)
    assert scenario.at(3).behaviour == "fine"


def test_only_behaviours_that_spare_nobody_count_as_down():
    """Shares of errors, throttling and slowness are not down."""
    down = {
        name for name in ("down", "refuse", "hang", "unauthorized", "bad_request", "quota") if Phase(1, name).is_down
    }
    partial = [Phase(1, name).is_down for name in ("fine", "slow", "throttle", "errors")]

    assert len(down) == 6
    assert not any(partial)


def test_unknown_scenario_lists_those_there_are():
    """The hint of an unknown name holds every built-in scenario."""
    with pytest.raises(UsageError) as caught:
        find_scenario("apocalypse")

    assert "'apocalypse'" in caught.value.message
    assert all(name in caught.value.hint for name in SCENARIOS)


def test_sim_prefix_is_accepted():
    """``sim/outage`` names the scenario ``outage``."""
    assert find_scenario("sim/outage") is SCENARIOS["outage"]


def test_the_promised_scenarios_are_built_in():
    """Each name that the documentation uses exists and describes itself."""
    names = {
        *("steady", "outage", "flash", "brownout", "partial", "flapping", "overload"),
        *("disguised", "refused", "quota", "bad-key"),
    }

    assert names == set(SCENARIOS)
    assert all(scenario.description for scenario in SCENARIOS.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Phase(0),
        lambda: Phase(math.nan),
        lambda: Phase(1, "sulk"),
        lambda: Phase(1, "errors", share=1.5),
        lambda: Phase(1, "slow", stall=-1),
        lambda: Phase(1, "throttle", retry_after=0),
        lambda: Phase(1, "down", statuses=(200,)),
        lambda: Scenario("x", (), "x", repeat=True),
        lambda: Scenario("x", (Phase(math.inf),), "x", repeat=True),
        lambda: SCENARIOS["outage"].compressed(0),
        lambda: SCENARIOS["outage"].compressed(math.inf),
    ],
)
def test_values_out_of_range_are_refused_at_birth(make):
    """Phases, scenarios and speeds that make no sense raise at once."""
    with pytest.raises(UsageError):
        make()
