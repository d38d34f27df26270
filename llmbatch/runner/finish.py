"""Builds the result of a finished row, passes it to the sink, and emits RowFinished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from llmbatch.classify.tiers import STANDARD, asks_for_tier
from llmbatch.core.calls import Outcome, Usage
from llmbatch.core.events import Event, Progress, RowFinished
from llmbatch.core.ports import Sink, Source
from llmbatch.core.rows import Malformed, Result, Row
from llmbatch.runner.pending import PendingRow

__all__ = ["Finisher", "deferred_result"]

PROGRESS_SECONDS = 0.25
"""Shortest time between two Progress events."""

_TRUNCATED = "the answer was cut at its token limit (finish_reason length)"


class Finisher:
    """Finishes the rows of one run. *require_finish*: an answer that was cut at its token limit is no success."""

    def __init__(
        self,
        sink: Sink,
        source: Source,
        *,
        now: Callable[[], float],
        emit: Callable[[Event], None],
        require_finish: bool = False,
    ) -> None:
        self._require_finish = require_finish
        self._sink = sink
        self._source = source
        self._now = now
        self._emit = emit
        self._told_at = float("-inf")
        self.marks = False
        """Whether to tell the source which rows are finished, because a later pass over the input needs that."""

    def finish(self, pending: PendingRow, outcome: Outcome, status: Literal["success", "failed"], now: float) -> None:
        """Build the result of *outcome*, pass it to the sink, and emit RowFinished."""
        row, route = pending.row, pending.route
        if self._require_finish and status == "success" and outcome.finish_reason == "length":
            # For the route the call was a success: only its row has failed.
            status, outcome = "failed", replace(outcome, code="truncated", message=_TRUNCATED, value=None)
        failed = status == "failed"
        fit = None if failed else outcome.parsed
        result = Result(
            row.number,
            row.hash,
            status,
            row.id_json,
            attempts=pending.attempts,
            deferrals=pending.deferrals,
            status_code=outcome.status,
            request_id=outcome.request_id,
            body=outcome.body,
            error_code=outcome.code if failed else None,
            error_message=outcome.message if failed else None,
            text=outcome.text,
            usage=outcome.usage if pending.earlier_usage is None else _added(pending.earlier_usage, outcome.usage),
            model=route.route.model or route.route.label,
            route=_told_route(pending) if pending.routes or route.route.tier else None,
            latency_s=pending.latency,
            metadata_json=row.fields.get("metadata"),
            value=outcome.value,
            settings="" if pending.request is None else pending.request.settings,
            finish_reason=outcome.finish_reason,
            fit=fit,
            cached=outcome.is_cached,
            cost_usd=_cost(pending, outcome),
            tier=None if outcome.tier is None else _told_tier(pending, outcome),
            row=row.value,
        )
        self._sink.put(result)
        if self.marks:
            self._source.finished(row.number)
        code = outcome.code if failed else ""
        self._emit(
            RowFinished(
                now,
                route.state.label,
                row.number,
                status,
                code,
                pending.attempts,
                outcome.finish_reason,
                not failed and outcome.text == "",
                result.tier or "",
                outcome.is_cached,
                fit is not None and pending.follow_ups > 0,
            )
        )
        if now - self._told_at >= PROGRESS_SECONDS:
            self.tell_progress(now, exhausted=False)

    def finish_malformed(self, row: Row | Malformed, code: str, message: str) -> None:
        """Finish a row that could not be sent, as failed with *code* and *message*."""
        self._sink.put(
            Result(row.number, row.hash, "failed", row.id_json, error_code=code, error_message=message, row=row.value)
        )
        if self.marks:
            self._source.finished(row.number)
        self._emit(RowFinished(self._now(), "", row.number, "failed", code, 0))

    def tell_progress(self, now: float, *, exhausted: bool) -> None:
        """Emit Progress."""
        self._told_at = now
        self._emit(Progress(now, self._source.rows_read, self._source.fraction, exhausted))


def _cost(pending: PendingRow, outcome: Outcome) -> float | None:
    """What the calls of the row cost together; None if that of an answer is unknown, and if none was paid for."""
    if outcome.is_cached:
        return 0.0
    return None if pending.cost is None or pending.cost.is_nan() else float(pending.cost)


def _told_route(pending: PendingRow) -> str | None:
    """The label of its route, if that is one of a pool or a fallback, or one of several tiers."""
    route = pending.route.route
    first = pending.routes[0] if pending.routes else (pending.route,)
    return None if first == (pending.route,) and not route.tier else route.label


def _told_tier(pending: PendingRow, outcome: Outcome) -> str | None:
    """The tier that was billed, as far as the answer says so; the standard one only if a tier was asked for."""
    if outcome.is_cached:
        return None  # nothing was billed
    if outcome.tier != STANDARD or pending.route.route.tier:
        return outcome.tier
    return outcome.tier if pending.request is not None and asks_for_tier(pending.request.body) else None


def _added(spent: Usage, usage: Usage | None) -> Usage:
    if usage is None:
        return spent
    return Usage(spent.input_tokens + usage.input_tokens, spent.output_tokens + usage.output_tokens)


def deferred_result(pending: PendingRow, retry_after: float, machine: str) -> Result:
    """Build the result of a row that still waits; *machine*: the fault of this machine, empty if none."""
    state, row = pending.route.state, pending.row
    record = state.evidence.records.get(row.number)
    last = (None if record is None else record.last) or pending.last
    given_up = "" if state.dead is None else state.dead.message
    limit = pending.route.limited_by
    waits_for = "its turn" if limit is None else str(limit)
    return Result(
        row.number,
        row.hash,
        "deferred",
        row.id_json,
        attempts=pending.attempts,
        deferrals=max(1, pending.deferrals),
        model=pending.route.route.model or pending.route.route.label,
        retry_after=retry_after,
        reason=machine or given_up or state.reason or (last.message if last else f"waiting for {waits_for}"),
        metadata_json=row.fields.get("metadata"),
        row=row.value,
    )
