"""Text and token counts of what a function returns: a string, or a response object of an SDK.

Known by their shape: OpenAI, Anthropic and what is compatible (``model_dump``), LangChain (``content``,
``usage_metadata``), Google (``text``, ``usage_metadata``), Ollama (``message``), huggingface_hub (a subclass of dict),
and objects with the members of OpenAI's or Anthropic's answers. Imports none of them, and judges nothing.
"""

from __future__ import annotations

from llmbatch.classify.responses import ParsedAnswer, read_success
from llmbatch.classify.results import endpoint_of
from llmbatch.core.calls import Usage
from llmbatch.core.raw_json import RawJsonError, parse

__all__ = ["read_result"]

_PLAIN = (str, bytes, list, tuple, set, int, float, type(None))
_INPUT_COUNTS = ("input_tokens", "prompt_tokens", "prompt_token_count", "prompt_eval_count")
_OUTPUT_COUNTS = ("output_tokens", "completion_tokens", "candidates_token_count", "eval_count")


def read_result(result: object, body: str) -> tuple[str | None, Usage | None]:
    """The text of *result* and its tokens, None where it has none; *body* is its JSON text. Raises nothing.

    Plain values are the author's own: of them only a string has a text.
    """
    if isinstance(result, _PLAIN) or type(result) is dict:
        return (result if isinstance(result, str) else None), None
    text, usage = _from_document(body)
    if text is None:
        text = _from_members(result)
    if usage is None:
        counts = (_member(result, "usage_metadata"), _member(result, "usage"), result)
        usage = next(filter(None, map(_usage, counts)), None)
    return text, usage


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


def _from_document(body: str) -> tuple[str | None, Usage | None]:
    if not body.startswith("{"):
        return None, None
    try:
        document = parse(body)
    except RawJsonError:
        return None, None
    endpoint = endpoint_of(document) if isinstance(document, dict) else None
    read = None if endpoint is None else read_success(endpoint, document)
    return (read.text, read.usage) if isinstance(read, ParsedAnswer) else (None, None)


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
