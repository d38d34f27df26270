"""Refuse the creation of batches above the limits of rows and of creations per hour."""

from __future__ import annotations

from llmbatch.sim.batches.rows import RowTable
from llmbatch.sim.batches.rules import BatchRules
from llmbatch.sim.batches.state import BatchState
from llmbatch.sim.protocol import Dialect, ErrorResponse

__all__ = ["creation_error"]

_HOUR = 3600.0


def creation_error(
    state: BatchState, dialect: Dialect, rows: RowTable, rules: BatchRules, now: float
) -> tuple[ErrorResponse | None, float | None]:
    """The refusal of a creation with these *rows*, and the seconds that it asks to wait; (None, None) if it may be."""
    state.creations += 1
    fault = rules.fault("create_refused", state.creations, state.seed)
    if fault is not None and (fault.rate < 1 or fault.batches or state.is_first("create_refused", fault.times)):
        return ErrorResponse(429, "Rate limit reached for batch creations.", code="rate_limit_exceeded"), (
            fault.retry_after
        )
    if rules.creations_per_h is not None:
        recent = [batch.created for batch in state.batches if batch.created > now - _HOUR]
        if len(recent) >= rules.creations_per_h:
            message = f"Rate limit reached for batch creations: {rules.creations_per_h} an hour."
            wait = recent[-rules.creations_per_h] + _HOUR - now
            return ErrorResponse(429, message, code="rate_limit_exceeded"), wait
    queued_rows, queued_tokens = state.queued(rows.model, now)
    if rules.queue_rows is not None and queued_rows + len(rows) > rules.queue_rows:
        message = f"The queue holds {rules.queue_rows:,} batch requests at most, of which {queued_rows:,} are taken."
        return ErrorResponse(429, message, code="rate_limit_exceeded"), None
    if dialect == "anthropic":
        is_full = rules.queue_tokens is not None and queued_tokens + rows.tokens > rules.queue_tokens
        if is_full or rules.fault("queue_full", len(state.batches) + 1, state.seed) is not None:
            return ErrorResponse(429, "This request would exceed the limit of enqueued batch requests."), None
    return None, None
