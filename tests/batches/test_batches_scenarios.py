"""The built-in scenarios of batch APIs, b1 to b8: whole runs in virtual time."""

from __future__ import annotations

import pytest
from batch_world import World

from llmbatch.sim.scenario_file import find_scenario

ROWS = 600


def world(number: int, endpoint: str, rows: int = ROWS) -> World:
    """A job at a provider that behaves as scenario b1 to b8 says."""
    return World(rows, rules=find_scenario(f"b{number}").batch, endpoint=endpoint, seed=number)


@pytest.mark.slow  # whole jobs, some 2 s each
@pytest.mark.parametrize(
    ("number", "endpoint"),
    [
        *((number, endpoint) for number in (1, 2, 4, 5, 6) for endpoint in ("chat", "messages")),
        *((3, "chat"), pytest.param(3, "messages", marks=pytest.mark.long)),
    ],
)
def test_each_row_of_a_troubled_job_has_one_line_and_is_paid_once(number: int, endpoint: str) -> None:
    """Expiry, a full queue, lost creates, damaged results, an outage: no row is lost, none is paid twice."""
    job = world(number, endpoint, rows=3 * ROWS if number == 3 else ROWS)

    job.live_on(chunk_rows=100)

    job.check_whole()
    assert job.paid == job.rows
    assert job.provider.ledger is not None
    assert job.provider.ledger.both == 0


@pytest.mark.slow  # a whole job
def test_an_outage_of_three_hours_costs_few_calls() -> None:
    """At most 60 reach the control plane while it is down; the batches that ran meanwhile are collected after it."""
    job = world(6, "chat")

    job.live_on(chunk_rows=100)

    stats = job.provider.batches.stats
    began = stats.log[0][0]
    assert 3 < stats.calls(since=began + 60, until=began + 10_860) <= 60
    assert 3 < job.clock / 3600 < 4


@pytest.mark.slow  # whole jobs
@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_job_without_credit_stops_and_marks_nothing_failed(endpoint: str) -> None:
    """Exit code 3, no line, nothing paid."""
    job = world(7, endpoint)

    summary = job.live(chunk_rows=100)

    assert summary is not None
    assert summary.exit_code == 3
    assert (job.lines, job.paid) == ([], 0)


@pytest.mark.slow  # whole jobs, some 2 s each
@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_slow_job_ends_at_its_deadline_and_pays_each_row_once(endpoint: str) -> None:
    """What is stuck is canceled, collected, and the rest goes live: no row is paid for in both."""
    job = world(8, endpoint)

    job.live_on(chunk_rows=100, deadline=3 * 3600.0)

    job.check_whole()
    assert job.clock < 3.2 * 3600
    assert job.paid == ROWS
    assert job.provider.stats.calls > 0
    assert job.provider.ledger is not None
    assert job.provider.ledger.both == 0
