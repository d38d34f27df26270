"""Extracts the HTTP answer, network fault or wait from an exception of an HTTP client or SDK.

It reads attributes (``status_code``, ``response.headers``, ``body``, ``code``, ``type``, ``retry_after``) of the
exception, its causes and its contexts, without importing an SDK and without trusting the types of the attributes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.classify.client_errors import has_timed_out, is_client_error, is_server_side
from llmbatch.classify.retry_after import wait_hint
from llmbatch.core.calls import Usage
from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.core.system_errors import NETWORK_ERRNOS, errno_of, machine_fault, name_fault

__all__ = [
    "AttachedResponse",
    "attached_completion",
    "attached_response",
    "chain",
    "is_cancellation",
    "named_wait",
    "network_fault",
    "refusal_in",
    "said",
    "snake_name",
    "unconnected",
]

_MOST_LINKS = 50

_NOT_CONNECTED = frozenset(
    getattr(errno, name) for name in ("ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN") if hasattr(errno, name)
)

_CONNECT_NAMES = frozenset({"ConnectError", "NewConnectionError", "EndpointConnectionError", "NameResolutionError"})

# https://cloud.google.com/apis/design/errors#handling_errors
_GRPC_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(slots=True)
class AttachedResponse:
    """The HTTP answer inside an exception. ``content`` is the raw body where the exception kept it."""

    status: int | None
    headers: dict[str, str]
    content: bytes
    document: JSON


def chain(error: BaseException) -> Iterator[BaseException]:
    """*error*, the members of a group, and the causes and contexts; each once, outermost first."""
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


def refusal_in(error: BaseException) -> CircuitOpenError | None:
    """The refusal of a circuit breaker that *error* is or was raised from; for a group, if each member was.

    A context (no ``from``) explains only an exception that repeats the refusal's text, as frameworks do: a fallback
    that fails while a refusal is handled has an outcome of its own.
    """
    return _refusal_in(error, set())


def _refusal_in(error: BaseException, seen: set[int]) -> CircuitOpenError | None:
    if isinstance(error, CircuitOpenError):
        return error
    if id(error) in seen or len(seen) >= _MOST_LINKS:
        return None
    seen.add(id(error))
    if isinstance(error, BaseExceptionGroup):
        found = [_refusal_in(each, seen) for each in error.exceptions]
        refusals = [each for each in found if each is not None]
        if len(refusals) == len(found):
            return max(refusals, key=lambda refusal: refusal.retry_after)
    if error.__cause__ is not None:
        return _refusal_in(error.__cause__, seen)
    if error.__context__ is None or error.__suppress_context__:
        return None
    refusal = _refusal_in(error.__context__, seen)
    return refusal if refusal is not None and str(refusal) in said(error) else None


def attached_response(error: BaseException) -> AttachedResponse | None:
    """The answer that *error* carries; everything in it may be missing.

    None if it carries none: an exception of the user's own may have a ``status_code`` or a ``code`` that says nothing
    about a provider. Only exceptions of a client or an SDK count, and those that hold a response, its headers or its
    body.
    """
    if is_server_side(error):
        return None
    response = _get(error, "response")
    if isinstance(response, dict):
        response = _Botocore(response)
    content = _get(response, "content")
    document = _body_of(error)
    headers = _headers_of(response) or _headers_of(error)
    status = _status_of(error, response)
    if document is None and isinstance(response, _Botocore):
        document = response.document
    holds_answer = (
        _status_in(response, ("status_code", "status")) is not None
        or bool(headers)
        or document is not None
        or (status is not None and isinstance(_get(error, "body"), str | bytes))
    )
    if not holds_answer and not is_client_error(error):
        return None
    return AttachedResponse(
        status=status,
        headers=headers,
        content=content if isinstance(content, bytes) else b"",
        document=_named_codes(error) if document is None else document,
    )


def attached_completion(error: BaseException) -> tuple[str, Usage | None]:
    """The answer that an SDK had parsed before it raised *error*: its JSON text (empty: none), and its tokens."""
    completion = _get(error, "completion") or _get(error, "last_completion")
    usage = _get(error, "total_usage") or _get(completion, "usage")
    sent, made = _get(usage, "prompt_tokens"), _get(usage, "completion_tokens")
    tokens = Usage(sent, made) if type(sent) is int and type(made) is int else None
    dump = _get(completion, "model_dump_json")
    try:
        text = dump() if callable(dump) else ""
    except Exception:  # noqa: BLE001 - a foreign method may do anything
        text = ""
    return text if isinstance(text, str) else "", tokens


def is_cancellation(error: BaseException) -> bool:
    """Whether *error* is that of a canceled ``concurrent.futures`` future, which is an Exception unlike asyncio's."""
    return isinstance(error, concurrent.futures.CancelledError)


