"""A draft as Anthropic would send it: messages, whole or streamed.

What this module does not do: thinking blocks, citations or server tools.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmbatch.core.raw_json import JSON, dumps, parse
from llmbatch.sim.answer_text import Draft
from llmbatch.sim.openai_responses import pieces
from llmbatch.sim.request import Ask

__all__ = ["anthropic_body", "anthropic_events"]


def anthropic_body(ask: Ask, draft: Draft, mark: str) -> dict[str, JSON]:
    """The whole message; *mark* makes its ids."""
    block: dict[str, JSON] = {"type": "text", "text": draft.text}
    if draft.tool is not None:
        block = _tool_block(draft, mark, parse(draft.text))
    whole = _frame(ask, mark, draft.output_tokens)
    return whole | {"content": [block], "stop_reason": _stop_reason(draft)}


def anthropic_events(ask: Ask, draft: Draft, mark: str) -> list[bytes]:
    """The message as server-sent events, one bytes object an event."""
    return [f"event: {event['type']}\ndata: {dumps(event)}\n\n".encode() for event in _events(ask, draft, mark)]


def _frame(ask: Ask, mark: str, output_tokens: int) -> dict[str, JSON]:
    usage: dict[str, JSON] = {
        "input_tokens": ask.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    frame: dict[str, JSON] = {"id": f"msg_{mark}", "type": "message", "role": "assistant", "model": ask.model}
    return frame | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def _stop_reason(draft: Draft) -> str:
    if draft.tool is not None:
        return "tool_use"
    return "max_tokens" if draft.cut else "end_turn"


def _tool_block(draft: Draft, mark: str, arguments: JSON) -> dict[str, JSON]:
    return {"type": "tool_use", "id": f"toolu_{mark}", "name": draft.tool, "input": arguments}


def _events(ask: Ask, draft: Draft, mark: str) -> Iterator[dict[str, JSON]]:
    yield {"type": "message_start", "message": _frame(ask, mark, 1)}
    block: dict[str, JSON] = {"type": "text", "text": ""}
    if draft.tool is not None:
        block = _tool_block(draft, mark, {})
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    for piece in pieces(draft.text):
        delta: dict[str, JSON] = {"type": "text_delta", "text": piece}
        if draft.tool is not None:
            delta = {"type": "input_json_delta", "partial_json": piece}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop: dict[str, JSON] = {"stop_reason": _stop_reason(draft), "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": draft.output_tokens}}
    yield {"type": "message_stop"}
