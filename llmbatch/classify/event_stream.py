"""Joins an unrequested event stream into the complete answer that it stands for.

Some servers stream by default (``transformers serve`` on ``/v1/responses``, 2026; gateways that always stream). A
stream that was received to its end holds a complete answer, which was paid for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmbatch.classify.responses import BadBody, names_error
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["assemble", "looks_like_stream", "read_stream"]

_MOST_PARTS = 256
"""Choices, calls and blocks of one answer, by their index."""

_BEGINNING = 4000
"""Characters of an answer that may be comments before its first event."""

_LAST_EVENTS = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)


def assemble(text: str) -> dict[str, JSON] | None:
    """The answer as its endpoint returns it without a stream; None for a stream of an unknown kind.

    The caller checks that the stream is complete. Cost: one parse per event.
    """
    events = list(_events(text))
    for event in reversed(events):
        response = event.get("response")
        if isinstance(response, dict) and str(event.get("type", "")).startswith("response."):
            return response
    if any(event.get("type") == "message_start" for event in events):
        return _message(events)
    if any(isinstance(event.get("choices"), list) for event in events):
        return _completion(events)
    return None


def looks_like_stream(headers: Mapping[str, str], text: str) -> bool:
    """Whether an answer is an event stream, by its type or by how it begins: some come with the type of JSON."""
    if "event-stream" in headers.get("content-type", ""):
        return True
    start = text[:_BEGINNING].lstrip()
    return start.startswith(("data:", "event:")) or (start.startswith((":", "id:", "retry:")) and "\ndata:" in start)


def read_stream(text: str) -> JSON | BadBody:
    """The error inside an event stream; ``unexpected_stream`` if it came to its end, else ``truncated_stream``.

    The end is ``[DONE]``, the last event of a message or a response, or a finish reason of every choice.
    """
    name, has_ended = "", False
    seen: set[int] = set()
    finished: set[int] = set()
    for line in text.split("\n"):
        field, _, value = line.rstrip("\r").partition(":")
        value = value.strip()
        if field == "event":
            name = value
        elif field == "data" and value == "[DONE]":
            has_ended = True
        elif field == "data":
            try:
                event = parse(value)
            except RawJsonError:
                event = {"error": value} if name == "error" else None
            if not isinstance(event, dict):
                continue
            kind = event.get("type")
            if name == "error" or kind == "error" or event.get("object") == "error" or names_error(event.get("error")):
                return event
            has_ended = has_ended or name in _LAST_EVENTS or (isinstance(kind, str) and kind in _LAST_EVENTS)
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict):
                    seen.add(_index(choice))
                    if choice.get("finish_reason"):
                        finished.add(_index(choice))
        elif not field:
            name = ""
    if has_ended or (seen and seen == finished):
        return BadBody("unexpected_stream", "an unrequested event stream of an unknown kind")
    return BadBody("truncated_stream", "the event stream ended early")


def _events(text: str) -> Iterator[dict[str, JSON]]:
    for line in text.split("\n"):
        if line.startswith("data:"):
            try:
                event = parse(line[5:].strip())
            except RawJsonError:
                continue  # [DONE], and what is not JSON
            if isinstance(event, dict):
                yield event


def _completion(events: list[dict[str, JSON]]) -> dict[str, JSON]:
    """Chunks of chat and of text completions."""
    whole: dict[str, JSON] = {}
    choices: dict[int, dict[str, JSON]] = {}
    for event in events:
        chunks = event.get("choices")
        whole.update({name: value for name, value in event.items() if name != "choices" and value is not None})
        for chunk in chunks if isinstance(chunks, list) else []:
            if isinstance(chunk, dict):
                _add_choice(choices.setdefault(_index(chunk), {}), chunk)
    if whole.get("object") == "chat.completion.chunk":
        whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add_choice(choice: dict[str, JSON], chunk: dict[str, JSON]) -> None:
    for name, value in chunk.items():
        if name == "delta":
            message = choice.setdefault("message", {"role": "assistant", "content": None})
            if isinstance(value, dict) and isinstance(message, dict):
                _add_delta(message, value)
        elif name == "text":
            _append(choice, name, value)
        elif value is not None:
            choice[name] = value


def _add_delta(message: dict[str, JSON], delta: dict[str, JSON]) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault(name, [])
            for part in value:
                if isinstance(part, dict) and isinstance(calls, list):
                    _add_call(calls, part)
        elif name == "role":
            message[name] = value
        else:
            _append(message, name, value)


def _add_call(calls: list[JSON], part: dict[str, JSON]) -> None:
    index = _index(part)
    while len(calls) <= index:
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    function, more = call.get("function") if isinstance(call, dict) else None, part.get("function")
    if isinstance(function, dict) and isinstance(more, dict):
        for name in ("name", "arguments"):
            _append(function, name, more.get(name))
    if isinstance(call, dict) and isinstance(part.get("id"), str):
        call["id"] = part["id"]


def _message(events: list[dict[str, JSON]]) -> dict[str, JSON]:
    """Anthropic's events."""
    whole: dict[str, JSON] = {}
    blocks: dict[int, dict[str, JSON]] = {}
    for event in events:
        kind, delta, block = event.get("type"), event.get("delta"), event.get("content_block")
        message, usage = event.get("message"), event.get("usage")
        if kind == "message_start" and isinstance(message, dict):
            whole.update(message)
        elif kind == "content_block_start" and isinstance(block, dict):
            blocks[_index(event)] = dict(block)
        elif kind == "content_block_delta" and isinstance(delta, dict):
            for name in ("text", "thinking", "signature", "partial_json"):
                _append(blocks.setdefault(_index(event), {"type": "text"}), name, delta.get(name))
        elif kind == "message_delta" and isinstance(delta, dict):
            whole.update(delta)
        if kind == "message_delta" and isinstance(usage, dict):
            before = whole.get("usage")
            whole["usage"] = {**(before if isinstance(before, dict) else {}), **usage}
    for block in blocks.values():
        if "partial_json" in block:
            try:
                block["input"] = parse(str(block.pop("partial_json")))
            except RawJsonError:
                block["input"] = {}
    whole["content"] = [blocks[index] for index in sorted(blocks)]
    return whole


def _index(part: dict[str, JSON]) -> int:
    index = part.get("index")
    return index if type(index) is int and 0 <= index < _MOST_PARTS else 0


def _append(holder: dict[str, JSON], name: str, value: JSON) -> None:
    before = holder.get(name)
    if isinstance(value, str):
        holder[name] = before + value if isinstance(before, str) else value
    elif value is not None:
        holder[name] = value
