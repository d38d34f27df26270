"""What an answer's body says: the text and the tokens of a success, the codes and the message of an error.

:func:`read_success` is lenient with fields that servers such as vLLM, Ollama and llama.cpp leave out, and strict where
it decides: an ``error`` beside the answer, no choices, no data, no content make a 200 no success.

What this module does not do: judge. Which verdict an error deserves is the table in
:mod:`llmbatch.providers.outcome`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmbatch.jsontext import JSON, JSONError, dumps, parse
from llmbatch.providers.hints import error_details
from llmbatch.records import Usage

__all__ = ["Answer", "Complaint", "Sick", "plain_message", "read_complaint", "read_stream", "read_success"]


@dataclass(slots=True)
class Answer:
    """A whole success. ``text`` is None where there is none (tool calls, embeddings)."""

    text: str | None
    usage: Usage | None
    finish_reason: str | None


@dataclass(slots=True)
class Sick:
    """A body that is no success though the status says so. ``error`` is the body to judge in its place, if any."""

    code: str
    message: str
    error: JSON = None


@dataclass(slots=True)
class Complaint:
    """An error body, boiled down. ``codes`` in order of what they tell; ``status`` is the one named in the body."""

    codes: tuple[str, ...]
    message: str
    status: int | None = None


_TextOf = Callable[[dict[str, JSON], str | None], str | Sick | None]


def read_success(endpoint: str, document: JSON) -> Answer | Sick:
    """Read *document*, the body of a 2xx answer of *endpoint*. Cost: a few dictionary lookups."""
    if not isinstance(document, dict):
        return Sick("invalid_body", "the answer is no JSON object", document)
    if document.get("error") or document.get("type") == "error" or document.get("object") == "error":
        return Sick("error_in_200", "a success status with an error inside", document)
    if endpoint == "chat":
        return _read_choice(document, _chat_text)
    if endpoint == "completions":
        return _read_choice(document, _completion_text)
    if endpoint == "responses":
        return _read_response(document)
    if endpoint == "messages":
        return _read_message(document)
    return _read_embeddings(document)


def read_complaint(body: JSON) -> Complaint:
    """Codes and message of an error body, in the shapes of all known providers; empty for anything else."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return Complaint((), body if isinstance(body, str) else "")
    error = body.get("error")
    inner = error if isinstance(error, dict) else body
    codes = [code for code in dict.fromkeys(_codes(inner, body)) if code not in ("", "error")]
    named = [int(code) for code in codes if len(code) == 3 and code.isascii() and code.isdigit()]
    return Complaint(
        codes=tuple(code for code in codes if not code.isdigit()),
        message=_complaint_text(inner, error, body),
        status=next((status for status in named if 400 <= status <= 599), None),
    )


def read_stream(text: str) -> JSON | Sick:
    """The error inside an event stream, or why a stream is no answer (nobody here asks for one but the row)."""
    event = ""
    for line in text.split("\n"):
        field, _, value = line.rstrip("\r").partition(":")
        if field == "event":
            event = value.strip()
        elif field == "data" and (event == "error" or '"error"' in value):
            try:
                document = parse(value.strip())
            except JSONError:
                document = {"error": value.strip()}
            if event == "error" or (isinstance(document, dict) and document.get("error")):
                return document
        elif not field:
            event = ""
    if any(end in text[-2000:] for end in ("[DONE]", "message_stop", "response.completed", "response.incomplete")):
        return Sick("unexpected_stream", "the row asks for an event stream")
    return Sick("truncated_stream", "the event stream was cut")


def plain_message(text: str) -> str:
    """What a body that is not JSON says: the title of an HTML page, else the text itself."""
    start = text[:4000].lstrip("\ufeff \t\r\n")
    if not start[:9].lower().startswith(("<!doctype", "<html", "<head", "<?xml")):
        return start
    title = re.search(r"<title[^>]{0,100}>([^<]{1,300})", start, re.IGNORECASE)
    return f"HTML answer: {title[1].strip()}" if title else "HTML answer"


def _read_choice(document: dict[str, JSON], text_of: _TextOf) -> Answer | Sick:
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Sick("no_choices", "a success status without choices")
    if choice.get("error"):
        return Sick("error_in_200", "a success status with an error inside", {"error": choice["error"]})
    finish = _string(choice.get("finish_reason"))
    if finish == "error":
        return Sick("finish_reason_error", "the provider broke off the answer")
    text = text_of(choice, finish)
    if isinstance(text, Sick):
        return text
    return Answer(text, _usage(document.get("usage")), finish)


