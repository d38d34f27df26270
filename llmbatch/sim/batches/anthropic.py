"""The message batches of the simulated Anthropic API."""

from __future__ import annotations

from datetime import UTC, datetime

from llmbatch.core.raw_json import JSON
from llmbatch.sim.admission import key_of
from llmbatch.sim.batches.batch import Batch, BatchOrder
from llmbatch.sim.batches.limits import creation_error
from llmbatch.sim.batches.pages import page_of
from llmbatch.sim.batches.replies import BatchReply, error_reply, json_reply
from llmbatch.sim.batches.rows import anthropic_rows
from llmbatch.sim.batches.spool import Part
from llmbatch.sim.batches.state import BatchState, ControlCall
from llmbatch.sim.batches.uploads import Body
from llmbatch.sim.protocol import ErrorResponse

__all__ = ["AnthropicBatches"]

_MAX_MB = 256.0


class AnthropicBatches:
    """Answers the calls of ``/v1/messages/batches``."""

    def __init__(self, state: BatchState) -> None:
        self._state = state
        self._deleted: set[str] = set()

    def create(self, call: ControlCall, body: Body) -> BatchReply | Batch:
        """``POST /v1/messages/batches``: the batch, or a refusal."""
        limits = self._state.general_rules
        if body.spool.size > (limits.max_mb or _MAX_MB) * 1e6:
            return self._error(call, 413, f"Request exceeds the maximum size of {limits.max_mb or _MAX_MB:g} MB.")
        rows = anthropic_rows(body.spool, max_rows=limits.max_rows)
        if isinstance(rows, ErrorResponse):
            return error_reply("anthropic", rows, call.suffix)
        rules = self._state.rules(rows.model)
        error, wait = creation_error(self._state, "anthropic", rows, rules, call.now)
        if error is not None:
            return error_reply("anthropic", error, call.suffix, wait)
        return self._state.create(
            "anthropic", rows, BatchOrder("/v1/messages", key=key_of(call.headers)), rules, call.now
        )

    def batches(self, call: ControlCall, visible: list[Batch]) -> BatchReply:
        """``GET /v1/messages/batches``; *visible*: those that are listed, newest first."""
        given = call.query.get("limit", "20")
        if not given.isdecimal() or not 1 <= int(given) <= 1000:
            return self._error(call, 400, "limit: Input should be from 1 to 1000")
        there = [batch for batch in visible if batch.id not in self._deleted]
        after, before = call.query.get("after_id"), call.query.get("before_id")
        page, has_more = page_of(there, lambda batch: batch.id, limit=int(given), after=after, before=before)
        data: list[JSON] = [self.json(batch, call) for batch in page]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return json_reply(
            "anthropic", {"data": data, "has_more": has_more, "first_id": first, "last_id": last}, call.suffix
        )

    def batch(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``GET /v1/messages/batches/ID``, and the answer to its creation."""
        if batch.id in self._deleted:
            return self.missing(call)
        return json_reply("anthropic", self.json(batch, call), call.suffix)

    def cancel(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``POST /v1/messages/batches/ID/cancel``."""
        if batch.id in self._deleted:
            return self.missing(call)
        if batch.is_ended:
            return self._error(call, 400, f"Batch {batch.id} cannot be canceled: it has ended.")
        if batch.stage != "cancelling":
            batch.cancel(call.now)
        return self.batch(call, batch)

    def delete(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``DELETE /v1/messages/batches/ID``."""
        if batch.id in self._deleted:
            return self.missing(call)
        if not batch.is_ended:
            return self._error(call, 400, f"Batch {batch.id} cannot be deleted: it has not ended.")
        self._deleted.add(batch.id)
        return json_reply("anthropic", {"id": batch.id, "type": "message_batch_deleted"}, call.suffix)

    def content(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``GET /v1/messages/batches/ID/results``."""
        if batch.id in self._deleted or self._archived(batch, call.now) is not None:
            return self.missing(call)
        if not batch.is_ended:
            return self._error(call, 404, f"Batch {batch.id} has no results yet: it is still being processed.")
        headers = {"content-type": "application/x-jsonl", "request-id": f"req_{call.suffix}"}
        output = batch.results.output
        return BatchReply("answer", 200, headers, Part(output, output.size))

    def missing(self, call: ControlCall) -> BatchReply:
        """The answer about a batch that does not exist."""
        return self._error(call, 404, f"Batch {call.object_id} was not found.")

    def json(self, batch: Batch, call: ControlCall) -> dict[str, JSON]:
        """The batch object. Its counts stay zero until it has ended."""
        results, ended = batch.results, batch.ended
        counts: dict[str, JSON] = {
            "processing": len(batch.rows),
            "succeeded": 0,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        }
        if ended is not None:
            counts |= {"processing": 0, "succeeded": results.good, "errored": results.bad}
            counts["canceled" if batch.stage == "cancelled" else "expired"] = results.not_run_rows
        archived = self._archived(batch, call.now)
        has_results = ended is not None and archived is None
        status = "ended" if ended is not None else "canceling" if batch.stage == "cancelling" else "in_progress"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": counts,
            "created_at": self._time(batch.created),
            "expires_at": self._time(batch.expires),
            "ended_at": self._time(ended),
            "cancel_initiated_at": self._time(batch.at.get("cancelling")),
            "archived_at": self._time(archived),
            "results_url": f"{call.origin}/v1/messages/batches/{batch.id}/results" if has_results else None,
        }

    def _archived(self, batch: Batch, now: float) -> float | None:
        """When its results were removed; None if they were not."""
        removed = batch.created + batch.rules.keep_s
        return removed if now >= removed else None

    def _time(self, at: float | None) -> str | None:
        return None if at is None else datetime.fromtimestamp(self._state.epoch + at, UTC).isoformat()

    def _error(self, call: ControlCall, status: int, message: str) -> BatchReply:
        return error_reply("anthropic", ErrorResponse(status, message), call.suffix)
