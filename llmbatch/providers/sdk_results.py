"""Text and token counts of what a function returns: a string, or a response object of an SDK.

Known by their shape: OpenAI, Anthropic and what is compatible (``model_dump``), LangChain (``content``,
``usage_metadata``), Google (``text``, ``usage_metadata``). Imports none of them, and judges nothing.
"""

from __future__ import annotations

from llmbatch.classify.responses import ParsedAnswer, read_success
from llmbatch.core.calls import Usage
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["read_result"]

_PLAIN = (str, bytes, dict, list, tuple, set, int, float, type(None))
_INPUT_COUNTS = ("input_tokens", "prompt_tokens", "prompt_token_count")
_OUTPUT_COUNTS = ("output_tokens", "completion_tokens", "candidates_token_count")


def read_result(result: object, body: str) -> tuple[str | None, Usage | None]:
    """The text of *result* and its tokens, None where it has none; *body* is its JSON text. Raises nothing.

    Plain values are the author's own: of them only a string has a text.
    """
    if isinstance(result, _PLAIN):
        return (result if isinstance(result, str) else None), None
    text, usage = _from_document(body)
    if text is None:
        texts = (_member(result, name) for name in ("output_text", "text", "content"))
        text = next((found for found in texts if isinstance(found, str)), None)
    if usage is None:
        usage = _usage(_member(result, "usage_metadata")) or _usage(_member(result, "usage"))
    return text, usage


def _from_document(body: str) -> tuple[str | None, Usage | None]:
    if not body.startswith("{"):
        return None, None
    try:
        document = parse(body)
    except RawJsonError:
        return None, None
    endpoint = _endpoint_of(document) if isinstance(document, dict) else None
    read = None if endpoint is None else read_success(endpoint, document)
    return (read.text, read.usage) if isinstance(read, ParsedAnswer) else (None, None)


def _endpoint_of(document: dict[str, JSON]) -> str | None:
    choices = document.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return "chat" if "message" in choices[0] else "completions"
    if isinstance(document.get("output"), list):
        return "responses"
    if isinstance(document.get("content"), list) and "role" in document:
        return "messages"
    return "embeddings" if document.get("object") == "list" and "data" in document else None


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
