"""Build Anthropic message responses, whole or streamed.

Not simulated: thinking blocks, citations and server tools.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmbatch.core.raw_json import JSON, dumps, parse
from llmbatch.sim.answer_text import AnswerText
from llmbatch.sim.openai_responses import chunks_of
from llmbatch.sim.request import SimRequest

__all__ = ["anthropic_body", "anthropic_events"]


def anthropic_body(request: SimRequest, answer: AnswerText, suffix: str) -> dict[str, JSON]:
    """The whole message; *suffix* makes its ids."""
    block: dict[str, JSON] = {"type": "text", "text": answer.text}
    if answer.tool is not None:
        block = _tool_block(answer, suffix, parse(answer.text))
    whole = _frame(request, suffix, answer.output_tokens)
    return whole | {"content": [block], "stop_reason": _stop_reason(answer)}


def anthropic_events(request: SimRequest, answer: AnswerText, suffix: str) -> list[bytes]:
    """The message as server-sent events, one bytes object an event."""
    return [f"event: {event['type']}\ndata: {dumps(event)}\n\n".encode() for event in _events(request, answer, suffix)]


def _frame(request: SimRequest, suffix: str, output_tokens: int) -> dict[str, JSON]:
    usage: dict[str, JSON] = {
        "input_tokens": request.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    frame: dict[str, JSON] = {"id": f"msg_{suffix}", "type": "message", "role": "assistant", "model": request.model}
    return frame | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def _stop_reason(answer: AnswerText) -> str:
    if answer.tool is not None:
        return "tool_use"
    if answer.is_refusal or answer.is_filtered:
        return "refusal"
    return "max_tokens" if answer.cut else "end_turn"


def _tool_block(answer: AnswerText, suffix: str, arguments: JSON) -> dict[str, JSON]:
    return {"type": "tool_use", "id": f"toolu_{suffix}", "name": answer.tool, "input": arguments}


def _events(request: SimRequest, answer: AnswerText, suffix: str) -> Iterator[dict[str, JSON]]:
    yield {"type": "message_start", "message": _frame(request, suffix, 1)}
    block: dict[str, JSON] = {"type": "text", "text": ""}
    if answer.tool is not None:
        block = _tool_block(answer, suffix, {})
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    for piece in chunks_of(answer.text):
        delta: dict[str, JSON] = {"type": "text_delta", "text": piece}
        if answer.tool is not None:
            delta = {"type": "input_json_delta", "partial_json": piece}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop: dict[str, JSON] = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": answer.output_tokens}}
    yield {"type": "message_stop"}
