"""Scenarios: which phase holds when, and what is refused at birth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import UsageError
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario


def test_outage_is_fine_then_down_then_fine_for_ever() -> None:
    """A phase begins at its first instant, and after the last one everything is fine."""
    scenario = find_scenario("outage")

    seen = [scenario.at(elapsed).behavior for elapsed in (0, 2.999, 3, 14.999, 15, 1e9)]

    assert seen == ["fine", "fine", "down", "down", "fine", "fine"]


def test_repeating_scenario_starts_again() -> None:
    """Flapping goes on for ever, in turns of three seconds."""
    scenario = find_scenario("flapping")

    seen = [scenario.at(elapsed).behavior for elapsed in (0, 3, 6, 9, 6000, 6003.5)]

    assert seen == ["fine", "down", "fine", "down", "fine", "down"]


@given(
    st.floats(min_value=0, max_value=1e12), st.lists(st.floats(min_value=1e-3, max_value=1e4), min_size=1, max_size=5)
)
def test_every_instant_of_a_repeating_scenario_has_one_of_its_phases(elapsed: float, lengths: list[float]) -> None:
    """Rounding never lets an instant fall between the phases."""
    phases = tuple(Phase(length, "down") for length in lengths)
    scenario = Scenario("mine", phases, "mine", repeat=True)

    phase = scenario.at(elapsed)

    assert phase in phases


def test_speed_compresses_lengths_stalls_and_hints() -> None:
    """Ten times faster: phases, stalls and hints take a tenth, shares stay."""
    scenario = Scenario("mine", (Phase(30, "throttle", share=0.5, stall=20, retry_after=10),), "mine").compressed(10)

    assert scenario.phases == (Phase(3, "throttle", share=0.5, stall=2, retry_after=1),)
    assert scenario.at(3).behavior == "fine"


def test_only_behaviors_that_spare_nobody_count_as_down() -> None:
    """Shares of errors, throttling and slowness are not down."""
    down = {
        name for name in ("down", "refuse", "hang", "unauthorized", "bad_request", "quota") if Phase(1, name).is_down
    }
    partial = [Phase(1, name).is_down for name in ("fine", "slow", "throttle")]
    partial.append(Phase(1, "errors", share=0.99).is_down)

    assert len(down) == 6
    assert not any(partial)


def test_unknown_scenario_lists_those_there_are() -> None:
    """The hint of an unknown name holds every built-in scenario."""
    with pytest.raises(UsageError) as caught:
        find_scenario("apocalypse")

    assert "'apocalypse'" in caught.value.message
    assert all(name in caught.value.hint for name in built_in_scenarios())


def test_sim_prefix_is_accepted() -> None:
    """``sim/outage`` names the scenario ``outage``."""
    assert find_scenario("sim/outage") is built_in_scenarios()["outage"]


def test_the_promised_scenarios_are_built_in() -> None:
    """Each name that the documentation uses exists and describes itself."""
    names = {
        *("steady", "outage", "flash", "brownout", "partial", "flapping", "overload"),
        *("disguised", "refused", "quota", "bad-key", "knee", "limits", "no-flex", "structured"),
        *("s1-flash", "s2-brownout", "s3-down", "s4-partial", "s5-two-waves", "s6-three-waves", "s7-flapping"),
        *("s8-overload", "s9-capacity", "s10-disguised", "s11-isolated", "s12-herd", "s13-cuts", "s14-spent"),
        *("m1-scattered", "m2-block", "m3-half", "m4-mixed", "m5-throttled", "m6-slow", "m7-dead-model", "m8-all"),
        *("b1-plain", "b2-expiry", "b3-queue", "b4-lost", "b5-lines", "b6-down", "b7-refused", "b8-slow"),
    }
    scenarios = built_in_scenarios()

    assert names == set(scenarios)
    assert [name.partition("-")[0] for name in scenarios][-30:] == [
        *(f"s{number}" for number in range(1, 15)),
        *(f"m{number}" for number in range(1, 9)),
        *(f"b{number}" for number in range(1, 9)),
    ]
    assert all(scenario.description for scenario in scenarios.values())
    assert all(scenario.source for name, scenario in scenarios.items() if name[0] == "s" and name[1].isdigit())


def test_a_share_and_a_capacity_may_change_in_a_straight_line() -> None:
    """Half way, half done; after its end a phase is over."""
    phase = Phase(100, "errors", share=0.5, share_to=0.1, capacity=0.0, capacity_to=1.0)
    scenario = Scenario("x", (Phase(10), phase), "x")

    half = scenario.at(60)

    assert (half.share, half.capacity) == pytest.approx((0.3, 0.5))
    assert phase.is_down
    assert not half.is_down
    assert scenario.at(110) == Phase(math.inf, "fine")


def test_a_mix_deals_out_its_shares() -> None:
    """5 % hang, 3 % are cut, and the rest is answered."""
    phase = Phase(10, mix={"hang": 0.05, "cut": 0.03})

    drawn = Counter(phase.pick(number / 10_000) for number in range(10_000))

    assert drawn == {"hang": 500, "cut": 300, "fine": 9200}
    assert phase.good_share == pytest.approx(0.92)
    assert not phase.is_down
    assert Phase(1, mix={"refuse": 0.5, "down": 0.5}).is_down


def test_a_scenario_may_befall_some_models_only() -> None:
    """Its neighbours are fine."""
    scenario = find_scenario("s11-isolated")

    assert scenario.affects("flagship-2")
    assert not scenario.affects("mini")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Phase(0),
        lambda: Phase(math.nan),
        lambda: Phase(1, "sulk"),  # type: ignore[arg-type]
        lambda: Phase(1, "errors", share=1.5),
        lambda: Phase(1, "slow", stall=-1),
        lambda: Phase(1, "throttle", retry_after=0),
        lambda: Phase(1, "down", statuses=(200,)),
        lambda: Phase(1, mix={"down": 0.7, "hang": 0.4}),
        lambda: Phase(1, mix={"sulk": 0.7}),  # type: ignore[dict-item]
        lambda: Phase(1, mix={"hang": -0.1}),
        lambda: Phase(1, "errors", share_to=2.0),
        lambda: Phase(1, capacity=-1.0),
        lambda: Phase(1, capacity_to=1.0),
        lambda: Phase(1, collapses=True),
        lambda: Phase(math.inf, "errors", share_to=0.0),
        lambda: Scenario("x", (), "x", repeat=True),
        lambda: Scenario("x", (Phase(math.inf),), "x", repeat=True),
        lambda: built_in_scenarios()["outage"].compressed(0),
        lambda: built_in_scenarios()["outage"].compressed(math.inf),
    ],
)
def test_values_out_of_range_are_refused_at_birth(make: Callable[..., Any]) -> None:
    """Phases, scenarios and speeds that make no sense raise at once."""
    with pytest.raises(UsageError):
        make()
