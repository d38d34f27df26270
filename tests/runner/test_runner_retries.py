"""Retries give way to new rows, so that a provider that fails in part gets no more load than the rows are."""

from __future__ import annotations

import math

import pytest
from runner_story import Prompts, Simulate, Story

from llmbatch.core.events import CallSent, CircuitChanged, RowFinished, RowJudged, RowParked
from llmbatch.pace.retries import MOST, PER_SECOND, SHARE, RetryBudget
from llmbatch.sim.scenario import Phase


def retries_beyond(story: Story, rows: int) -> float:
    """The most by which retries exceeded their budget at any time while there were new rows.

    A row that was parked waited for its route, and is no retry when it goes again.
    """
    began, first, retries, most = story.of(CallSent)[0].at, 0, 0, -math.inf
    parked = set[int]()
    for event in story.events:
        if isinstance(event, RowParked):
            parked.add(event.row)
        elif isinstance(event, CallSent) and event.row:
            first += event.attempt == 1
            retries += event.attempt > 1 and event.row not in parked
            parked.discard(event.row)
            if first == rows:
                break
            most = max(most, retries - (MOST + SHARE * first + PER_SECOND * (event.at - began)))
    return most


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_a_partial_outage_is_not_amplified(simulate: Simulate, prompts: Prompts, share: float) -> None:
    """While there are new rows, retries are a tenth of them and one per second; then all rows still succeed."""
    story = simulate(prompts(1500), Phase(math.inf, "errors", share, statuses=(500,)), concurrency=40)

    assert story.statuses == {"success": 1500}
    assert retries_beyond(story, 1500) <= 0


@pytest.mark.slow  # many calls in virtual time
def test_without_the_budget_retries_are_the_share_of_errors(
    simulate: Simulate, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of the tests here is one that retries would break."""
    monkeypatch.setattr(RetryBudget, "allows", lambda self, now: True)

    story = simulate(prompts(1500), Phase(math.inf, "errors", 0.3, statuses=(500,)), concurrency=40)

    assert retries_beyond(story, 1500) > 100


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("rows", [3000, pytest.param(6000, marks=pytest.mark.long)])
def test_retries_that_fill_the_memory_go_in_turn(simulate: Simulate, prompts: Prompts, rows: int) -> None:
    """Waiting rows are bounded: from there on a new row is read only as one leaves."""
    story = simulate(prompts(rows), Phase(math.inf, "errors", 0.45, statuses=(500,)), concurrency=40)

    waiting, most = set[int](), 0
    done = story.finished_at
    for call in story.of(CallSent):
        waiting.add(call.row)
        if len(waiting) > most:
            waiting = {row for row in waiting if done.get(row, math.inf) > call.at}
            most = max(most, len(waiting))
    assert story.statuses == {"success": rows}
    assert 500 < most <= 1000 + 2 * 40


@pytest.mark.slow  # many calls in virtual time
def test_a_row_alone_is_retried_as_soon_as_its_backoff_is_over(simulate: Simulate, prompts: Prompts) -> None:
    """The floor keeps a few bad rows as quick as without a budget."""
    quick = simulate(prompts(2000, poison=[3]), Phase(math.inf), concurrency=4, latency=0.5)
    attempts = [event.at for event in quick.of(CallSent) if event.row == 3]

    assert len(attempts) >= 3
    assert attempts[1] - attempts[0] < 0.5 + 1.25 + 1.0


def test_why_a_row_has_failed_is_told_with_its_evidence(simulate: Simulate, prompts: Prompts) -> None:
    """Before its end, once; nothing is told of rows that succeed."""
    story = simulate(prompts(200, poison=[3]), Phase(math.inf), concurrency=4, latency=0.1)

    (judged,) = story.of(RowJudged)
    assert (judged.row, judged.code) == (3, "server_error")
    attempts = sum(event.row == 3 for event in story.of(CallSent))
    assert judged.why == f"failed {attempts} of {attempts} while 0.0% of other attempts failed"
    after = story.events[story.events.index(judged) + 1]
    assert isinstance(after, RowFinished)
    assert (after.row, after.status) == (3, "failed")


def test_an_opening_tells_how_attempts_fare_usually(simulate: Simulate, prompts: Prompts) -> None:
    """Where a circuit opens; not where it closes."""
    story = simulate(prompts(200), Phase(2.0), Phase(10.0, "down"), Phase(math.inf), concurrency=4, latency=0.1)

    usual = [event.usual for event in story.of(CircuitChanged) if "closed" in (event.old, event.new)]
    assert usual == ["0.0% of attempts of good rows fail", ""]
