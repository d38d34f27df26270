"""The rules of docs/evidence.md under virtual time: what an outage does to rows, calls and the circuit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.events import CallSent, CircuitChanged, Notice, OutageStarted
from llmbatch.sim.scenario import Behavior, Phase

FINE = Phase(3, "fine")
DOWN = Phase(12, "down")


@pytest.mark.slow  # thousands of calls in virtual time
def test_outage_of_twelve_seconds_costs_no_row(simulate: Simulate, prompts: Prompts) -> None:
    """600 rows at concurrency 40 through 12 s of 503: every row succeeds, and almost no call meets the outage."""
    story = simulate(prompts(600), FINE, DOWN, latency=0.4)

    assert story.ending.exit_code == 0
    assert story.statuses == {"success": 600}
    assert story.down_calls <= 40 + 5 + 5
    assert story.openings() == 1


@pytest.mark.slow  # thousands of calls in virtual time
def test_first_good_call_comes_within_one_probe_interval(simulate: Simulate, prompts: Prompts) -> None:
    """Probes go at 2, 4 and 8 s, so an outage of 12 s is found over at most 8.8 s after it ended."""
    story = simulate(prompts(600), FINE, DOWN, latency=0.4)

    after = [at for at, status in story.log if at >= 15.0 and status == 200]

    assert min(after) - 15.0 <= 8.8


@pytest.mark.slow  # many calls in virtual time
def test_traffic_ramps_instead_of_stampeding(simulate: Simulate, prompts: Prompts) -> None:
    """After the recovery the calls in flight double a round trip, from two."""
    story = simulate(prompts(600), FINE, DOWN, latency=0.4)

    recovered = min(at for at, status in story.log if at >= 15.0 and status == 200)
    first = [at for at, _ in story.log if recovered < at <= recovered + 1.0]

    assert 2 <= len(first) <= 10


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("behavior", ["down", "refuse", "hang", "bad_request", "unauthorized"])
def test_outage_of_seventy_minutes_is_survived(simulate: Simulate, prompts: Prompts, behavior: Behavior) -> None:
    """However the outage is dressed, 70 minutes of it cost nothing but time, and calls stay few."""
    story = simulate(prompts(400), FINE, Phase(70 * 60, behavior), latency=0.4, timeout=30.0)

    assert story.statuses == {"success": 400}
    # One a second for ten seconds, then a tenth of the outage apart, and at last 54 to 60 s.
    probes = 10 + math.ceil(math.log(600 / 10) / math.log(1.09)) + math.ceil(3600 / 54)
    assert story.down_calls <= 40 + 5 + probes
    assert story.seconds <= 73 * 60 + 90


def test_a_run_that_no_timer_wakes_looks_again(
    simulate: Simulate, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever may be forgotten when the next wake is worked out, no run stands still for good."""
    monkeypatch.setattr("llmbatch.runner.engine.LOOK_AGAIN_SECONDS", 30.0)  # stories that hunt for it turn it off
    monkeypatch.setattr("llmbatch.runner.schedule.next_wake", lambda *_, **__: None)
    story = simulate(prompts(50), Phase(20, "down"), latency=0.4)

    assert story.statuses == {"success": 50}
    assert story.seconds < 120


def test_outage_from_the_start_is_waited_for(simulate: Simulate, prompts: Prompts) -> None:
    """A provider that is down when the run begins is an outage like any other."""
    story = simulate(prompts(100), Phase(120, "down"))

    assert story.statuses == {"success": 100}


@pytest.mark.slow  # thousands of calls in virtual time
def test_memory_stays_bound_while_the_circuit_is_open(simulate: Simulate) -> None:
    """Reading stops when the circuit opens: of an endless input a bounded number of rows is taken to probe with."""
    taken = 0

    def rows() -> Iterator[object]:
        nonlocal taken
        while True:
            taken += 1
            yield {"prompt": f"row {taken}"}

    story = simulate(rows(), FINE, Phase(math.inf, "down"), max_outage=600.0)

    assert story.ending.exit_code == 75
    assert taken - len(story.results) <= 2_000


