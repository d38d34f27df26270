"""Finds out what raised an exception: an HTTP client or SDK, whose errors are about a provider, or the user's own code.

The module that defines its class or one of its base classes decides; nothing is imported. A web framework's
exceptions (``HTTPException(404)``) carry a status for *its* clients, so they count as the user's own.
"""

from __future__ import annotations

import re

__all__ = [
    "has_timed_out",
    "is_client_error",
    "is_client_module",
    "is_client_type",
    "is_misuse",
    "is_server_side",
    "row_reason",
]

_CLIENTS = """
    httpx httpx2 httpcore httpcore2 aiohttp aiohttp_retry requests urllib3 urllib http h11 h2 hpack niquests curl_cffi
    httplib2 pycurl treq tornado.httpclient tornado.simple_httpclient websockets websocket grpc grpclib aiosonic

    openai anthropic google.genai google.generativeai google.api_core google.auth google.cloud vertexai mistralai
    groq together cohere ollama litellm cerebras fireworks replicate huggingface_hub ai21 voyageai writerai xai_sdk
    perplexity azure botocore boto3 aiobotocore dashscope zhipuai zai volcenginesdkarkruntime qianfan tencentcloud
    ibm_watsonx_ai sambanova portkey_ai openrouter nomic jina deepinfra reka_api aleph_alpha_client databricks
    """
"""HTTP clients and the libraries below them; SDKs of providers and clouds."""

_SERVERS = """
    fastapi starlette werkzeug flask quart django rest_framework ninja sanic litestar falcon bottle pyramid connexion
    tornado.web aiohttp.web aiohttp.web_exceptions
    """

_client_packages, _server_packages = frozenset(_CLIENTS.split()), frozenset(_SERVERS.split())

# Wrong use of a client: the same call fails the same way on a healthy provider, and nothing was sent.
_misuse = re.compile(
    r"Invalid(URL|Url|Schema|Scheme|Header|ProxyURL)\w*|MissingSchema|UnsupportedProtocol|LocalProtocolError"
    r"|NonHttpUrl\w*|URLRequired|Location(Parse|Value)Error|UnrewindableBodyError|(Stream|Response|Request)(Consumed"
    r"|Closed|NotRead)|CookieConflict|(No|Partial|Default)Credentials\w*|NoRegionError|ParamValidationError"
    # The bases of these SDKs, which raise them themselves for a missing key or setting.
    r"|(OpenAI|Anthropic|Groq|Together|Cerebras)Error"
).fullmatch

_ROW_REASONS = {
    "LengthFinishReasonError": "truncated",  # openai: .parse() of an answer that ran into max_tokens
    "IncompleteOutputException": "truncated",  # instructor
    "ContentFilterFinishReasonError": "content_filter",  # openai
    "ContentFilterError": "content_filter",  # pydantic-ai
    "BlockedPromptException": "content_filter",  # google-generativeai
    "ResponseBlockedError": "content_filter",  # vertexai
}


def is_client_error(error: BaseException) -> bool:
    """Whether *error* is an exception of an HTTP client or an SDK, or of a subclass."""
    return not is_server_side(error) and is_client_type(type(error))


def is_client_type(cls: type) -> bool:
    """Whether an HTTP client or an SDK defines *cls* or one of its base classes."""
    return any(_is_of(kind, _client_packages) for kind in cls.__mro__)


def is_server_side(error: BaseException) -> bool:
    """Whether *error* is a web framework's: a response of the user's own server."""
    return any(_is_of(kind, _server_packages) for kind in type(error).__mro__)


def is_misuse(error: BaseException) -> bool:
    """Whether *error*, a client's, means that the client was used wrongly: the row's or the function's own fault."""
    return is_client_error(error) and _misuse(type(error).__name__) is not None


def row_reason(error: BaseException) -> str | None:
    """``truncated`` or ``content_filter`` where an SDK says that the answer to this row ended so, else None."""
    return next((_ROW_REASONS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _ROW_REASONS), None)


def has_timed_out(error: BaseException) -> bool:
    """Whether *error* is a timeout; for a client's exception, by its name."""
    if isinstance(error, TimeoutError):
        return True
    return is_client_error(error) and any(re.search("Time(d)?[Oo]ut", kind.__name__) for kind in type(error).__mro__)


def is_client_module(name: str) -> bool:
    """Whether the module *name* belongs to an HTTP client or an SDK."""
    return _has(_client_packages, name)


def _is_of(kind: type, packages: frozenset[str]) -> bool:
    return _has(packages, kind.__module__)


def _has(packages: frozenset[str], module: str) -> bool:
    parts = module.split(".")
    return parts[0] in packages or ".".join(parts[:2]) in packages
