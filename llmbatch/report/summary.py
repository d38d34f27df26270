"""Summary of a run that has ended: what the library returns and ``--json`` prints.

:mod:`llmbatch.display.summary` formats it for humans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from llmbatch.core.events import Notice, RunEnded
from llmbatch.core.raw_json import JSON
from llmbatch.report.batches import BatchSnapshot
from llmbatch.report.snapshot import Snapshot, as_json

__all__ = ["RouteSummary", "Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class RouteSummary:
    """Summary of one route in this run: calls sent, rows ended, outages and the seconds they lasted."""

    label: str
    calls: int
    success: int
    failed: int
    outages: int
    outage_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Summary of a run that has ended.

    ``rows``, ``success``, ``failed`` and ``already_done`` count lines of the output, including those of earlier runs:
    ``rows == success + failed == already_done + this_run_success + this_run_failed``. Everything else is this run's.
    """

    rows: int
    """Lines in the output now."""
    success: int
    failed: int
    already_done: int
    """Lines that an earlier run left."""
    this_run_success: int
    this_run_failed: int
    deferred: int
    """Rows parked when the run ended; they have no output line and are listed in the deferred file."""
    retry_at: str | None = None
    """When the first of them may be sent again (ISO 8601, UTC); None if there are none."""
    total_rows: int | None
    """Rows of the input, if they were counted or read to the end; None otherwise."""
    calls: int
    """Requests sent, including probes."""
    probes: int
    retries: int
    calls_avoided: int
    """Calls to a provider that was down that the open circuit avoided."""
    outages: int
    """Outages of all routes, each from the circuit's opening until it closes again."""
    outage_seconds: float
    """Seconds in which at least one circuit was not closed."""
    throttles: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    """What the calls of this run cost, US$; None if no call had an answer of a known price."""
    unpriced_calls: int = 0
    """Calls of this run whose answers have no known price."""
    unanswered_calls: int = 0
    """Calls of this run that were sent and got no answer, such as those to a provider that was down."""
    unmetered_calls: int = 0
    """Calls of this run whose answers name no tokens, so that their cost is unknown."""
    at_risk_usd: Decimal = Decimal(0)
    """What the calls without an answer or without tokens can have cost at most, if the provider bills them."""
    duration_s: float
    rows_per_s: float
    """Rows of this run over its duration."""
    latency_p50_s: float | None
    """Of calls that succeeded, within 5 %, as ``latency_p95_s``."""
    latency_p95_s: float | None
    paused_s: float = 0.0
    """Seconds for which its user had paused it."""
    stopped_reason: str | None
    """Why rows are left; None when the run finished (exit code 0 or 1)."""
    advice: str
    """What a warning or error said to do about the reason why the run stopped; empty if there was none."""
    exit_code: int
    input: str
    output: str
    failures_by_code: dict[str, int]
    """Rows of this run that ended as failed."""
    errors_by_code: dict[str, int]
    """Attempts of this run that did not succeed."""
    cut_answers: int = 0
    """Successes of this run whose answers were cut at their token limit (finish reason ``length``)."""
    answers_without_text: int = 0
    """Successes of this run whose answers have neither text nor other content."""
    cached: int = 0
    """Rows of this run that were answered from a cache."""
    repairs: int = 0
    """Calls that asked again for an answer that did not fit the schema (``--repair``)."""
    repaired: int = 0
    """Rows of this run whose answers fit since they were asked again."""
    tiers: dict[str, int] = field(default_factory=dict)
    """Rows of this run by the service tier that their lines name (``--tier``)."""
    routes: tuple[RouteSummary, ...]
    batches: BatchSnapshot = field(default_factory=BatchSnapshot)
    """The batches of this run at the provider (``--via batch``)."""

    @property
    def ok(self) -> bool:
        """Whether every row succeeded."""
        return self.exit_code == 0

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        from llmbatch.report.notebook_html import summary_html

        return summary_html(self)

    def to_json(self) -> dict[str, JSON]:
        """Convert to JSON values; fractions are rounded to 3 digits."""
        value = as_json(self)
        assert isinstance(value, dict)  # noqa: S101 - tells the type checker what a dataclass becomes
        return value


def _advice(notice: Notice | None, reason: str) -> str:
    """What *notice* said to do, if it is about what the run stopped for, which both name first; else nothing."""
    if notice is None:
        return ""
    is_about_it = notice.level == "error" or not reason or _first_word(notice.message) == _first_word(reason)
    return notice.hint if is_about_it else ""


def _first_word(text: str) -> str:
    return text.partition(" ")[0].rstrip(":")


def summarize(last: Snapshot, ended: RunEnded, *, advising: Notice | None) -> Summary:
    """Build the summary of a run from its *last* snapshot, its end, and its last warning or error with a hint."""
    is_finished = ended.exit_code in (0, 1)
    routes = sorted(last.routes, key=lambda route: route.label)
    return Summary(
        rows=last.done_rows,
        success=last.success,
        failed=last.failed,
        already_done=last.already_done,
        this_run_success=last.this_run_success,
        this_run_failed=last.this_run_failed,
        deferred=ended.deferred,
        total_rows=None if last.total_is_estimate else last.total_rows,
        calls=last.calls,
        probes=last.probes,
        retries=last.retries,
        calls_avoided=last.calls_avoided,
        outages=last.outages,
        outage_seconds=last.outage_s,
        throttles=last.throttles,
        input_tokens=last.input_tokens,
        output_tokens=last.output_tokens,
        cost_usd=last.spending.cost_usd,
        unpriced_calls=last.spending.unpriced_calls,
        unanswered_calls=last.spending.unanswered_calls,
        unmetered_calls=last.spending.unmetered_calls,
        at_risk_usd=last.spending.at_risk_usd,
        duration_s=last.elapsed_s,
        paused_s=last.paused_s,
        rows_per_s=last.overall_rows_per_s,
        latency_p50_s=last.latency_p50_s,
        latency_p95_s=last.latency_p95_s,
        stopped_reason=None if is_finished else ended.reason or last.stopping,
        advice=_advice(advising, ended.reason),
        exit_code=ended.exit_code,
        input=last.input,
        output=last.output,
        failures_by_code=last.failures_by_code,
        errors_by_code=last.errors_by_code,
        cut_answers=last.cut_answers,
        answers_without_text=last.answers_without_text,
        cached=last.cached,
        repairs=last.repairs,
        repaired=last.repaired,
        tiers=last.tiers,
        batches=last.batches,
        routes=tuple(
            RouteSummary(route.label, route.calls, route.success, route.failed, route.outages, route.outage_s)
            for route in routes
        ),
    )
