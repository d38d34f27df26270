"""Whole runs over a simulated batch API in virtual time: what is sent, collected and paid for."""

from __future__ import annotations

import pytest
from batch_world import World

from llmbatch.sim.batches.rules import BatchFault, BatchRules


def test_rows_come_back_in_one_batch_at_half_the_price() -> None:
    """Each row has one line that names its batch, and costs what a batch costs."""
    world = World(120)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    lines = world.lines
    assert {(line["via"], line["attempts"], line["latency_s"]) for line in lines} == {("batch", 1, None)}
    assert len({line["batch_id"] for line in lines}) == 1
    assert {line["id"] for line in lines} == {f"r{number}" for number in range(1, 121)}
    assert world.paid == 120
    assert not world.provider.stats.calls


def test_chunks_hold_the_rows_that_were_asked_for() -> None:
    """Rows go in as many batches as ``chunk_rows`` makes of them."""
    world = World(100)

    summary = world.live(chunk_rows=30)

    assert summary is not None
    assert summary.batches.submitted == 4
    world.check_whole()
    assert world.paid == 100


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_rows_that_expired_are_kept_apart_from_those_that_ran() -> None:
    """Of a batch that expires at 37 %, those are kept, and 63 % are sent once more."""
    world = World(1000, rules=BatchRules(faults=(BatchFault("expire", batches=(1,), share=0.37),)))

    summary = world.live()

    assert summary is not None
    world.check_whole()
    assert world.paid == 1000
    assert summary.batches.submitted == 2
    assert summary.batches.not_run == 630
    assert {line["attempts"] for line in world.lines} == {1}
