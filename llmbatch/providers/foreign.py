"""What an exception of somebody else's library carries: an HTTP answer, a network fault, a wait.

Everything is read by looks (``status_code``, ``response.headers``, ``body``, ``code``, ``type``, ``retry_after``) over
the exception, its causes and its contexts.

What this module does not do: import an SDK to know its errors, trust an attribute to be what its name says, or judge.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from llmbatch.errors import TransportError, TransportFault
from llmbatch.jsontext import JSON, JSONError, parse
from llmbatch.providers.hints import wait_hint
from llmbatch.providers.system_errors import machine_fault, name_fault

__all__ = ["Carried", "carried_answer", "chain", "named_wait", "network_fault", "said", "snake_name"]

_MOST_LINKS = 50


@dataclass(slots=True)
class Carried:
    """The HTTP answer inside an exception. ``content`` is the raw body where the exception kept it."""

    status: int | None
    headers: dict[str, str]
    content: bytes
    document: JSON


def chain(error: BaseException) -> Iterator[BaseException]:
    """*error*, what is inside it when it is a group, and what it came from; each once, outermost first."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < _MOST_LINKS:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
        origin = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if origin is not None:
            waiting.append(origin)


def carried_answer(error: BaseException) -> Carried:
    """The answer that *error* carries; everything in it may be missing."""
    response = _get(error, "response")
    content = _get(response, "content")
    document = _body_of(error)
    return Carried(
        status=_status_of(error, response),
        headers=_headers_of(response) or _headers_of(error),
        content=content if isinstance(content, bytes) else b"",
        document=_named_codes(error) if document is None else document,
    )


def network_fault(error: BaseException) -> TransportError | None:
    """*error* as the fault of network or machine that it is, None where it is none."""
    if isinstance(error, TransportError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    fault: TransportFault
    sent = True
    mine = machine_fault(error)
    if mine is not None or "PoolTimeout" in kinds:
        fault, sent = mine or "local", False  # the last is httpx's word for a client without a free connection
    elif isinstance(error, socket.gaierror):
        fault, sent = name_fault(error), False
    elif isinstance(error, ssl.SSLCertVerificationError):
        fault, sent = "tls", False
    elif "HttpProcessingError" in kinds:
        fault = "garbage"  # aiohttp's word for what is not HTTP
    elif isinstance(error, ConnectionRefusedError):
        fault, sent = "connect", False
    elif isinstance(error, TimeoutError) or any("Timeout" in kind for kind in kinds):
        fault = "timeout"
    elif isinstance(error, ConnectionError):
        fault = "reset"
    else:
        return None
    return TransportError(fault, said(error), sent=sent)


def named_wait(error: BaseException) -> float | None:
    """Seconds in the attribute ``retry_after``, read like the header of that name."""
    value = _get(error, "retry_after")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = f"{value:f}" if isinstance(value, float) else str(value)
    return wait_hint(0, {"retry-after": text}, None)


def said(error: BaseException) -> str:
    """The exception's message, or its name; without the query of any URL, where some providers take the key."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        text = ""
    return re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text) or type(error).__name__


def snake_name(error: BaseException) -> str:
    """``APIConnectionError`` as ``api_connection_error``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(error).__name__).lower()


def _status_of(error: BaseException, response: object) -> int | None:
    for holder, names in (
        (error, ("status_code", "status", "http_status", "code")),
        (response, ("status_code", "status")),
    ):
        for name in names:
            value = _get(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 300 <= value <= 599:
                return int(value)
    return None


def _headers_of(holder: object) -> dict[str, str]:
    headers = _get(holder, "headers")
    try:
        return {str(name).lower(): str(value) for name, value in headers.items()}  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - None, or a foreign mapping that does anything
        return {}


def _body_of(error: BaseException) -> JSON:
    """The body as SDKs keep it, parsed or not; only objects and arrays are believed."""
    for name in ("body", "details"):
        body = _get(error, name)
        if isinstance(body, bytes):
            body = body.decode(errors="replace")
        if isinstance(body, str):
            try:
                body = parse(body)
            except JSONError:
                continue
        if isinstance(body, dict | list):
            return body
    return None


def _named_codes(error: BaseException) -> JSON:
    found: dict[str, JSON] = {}
    for name in ("code", "type", "error_code"):
        value = _get(error, name)
        if isinstance(value, str):
            found[name] = value
    return found or None


def _get(holder: object, name: str) -> object:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a foreign property may do anything (httpx raises for an unread body)
        return None
