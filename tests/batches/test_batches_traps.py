"""What batch APIs are known to do wrong or late: each row still ends with one line, and is paid for once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch_world import World, prompt

from llmbatch.core.batch_events import BatchCollected, BatchLost
from llmbatch.core.events import Notice
from llmbatch.sim.batches.rules import BatchFault, BatchRules


def told(world: World, words: str) -> bool:
    """Whether a notice has these words."""
    return any(words in notice.message for notice in world.of(Notice))


def world_with(*faults: BatchFault, rows: int = 100, **rules: Any) -> World:
    """A provider with *faults*."""
    return World(rows, rules=BatchRules(faults=faults, **rules))


@pytest.mark.parametrize(
    "fault",
    [
        BatchFault("missing", batches=(1,), share=0.3),
        BatchFault("duplicate", share=0.5),
        BatchFault("foreign", rows=7),
        BatchFault("torn", times=2, share=0.4),
        BatchFault("short", times=2, share=0.4),
        BatchFault("empty_error_id"),
        BatchFault("empty_error_file"),
        BatchFault("not_found", seconds=600.0),
        BatchFault("results_not_found", seconds=300.0),
        BatchFault("unlisted", seconds=300.0),
        BatchFault("finalizing", seconds=20_000.0),
        BatchFault("stuck", seconds=20_000.0),
        BatchFault("list_moves"),
        BatchFault("file_pending", seconds=20.0),
        BatchFault("expire", batches=(1,), share=0.0),
        BatchFault("create_refused", times=3),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_trap_costs_no_row_and_pays_for_none_twice(fault: BatchFault) -> None:
    """Rows in no file, lines that repeat or are foreign, torn downloads, 404s, late listings."""
    world = world_with(fault)

    summary = world.live(chunk_rows=40)

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 100
    assert not world.of(BatchLost)


@pytest.mark.parametrize("fault", [BatchFault("torn", times=2, share=0.4), BatchFault("short", times=2, share=0.4)])
def test_rows_of_a_download_that_breaks_off_count_in_the_summary_and_under_the_cap(
    fault: BatchFault, tmp_path: Path
) -> None:
    """What they cost and saved is told once, though the batch is read again for the other rows."""
    prices = tmp_path / "prices.toml"
    prices.write_text('["m"]\ninput = 10.0\noutput = 10.0\n["m".batch]\ninput = 5.0\noutput = 5.0\n')
    world = world_with(fault)

    summary = world.live(max_cost=5, prices=str(prices))

    assert summary is not None
    assert summary.batches is not None
    by_batch = [line for line in world.lines if line.get("via") == "batch"]
    assert summary.batches.rows == len(by_batch) == 100
    (collected,) = world.of(BatchCollected)
    assert (
        float(collected.cost_usd)
        == float(collected.saved_usd)
        == pytest.approx(sum(line["cost_usd"] for line in by_batch))
    )


def test_rows_that_all_fail_come_from_the_error_file_alone() -> None:
    """A batch whose rows all meet a server error has no output file; its rows go again, and then live."""
    world = world_with(BatchFault("error_only", batches=(1,), statuses=(500,)))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert {line["attempts"] for line in world.lines} == {2}
    assert world.paid == 100


@pytest.mark.slow  # many calls in virtual time
def test_a_full_queue_is_waited_for_and_costs_no_attempt() -> None:
    """A batch that fails minutes after its creation for lack of room goes again when another has ended."""
    world = World(200, rules=BatchRules(queue_tokens=1800, rows_per_s=1.0, validate_s=30.0))

    summary = world.live(chunk_rows=50)

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 200
    assert {line["attempts"] for line in world.lines} == {1}
    assert told(world, "queue")


@pytest.mark.slow  # many calls in virtual time
def test_chunks_shrink_to_what_the_queue_takes() -> None:
    """Where nothing of the job is queued and a chunk is still refused, chunks are halved until one fits."""
    world = World(300, rules=BatchRules(queue_tokens=2000, validate_s=1.0))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 300


def test_the_users_queue_limit_keeps_batches_out_of_the_queue() -> None:
    """``queue_tokens`` says how much may wait there, so no batch is ever refused."""
    world = World(200, rules=BatchRules(queue_tokens=6000, rows_per_s=1.0))

    summary = world.live(chunk_rows=50, queue_tokens=2000)

    assert summary is not None
    world.check_whole()
    assert not told(world, "queue")


def test_a_line_that_validation_names_fails_alone() -> None:
    """The row of the named line fails with the provider's code; the others go again, and run once."""
    world = world_with(BatchFault("bad_line", batches=(1,), rows=7))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 1
    rows = world.by_row()
    assert len(rows) == 100
    assert [number for number, line in rows.items() if line["status"] == "failed"] == [7]
    assert rows[7]["error"]["code"]
    assert world.paid == 99


