"""Text, token counts and finish reason of what a function returns: a string, or a response object of an SDK.

Known by their shape: OpenAI, Anthropic and what is compatible (``model_dump``), LangChain (``content``,
``usage_metadata``), Google (``text``, ``usage_metadata``), Ollama (``message``), huggingface_hub (a subclass of dict),
and objects with the members of OpenAI's or Anthropic's answers. Imports none of them, and judges nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from llmbatch.classify.finish_reasons import abnormal_end
from llmbatch.classify.responses import ParsedAnswer, read_success
from llmbatch.classify.results import endpoint_of
from llmbatch.core.calls import Usage
from llmbatch.core.raw_json import RawJsonError, parse

__all__ = ["ResultFacts", "read_result"]

_PLAIN = (str, bytes, list, tuple, set, int, float, type(None))
_INPUT_COUNTS = ("input_tokens", "prompt_tokens", "prompt_token_count", "prompt_eval_count")
_OUTPUT_COUNTS = ("output_tokens", "completion_tokens", "candidates_token_count", "eval_count")
_FINISHES = ("finish_reason", "stop_reason", "finishReason", "done_reason")


class ResultFacts(NamedTuple):
    """What a result says; None where it says nothing. ``finish_reason``: None also for a normal stop."""

    text: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None


def read_result(result: object, body: str) -> ResultFacts:
    """The text of *result*, its tokens and why it ended; *body* is its JSON text. Raises nothing of its own.

    Plain values are the author's own: of them only a string has a text.
    """
    if isinstance(result, _PLAIN) or type(result) is dict:
        return ResultFacts(result if isinstance(result, str) else None)
    read = _from_document(body)
    text, usage, finish = (None, None, None) if read is None else (read.text, read.usage, read.finish_reason)
    if text is None:
        text = _from_members(result)
    if not text and read is not None and read.is_empty:
        text = ""
    if usage is None:
        counts = (_member(result, "usage_metadata"), _member(result, "usage"), result)
        usage = next(filter(None, map(_usage, counts)), None)
    return ResultFacts(text, usage, abnormal_end(finish or _finish(result)))


def _finish(result: object) -> str | None:
    """The finish reason in the members of *result*, of its first choice or candidate, or of LangChain's metadata."""
    holders = (
        _first(_member(result, "choices")),
        _first(_member(result, "candidates")),
        _member(result, "response_metadata"),
        result,
    )
    for holder in holders:
        for name in _FINISHES:
            word = _member(holder, name)
            word = word if isinstance(word, str) else _member(word, "name")  # of an enumeration
            if isinstance(word, str):
                return str(getattr(word, "value", word))
    details = _member(_member(result, "incomplete_details"), "reason")
    return details if isinstance(details, str) else None


def _first(items: object) -> object:
    return items[0] if isinstance(items, list | tuple) and items else None


def _from_members(result: object) -> str | None:
    """The text in the members of *result*, where SDKs have it: its own, that of its first choice, or its parts."""
    choices = _member(result, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    content = _member(result, "content")
    texts = (
        *(_member(result, name) for name in ("output_text", "text")),
        content,
        _member(_member(result, "message"), "content"),
        _member(_member(first, "message"), "content"),
        _member(first, "text"),
    )
    text = next((found for found in texts if isinstance(found, str)), None)
    if text is None and isinstance(content, list):
        parts = [part for part in (_member(item, "text") for item in content) if isinstance(part, str)]
        text = "".join(parts) if parts else None
    return text


def _from_document(body: str) -> ParsedAnswer | None:
    if not body.startswith("{"):
        return None
    try:
        document = parse(body)
    except RawJsonError:
        return None
    endpoint = endpoint_of(document) if isinstance(document, dict) else None
    read = None if endpoint is None else read_success(endpoint, document)
    return read if isinstance(read, ParsedAnswer) else None


def _usage(counts: object) -> Usage | None:
    sent = next((n for n in (_member(counts, name) for name in _INPUT_COUNTS) if type(n) is int), None)
    made = next((n for n in (_member(counts, name) for name in _OUTPUT_COUNTS) if type(n) is int), None)
    return None if sent is None or made is None else Usage(sent, made)


def _member(value: object, name: str) -> object:
    if isinstance(value, dict):
        return value.get(name)
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - a property of a foreign class may do anything
        return None
