"""The summaries of several runs of one job as one: shards that ran one after another, or side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from llmbatch.report.batches import BatchSnapshot
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.summary import RouteSummary, Summary

__all__ = ["join_summaries", "worst_exit_code"]

_WORST_FIRST: Final = (70, 2, 74, 3, 4, 75, 1, 0)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The exit code of a job of which parts ended with *codes*: a signal's, else the one that matters most; 0 of none.

    What stopped rows from being sent goes before rows that wait, and that before rows that failed.
    """
    found = set(codes)
    interrupted = [code for code in found if code >= 128]
    if interrupted:
        return max(interrupted)
    return next((code for code in _WORST_FIRST if code in found), max(found, default=0))


def join_summaries(
    summaries: Sequence[Summary], latencies: LatencyHistogram, *, output: str, duration_s: float
) -> Summary:
    """One summary of runs that took *duration_s* seconds together; *latencies* are those of all their calls.

    *output* is what their outputs are parts of.

    Raises:
        ValueError: there are none.
    """
    if not summaries:
        raise ValueError("there are no summaries")
    exit_code = worst_exit_code(one.exit_code for one in summaries)
    worst = next(one for one in summaries if one.exit_code == exit_code)
    this_run = sum(one.this_run_success + one.this_run_failed for one in summaries)
    totals = [one.total_rows for one in summaries]
    costs = [one.cost_usd for one in summaries if one.cost_usd is not None]
    return Summary(
        rows=sum(one.rows for one in summaries),
        success=sum(one.success for one in summaries),
        failed=sum(one.failed for one in summaries),
        already_done=sum(one.already_done for one in summaries),
        this_run_success=sum(one.this_run_success for one in summaries),
        this_run_failed=sum(one.this_run_failed for one in summaries),
        deferred=sum(one.deferred for one in summaries),
        retry_at=min((one.retry_at for one in summaries if one.retry_at), default=None),
        total_rows=None if None in totals else sum(total for total in totals if total is not None),
        calls=sum(one.calls for one in summaries),
        probes=sum(one.probes for one in summaries),
        retries=sum(one.retries for one in summaries),
        calls_avoided=sum(one.calls_avoided for one in summaries),
        outages=sum(one.outages for one in summaries),
        outage_seconds=sum(one.outage_seconds for one in summaries),
        throttles=sum(one.throttles for one in summaries),
        input_tokens=sum(one.input_tokens for one in summaries),
        output_tokens=sum(one.output_tokens for one in summaries),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        unpriced_calls=sum(one.unpriced_calls for one in summaries),
        unanswered_calls=sum(one.unanswered_calls for one in summaries),
        unmetered_calls=sum(one.unmetered_calls for one in summaries),
        at_risk_usd=sum((one.at_risk_usd for one in summaries), Decimal(0)),
        duration_s=duration_s,
        rows_per_s=this_run / duration_s if duration_s > 0.05 else 0.0,
        latency_p50_s=latencies.quantile(0.5),
        latency_p95_s=latencies.quantile(0.95),
        paused_s=sum(one.paused_s for one in summaries),
        stopped_reason=worst.stopped_reason,
        advice=worst.advice,
        exit_code=exit_code,
        input=worst.input,
        output=output,
        failures_by_code=_added(one.failures_by_code for one in summaries),
        errors_by_code=_added(one.errors_by_code for one in summaries),
        cut_answers=sum(one.cut_answers for one in summaries),
        answers_without_text=sum(one.answers_without_text for one in summaries),
        cached=sum(one.cached for one in summaries),
        repairs=sum(one.repairs for one in summaries),
        repaired=sum(one.repaired for one in summaries),
        tiers=_added(one.tiers for one in summaries),
        routes=_routes(summaries),
        batches=BatchSnapshot.joined([one.batches for one in summaries]),
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for code, count in one.items():
            total[code] = total.get(code, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _routes(summaries: Sequence[Summary]) -> tuple[RouteSummary, ...]:
    found: dict[str, list[RouteSummary]] = {}
    for route in (route for one in summaries for route in one.routes):
        found.setdefault(route.label, []).append(route)
    return tuple(
        RouteSummary(
            label,
            sum(route.calls for route in routes),
            sum(route.success for route in routes),
            sum(route.failed for route in routes),
            sum(route.outages for route in routes),
            sum(route.outage_seconds for route in routes),
        )
        for label, routes in sorted(found.items())
    )
