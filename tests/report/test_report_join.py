"""The summaries of several runs as one."""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal

from llmbatch.core.events import RunEnded, RunStarted
from llmbatch.report.batches import BatchSnapshot, OneBatch
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.join import join_summaries
from llmbatch.report.stats import RunStats
from llmbatch.report.summary import RouteSummary, Summary


def empty() -> Summary:
    stats = RunStats()
    stats.observe(RunStarted(0.0, "in.jsonl", "out", 1, 0, 0, 0))
    return stats.summary(RunEnded(0.0, 0, "", 0))


def full(number: int) -> Summary:
    """One in which nothing is as in a run that did nothing."""
    amount, money = 10 * number, Decimal(number)
    values: dict[str, object] = {}
    for field in fields(Summary):
        value = getattr(empty(), field.name)
        if isinstance(value, int | float):
            values[field.name] = type(value)(amount)
        elif isinstance(value, Decimal):
            values[field.name] = money
        elif isinstance(value, dict):
            values[field.name] = {"a": amount}
    open_batch = OneBatch(f"b{number}", "in_progress", amount, None, float(-number))
    batches = BatchSnapshot(
        *(amount, amount, amount, (open_batch,), amount, amount, amount, money, money, amount, money, "lost")
    )
    values |= {"cost_usd": money, "total_rows": amount, "latency_p50_s": 1.0, "latency_p95_s": 1.0}
    values |= {"stopped_reason": "why", "advice": "do", "exit_code": 75, "retry_at": f"2026-01-0{number}"}
    values |= {"routes": (RouteSummary("a", amount, amount, amount, amount, float(amount)),), "batches": batches}
    return replace(empty(), **values)  # type: ignore[arg-type]


def test_nothing_of_a_summary_is_left_out() -> None:
    """As was the time paused, and the batches: the sums of both, but for what only one can say."""
    latencies = LatencyHistogram()
    latencies.add(1.0)

    whole = join_summaries([full(1), full(2)], latencies, output="results", duration_s=30.0)

    nothing = empty()
    same = [field.name for field in fields(Summary) if getattr(whole, field.name) == getattr(nothing, field.name)]
    assert same == ["input"]
    assert whole.paused_s == 30.0
    assert whole.failures_by_code == {"a": 30}


def test_batches_are_added_up() -> None:
    """Open ones of all, the oldest first; money where any is known."""
    batches = join_summaries([full(1), full(2)], LatencyHistogram(), output="results", duration_s=1.0).batches

    assert [batch.id for batch in batches.open] == ["b2", "b1"]
    assert batches.cost_usd == batches.saved_usd == batches.perhaps_twice_usd == Decimal(3)
    assert {batches.submitted, batches.found, batches.collected, batches.rows, batches.not_run, batches.dropped} == {30}
    assert batches.perhaps_twice_rows == 30
    assert batches.why_twice == "lost"
    assert BatchSnapshot.joined([BatchSnapshot(), BatchSnapshot()]) == BatchSnapshot()
