"""Define the simulated endpoints, response headers and error bodies of the OpenAI and Anthropic APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbatch.core.raw_json import dumps

__all__ = ["ENDPOINTS", "HTML", "Dialect", "Endpoint", "ErrorResponse", "answer_headers", "dialect_of", "error_body"]

Dialect = Literal["openai", "anthropic"]
Endpoint = Literal["chat", "completions", "responses", "embeddings", "messages", "count_tokens"]

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
}

HTML = "html"
"""``code`` of an error sent by a gateway as an HTML page."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error to answer with. ``code``, ``param`` and ``kind`` are OpenAI's; Anthropic has one type per status."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str | None = None
    """``type``, where it is not the usual one of the status; empty: code and message alone, as Azure has them."""


_OPENAI_TYPES = {429: "requests", 404: "invalid_request_error", 401: "invalid_request_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def dialect_of(path: str) -> Dialect:
    """Return the API whose error format *path* uses."""
    return "anthropic" if path.startswith("/v1/messages") else "openai"


def error_body(dialect: Dialect, error: ErrorResponse, request_id: str) -> tuple[str, bytes]:
    """Build content type and body of an error. Statuses from 520 except 529 come from a gateway and are HTML."""
    if error.code == HTML or (error.status >= 520 and error.status != 529):
        page = f"<html><head><title>{error.status}</title></head><body>origin is unreachable</body></html>\n"
        return "text/html; charset=UTF-8", page.encode()
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        detail = {"type": kind, "message": error.message}
        return "application/json", dumps({"type": "error", "error": detail, "request_id": request_id}).encode()
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    if error.code == "insufficient_quota":
        kind = "insufficient_quota"
    if error.kind == "":
        return "application/json", dumps({"error": {"code": error.code, "message": error.message}}).encode()
    if error.kind is not None:
        kind = error.kind
    openai_error = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return "application/json", dumps({"error": openai_error}).encode()


def answer_headers(dialect: Dialect, suffix: str, delay: float) -> dict[str, str]:
    """Build the headers of every response; *suffix* ends the request id, *delay* is the response time in seconds."""
    if dialect == "anthropic":
        return {
            "request-id": f"req_{suffix}",
            "anthropic-organization-id": "sim",
            "anthropic-ratelimit-requests-limit": "10000",
            "anthropic-ratelimit-requests-remaining": "9999",
        }
    return {
        "x-request-id": f"req_{suffix}",
        "openai-version": "2020-10-01",
        "openai-processing-ms": str(round(delay * 1000)),
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
    }
