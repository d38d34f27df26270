"""A draft as OpenAI would send it: chat completions, completions, responses and embeddings, whole or streamed.

The shapes are those that the official client's typed models accept. What this module does not do: log
probabilities, several choices, or reasoning items.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.answer_text import Draft, embed
from llmbatch.sim.request import Ask

__all__ = ["CREATED", "embeddings_body", "models_body", "openai_body", "openai_events", "pieces"]

CREATED = 1767225600
"""When every answer says it was made: one instant, because the time of day must not change an answer."""

_PIECES = re.compile(r"(?:\s*\S+){1,3}\s*")


def pieces(text: str) -> list[str]:
    """*text* in the small parts that a stream brings, a few words each."""
    return _PIECES.findall(text) or [text]


def openai_body(ask: Ask, draft: Draft, mark: str) -> dict[str, JSON]:
    """The whole answer; *mark* makes its ids."""
    match ask.endpoint:
        case "chat":
            message: dict[str, JSON] = {"role": "assistant", "content": draft.text, "refusal": None, "annotations": []}
            if draft.tool is not None:
                message |= {"content": None, "tool_calls": [_tool_call(draft, mark)]}
            choice: dict[str, JSON] = {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": _finish(draft),
            }
            return _chat_frame(ask, mark, "chat.completion") | {"choices": [choice], "usage": _usage(ask, draft)}
        case "completions":
            text: dict[str, JSON] = {"text": draft.text, "index": 0, "logprobs": None, "finish_reason": _finish(draft)}
            return _completion_frame(ask, mark) | {"choices": [text], "usage": _usage(ask, draft)}
        case _:
            return _response(ask, draft, mark, "incomplete" if draft.cut else "completed")


def openai_events(ask: Ask, draft: Draft, mark: str) -> list[bytes]:
    """The answer as server-sent events, one bytes object an event."""
    match ask.endpoint:
        case "chat":
            return [_data(event) for event in _chat_chunks(ask, draft, mark)] + [b"data: [DONE]\n\n"]
        case "completions":
            return [_data(event) for event in _completion_chunks(ask, draft, mark)] + [b"data: [DONE]\n\n"]
        case _:
            events = []
            for number, event in enumerate(_response_events(ask, draft, mark)):
                line = dumps(event | {"sequence_number": number})
                events.append(f"event: {event['type']}\ndata: {line}\n\n".encode())
            return events


def embeddings_body(ask: Ask, seed: int) -> dict[str, JSON]:
    """A vector for each input, as numbers or as base64 of little-endian 32-bit floats."""
    dimensions = ask.document.get("dimensions")
    size = dimensions if isinstance(dimensions, int) else 1536
    data: list[JSON] = []
    for index, text in enumerate(ask.inputs):
        vector = embed(seed, text, size)
        encoded: JSON = list(vector)
        if ask.document.get("encoding_format") == "base64":
            encoded = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    usage: dict[str, JSON] = {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens}
    return {"object": "list", "data": data, "model": ask.model, "usage": usage}


def models_body(names: list[str]) -> dict[str, JSON]:
    """The list of models."""
    data: list[JSON] = [{"id": name, "object": "model", "created": CREATED, "owned_by": "sim"} for name in names]
    return {"object": "list", "data": data}


def _data(event: JSON) -> bytes:
    return f"data: {dumps(event)}\n\n".encode()


def _finish(draft: Draft) -> str:
    if draft.tool is not None:
        return "tool_calls"
    return "length" if draft.cut else "stop"


def _usage(ask: Ask, draft: Draft) -> dict[str, JSON]:
    return {
        "prompt_tokens": ask.input_tokens,
        "completion_tokens": draft.output_tokens,
        "total_tokens": ask.input_tokens + draft.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_frame(ask: Ask, mark: str, kind: str) -> dict[str, JSON]:
    frame: dict[str, JSON] = {"id": f"chatcmpl-{mark}", "object": kind, "created": CREATED, "model": ask.model}
    return frame | {"service_tier": "default", "system_fingerprint": "fp_sim"}


def _tool_call(draft: Draft, mark: str) -> dict[str, JSON]:
    return {"id": f"call_{mark}", "type": "function", "function": {"name": draft.tool, "arguments": draft.text}}


def _chat_chunks(ask: Ask, draft: Draft, mark: str) -> Iterator[dict[str, JSON]]:
    frame = _chat_frame(ask, mark, "chat.completion.chunk")
    usage: dict[str, JSON] = {"usage": None} if ask.include_usage else {}

    def chunk(delta: dict[str, JSON], finish: str | None = None) -> dict[str, JSON]:
        choice: dict[str, JSON] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return frame | {"choices": [choice]} | usage

    if draft.tool is None:
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in pieces(draft.text):
            yield chunk({"content": piece})
    else:
        call = _tool_call(draft, mark) | {"index": 0, "function": {"name": draft.tool, "arguments": ""}}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        for piece in pieces(draft.text):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield chunk({}, _finish(draft))
    if ask.include_usage:
        yield frame | {"choices": [], "usage": _usage(ask, draft)}


def _completion_frame(ask: Ask, mark: str) -> dict[str, JSON]:
    return {"id": f"cmpl-{mark}", "object": "text_completion", "created": CREATED, "model": ask.model}


def _completion_chunks(ask: Ask, draft: Draft, mark: str) -> Iterator[dict[str, JSON]]:
    frame = _completion_frame(ask, mark)
    parts = pieces(draft.text)
    for number, piece in enumerate(parts, 1):
        finish = _finish(draft) if number == len(parts) else None
        yield frame | {"choices": [{"text": piece, "index": 0, "logprobs": None, "finish_reason": finish}]}
    if ask.include_usage:
        yield frame | {"choices": [], "usage": _usage(ask, draft)}


def _response(ask: Ask, draft: Draft | None, mark: str, status: str) -> dict[str, JSON]:
    """The response object; without *draft* it is one that has only begun."""
    asked = ask.document
    whole: dict[str, JSON] = {
        "id": f"resp_{mark}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": ask.max_tokens,
        "model": ask.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": asked.get("temperature", 1.0),
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": asked.get("metadata") or {},
    }
    if draft is None:
        return whole
    usage: dict[str, JSON] = {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": draft.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ask.input_tokens + draft.output_tokens,
    }
    return whole | {"output": [_item(draft, mark, status)], "usage": usage}


def _item(draft: Draft, mark: str, status: str) -> dict[str, JSON]:
    """The one output item; ``in_progress`` it is still empty."""
    begun = status == "in_progress"
    if draft.tool is not None:
        arguments = "" if begun else draft.text
        call: dict[str, JSON] = {
            "type": "function_call",
            "id": f"fc_{mark}",
            "call_id": f"call_{mark}",
            "status": status,
        }
        return call | {"name": draft.tool, "arguments": arguments}
    content: list[JSON] = [] if begun else [_part(draft.text)]
    return {"type": "message", "id": f"msg_{mark}", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, JSON]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(ask: Ask, draft: Draft, mark: str) -> Iterator[dict[str, JSON]]:
    begun = _response(ask, None, mark, "in_progress")
    end = "incomplete" if draft.cut else "completed"
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    yield {"type": "response.output_item.added", "output_index": 0, "item": _item(draft, mark, "in_progress")}
    if draft.tool is not None:
        where: dict[str, JSON] = {"item_id": f"fc_{mark}", "output_index": 0}
        for piece in pieces(draft.text):
            yield {**where, "type": "response.function_call_arguments.delta", "delta": piece}
        yield {**where, "type": "response.function_call_arguments.done", "arguments": draft.text, "name": draft.tool}
    else:
        where = {"item_id": f"msg_{mark}", "output_index": 0, "content_index": 0}
        yield {**where, "type": "response.content_part.added", "part": _part("")}
        for piece in pieces(draft.text):
            yield {**where, "type": "response.output_text.delta", "delta": piece, "logprobs": []}
        yield {**where, "type": "response.output_text.done", "text": draft.text, "logprobs": []}
        yield {**where, "type": "response.content_part.done", "part": _part(draft.text)}
    yield {"type": "response.output_item.done", "output_index": 0, "item": _item(draft, mark, end)}
    yield {"type": f"response.{end}", "response": _response(ask, draft, mark, end)}