def _chat_text(choice: dict[str, JSON], finish: str | None) -> str | Sick | None:
    message = choice.get("message")
    if not isinstance(message, dict):
        # Filtered and spent answers may come without a message, but then they say why they ended.
        is_cut = message is None and finish not in (None, "", "stop")
        return None if is_cut else Sick("no_message", "a choice without a message")
    content = message.get("content")
    if isinstance(content, str):
        return content or (None if message.get("tool_calls") else content)
    if isinstance(content, list):
        return _joined(content, ("text", "output_text"))
    return _string(message.get("refusal"))


def _completion_text(choice: dict[str, JSON], finish: str | None) -> str | Sick | None:
    text = choice.get("text")
    if text is None and not finish:
        return Sick("no_text", "a choice without text")
    return _string(text)


def _read_response(document: dict[str, JSON]) -> Answer | Sick:
    status = document.get("status")
    if status in ("queued", "in_progress"):
        return Sick(f"response_{status}", "the answer is still being made: the row asks for background mode")
    if status in ("failed", "cancelled"):
        return Sick(f"response_{status}", f"the response was {status}")
    output = document.get("output")
    if not isinstance(output, list):
        return Sick("no_output", "a success status without output")
    finish = _string(status)
    if status == "incomplete":
        details = document.get("incomplete_details")
        finish = (_string(details.get("reason")) if isinstance(details, dict) else None) or finish
    parts: list[str] = []
    for item in output:
        if isinstance(item, dict) and item.get("type") == "message":
            content = item.get("content")
            text = _joined(content if isinstance(content, list) else [], ("output_text", "text", "refusal"))
            parts += [] if text is None else [text]
    return Answer("".join(parts) if parts else None, _usage(document.get("usage")), finish)


def _read_message(document: dict[str, JSON]) -> Answer | Sick:
    content = document.get("content")
    if not isinstance(content, list):
        return Sick("no_content", "a success status without content")
    usage = document.get("usage")
    tokens = _usage(usage)
    if tokens is not None and isinstance(usage, dict):
        # Anthropic counts cached input apart; everybody else inside. It is paid for, so it counts.
        cached = _count(usage.get("cache_creation_input_tokens")) or 0
        cached += _count(usage.get("cache_read_input_tokens")) or 0
        tokens = Usage(tokens.input_tokens + cached, tokens.output_tokens) if cached else tokens
    return Answer(_joined(content, ("text",)), tokens, _string(document.get("stop_reason")))


def _read_embeddings(document: dict[str, JSON]) -> Answer | Sick:
    data = document.get("data")
    if not isinstance(data, list) or not data:
        return Sick("no_data", "a success status without data")
    usage = document.get("usage")
    if isinstance(usage, dict):
        usage = {**usage, "completion_tokens": 0}
    return Answer(None, _usage(usage), None)


def _joined(parts: list[JSON], types: tuple[str, ...]) -> str | None:
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") in types:
            text = part.get("text", part.get("refusal"))
            if isinstance(text, str):
                texts.append(text)
    return "".join(texts) if texts else None


def _usage(usage: JSON) -> Usage | None:
    """Both spellings of every format: servers mix them."""
    if not isinstance(usage, dict):
        return None
    sent = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    made = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    return None if sent is None or made is None else Usage(sent, made)


def _count(value: JSON) -> int | None:
    # `type`, because True is an int.
    return value if type(value) is int and value >= 0 else None


def _string(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def _codes(inner: dict[str, JSON], body: dict[str, JSON]) -> Iterator[str]:
    """Every word that a provider uses to name an error, the most telling first."""
    details = list(error_details(body))
    metadata = inner.get("metadata")
    within = inner.get("innererror")
    for holder, names in (
        *((detail, ("error_code",)) for detail in details),  # Anthropic
        (inner, ("code", "error_code")),
        *((detail, ("reason",)) for detail in details),  # Google
        (inner, ("type", "error_type", "status", "statusCode", "raw_status_code")),
        (within, ("code",)),  # Azure
        (metadata, ("error_type", "provider_code")),  # OpenRouter
        (body, ("code", "error_code", "error_type", "type", "status", "statusCode")),
    ):
        if isinstance(holder, dict):
            for name in names:
                value = holder.get(name)
                if isinstance(value, str) or type(value) is int:
                    yield str(value)[:200]


def _complaint_text(inner: dict[str, JSON], error: JSON, body: dict[str, JSON]) -> str:
    message = inner.get("message")
    if message is None:
        message = error if isinstance(error, str) else None
    for name in ("detail", "msg", "error_description", "errors"):
        if message is None:
            message = body.get(name)
    if message is None:
        return ""
    text = message if isinstance(message, str) else _shown(message)
    metadata = inner.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter: what the provider behind it said
    return f"{text}: {raw}" if isinstance(raw, str) else text


def _shown(value: JSON) -> str:
    try:
        return dumps(value)
    except (TypeError, ValueError, RecursionError):
        # Only a body that a foreign exception carries can hold such a thing, or one nested to the parser's limit.
        return ""
