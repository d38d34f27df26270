"""Build OpenAI response bodies: chat completions, completions, responses and embeddings, whole or streamed.

The official client's typed models accept them. Not simulated: log probabilities, ``n`` above 1, reasoning items.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.answer_text import AnswerText, embed
from llmbatch.sim.request import SimRequest

__all__ = ["CREATED", "chunks_of", "embeddings_body", "models_body", "openai_body", "openai_events"]

CREATED = 1767225600
"""When every answer says it was made: one instant, because the time of day must not change an answer."""

_PIECES = re.compile(r"(?:\s*\S+){1,3}\s*")


def chunks_of(text: str) -> list[str]:
    """*text* in the small parts that a stream brings, a few words each."""
    return _PIECES.findall(text) or [text]


def openai_body(request: SimRequest, answer: AnswerText, suffix: str) -> dict[str, JSON]:
    """The whole answer; *suffix* makes its ids."""
    match request.endpoint:
        case "chat":
            message: dict[str, JSON] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
            if answer.is_refusal:
                message |= {"content": None, "refusal": answer.text}
            if answer.tool is not None:
                message |= {"content": None, "tool_calls": [_tool_call(answer, suffix)]}
            choice: dict[str, JSON] = {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": _finish_reason(answer),
            }
            return _chat_frame(request, suffix, "chat.completion") | {
                "choices": [choice],
                "usage": _usage(request, answer),
            }
        case "completions":
            text: dict[str, JSON] = {
                "text": answer.text,
                "index": 0,
                "logprobs": None,
                "finish_reason": _finish_reason(answer),
            }
            return _completion_frame(request, suffix) | {"choices": [text], "usage": _usage(request, answer)}
        case _:
            return _response(request, answer, suffix, _status(answer))


def openai_events(request: SimRequest, answer: AnswerText, suffix: str) -> list[bytes]:
    """The answer as server-sent events, one bytes object an event."""
    match request.endpoint:
        case "chat":
            return [_data(event) for event in _chat_chunks(request, answer, suffix)] + [b"data: [DONE]\n\n"]
        case "completions":
            return [_data(event) for event in _completion_chunks(request, answer, suffix)] + [b"data: [DONE]\n\n"]
        case _:
            events = []
            for number, event in enumerate(_response_events(request, answer, suffix)):
                line = dumps(event | {"sequence_number": number})
                events.append(f"event: {event['type']}\ndata: {line}\n\n".encode())
            return events


def embeddings_body(request: SimRequest, seed: int) -> dict[str, JSON]:
    """A vector for each input, as numbers or as base64 of little-endian 32-bit floats."""
    dimensions = request.document.get("dimensions")
    size = dimensions if isinstance(dimensions, int) else 1536
    data: list[JSON] = []
    for index, text in enumerate(request.inputs):
        vector = embed(seed, text, size)
        encoded: JSON = list(vector)
        if request.document.get("encoding_format") == "base64":
            encoded = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    usage: dict[str, JSON] = {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def models_body(names: list[str]) -> dict[str, JSON]:
    """The list of models."""
    data: list[JSON] = [{"id": name, "object": "model", "created": CREATED, "owned_by": "sim"} for name in names]
    return {"object": "list", "data": data}


def _data(event: JSON) -> bytes:
    return f"data: {dumps(event)}\n\n".encode()


def _finish_reason(answer: AnswerText) -> str:
    if answer.tool is not None:
        return "tool_calls"
    if answer.is_filtered:
        return "content_filter"
    return "length" if answer.cut else "stop"


def _status(answer: AnswerText) -> str:
    return "incomplete" if answer.cut or answer.is_filtered else "completed"


def _usage(request: SimRequest, answer: AnswerText) -> dict[str, JSON]:
    return {
        "prompt_tokens": request.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": request.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_frame(request: SimRequest, suffix: str, kind: str) -> dict[str, JSON]:
    frame: dict[str, JSON] = {"id": f"chatcmpl-{suffix}", "object": kind, "created": CREATED, "model": request.model}
    return frame | {"service_tier": _tier(request), "system_fingerprint": "fp_sim"}


def _tier(request: SimRequest) -> str:
    """The tier that is billed: flex always has capacity."""
    return "flex" if request.document.get("service_tier") == "flex" else "default"


def _tool_call(answer: AnswerText, suffix: str) -> dict[str, JSON]:
    return {"id": f"call_{suffix}", "type": "function", "function": {"name": answer.tool, "arguments": answer.text}}


def _chat_chunks(request: SimRequest, answer: AnswerText, suffix: str) -> Iterator[dict[str, JSON]]:
    frame = _chat_frame(request, suffix, "chat.completion.chunk")
    usage: dict[str, JSON] = {"usage": None} if request.include_usage else {}

    def chunk(delta: dict[str, JSON], finish: str | None = None) -> dict[str, JSON]:
        choice: dict[str, JSON] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return frame | {"choices": [choice]} | usage

    if answer.tool is None:
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in chunks_of(answer.text):
            yield chunk({"refusal" if answer.is_refusal else "content": piece})
    else:
        call = _tool_call(answer, suffix) | {"index": 0, "function": {"name": answer.tool, "arguments": ""}}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        for piece in chunks_of(answer.text):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield chunk({}, _finish_reason(answer))
    if request.include_usage:
        yield frame | {"choices": [], "usage": _usage(request, answer)}


def _completion_frame(request: SimRequest, suffix: str) -> dict[str, JSON]:
    return {"id": f"cmpl-{suffix}", "object": "text_completion", "created": CREATED, "model": request.model}


def _completion_chunks(request: SimRequest, answer: AnswerText, suffix: str) -> Iterator[dict[str, JSON]]:
    frame = _completion_frame(request, suffix)
    parts = chunks_of(answer.text)
    for number, piece in enumerate(parts, 1):
        finish = _finish_reason(answer) if number == len(parts) else None
        yield frame | {"choices": [{"text": piece, "index": 0, "logprobs": None, "finish_reason": finish}]}
    if request.include_usage:
        yield frame | {"choices": [], "usage": _usage(request, answer)}


def _response(request: SimRequest, answer: AnswerText | None, suffix: str, status: str) -> dict[str, JSON]:
    """The response object; without *answer* it is one that has only begun."""
    document = request.document
    whole: dict[str, JSON] = {
        "id": f"resp_{suffix}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": _reason(answer)} if status == "incomplete" else None,
        "instructions": document.get("instructions"),
        "max_output_tokens": request.max_tokens,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": _tier(request),
        "store": False,
        "temperature": document.get("temperature", 1.0),
        "text": document.get("text") or {"format": {"type": "text"}},
        "tool_choice": document.get("tool_choice") or "auto",
        "tools": document.get("tools") or [],
        "top_p": document.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": document.get("metadata") or {},
    }
    if answer is None:
        return whole
    usage: dict[str, JSON] = {
        "input_tokens": request.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": request.input_tokens + answer.output_tokens,
    }
    return whole | {"output": [_output_item(answer, suffix, status)], "usage": usage}


def _reason(answer: AnswerText | None) -> str:
    return "content_filter" if answer is not None and answer.is_filtered else "max_output_tokens"


def _output_item(answer: AnswerText, suffix: str, status: str) -> dict[str, JSON]:
    """The one output item; ``in_progress`` it is still empty."""
    begun = status == "in_progress"
    if answer.tool is not None:
        arguments = "" if begun else answer.text
        call: dict[str, JSON] = {
            "type": "function_call",
            "id": f"fc_{suffix}",
            "call_id": f"call_{suffix}",
            "status": status,
        }
        return call | {"name": answer.tool, "arguments": arguments}
    content: list[JSON] = [] if begun else [_part(answer.text, is_refusal=answer.is_refusal)]
    return {"type": "message", "id": f"msg_{suffix}", "status": status, "role": "assistant", "content": content}


def _part(text: str, *, is_refusal: bool = False) -> dict[str, JSON]:
    if is_refusal:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(request: SimRequest, answer: AnswerText, suffix: str) -> Iterator[dict[str, JSON]]:
    begun = _response(request, None, suffix, "in_progress")
    end = _status(answer)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    yield {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": _output_item(answer, suffix, "in_progress"),
    }
    if answer.tool is not None:
        where: dict[str, JSON] = {"item_id": f"fc_{suffix}", "output_index": 0}
        for piece in chunks_of(answer.text):
            yield {**where, "type": "response.function_call_arguments.delta", "delta": piece}
        yield {**where, "type": "response.function_call_arguments.done", "arguments": answer.text, "name": answer.tool}
    else:
        where = {"item_id": f"msg_{suffix}", "output_index": 0, "content_index": 0}
        kind = "refusal" if answer.is_refusal else "output_text"
        extra: dict[str, JSON] = {} if answer.is_refusal else {"logprobs": []}
        yield {**where, "type": "response.content_part.added", "part": _part("", is_refusal=answer.is_refusal)}
        for piece in chunks_of(answer.text):
            yield {**where, "type": f"response.{kind}.delta", "delta": piece, **extra}
        whole = {"refusal" if answer.is_refusal else "text": answer.text}
        yield {**where, "type": f"response.{kind}.done", **whole, **extra}
        part = _part(answer.text, is_refusal=answer.is_refusal)
        yield {**where, "type": "response.content_part.done", "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": _output_item(answer, suffix, end)}
    yield {"type": f"response.{end}", "response": _response(request, answer, suffix, end)}