def test_one_poison_row_fails_alone_after_its_attempts(simulate: Simulate, prompts: Prompts) -> None:
    """A row that always fails ends after three attempts; the circuit never opens."""
    story = simulate(prompts(300, poison=[50]), latency=0.2)

    assert set(story.failed) == {50}
    assert story.failed[50].attempts == 3
    assert story.failed[50].error_code
    assert story.openings() == 0


def test_poison_row_alone_at_the_end_is_judged_by_a_canary(simulate: Simulate, prompts: Prompts) -> None:
    """When nothing else is left to tell, a canary shows that the provider works."""
    story = simulate(prompts(120, poison=[120]), latency=0.2)

    assert set(story.failed) == {120}
    assert story.failed[120].attempts in (3, 4)
    assert story.openings() == 0
    assert any(isinstance(event, CallSent) and event.row == 0 for event in story.events)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 12])
def test_tail_of_poison_rows_ends(simulate: Simulate, prompts: Prompts, count: int) -> None:
    """However many of the last rows are poison, the run ends, and they fail while all others succeed."""
    rows = prompts(60, poison=range(61 - count, 61))

    story = simulate(rows, latency=0.2)

    assert set(story.failed) == set(range(61 - count, 61))
    assert all(result.attempts <= 33 for result in story.failed.values())
    assert story.seconds < 300


def test_an_input_of_a_few_bad_rows_ends(simulate: Simulate, prompts: Prompts) -> None:
    """Fewer rows than it takes to open the circuit may fail on the word of the smallest request."""
    story = simulate(prompts(4, poison=range(1, 5)), latency=0.2)

    assert story.statuses == {"failed": 4}


def test_where_no_row_ever_succeeds_rows_are_deferred(simulate: Simulate, prompts: Prompts) -> None:
    """The smallest request passes, every row fails: that it passes says too little about so many rows."""
    story = simulate(prompts(8, poison=range(1, 9)), latency=0.2, recovery_timeout=5.0)

    assert story.ending.exit_code == 75
    assert "answers the smallest request and no row" in story.ending.reason
    assert not story.results
    assert len(story.deferred) == 8
    assert story.seconds <= 610


@pytest.mark.parametrize("slots", [1, 2, 40])
def test_refused_rows_among_good_ones_fail_after_their_attempts(
    simulate: Simulate, prompts: Prompts, slots: int
) -> None:
    """A refusal that does not name the row's content is tried again: one bad backend must cost no row."""
    bad = [10, 20, 30]
    story = simulate(prompts(200, poison=bad, status=400), latency=0.2, concurrency=slots)

    assert set(story.failed) == set(bad)
    assert {result.attempts for result in story.failed.values()} <= {3, 4}  # four while few rows have been answered
    assert story.openings() == 0


def test_bad_requests_at_the_end_are_told_from_a_surge(simulate: Simulate, prompts: Prompts) -> None:
    """Twenty refused rows at the very end look like an outage in disguise, until a canary passes."""
    story = simulate(prompts(100, poison=range(81, 101), status=400), latency=0.2)

    assert set(story.failed) == set(range(81, 101))
    assert story.seconds < 60


def test_run_stops_when_the_first_rows_are_all_refused(simulate: Simulate, prompts: Prompts) -> None:
    """A route that never answered and refuses the first rows is an operator's matter: nothing is marked failed."""
    story = simulate(prompts(200), Phase(math.inf, "bad_request"))

    assert story.ending.exit_code == 3
    assert story.results == []
    assert len(story.log) <= 45


def test_refused_rows_do_not_stop_a_route_that_answered_in_an_earlier_run(simulate: Simulate, prompts: Prompts) -> None:
    """A resumed run whose provider refuses everything waits it out as a surge."""
    story = simulate(prompts(50), Phase(60, "bad_request"), answered_before=True)

    assert story.statuses == {"success": 50}


