"""The batches of an output over all of its runs: what is kept, for how long, and how a page shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC
from decimal import Decimal

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchEvent, BatchLost, BatchMoved, BatchSubmitted
from llmbatch.core.events import CallEnded, Event, RowFinished
from llmbatch.core.raw_json import JSON
from llmbatch.report.batch_log import MOST_BATCHES, BatchLog
from llmbatch.report.history import History
from llmbatch.report.html.batch_section import batch_table
from llmbatch.report.html.data import RunReport
from llmbatch.report.journal import Journal
from llmbatch.report.row_spread import RowSpread
from llmbatch.report.stats import RunStats

WALL = 1_795_744_800.0  # 2026-11-27 02:00 UTC
HOSTILE = "</td><script>alert(1)</script>\x1b[2J\u202e"


def submitted(batch: str, *, rows: int = 100, is_new: bool = True, made: float | None = None) -> BatchSubmitted:
    """A batch of the rows 1 to *rows*."""
    return BatchSubmitted(0.0, batch, "openai/x", 1, rows, rows, 1, is_new, made)


def collected(batch: str, *, success: int = 100, not_run: int = 0, cost: str = "1.25") -> BatchCollected:
    """All of its results are there."""
    return BatchCollected(0.0, batch, "openai/x", success, 0, not_run, 0, 0, Decimal(cost), Decimal(cost))


def log_of(*events: BatchEvent) -> BatchLog:
    """A log of *events*, a minute apart, that was written and read after each."""
    log = BatchLog()
    for place, event in enumerate(events):
        log.observe(event, WALL + 60 * place)
        log = BatchLog.from_json(json.loads(json.dumps(log.to_json())))
    return log


def test_a_batch_is_followed_from_its_creation_to_its_results() -> None:
    """When it was made and ended as the provider says, its last status, its rows, cost and saving."""
    log = log_of(
        submitted("b1", made=WALL - 5),
        BatchMoved(0.0, "b1", "in_progress", 40, 100),
        BatchMoved(0.0, "b1", "expired", 63, 100, WALL + 90),
        collected("b1", success=63, not_run=37),
    )

    (one,) = log.batches
    assert (one.id, one.model, one.rows, one.state) == ("b1", "openai/x", 100, "expired, collected")
    assert (one.made, one.ended) == (WALL - 5, WALL + 90)
    assert (one.success, one.failed, one.not_run) == (63, 0, 37)
    assert log.total_cost_usd == log.total_saved_usd == Decimal("1.25")


def test_a_batch_that_the_next_run_finds_again_is_the_same() -> None:
    """It has one line, with the time at which it was made."""
    log = log_of(submitted("b1", made=WALL - 5), BatchCancelled(0.0, "b1", "why"), submitted("b1", is_new=False))

    (one,) = log.batches
    assert (one.made, one.ended, one.state) == (WALL - 5, None, "canceling")


def test_a_creation_without_an_answer_is_told_without_an_id() -> None:
    """Each of them, as none has a name to be known by."""
    log = log_of(BatchLost(0.0, "", 50, "no answer"), BatchLost(0.0, "", 60, "no answer"))

    assert [(one.id, one.rows, one.fate) for one in log.batches] == [("", 50, "lost"), ("", 60, "lost")]


def test_the_log_is_bounded_and_its_sums_are_of_all() -> None:
    """The oldest that are over are left out; open ones stay."""
    log = BatchLog()
    log.observe(submitted("open"), WALL)
    for number in range(MOST_BATCHES + 50):
        log.observe(submitted(f"b{number}"), WALL)
        log.observe(collected(f"b{number}", cost="0.01"), WALL)

    assert len(log.batches) == MOST_BATCHES
    assert log.batches[0].id == "open"
    assert log.earlier == 51
    assert log.total_saved_usd == Decimal("0.01") * (MOST_BATCHES + 50)


def test_whatever_a_sidecar_holds_is_read() -> None:
    """What makes no sense is left out."""
    odd: dict[str, JSON] = {"made": "never", "fate": "open"}
    values: list[JSON] = [None, 7, [], {"batches": 7}, {"batches": [7, {}, odd], "earlier": -1}]
    for value in values:
        assert BatchLog.from_json(value) == BatchLog()
    odd = {"made": "2026-11-27T02:00:00Z", "fate": "open", "rows": True, "cost_usd": "NaN", "id": 7}
    (one,) = BatchLog.from_json({"batches": [odd]}).batches
    assert (one.id, one.rows, one.cost_usd) == ("", 0, None)


def page_of(journal: Journal) -> RunReport:
    """A page about an output with this *journal*."""
    return RunReport(
        output="o.jsonl",
        state="finished",
        success=100,
        failed=0,
        was_killed=False,
        total_rows=100,
        total_is_estimate=False,
        deferred_rows=0,
        exit_code=0,
        reason="",
        waits_for="",
        calls_avoided=0,
        input="p.jsonl",
        command="",
        next="",
        began=WALL,
        ended=WALL + 60,
        journal=journal,
        history=History(),
        history_note="",
        failures=[],
        routes=[],
        spread=RowSpread(),
        made_at=WALL + 60,
        version="1.0",
        zone=UTC,
    )


def test_the_page_shows_each_batch_and_what_was_saved() -> None:
    """Hostile text stays text; without batches there is no section."""
    journal = Journal()
    assert batch_table(page_of(journal)) == ""
    journal.batches = log_of(submitted("b1", made=WALL), collected("b1"), submitted("b2"))
    journal.batches.batches[1] = replace(journal.batches.batches[1], id=HOSTILE, status=HOSTILE)

    text = batch_table(page_of(journal))

    assert "2026-11-27 02:00" in text
    assert "US$ 1.25 less than rows that are sent live" in text
    assert "<script>" not in text
    assert "\u202e" not in text


def test_rows_of_batches_told_a_speed_of_their_route() -> None:
    """No call is sent for them here, so nothing begins that could be timed."""
    stats, journal = RunStats(), Journal()
    events: list[Event] = [
        CallEnded(900.0, "openai/x", 1, False, "success", "", "", 200, 0.0, 1, 1, via="batch"),
        RowFinished(900.0, "openai/x", 1, "success", "", 1),
    ]
    for event in events:
        stats.observe(event)

    journal.to_json(stats)

    assert journal.rows_per_s("openai/x") is None
