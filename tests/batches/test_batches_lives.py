"""Commands that are killed, interrupted, detached and typed again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from batch_world import OUTPUT, World

from llmbatch.core.events import Notice
from llmbatch.sim.batches.rules import BatchFault, BatchRules


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("is_deleted", [False, True], ids=["journal kept", "journal deleted"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_any_control_call_no_row_is_paid_for_twice(when: str, is_deleted: bool) -> None:
    """Whichever call the process dies in, and whether or not its sidecar is left."""
    whole = World(90)
    whole.live(chunk_rows=40)

    for call in range(1, whole.network_calls + 1):
        world = World(90)
        assert world.live(chunk_rows=40, kill_call=call, when=when) is None
        if is_deleted:
            world.delete_journal()
        world.live_on(chunk_rows=40)
        world.check_whole()
        assert world.paid == 90, f"call {call}"


@pytest.mark.slow  # some hundred lives of a few milliseconds
@pytest.mark.parametrize("first", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("is_deleted", [False, True], ids=["journal kept", "journal deleted"])
def test_killed_in_any_disk_call_no_row_is_paid_for_twice(is_deleted: bool, first: int) -> None:
    """At every write, sync and open of the output and the journal; at every third of them in one test."""
    whole = World(90)
    whole.live(chunk_rows=40)

    for call in range(first, whole.disk_calls + 1, 3):
        world = World(90)
        assert world.live(chunk_rows=40, die_at_disk_call=call) is None
        if is_deleted:
            world.delete_journal()
        world.live_on(chunk_rows=40)
        world.check_whole()
        assert world.paid == 90, f"disk call {call}"


def test_results_are_deleted_at_the_provider_once_they_are_on_the_disk() -> None:
    """A power cut after the deletion loses no line."""
    whole = World(90)
    whole.live()
    deletions = [place for place, (_, name) in enumerate(whole.log, 1) if name.startswith("DELETE")]
    assert deletions

    for call in deletions:
        world = World(90)
        world.live(kill_call=call)
        world.machine.cut_power()
        world.live_on()
        world.check_whole()
        assert world.paid == 90


def test_detached_the_same_command_collects_later() -> None:
    """It submits and exits with 75, at once; typed again it says so until the batch has ended, then it collects."""
    world = World(100, rules=BatchRules(rows_per_s=0.05))

    first = world.live(detach=True)
    second = world.live(detach=True)
    world.clock += 5000.0
    third = world.live(detach=True)

    assert [summary.exit_code for summary in (first, second, third) if summary is not None] == [75, 75, 0]
    world.check_whole()
    assert world.paid == 100
    assert len(world.calls("POST /v1/batches")) == 1


def test_an_interruption_leaves_batches_running_and_says_how_to_go_on() -> None:
    """Ctrl-C: exit 130, the ids, and what collects them; nothing is canceled."""
    world = World(100, rules=BatchRules(rows_per_s=0.05))

    summary = world.live(stop_at=200.0)

    assert summary is not None
    assert summary.exit_code == 130
    notice = world.of(Notice)[-1]
    assert "batch_" in notice.message
    assert "same command" in notice.hint
    assert not [name for _, name in world.log if name.endswith("/cancel")]
    world.live_on()
    world.check_whole()
    assert world.paid == 100


def test_an_interruption_can_cancel_what_runs() -> None:
    """With ``on_interrupt="cancel"``: what the batch has done is kept, the rest did not run."""
    world = World(100, rules=BatchRules(rows_per_s=0.05, cancel_s=5.0))

    summary = world.live(stop_at=1000.0, on_interrupt="cancel")

    assert summary is not None
    assert summary.exit_code == 130
    assert [name for _, name in world.log if name.endswith("/cancel")]
    done = len(world.lines)
    assert 30 < done < 70
    world.live_on()
    world.check_whole()
    assert world.paid == 100


@pytest.mark.slow  # many calls in virtual time
def test_at_the_deadline_the_rest_goes_live_and_no_row_is_in_both() -> None:
    """Cancelled 15 minutes before it; what came back stays, the rest is sent live before the deadline."""
    world = World(400, rules=BatchRules(rows_per_s=0.02, cancel_s=120.0))

    summary = world.live(deadline=7200.0)

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    ways = {via: sum(line.get("via") == via for line in world.lines) for via in ("batch", None)}
    assert ways["batch"] > 100
    assert ways[None] > 200
    assert world.provider.ledger is not None
    assert world.provider.ledger.both == 0
    assert world.paid == 400
    assert world.clock < 7200
    cancels = [at for at, name in world.log if name.endswith("/cancel")]
    assert 6300 <= min(cancels) < 6400


def test_a_short_deadline_cancels_at_its_half() -> None:
    """With 20 minutes, cancelling begins after 10."""
    world = World(60, rules=BatchRules(faults=(BatchFault("stuck", seconds=1e6),)))

    summary = world.live(deadline=1200.0)

    assert summary is not None
    world.check_whole()
    cancels = [at for at, name in world.log if name.endswith("/cancel")]
    assert 600 <= min(cancels) < 640


def test_polling_slows_down_as_batches_age() -> None:
    """A tenth of the age: 15 s at first, never more than 5 minutes and a bit."""
    world = World(50, rules=BatchRules(faults=(BatchFault("stuck", seconds=20_000.0),)))

    world.live()

    polls = world.calls("GET /v1/batches")
    gaps = [later - earlier for earlier, later in pairwise(polls)]
    assert min(gaps) >= 13
    assert max(gaps) <= 331
    assert len(polls) < 110


def test_appended_rows_are_simply_new() -> None:
    """The same command with a longer input submits the new rows alone."""
    world = World(60)
    world.live()

    data = world.machine.get("/data/in.jsonl") or b""
    world.machine.put("/data/in.jsonl", data + b"".join(world._row(number) + b"\n" for number in range(61, 101)))
    world.rows = 100
    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 100


def test_a_finished_job_is_not_asked_for_again() -> None:
    """Typed once more, it makes a listing at most, and no other call."""
    world = World(60)
    world.live()
    before = len(world.log)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    assert {name for _, name in world.log[before:]} <= {"GET /v1/batches", "GET /v1/files"}
    assert (world.machine.get(OUTPUT) or b"").count(b"\n") == 60
