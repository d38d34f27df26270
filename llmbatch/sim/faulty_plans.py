"""Plans of answers that are errors, or damaged: what the behaviors of a scenario do to a request."""

from __future__ import annotations

import math
from dataclasses import replace

from llmbatch.core.raw_json import dumps
from llmbatch.sim.protocol import Dialect, ErrorResponse, answer_headers, error_body
from llmbatch.sim.request import SimRequest
from llmbatch.sim.response_plan import ResponsePlan
from llmbatch.sim.scenario import Behavior, Phase
from llmbatch.sim.stream_faults import break_stream, pause_stream

__all__ = ["corrupted", "error_plan", "outage", "throttling"]


def outage(dialect: Dialect, statuses: tuple[int, ...], pick: float) -> ErrorResponse:
    """One of *statuses*, by *pick*, a draw from 0 to 1."""
    status = statuses[int(pick * len(statuses))]
    if status == 429:
        return throttling()
    if status == 503 and dialect == "anthropic":
        return ErrorResponse(529, "Overloaded")
    if status in (503, 529):
        return ErrorResponse(status, "The server is currently overloaded. Please try again later.", code="overloaded")
    return ErrorResponse(status, "The server had an error while processing your request.", code="server_error")


def throttling() -> ErrorResponse:
    """The refusal of one request too many."""
    return ErrorResponse(429, "Rate limit reached for requests.", code="rate_limit_exceeded")


def corrupted(good: ResponsePlan, request: SimRequest, behavior: Behavior, phase: Phase) -> ResponsePlan:
    """A good answer, damaged as the behavior of the phase has it."""
    down = phase.is_down
    if good.chunks and behavior == "stream_error":
        return replace(good, chunks=break_stream(request, good.chunks), good=False, down=down)
    if good.chunks and behavior == "stream_pause":
        return replace(good, chunks=pause_stream(good.chunks, phase.stall))
    if behavior == "cut":
        return replace(good, kind="cut", good=False, down=down)
    if behavior == "false_success":
        body = dumps({"error": {"message": "The engine failed.", "type": "server_error", "code": "internal_error"}})
        headers = {**good.headers, "content-type": "application/json"}
        return replace(good, headers=headers, body=body.encode(), chunks=(), good=False, down=down)
    return good


def error_plan(
    dialect: Dialect, error: ErrorResponse, suffix: str, delay: float, wait: float | None, *, down: bool
) -> ResponsePlan:
    """The plan of an error; *wait*: what it asks to wait, in seconds, where errors of its status do."""
    headers = answer_headers(dialect, suffix, delay)
    headers["content-type"], body = error_body(dialect, error, f"req_{suffix}")
    if wait is not None and (error.status == 429 or error.status >= 500):
        headers["retry-after"] = str(math.ceil(wait))
        if dialect == "openai":
            headers["retry-after-ms"] = str(round(wait * 1000))
    return ResponsePlan("answer", delay, error.status, headers, body, down=down)
