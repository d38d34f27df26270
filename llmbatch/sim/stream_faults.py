"""Break a good stream in the middle: with an error event, or with a pause."""

from __future__ import annotations

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.request import SimRequest

__all__ = ["break_stream", "pause_stream"]

Chunks = tuple[tuple[float, bytes], ...]
"""The parts of a body, each with the seconds before it."""


def break_stream(request: SimRequest, chunks: Chunks) -> Chunks:
    """Return the first half of *chunks* and the error event of *request*'s API, after which nothing comes."""
    half = len(chunks) // 2
    return (*chunks[:half], (chunks[half][0], _error_event(request)))


def pause_stream(chunks: Chunks, seconds: float) -> Chunks:
    """Return *chunks* with *seconds* more before the second half."""
    half = len(chunks) // 2
    gap, chunk = chunks[half]
    return (*chunks[:half], (gap + seconds, chunk), *chunks[half + 1 :])


def _error_event(request: SimRequest) -> bytes:
    message = "The server had an error while processing your request."
    event: dict[str, JSON]
    match request.endpoint:
        case "messages":
            event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            return f"event: error\ndata: {dumps(event)}\n\n".encode()
        case "responses":
            event = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 9}
            return f"event: error\ndata: {dumps(event)}\n\n".encode()
        case _:
            event = {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
            return f"data: {dumps(event)}\n\n".encode()