@pytest.mark.parametrize("reason", ["key", "credit"])
def test_refused_rows_stop_the_run_and_fail_nothing(reason: Any) -> None:
    """No money, or a refused key, in every line: exit 3, no line written; the next command sends the rows again."""
    world = world_with(BatchFault("refused", batches=(1,), reason=reason))

    first = world.live()

    assert first is not None
    assert first.exit_code == 3
    assert not world.lines
    assert not first.batches.open
    again = world.live()
    assert again is not None
    assert again.exit_code == 0
    world.check_whole()
    assert world.paid == 100


def test_a_batch_whose_model_is_not_supported_stops_the_run() -> None:
    """Exit 3 with the provider's words; nothing is marked failed."""
    world = world_with(BatchFault("unsupported"))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 3
    assert not world.lines


def test_bad_rows_fail_where_others_of_their_batch_succeed() -> None:
    """A refusal of a row counts once another row of its batch has succeeded, whatever their order."""

    def body(number: int) -> bytes:
        text = "x" * 40 if number % 10 else " [bad] "
        row: dict[str, Any] = {"prompt": prompt(number) + text, "id": f"r{number}"}
        if number % 10 == 0:
            row["max_tokens"] = -1
        return json.dumps(row).encode()

    world = World(60, body=body)

    summary = world.live()

    assert summary is not None
    rows = world.by_row()
    assert len(rows) == 60
    failed = [number for number, line in rows.items() if line["status"] == "failed"]
    assert set(failed) <= {10, 20, 30, 40, 50, 60}
    assert {line["via"] for line in rows.values()} == {"batch"}


def test_a_lost_create_that_the_listing_shows_is_paid_for_once() -> None:
    """The answer is lost, the batch is there: it is adopted, not created again."""
    world = world_with(BatchFault("create_lost", batches=(1,)))

    summary = world.live()

    assert summary is not None
    world.check_whole()
    assert world.paid == 100
    assert len(world.calls("POST /v1/batches")) == 1


def test_a_lost_create_that_no_listing_shows_in_time_is_told() -> None:
    """Only then is a chunk sent twice, and the summary says how many rows, and why."""
    world = world_with(BatchFault("create_lost", batches=(1,)), BatchFault("unlisted", batches=(1,), seconds=5000.0))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 200
    assert summary.batches.perhaps_twice_rows == 100
    assert told(world, "may be paid for twice")


def killed_at_a_create_that_is_unlisted(seconds: float, *, rows_per_s: float) -> World:
    """Anthropic has no labels: killed as the batch was created, the journal deleted, listed after *seconds* only."""
    fault = BatchFault("unlisted", batches=(1,), seconds=seconds)
    rules = BatchRules(faults=(fault,), rows_per_s=rows_per_s)
    world, whole = (World(100, endpoint="messages", rules=rules) for _ in range(2))
    whole.live()
    create = next(at for at, (_, name) in enumerate(whole.log, 1) if name == "POST /v1/messages/batches")
    assert world.live(kill_call=create) is None
    world.delete_journal()
    return world


def test_a_hidden_batch_without_labels_and_journal_is_looked_for_and_paid_once() -> None:
    """Killed as it has created a batch, its journal deleted, the listing late: rows wait until the listing has it."""
    world = killed_at_a_create_that_is_unlisted(300.0, rows_per_s=0.1)

    summary = world.live(detach=True)

    assert summary is not None
    assert summary.exit_code == 75
    world.live_on()
    world.check_whole()
    assert world.paid == 100
    assert told(world, "they are looked for")


def test_a_batch_that_was_hidden_too_long_is_told_as_paid_twice() -> None:
    """Without labels and journal nothing tells of it before; when it appears, the run says what may be paid twice."""
    world = killed_at_a_create_that_is_unlisted(5000.0, rows_per_s=0.01)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 200
    assert summary.batches.perhaps_twice_rows == 100
    assert told(world, "may be paid for twice")


def test_a_first_run_without_labels_does_not_look_for_batches_of_others() -> None:
    """Where the output is new nobody can have made any."""
    world = World(100, endpoint="messages")

    world.live()

    assert world.clock < 300
    assert not told(world, "looked for")


def test_three_hours_without_control_plane_cost_few_calls_and_no_row() -> None:
    """At most 60 calls; the batch that ran meanwhile is collected afterwards."""
    world = world_with(
        BatchFault("control_errors", statuses=(503,), from_s=30.0, to_s=30.0 + 3 * 3600), rows_per_s=0.01
    )

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 100
    calls = [at for at, _ in world.log if 30 <= at <= 30 + 3 * 3600]
    assert len(calls) <= 60
    assert summary.outages == 1


@pytest.mark.slow  # many calls in virtual time
def test_uploads_that_fail_are_not_tried_at_every_listing() -> None:
    """The listing works, the upload does not: it has a wait of its own, which grows."""
    world = world_with(BatchFault("control_errors", calls=("upload",), statuses=(500,), to_s=7200.0))

    summary = world.live()

    assert summary is not None
    world.check_whole()
    assert len(world.calls("POST /v1/files")) < 25