def test_key_refused_at_first_stops_the_run(simulate: Simulate, prompts: Prompts) -> None:
    """401 on a route that never worked: exit 3, nothing failed, hardly a call."""
    story = simulate(prompts(200), Phase(math.inf, "unauthorized"), latency=0.0)

    assert story.ending.exit_code == 3
    assert story.results == []
    assert len(story.log) <= 45


@pytest.mark.slow  # thousands of calls in virtual time
def test_key_refused_after_successes_is_waited_for_and_told(simulate: Simulate, prompts: Prompts) -> None:
    """A key that stops working is an outage in disguise, with a word about revocation."""
    story = simulate(prompts(800), FINE, Phase(300, "unauthorized"))

    assert story.statuses == {"success": 800}
    assert any(isinstance(event, Notice) and "revoked" in event.hint for event in story.events)


def test_spent_quota_stops_the_run_at_once(simulate: Simulate, prompts: Prompts) -> None:
    """No money: the run stops, nothing is marked failed, and the reason says so."""
    story = simulate(prompts(1000), FINE, Phase(math.inf, "quota"))

    assert story.ending.exit_code == 3
    assert not story.failed
    assert story.results
    assert sum(1 for _, status in story.log if status == 429) <= 40
    assert story.deferred


@pytest.mark.slow  # thousands of calls in virtual time
def test_throttling_is_pace_not_outage(simulate: Simulate, prompts: Prompts) -> None:
    """429 that names a wait: nothing goes before it, no circuit opens, no row is charged."""
    story = simulate(prompts(800), FINE, Phase(6, "throttle", retry_after=2.0))

    assert story.statuses == {"success": 800}
    assert story.openings() == 0
    throttled = [at for at, status in story.log if status == 429]
    first = min(throttled)
    quiet = [at for at, _ in story.log if first + 0.5 < at < first + 2.0]
    assert quiet == []


@pytest.mark.slow  # thousands of calls in virtual time
def test_throttling_without_a_hint_backs_off(simulate: Simulate, prompts: Prompts) -> None:
    """429 that names nothing for a minute costs few calls."""
    story = simulate(prompts(800), FINE, Phase(60, "throttle"))

    assert story.statuses == {"success": 800}
    # Each wave is half of the one before.
    assert sum(1 for _, status in story.log if status == 429) <= 40 + 20 + 10 + 5


def test_wait_longer_than_the_recovery_timeout_is_kept(simulate: Simulate, prompts: Prompts) -> None:
    """503 with Retry-After 300 and a recovery timeout of 10 s: nothing is sent for five minutes."""
    story = simulate(prompts(300), FINE, Phase(200, "down", retry_after=300.0), recovery_timeout=10.0, latency=1.5)

    assert story.statuses == {"success": 300}
    down = [at for at, status in story.log if status == 503]
    assert [at for at, _ in story.log if max(down) + 1.0 < at < max(down) + 299.0] == []


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.no_cover
def test_field_error_rates_open_no_circuit_and_fail_no_row(simulate: Simulate, prompts: Prompts) -> None:
    """Five per cent of errors: rows repeat until they succeed, because others fail as well."""
    story = simulate(prompts(2000), Phase(math.inf, "errors", share=0.05))

    assert story.statuses == {"success": 2000}
    assert story.openings() == 0


@pytest.mark.slow  # thousands of calls in virtual time
def test_quarter_of_errors_fails_no_row(simulate: Simulate, prompts: Prompts) -> None:
    """Elevated errors never end a row within ten times its attempts."""
    story = simulate(prompts(1000), Phase(math.inf, "errors", share=0.25))

    assert story.statuses == {"success": 1000}


@pytest.mark.slow  # thousands of calls in virtual time
def test_probes_spend_no_attempt(simulate: Simulate, prompts: Prompts) -> None:
    """With one attempt a row, rows that probe through an outage still succeed."""
    story = simulate(prompts(800), FINE, Phase(600, "down"), max_attempts=1)

    assert story.statuses == {"success": 800}


