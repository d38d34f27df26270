"""Where rows end: one result each, handed to the sink and told to the observers.

What it does not do: decide how a row ends, or write files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from llmbatch.events import Event, Progress, RowFinished
from llmbatch.records import Malformed, Outcome, Result, Row
from llmbatch.runner.ports import Sink, Source
from llmbatch.runner.work import Place, Work

__all__ = ["Outlet", "deferred_result"]

PROGRESS_SECONDS = 0.25


class Outlet:
    """The ends of one run's rows."""

    def __init__(self, sink: Sink, source: Source, *, now: Callable[[], float], emit: Callable[[Event], None]) -> None:
        self._sink = sink
        self._source = source
        self._now = now
        self._emit = emit
        self._told_at = float("-inf")

    @property
    def congested(self) -> bool:
        """Whether results are not taken as fast as they come."""
        return self._sink.congested

    def finish(self, work: Work, outcome: Outcome, status: Literal["success", "failed"], now: float) -> None:
        """The row of *work* ends as *outcome* says."""
        lane, row = work.lane, work.row
        lane.forget(work)
        work.place = Place.DONE
        failed = status == "failed"
        result = Result(
            row.number,
            row.hash,
            status,
            row.id_json,
            attempts=work.attempts,
            deferrals=work.deferrals,
            status_code=outcome.status,
            request_id=outcome.request_id,
            body=outcome.body,
            error_code=outcome.code if failed else None,
            error_message=outcome.message if failed else None,
            text=outcome.text,
            usage=outcome.usage,
            model=lane.route.label,
            latency_s=work.latency,
            metadata_json=row.fields.get("metadata"),
            value=outcome.value,
        )
        self._sink.put(result)
        self._emit(RowFinished(now, lane.label, row.number, status, outcome.code if failed else "", work.attempts))
        if now - self._told_at >= PROGRESS_SECONDS:
            self.tell_progress(now, exhausted=False)

    def finish_malformed(self, row: Row | Malformed, code: str, message: str) -> None:
        """The row was never a request."""
        self._sink.put(Result(row.number, row.hash, "failed", row.id_json, error_code=code, error_message=message))
        self._emit(RowFinished(self._now(), "", row.number, "failed", code, 0))

    def tell_progress(self, now: float, *, exhausted: bool) -> None:
        """Tell how far reading is."""
        self._told_at = now
        self._emit(Progress(now, self._source.rows_read, self._source.fraction, exhausted))


def deferred_result(work: Work, retry_after: float, machine: str) -> Result:
    """The row of *work*, which waits, as a result; *machine*: what is wrong with this machine, if anything."""
    lane, row = work.lane, work.row
    last = lane.dead or (work.refusal[1] if work.refusal else None) or work.last
    return Result(
        row.number,
        row.hash,
        "deferred",
        row.id_json,
        attempts=work.attempts,
        deferrals=max(1, work.deferrals),
        model=lane.route.label,
        retry_after=retry_after,
        reason=machine or lane.reason or (last.message if last else "waiting for its turn"),
        metadata_json=row.fields.get("metadata"),
    )
