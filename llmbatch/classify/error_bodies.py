"""Reads codes and message out of error bodies, in the shapes of all known providers.

What an error means is decided by the table in :mod:`llmbatch.classify.body_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmbatch.classify.retry_after import error_details
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["ErrorBody", "is_code", "is_sentence", "is_web_page", "plain_message", "read_error_body"]


@dataclass(slots=True)
class ErrorBody:
    """Codes and message of an error body. ``codes``: the most specific first; ``status`` is the one named in the body.

    ``numbers`` are a provider's own numeric codes (Zhipu's ``1113``): known to the table, but not shown to users.
    """

    codes: tuple[str, ...]
    message: str
    status: int | None = None
    numbers: tuple[str, ...] = field(default=(), compare=False)


def read_error_body(body: JSON) -> ErrorBody:
    """Codes and message of an error body, in the shapes of all known providers; empty for anything else."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return ErrorBody((), body if isinstance(body, str) else "")
    error = body.get("error")
    inner = error if isinstance(error, dict) else body
    codes = [code for code in dict.fromkeys(_codes(inner, body)) if code not in ("", "error")]
    named = [int(code) for code in codes if len(code) == 3 and code.isascii() and code.isdigit()]
    return ErrorBody(
        codes=tuple(code for code in codes if not code.isdigit()),
        message=_message_of(inner, error, body),
        status=next((status for status in named if 400 <= status <= 599), None),
        numbers=tuple(code for code in codes if code.isdigit() and len(code) > 3) + _minimax_code(body),
    )


_NO_CODES = frozenset({"", "none", "null", "nil", "undefined", "unknown", "about:blank", "about_blank", "n/a", "false"})
_little_words = re.compile(
    r"(?:^|[\s_])(the|your?|is|are|does|do|has|have|been|was|this|an?|please|or|of|by)(?=[\s_]|$)", re.I
)


def is_code(text: str) -> bool:
    """Whether *text*, found where a code should be, is one: not a placeholder, a URL or a sentence."""
    return text.strip().lower() not in _NO_CODES and "://" not in text and not is_sentence(text)


def is_sentence(text: str) -> bool:
    """Whether *text* is a message for humans, even if its words are joined by underscores (xAI's ``code``, 2025)."""
    words = re.split(r"[\s_]+", text.strip())
    return len(words) >= 8 or (len(words) >= 4 and (" " in text or _little_words.search(text) is not None))


def is_web_page(text: str) -> bool:
    """Whether a body that is not JSON is an HTML page."""
    start = text[:4000].lstrip("\ufeff \t\r\n")[:9].lower()
    return start.startswith(("<!doctype", "<html", "<head", "<?xml"))


def plain_message(text: str) -> str:
    """What a body that is not JSON says: the title of an HTML page, else the text itself."""
    start = text[:4000].lstrip("\ufeff \t\r\n")
    if not is_web_page(start):
        return start
    title = re.search(r"<title[^>]{0,100}>([^<]{1,300})", start, re.IGNORECASE)
    return f"HTML answer: {title[1].strip()}" if title else "HTML answer"


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


_MESSAGE_FIELDS = (
    "message",
    "Message",
    "msg",
    "detail",
    "error_description",
    "error_message",
    "error_msg",
    "errors",
    "title",
    "description",
    "reason",
    "error",
    "base_resp",
    "status_msg",
)
"""Where providers, frameworks and gateways put their own words. Everything else in an error body (``input``, ``ctx``,
``body``, ``value``) may be an echo of the request, and is never read: a prompt can hold any words."""

_MOST_ERRORS = 5
_DEEPEST = 4


def _minimax_code(body: dict[str, JSON]) -> tuple[str, ...]:
    base = body.get("base_resp")
    number = base.get("status_code") if isinstance(base, dict) else None
    return (f"base_resp_{number}",) if type(number) is int and number else ()


def _message_of(inner: dict[str, JSON], error: JSON, body: dict[str, JSON]) -> str:
    text = _words_of({name: value for name, value in inner.items() if name != "error"}) or _words_of(error)
    text = text or _words_of(body)
    metadata = inner.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter: what the provider behind it said
    if not isinstance(raw, str):
        return text
    try:
        behind = read_error_body(parse(raw)).message
    except RawJsonError:
        behind = raw
    return f"{text}: {behind}" if behind else text


def _words_of(value: JSON, depth: int = 0) -> str:
    """The words in *value*'s message fields; a list of validation errors as ``location: message``."""
    if isinstance(value, str):
        return value
    if depth >= _DEEPEST:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words_of(item, depth + 1) for item in value[:_MOST_ERRORS])))
    if not isinstance(value, dict):
        return ""
    text = next(filter(None, (_words_of(value.get(name), depth + 1) for name in _MESSAGE_FIELDS)), "")
    location = value.get("loc")
    if isinstance(location, list):
        kind = value.get("type")
        text = text or (kind if isinstance(kind, str) else "")
        return ".".join(str(part) for part in location if isinstance(part, str | int)) + f": {text}"
    return text