def network_fault(error: BaseException) -> TransportError | None:
    """The fault of the network or machine that *error* is, or None."""
    if isinstance(error, TransportError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    name = type(error).__name__
    number = errno_of(error)
    fault: TransportFault
    sent = True
    mine = machine_fault(error)
    if mine is not None or ("PoolTimeout" in kinds and is_client_error(error)):
        fault, sent = mine or "local", False  # the last is httpx's name for a pool without a free connection
    elif isinstance(error, socket.gaierror):
        fault, sent = name_fault(error), False
    elif isinstance(error, ssl.SSLCertVerificationError):
        fault, sent = "tls", False
    elif "HttpProcessingError" in kinds:
        fault = "garbage"  # aiohttp's name for a response that is not HTTP
    elif number in _NOT_CONNECTED or isinstance(error, ConnectionRefusedError):
        fault, sent = "connect", False
    elif has_timed_out(error):
        connecting = "Connect" in name
        fault, sent = "connect_timeout" if connecting else "timeout", not connecting
    elif isinstance(error, asyncio.IncompleteReadError):
        fault = "truncated"
    elif isinstance(error, ConnectionError | ssl.SSLError) or number in NETWORK_ERRNOS:
        fault = "reset"
    else:
        return None
    return TransportError(fault, said(error), sent=sent)


def unconnected(error: BaseException) -> TransportError | None:
    """The fault of a failed connection, if a client's exception says no more than that by its class."""
    if is_client_error(error) and type(error).__name__ in _CONNECT_NAMES:
        return TransportError("connect", said(error), sent=False)
    return None


def named_wait(error: BaseException) -> float | None:
    """Seconds in the attribute ``retry_after``, parsed like the header of that name."""
    value = _get(error, "retry_after")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = f"{value:f}" if isinstance(value, float) else str(value)
    return wait_hint(0, {"retry-after": text}, None)


def said(error: BaseException) -> str:
    """The exception's message, or its name; without the query of any URL, which holds the key for some providers."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        text = ""
    return re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text) or type(error).__name__


def snake_name(error: BaseException) -> str:
    """``APIConnectionError`` as ``api_connection_error``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(error).__name__).lower()


def _status_of(error: BaseException, response: object) -> int | None:
    named = _status_in(error, ("status_code", "status", "http_status", "code"))
    return _status_in(response, ("status_code", "status")) if named is None else named


def _status_in(holder: object, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = _get(holder, name)
        if isinstance(value, int) and not isinstance(value, bool) and 300 <= value <= 599:
            return int(value)
        if callable(value) and name == "code" and isinstance(holder, BaseException):
            # gRPC: a method that returns a member of an enumeration.
            status = _GRPC_STATUSES.get(_grpc_name(value))
            if status is not None:
                return status
    return None


def _grpc_name(code: Callable[[], object]) -> str:
    try:
        return str(getattr(code(), "name", ""))
    except Exception:  # noqa: BLE001 - a foreign method may do anything
        return ""


class _Botocore:
    """The ``response`` of botocore's errors, a dictionary, with the attributes of an answer."""

    def __init__(self, response: dict[str, object]) -> None:
        about = response.get("ResponseMetadata")
        about = about if isinstance(about, dict) else {}
        error = response.get("Error")
        error = error if isinstance(error, dict) else {}
        self.status_code = about.get("HTTPStatusCode")
        self.headers = about.get("HTTPHeaders")
        self.document: JSON = {
            "error": {
                name.lower(): value for name, value in error.items() if isinstance(name, str) and isinstance(value, str)
            }
        }


def _headers_of(holder: object) -> dict[str, str]:
    headers = _get(holder, "headers")
    try:
        return {str(name).lower(): str(value) for name, value in headers.items()}  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - None, or a foreign mapping that does anything
        return {}


def _body_of(error: BaseException) -> JSON:
    """The body as SDKs keep it, parsed or not; only objects and arrays are used."""
    for name in ("body", "details"):
        body = _get(error, name)
        if isinstance(body, bytes):
            body = body.decode(errors="replace")
        if isinstance(body, str):
            try:
                body = parse(body)
            except RawJsonError:
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
