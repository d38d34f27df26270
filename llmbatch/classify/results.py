"""Finds the error inside a result that came with a success status: a parsed body, an SDK's object, an HTTP response.

Results are known by their shape and by the module of their class; no SDK is imported. What a program returns of its own
is not judged, whatever members it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmbatch.classify.classify import classify_document, classify_reply
from llmbatch.classify.client_errors import is_client_type
from llmbatch.classify.safe_text import Masker
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["classify_answer", "classify_result", "endpoint_of"]

_MOST_TEXT = 65_536
"""Longest text, in characters, that is taken for a possible error body."""

_ERROR_NAMES = frozenset(
    {
        *("error", "errors", "code", "type", "status", "status_code", "statusCode", "message", "detail", "details"),
        *("param", "request_id", "requestId", "id", "object", "created", "model", "provider", "timestamp", "path"),
        *("user_id", "estimated_time", "warnings", "success"),
    }
)
"""Members of an error body. A dictionary with others may be a program's own record that has an ``error`` among them."""

_ERROR_MEMBERS = ("code", "type", "message", "status", "param")


def classify_result(result: object, *, mask: Masker = str) -> Outcome | None:
    """Classify *result* if it is a provider's failing answer; None if it is not. Raises nothing.

    Understands bodies (dictionaries, JSON text), objects of SDKs, and responses of HTTP clients with any status.
    *mask* masks the keys in a text.
    """
    if isinstance(result, str | bytes):
        document = _error_text(result)
        return None if document is None else classify_document("raw", document, mask=mask)
    if isinstance(result, dict):
        return _classify_document(result, mask, foreign=type(result) is not dict)
    response = _reply_of(result)
    return classify_answer(result, mask=mask) if response is None else _classify_response(response, mask)


def classify_answer(result: object, *, mask: Masker = str) -> Outcome | None:
    """Like :func:`classify_result`, for the objects of SDKs only."""
    foreign = is_client_type(type(result))
    document = _dump(result)
    if document is not None:
        return _classify_document(document, mask, foreign=foreign)
    error = _get(result, "error") if foreign else None
    if not error:
        return None
    inner: JSON = error if isinstance(error, str | dict) else _error_members(error)
    return classify_document("raw", {"error": inner}, mask=mask)


def endpoint_of(document: Mapping[str, JSON]) -> str | None:
    """The endpoint whose answers have the shape of *document*, None if there is none."""
    if "choices" in document:
        choices = document["choices"]
        first = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(first, dict):
            return "completions" if "text" in first and "message" not in first else "chat"
        return "chat" if not choices else None
    if isinstance(document.get("output"), list):
        return "responses"
    if isinstance(document.get("content"), list) and "role" in document:
        return "messages"
    if "candidates" in document and ("prompt_feedback" in document or "promptFeedback" in document):
        return "candidates"
    return "embeddings" if document.get("object") == "list" and "data" in document else None


def _classify_document(document: dict[str, JSON], mask: Masker, *, foreign: bool) -> Outcome | None:
    """Classify a body; *foreign*: its class is an SDK's, so that an ``error`` in it is not the program's own."""
    endpoint = endpoint_of(document)
    if endpoint is None and not foreign:
        is_error = isinstance(document.get("error"), dict) or document.keys() <= _ERROR_NAMES
        if not is_error or not (document.get("error") or document.get("type") == "error"):
            return None
    return classify_document(endpoint or "raw", document, mask=mask)


def _error_members(error: object) -> dict[str, JSON]:
    values = {name: _get(error, name) for name in _ERROR_MEMBERS}
    return {name: value for name, value in values.items() if isinstance(value, str | int)}


def _error_text(text: str | bytes) -> JSON:
    """The error body that *text* is, None if it is none: an answer of a model may be JSON that speaks of errors too."""
    if len(text) > _MOST_TEXT:
        return None
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not text.startswith("{") or '"error"' not in text:
        return None
    try:
        document = parse(text)
    except RawJsonError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(error, dict) or not document.keys() <= _ERROR_NAMES:
        return None
    return document if error.keys() & {"message", "code", "type"} else None


def _reply_of(result: object) -> Reply | None:
    """The response of an HTTP client that *result* is, with its body if that was read; None if it is none."""
    status = _get(result, "status_code")
    if not isinstance(status, int):
        status = _get(result, "status")
    headers = _get(result, "headers")
    if not isinstance(status, int) or isinstance(status, bool) or not isinstance(headers, Mapping):
        return None
    # requests would read a streamed body here and now.
    content = None if _get(result, "_content") is False else _get(result, "content")
    names = {str(name).lower(): str(value) for name, value in headers.items()}
    return Reply(status, names, content if isinstance(content, bytes) else b"")


def _classify_response(reply: Reply, mask: Masker) -> Outcome | None:
    if not 200 <= reply.status < 300:
        return classify_reply(reply, endpoint="raw", mask=mask)
    if not reply.body or "event-stream" in reply.headers.get("content-type", ""):
        return None  # not read, empty by intent, or a stream
    try:
        document = parse(reply.body.decode(errors="replace"))
    except RawJsonError:
        document = None
    endpoint = endpoint_of(document) if isinstance(document, dict) else None
    outcome = classify_reply(reply, endpoint=endpoint or "raw", mask=mask)
    return None if outcome.verdict == "success" else replace(outcome, body=None)


def _dump(result: object) -> dict[str, JSON] | None:
    """The members of an SDK's object as JSON values; None if it cannot say them."""
    dump = _get(result, "model_dump")
    if not callable(dump) or isinstance(result, type):
        return None
    for options in ({"mode": "json", "warnings": False}, {"mode": "json"}, {}):
        try:
            document = dump(**options)
        except TypeError:
            continue
        except Exception:  # noqa: BLE001 - a foreign method may do anything
            return None
        return document if isinstance(document, dict) else None
    return None


def _get(holder: object, name: str) -> object:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a property of a foreign class may do anything
        return None
