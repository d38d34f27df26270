"""How much of the load a provider short of capacity carries."""

from __future__ import annotations

import pytest

from llmbatch.sim.capacity import CapacityLimiter
from llmbatch.sim.scenario import Phase


def admitted(phase: Phase, *, offered: float, rate: float = 100.0, seconds: float = 60.0) -> float:
    """Requests a second that are carried of *offered* ones, once that has settled."""
    limiter = CapacityLimiter(rate)
    count = round(offered * seconds)
    good = [limiter.admits(phase, number / offered) for number in range(count)]
    late = good[count // 2 :]
    return sum(late) / len(late) * offered


def test_up_to_its_capacity_everything_is_carried() -> None:
    """20 % of 100 requests a second are 20, offered evenly."""
    phase = Phase(60, capacity=0.2, collapses=True)

    assert admitted(phase, offered=10) == 10
    assert admitted(phase, offered=19) == 19


def test_above_its_capacity_no_more_is_carried() -> None:
    """However much is offered."""
    phase = Phase(60, capacity=0.2)

    assert admitted(phase, offered=40) == pytest.approx(20, rel=0.05)
    assert admitted(phase, offered=400) == pytest.approx(20, rel=0.05)


def test_a_provider_that_collapses_carries_less_the_more_is_offered() -> None:
    """Capacity squared over what is offered: 20 of 40 become 10, of 200 they become 2."""
    phase = Phase(60, capacity=0.2, collapses=True)

    assert admitted(phase, offered=40) == pytest.approx(10, rel=0.1)
    assert admitted(phase, offered=200) == pytest.approx(2, rel=0.2)


def test_no_capacity_carries_nothing_and_no_bound_everything() -> None:
    """The two ends."""
    assert admitted(Phase(60, capacity=0.0), offered=50) == 0
    assert admitted(Phase(60), offered=1000) == 1000