def test_on_outage_defer_stops_with_the_parked_rows(simulate: Simulate, prompts: Prompts) -> None:
    """Exit 75; parked rows stand as deferred with a finite wait, and nothing is failed."""
    story = simulate(prompts(900), FINE, Phase(math.inf, "down"), on_outage="defer")

    assert story.ending.exit_code == 75
    assert not story.failed
    assert story.deferred
    assert all(0 < (result.retry_after or 0) < 1e6 for result in story.deferred)
    assert story.down_calls <= 45


def test_on_outage_fail_ends_rows_without_waiting(simulate: Simulate, prompts: Prompts) -> None:
    """Rows that would be parked fail at once, all of them while the circuit is open."""
    story = simulate(prompts(900), FINE, Phase(math.inf, "down"), on_outage="fail")

    assert story.statuses["failed"] > 0
    assert story.statuses.total() == 900
    assert story.seconds < 60


@pytest.mark.parametrize("count", [1, 3])
def test_few_rows_and_a_dead_provider_defer(simulate: Simulate, prompts: Prompts, count: int) -> None:
    """Fewer rows than the threshold open the circuit too: with defer the run ends soon."""
    story = simulate(prompts(count), Phase(math.inf, "down"), on_outage="defer")

    assert story.ending.exit_code == 75
    assert len(story.deferred) == count
    assert len(story.log) <= 8


def test_max_outage_bounds_the_wait(simulate: Simulate, prompts: Prompts) -> None:
    """Waiting ends after --max-outage, as with defer."""
    story = simulate(prompts(300), FINE, Phase(math.inf, "down"), max_outage=120.0, latency=1.0)

    assert story.ending.exit_code == 75
    assert 120 <= story.seconds <= 140


def test_one_model_down_leaves_the_others_alone(simulate: Simulate) -> None:
    """Circuits are one a route: rows of the healthy model end while the other waits."""
    rows = [{"prompt": f"row {n}", "model": "outage" if n % 2 else "healthy"} for n in range(1, 401)]

    story = simulate(rows, latency=0.4)

    assert story.statuses == {"success": 400}
    healthy = [at for row, at in story.finished_at.items() if row % 2 == 0]
    opened = [event for event in story.events if isinstance(event, CircuitChanged) and event.old == "closed"]
    assert {event.route for event in opened} == {"outage"}
    assert max(healthy) < 14


def test_simulation_replays_exactly(simulate: Simulate, prompts: Prompts) -> None:
    """One seed, one story: the same calls at the same times."""
    first = simulate(prompts(200, poison=[7, 190]), FINE, DOWN, seed=5)
    second = simulate(prompts(200, poison=[7, 190]), FINE, DOWN, seed=5)

    assert first.log == second.log
    assert [result.number for result in first.results] == [result.number for result in second.results]


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("places", [1, 40, 200])
def test_many_refused_rows_among_good_ones_open_no_circuit(simulate: Simulate, prompts: Prompts, places: int) -> None:
    """Every third row is refused, sooner than others are answered: no outage, and three or four calls per bad row."""
    bad = set(range(3, 600, 3))
    story = simulate(prompts(600, poison=bad, status=400), concurrency=places)

    assert set(story.failed) == bad
    assert not story.of(OutageStarted)
    assert len(story.log) <= 1.05 * (400 + 4 * 200)


@pytest.mark.slow  # thousands of calls in virtual time
def test_quick_failures_of_a_first_wave_open_no_circuit(simulate: Simulate, prompts: Prompts) -> None:
    """At 200 in flight and 5 % errors, ten failures arrive before any success; they are no outage."""
    story = simulate(prompts(2000), Phase(math.inf, "errors", share=0.05), concurrency=200)

    assert story.statuses == {"success": 2000}
    assert story.openings() == 0


@pytest.mark.slow  # thousands of calls in virtual time
def test_block_of_refused_rows_in_the_middle_is_got_over(simulate: Simulate, prompts: Prompts) -> None:
    """Three hundred refused rows in a row look like a surge; a finished row's request tells that they are bad."""
    story = simulate(prompts(1000, poison=range(101, 401), status=400))

    assert set(story.failed) == set(range(101, 401))
    assert not story.of(OutageStarted)
    assert story.seconds < 30
