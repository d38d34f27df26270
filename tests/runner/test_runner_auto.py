"""Whole runs whose concurrency is found by itself, under virtual time."""

from __future__ import annotations

import math

import pytest
from runner_story import Prompts, Simulate, Story

from llmbatch.core.events import CallEnded, LimitChanged
from llmbatch.sim.scenario import Phase


def in_flight(story: Story, begin: float, end: float, route: str = "") -> float:
    """Mean calls in flight between two times after the first event."""
    zero = story.events[0].at
    calls = [event for event in story.of(CallEnded) if route in event.route]
    spans = [(max(begin, call.at - call.latency_s - zero), min(end, call.at - zero)) for call in calls]
    return sum(max(0.0, last - first) for first, last in spans) / (end - begin)


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize(("knee", "rows"), [(8, 1200), pytest.param(64, 8000, marks=pytest.mark.long)])
def test_auto_is_nearly_as_fast_as_the_best_number(simulate: Simulate, prompts: Prompts, knee: int, rows: int) -> None:
    """Against a provider that answers more slowly the more is in flight above its knee."""
    best = simulate(prompts(rows), Phase(math.inf, knee=knee), latency=1.0, concurrency=knee)
    found = simulate(prompts(rows), Phase(math.inf, knee=knee), latency=1.0, concurrency="auto")

    assert found.statuses == {"success": rows}
    assert found.seconds <= 1.12 * best.seconds
    assert in_flight(found, 60, 0.9 * found.seconds) <= 1.4 * knee
    reasons = [event.reason for event in found.of(LimitChanged)]
    assert reasons[0] == "start"
    assert reasons[-1] == "latency"


@pytest.mark.slow  # thousands of calls in virtual time
def test_a_provider_without_a_knee_gets_the_ceiling(simulate: Simulate, prompts: Prompts) -> None:
    """In flight doubles from eight on, and never exceeds what ``auto:N`` allows."""
    story = simulate(prompts(3000), Phase(math.inf), latency=1.0, concurrency="auto:100")

    assert story.statuses == {"success": 3000}
    assert story.most_in_flight == 100
    assert in_flight(story, 0, 1.0) <= 8
    assert in_flight(story, 25, 0.9 * story.seconds) >= 95


@pytest.mark.slow  # many calls in virtual time
def test_each_route_finds_its_own_number(simulate: Simulate, prompts: Prompts) -> None:
    """Two models in one input; together they stay within the ceiling."""
    rows = [row for number in range(900) for row in prompts(1, model="slow" if number % 4 == 0 else "fast")]

    story = simulate(rows, Phase(math.inf), latency=0.5, concurrency="auto:60")

    assert story.statuses == {"success": 900}
    limits: dict[str, int] = {}
    for event in story.of(LimitChanged):
        limits[event.route] = max(limits.get(event.route, 8), event.limit)
    assert len(limits) == 2
    assert max(limits.values()) <= 60
    assert story.most_in_flight <= 60


@pytest.mark.slow  # thousands of calls in virtual time
def test_an_outage_is_survived(simulate: Simulate, prompts: Prompts) -> None:
    """No row is lost; afterwards traffic ramps up to what was found before."""
    story = simulate(
        prompts(6000), Phase(60, knee=40), Phase(120, "down"), Phase(math.inf, knee=40), latency=1.0, concurrency="auto"
    )

    assert story.statuses == {"success": 6000}
    assert story.openings() >= 1
    assert story.down_calls <= 140
    assert in_flight(story, 210, 0.9 * story.seconds) >= 30
    assert in_flight(story, 210, 0.9 * story.seconds) <= 60
    assert "ramp" in {event.reason for event in story.of(LimitChanged)}


def test_a_request_rate_bounds_auto_too(simulate: Simulate, prompts: Prompts) -> None:
    """With ``--rpm`` few are in flight, and the limit does not grow for nothing."""
    story = simulate(prompts(300), Phase(math.inf), latency=1.0, concurrency="auto", rpm=120)

    assert story.statuses == {"success": 300}
    assert 140 <= story.seconds <= 165
    assert max((event.limit for event in story.of(LimitChanged)), default=8) <= 16


@pytest.mark.slow  # many calls in virtual time
def test_tenants_have_limits_of_their_own(simulate: Simulate, prompts: Prompts) -> None:
    """Each starts with eight; all together stay within the ceiling."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": number % 5}} for number in range(1000)]

    story = simulate(rows, Phase(math.inf), latency=0.5, concurrency="auto:50", circuit_key="metadata.tenant")

    assert story.statuses == {"success": 1000}
    assert 30 <= story.most_in_flight <= 50


def test_the_number_of_rows_in_memory_is_bounded_by_the_ceiling(simulate: Simulate, prompts: Prompts) -> None:
    """In an outage as many rows are read as a plain 200 would have, not as many as 1,000 would."""
    story = simulate(
        prompts(20_000), Phase(5), Phase(math.inf, "down"), concurrency="auto", on_outage="defer", latency=0.5
    )

    assert story.ending.exit_code == 75
    assert len(story.deferred) <= 2 * 4 * 1000
