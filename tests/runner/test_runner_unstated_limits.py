"""Rate limits that nothing states, in whole runs under virtual time: found by refusals, and not where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from runner_limits import MinuteWindows, MostInFlight, Run, ThrottledAtRandom, send

from llmbatch.core.events import LimitLearned, Throttled
from llmbatch.core.ports import Transport
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.scenario import Phase
from llmbatch.sim.virtual import VirtualTransport

pytestmark = pytest.mark.slow  # thousands of calls in virtual time

FINE = Phase(math.inf)
UNLIMITED = RateLimits(rpm=1e6, headers=False)


def unstated(rpm: float) -> RateLimits:
    """Azure's refusals name no number; a sixth of the limit may come at once."""
    return RateLimits("azure", rpm=rpm, headers=False)


def learned(run: Run) -> list[float]:
    events = run.story.of(LimitLearned)
    assert {(event.kind, event.window_s, event.source) for event in events} <= {("requests", 60.0, "delivered")}
    return [event.limit for event in events]


@pytest.mark.parametrize(
    ("rpm", "begin", "concurrency"),
    [(60, 90, 40), (60, 90, "auto"), (600, 60, 40), pytest.param(600, 60, "auto", marks=pytest.mark.long)],
)
def test_an_unstated_limit_is_found(rpm: int, begin: int, concurrency: int | str) -> None:
    """At least 95 % of the allowed rate, and at most 2 % of the calls refused, once it is found."""
    run = send(5 * rpm, unstated(rpm), latency=0.3, concurrency=concurrency)

    assert run.story.statuses == {"success": 5 * rpm}
    assert run.rate(begin, 240) >= 0.95 * rpm
    assert run.refused_from(begin) <= 0.02
    assert learned(run)[0] == pytest.approx(rpm, rel=0.15)


def test_an_unstated_limit_that_changes_is_followed() -> None:
    """Halved after three minutes and doubled after six: within a minute the rate is the new one."""
    phases = (Phase(180), Phase(180, limits=0.5), FINE)
    run = send(4000, unstated(600), *phases, latency=0.3)

    assert run.rate(240, 350) == pytest.approx(300, rel=0.06)
    assert run.rate(420, 480) == pytest.approx(600, rel=0.06)
    assert run.refused_from(60) <= 0.02
    limits = learned(run)[1:]
    assert [min(limits), limits[-1]] == pytest.approx([300, 600], rel=0.15)
    assert len(limits) <= 3, "a limit that changes is found in two steps at most"


def test_an_unstated_limit_is_kept_beside_the_limit_of_the_user() -> None:
    """What is lower counts."""
    above = send(1500, unstated(600), latency=0.3, rpm=900.0)
    below = send(1000, unstated(600), latency=0.3, rpm=300.0)

    assert above.refused_from(60) <= 0.02
    assert above.rate(60, 120) >= 0.95 * 600
    assert below.refused == 0.0
    assert below.rate(60, 120) >= 0.95 * 300
    assert not learned(below)


def test_an_unstated_limit_is_kept_after_an_outage() -> None:
    """It is not given up for what was not sent meanwhile."""
    run = send(2000, unstated(600), Phase(60), Phase(60, "down"), FINE, latency=0.3)

    assert run.story.statuses == {"success": 2000}
    assert run.rate(180, 230) >= 0.95 * 600
    assert run.refused_from(120) <= 0.02


def slowed_by(rows: int, wrap: Callable[[VirtualTransport], Transport], **options: Any) -> float:
    """Total time of two runs relative to that without any limit that is learned."""
    seconds = {True: 0.0, False: 0.0}
    for seed in (1, 2):
        for ignored in seconds:
            run = send(rows, UNLIMITED, wrap=wrap, seed=seed, ignore_rate_headers=ignored, **options)
            assert run.story.statuses == {"success": rows}
            seconds[ignored] += run.story.seconds
    return seconds[False] / seconds[True]


@pytest.mark.parametrize(
    ("share", "options"),
    [
        (0.05, {"concurrency": 2, "latency": 1.5}),
        (0.3, {"concurrency": 40, "latency": 0.3}),
        pytest.param(0.5, {"concurrency": 40, "latency": 0.3}, marks=pytest.mark.long),
    ],
)
def test_a_run_is_not_slowed_where_requests_are_refused_at_random(share: float, options: dict[str, Any]) -> None:
    """A lower rate does not help: it is given up soon, and the next time comes later."""
    assert slowed_by(600, lambda transport: ThrottledAtRandom(transport, share, 1.0, seed=3), **options) <= 1.1


@pytest.mark.parametrize(("most", "rows"), [(4, 1000), pytest.param(10, 3000, marks=pytest.mark.long)])
def test_a_run_is_not_slowed_where_requests_in_flight_are_limited(most: int, rows: int) -> None:
    """The limit in flight follows that; a rate below it is given up."""
    assert slowed_by(rows, lambda transport: MostInFlight(transport, most), latency=0.3) <= 1.1


@pytest.mark.parametrize("latency", [0.1, pytest.param(0.5, marks=pytest.mark.long), 2.0])
@pytest.mark.parametrize("concurrency", [40, "auto"])
def test_what_is_taken_at_once_is_sent_at_once(latency: float, concurrency: int | str) -> None:
    """A gateway that refuses more than 8: nearly all that it answers, few refused later, and nothing failed."""
    rows, most = 1500, 8
    run = send(
        *(rows, None, FINE),
        wrap=lambda transport: MostInFlight(transport, most, after=0.02),
        latency=latency,
        concurrency=concurrency,
    )

    assert run.story.statuses == {"success": rows}
    assert run.story.seconds <= (rows / most) * latency * 1.15 / 0.75 + 5.0  # latencies vary: their mean is higher
    assert run.refused_from(10.0) <= 0.02
    assert all(event.at < 10.0 + 5 * latency for event in run.story.of(Throttled)), (
        "the route waits for a refused trial"
    )


def test_a_run_is_not_slowed_where_refusals_name_the_next_minute() -> None:
    """All that a minute takes is sent at its beginning, and to send it evenly would cost a minute at each refusal."""
    assert slowed_by(600, lambda transport: MinuteWindows(transport, 60), latency=0.3) <= 1.02


def test_a_burst_of_refusals_is_no_limit() -> None:
    """Ten seconds of nothing but 429 in a run that is otherwise fine."""
    runs = [
        send(2000, UNLIMITED, Phase(20), Phase(10, "throttle"), FINE, latency=0.3, ignore_rate_headers=ignored)
        for ignored in (False, True)
    ]

    assert not learned(runs[0])
    assert runs[0].story.seconds == pytest.approx(runs[1].story.seconds)


def test_nothing_is_learned_where_headers_are_ignored() -> None:
    """Then only refusals slow the run."""
    run = send(120, unstated(60), latency=0.3, ignore_rate_headers=True)

    assert not learned(run)
    assert run.refused > 0.2
