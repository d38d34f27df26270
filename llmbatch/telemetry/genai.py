"""Names and values of OpenTelemetry's conventions for generative AI, and how a call is described by them.

The names are constants of our own: those of the package ``opentelemetry-semantic-conventions`` are all deprecated.
Prompts, answers and error messages, which may repeat prompts, are never among the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from llmbatch.core.call_details import CallDetails
from llmbatch.core.calls import Outcome, Route
from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.telemetry.labels import OTHER, error_code, label_text

__all__ = [
    "DURATION_BOUNDS",
    "ERROR_TYPE",
    "FUNCTION",
    "INPUT_TOKENS",
    "OPERATION",
    "OPERATION_DURATION",
    "OUTPUT_TOKENS",
    "PROVIDER",
    "RUN_OPERATION",
    "TOKEN_BOUNDS",
    "TOKEN_TYPE",
    "TOKEN_USAGE",
    "WORKFLOW",
    "Attributes",
    "answer_attributes",
    "call_attributes",
    "error_type",
    "span_name",
]

Attributes = dict[str, str | int | float | bool | Sequence[str]]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
SERVICE_TIER = "openai.response.service_tier"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - a name
WORKFLOW = "gen_ai.workflow.name"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
STATUS_CODE = "http.response.status_code"

OPERATION_DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
RUN_OPERATION = "invoke_workflow"

DURATION_BOUNDS = tuple(0.01 * 2**times for times in range(14))
"""Bounds of the duration's buckets in seconds: 0.01 to 81.92."""
TOKEN_BOUNDS = tuple(4**times for times in range(14))
"""Bounds of the token count's buckets: 1 to 67,108,864."""

_OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_CALL = "call"
"""What a function or a request of an unknown format does."""

_PROVIDERS: Mapping[str, str] = {
    "gemini": "gcp.gemini",
    "azure": "azure.ai.openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    **{
        name: name
        for name in (
            *("openai", "anthropic", "openrouter", "groq", "together", "deepseek", "fireworks", "deepinfra"),
            *("cerebras", "nebius", "huggingface", "nvidia", "perplexity", "sambanova", "databricks", "cloudflare"),
            *("ollama", "vllm", "lmstudio", "llamacpp", "sim"),
        )
    },
}
_OPENAI = frozenset({"openai", "azure.ai.openai"})
FUNCTION = "function"
"""The wire format of functions."""
_LONGEST_BODY = 2_000_000


def span_name(attributes: Attributes) -> str:
    """The name of a call's span: its operation and its model."""
    return f"{attributes[OPERATION]} {attributes[REQUEST_MODEL]}"


def call_attributes(route: Route, endpoint: str) -> Attributes:
    """What all calls of a route have in common: operation, provider, model and server."""
    name = route.model or route.label
    prefix, slash, model = name.partition("/")
    provider = _PROVIDERS.get(prefix) if slash else None
    if provider is None:
        model = name
        # The name of a wire format stands for a server of that format which is not known.
        provider = FUNCTION if endpoint == FUNCTION else "anthropic" if endpoint == "messages" else "openai"
    attributes: Attributes = {
        OPERATION: _OPERATIONS.get(endpoint, _CALL),
        PROVIDER: provider,
        REQUEST_MODEL: label_text(model),
    }
    host, port = _server(route.base_url)
    if host:
        attributes[SERVER_ADDRESS] = host
        if port is not None:
            attributes[SERVER_PORT] = port
    return attributes


def _server(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.hostname or "", port
    except ValueError:
        return "", None


def error_type(outcome: Outcome | None) -> str | None:
    """What went wrong, of a closed set of words and statuses; None if nothing did."""
    if outcome is None:
        return "canceled"
    if outcome.verdict == "success":
        return None
    code = error_code(outcome.code)
    if code != OTHER:
        return code.removeprefix("http_")
    return "_OTHER" if outcome.status is None else str(outcome.status)


def answer_attributes(details: CallDetails, *, provider: str) -> Attributes:
    """What the answer of one call says of itself; *provider* as :func:`call_attributes` has it."""
    outcome, attributes = details.outcome, Attributes()
    if details.max_output_tokens is not None:
        attributes[REQUEST_MAX_TOKENS] = details.max_output_tokens
    failed = error_type(outcome)
    if failed is not None:
        attributes[ERROR_TYPE] = failed
    if outcome is None:
        return attributes
    if outcome.status is not None:
        attributes[STATUS_CODE] = outcome.status
    usage = outcome.usage
    if usage is not None:
        attributes[INPUT_TOKENS], attributes[OUTPUT_TOKENS] = usage.input_tokens, usage.output_tokens
        if usage.details is not None:
            for name, tokens in (
                (CACHE_READ_TOKENS, usage.details.cached_tokens),
                (CACHE_WRITE_TOKENS, usage.details.cache_write_tokens),
                (REASONING_TOKENS, usage.details.reasoning_tokens),
            ):
                if tokens:
                    attributes[name] = tokens
    if outcome.tier is not None:
        attributes[SERVICE_TIER if provider in _OPENAI else "llmbatch.tier"] = outcome.tier
    if outcome.verdict == "success" and outcome.body is not None and len(outcome.body) <= _LONGEST_BODY:
        attributes |= _of_body(outcome.body)
    return attributes


def _of_body(text: str) -> Attributes:
    try:
        body = parse(text)
    except RawJsonError:
        return {}
    attributes = Attributes()
    if isinstance(body, dict):
        for name, value in ((RESPONSE_ID, body.get("id")), (RESPONSE_MODEL, body.get("model"))):
            if isinstance(value, str) and value:
                attributes[name] = label_text(value)
        reasons = _finish_reasons(body)
        if reasons:
            attributes[FINISH_REASONS] = reasons
    return attributes


def _finish_reasons(body: dict[str, JSON]) -> list[str]:
    choices = body.get("choices")
    if isinstance(choices, list):
        found = [choice.get("finish_reason") for choice in choices[:100] if isinstance(choice, dict)]
    else:
        found = [body.get("stop_reason", body.get("status"))]
    return [label_text(reason) for reason in found if isinstance(reason, str)]
