"""The table from answer to verdict: every row with the bodies that providers really send."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import pytest
from classify_field_answers import FIELD
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.classify import body_rules
from llmbatch.classify import classify as outcomes
from llmbatch.classify.classify import classify_reply
from llmbatch.classify.faults import classify_fault
from llmbatch.classify.find_rule import find_rule
from llmbatch.classify.rule import Facts, Match, Rule
from llmbatch.classify.rule_sources import SOURCES
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.core.raw_json import parse
from llmbatch.core.secrets import Mask

KEY = "sk-proj-THIS-IS-THE-KEY-0123456789"
MASK = Mask([KEY]).mask
DATE = {"date": "Mon, 23 Nov 2026 12:00:00 GMT"}
CHAT_OK = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-5-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52},
}


def judge(status: int, body: object, headers: dict[str, str] | None = None, endpoint: str = "chat") -> Outcome:
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return classify_reply(Reply(status, headers or {}, raw), endpoint=endpoint, mask=MASK)


def error(message: str, **members: object) -> dict[str, object]:
    return {"error": {"message": message, **members}}


def anthropic(kind: str, message: str, **members: object) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message, **members}, "request_id": "req_011"}


def gemini(code: int, status: str, message: str, *details: object) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def quota(*ids: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": one} for one in ids]}


RETRY_47 = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "47.5s"}
BAD_GEMINI_KEY = gemini(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
)
AZURE_FILTER = error(
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    type=None,
    param="prompt",
    code="content_filter",
    status=400,
    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
)
GROQ_LIMIT = error(
    "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_01` service tier `on_demand` on "
    "tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s.",
    type="tokens",
    code="rate_limit_exceeded",
)
NGINX = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502</h1></center></body></html>"


@dataclass
class Case:
    """One answer, and what it must come to. What is not named must have its default."""

    name: str
    status: int
    body: object
    verdict: str
    scope: str
    code: str
    headers: dict[str, str] = field(default_factory=dict)
    endpoint: str = "chat"
    retry: bool = False
    row_is_bad: bool = False
    key_refused: bool = False
    retry_after: float | None = None
    min_backoff: float = 0.0


def failure(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "failure", "provider", code, retry=True, **more)  # type: ignore[arg-type]


def refusal(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "rejected", "row", code, **more)  # type: ignore[arg-type]


def throttle(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "throttled", "key", code, retry=True, min_backoff=1.0, **more)  # type: ignore[arg-type]


def spent(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "account_refused", "key", code, **more)  # type: ignore[arg-type]


def bad_key(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "account_refused", "key", code, retry=True, key_refused=True, **more)  # type: ignore[arg-type]


def no_model(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "account_refused", "model", code, **more)  # type: ignore[arg-type]


def no_api(name: str, status: int, body: object, code: str, **more: object) -> Case:
    return Case(name, status, body, "account_refused", "provider", code, **more)  # type: ignore[arg-type]


CASES = [
    # --- 200 with an error object, choices null, unparseable, HTML: by the inner code, else failure
    failure("200 OpenRouter inner 502", 200, error("Provider returned error", code=502), "error_in_200"),
    throttle("200 OpenRouter inner 429", 200, error("Rate limited", code=429), "error_in_200"),
    failure(
        "200 OpenRouter error in the choice",
        200,
        {"choices": [{"error": {"code": 502, "message": "down"}, "finish_reason": "error"}]},
        "error_in_200",
    ),
    failure(
        "200 Anthropic overloaded",
        200,
        anthropic("overloaded_error", "Overloaded"),
        "overloaded_error",
        endpoint="messages",
        min_backoff=5.0,
    ),
    failure(
        "200 Anthropic api_error",
        200,
        anthropic("api_error", "Internal server error"),
        "api_error",
        endpoint="messages",
    ),
    bad_key("200 with 401 inside", 200, anthropic("authentication_error", "invalid x-api-key"), "authentication_error"),
    refusal("200 with 400 inside", 200, error("bad", type="invalid_request_error"), "invalid_request_error"),
    refusal(
        "200 LM Studio",
        200,
        {"error": "The number of tokens to keep is greater than the context length; exceeds the context length"},
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "200 llama.cpp",
        200,
        error(
            "the request exceeds the available context size. try increasing it",
            code=400,
            type="exceed_context_size_error",
        ),
        "exceed_context_size_error",
        row_is_bad=True,
    ),
    spent("200 without money", 200, error("You exceeded your quota", type="insufficient_quota"), "insufficient_quota"),
    failure("200 unknown error", 200, error("odd", code="gremlins"), "gremlins"),
    failure(
        "200 named hint",
        200,
        error("odd", code=503),
        "error_in_200",
        headers={"retry-after": "9"},
        retry_after=9.0,
        min_backoff=5.0,
    ),
    failure("200 choices null", 200, {"id": "x", "choices": None}, "no_choices"),
    refusal("200 choices empty", 200, {"id": "x", "choices": []}, "no_choices", retry=True),
    failure("200 bad JSON", 200, '{"choices": [{"mess', "invalid_body"),
    failure("200 bad UTF-8", 200, b'{"choices": "\xff"}', "invalid_body"),
    failure("200 NaN", 200, '{"choices": NaN}', "invalid_body"),
    failure("200 nested to death", 200, "[" * 100_000, "invalid_body"),
    failure(
        "200 HTML", 200, "<!doctype html><title>Sign in</title>", "web_page", headers={"content-type": "text/html"}
    ),
    failure("200 empty", 200, b"", "empty_body"),
    failure("204", 204, b"", "empty_body"),
    failure("200 embeddings without data", 200, {"object": "list"}, "no_data", endpoint="embeddings"),
    failure("200 messages without content", 200, {"type": "message"}, "no_content", endpoint="messages"),
    failure(
        "200 responses failed",
        200,
        {"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []},
        "server_error",
        endpoint="responses",
    ),
    throttle(
        "200 responses rate limit",
        200,
        {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "x"}, "output": []},
        "rate_limit_exceeded",
        endpoint="responses",
    ),
    refusal(
        "200 responses flagged",
        200,
        {"status": "failed", "error": {"code": "invalid_prompt", "message": "x"}, "output": []},
        "invalid_prompt",
        endpoint="responses",
        row_is_bad=True,
    ),
    refusal(
        "200 responses in background", 200, {"status": "queued", "output": []}, "response_queued", endpoint="responses"
    ),
    failure(
        "200 error event",
        200,
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        "overloaded_error",
        headers={"content-type": "text/event-stream"},
        endpoint="messages",
        min_backoff=5.0,
    ),
    failure(
        "529 with an error event",
        529,
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        "overloaded_error",
        headers={"content-type": "text/event-stream"},
        min_backoff=5.0,
    ),
    failure(
        "200 stream cut",
        200,
        'data: {"choices":[{"delta":{"content":"ha',
        "truncated_stream",
        headers={"content-type": "text/event-stream; charset=utf-8"},
    ),
    refusal(
        "200 stream whole",
        200,
        'data: {"tokens":[]}\n\ndata: [DONE]\n\n',
        "unexpected_stream",
        headers={"content-type": "text/event-stream"},
    ),
    # --- 200, content filter without an answer
    refusal(
        "200 filtered",
        200,
        {"choices": [{"message": {"role": "assistant"}, "finish_reason": "content_filter"}]},
        "content_filter",
        row_is_bad=True,
    ),
    refusal(
        "200 filtered (Gemini)",
        200,
        {"choices": [{"message": {"content": None}, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]},
        "content_filter",
        row_is_bad=True,
    ),
    refusal(
        "200 filtered (responses)",
        200,
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "output": []},
        "content_filter",
        endpoint="responses",
        row_is_bad=True,
    ),
    refusal(
        "200 refused (messages)",
        200,
        {"type": "message", "content": [], "stop_reason": "refusal"},
        "refusal",
        endpoint="messages",
        row_is_bad=True,
    ),
    # --- 400 invalid request
    refusal(
        "400 OpenAI",
        400,
        error(
            "Unknown parameter: 'temprature'.",
            type="invalid_request_error",
            param="temprature",
            code="unknown_parameter",
        ),
        "unknown_parameter",
    ),
    refusal(
        "400 OpenAI without code",
        400,
        error("bad", type="invalid_request_error", param=None, code=None),
        "invalid_request_error",
    ),
    refusal(
        "400 Anthropic", 400, anthropic("invalid_request_error", "max_tokens: Field required"), "invalid_request_error"
    ),
    refusal(
        "400 Gemini",
        400,
        [gemini(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")],
        "INVALID_ARGUMENT",
    ),
    refusal(
        "400 vLLM",
        400,
        {
            "object": "error",
            "message": "max_tokens must be at least 1, got -186.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        "BadRequestError",
    ),
    refusal("400 plain", 400, "Bad Request", "http_400"),
    refusal(
        "422 Mistral",
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "missing", "loc": ["body", "model"]}]},
            "type": "invalid_request_error",
            "code": None,
        },
        "invalid_request_error",
    ),
    refusal("422 FastAPI", 422, {"detail": [{"type": "missing", "msg": "Field required"}]}, "http_422"),
    refusal("415", 415, "", "http_415"),
    refusal(
        "501 llama.cpp",
        501,
        error("This server does not support embeddings.", code=501, type="not_supported_error"),
        "not_supported_error",
    ),
    # --- too long
    refusal(
        "too long OpenAI",
        400,
        error(
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
            type="invalid_request_error",
            code="context_length_exceeded",
        ),
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long string",
        400,
        error("Invalid 'input': string too long.", type="invalid_request_error", code="string_above_max_length"),
        "string_above_max_length",
        row_is_bad=True,
    ),
    refusal(
        "too long Anthropic",
        400,
        anthropic("invalid_request_error", "prompt is too long: 212345 tokens > 200000 maximum"),
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long Gemini",
        400,
        [
            gemini(
                400,
                "INVALID_ARGUMENT",
                "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
            )
        ],
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long vLLM",
        400,
        error(
            "You passed 1015 input tokens and requested 10 output tokens. However, the model's context "
            "length is only 1024 tokens, resulting in a maximum input length of 1014 tokens.",
            type="BadRequestError",
            param="input_tokens",
            code=400,
        ),
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long vLLM of old",
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long llama.cpp",
        400,
        error(
            "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
            code=400,
            type="exceed_context_size_error",
        ),
        "exceed_context_size_error",
        row_is_bad=True,
    ),
    refusal(
        "too long llama.cpp as 500",
        500,
        error("Context size has been exceeded.", code=500, type="server_error"),
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long OpenRouter",
        400,
        error(
            "Provider returned error",
            code=400,
            metadata={"raw": '{"message":"This model\'s maximum context length is 8192 tokens"}', "provider_name": "Z"},
        ),
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "too long TGI",
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
            "error_type": "validation",
        },
        "context_length_exceeded",
        row_is_bad=True,
    ),
    refusal(
        "413 Anthropic",
        413,
        anthropic("request_too_large", "Request exceeds the maximum size"),
        "request_too_large",
        row_is_bad=True,
    ),
    refusal(
        "413 proxy",
        413,
        "<html><head><title>413 Request Entity Too Large</title></head></html>",
        "request_too_large",
        row_is_bad=True,
    ),
    refusal(
        "413 Groq",
        413,
        error(
            "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested "
            "14368, please reduce your message size and try again.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        "request_too_large",
        row_is_bad=True,
    ),
    refusal(
        "429 OpenAI above a minute's limit",
        429,
        error(
            "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
            "Requested 61337. The input or output tokens must be reduced in order to run successfully.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        "request_too_large",
        row_is_bad=True,
    ),
    # --- filtered
    refusal("filtered Azure", 400, AZURE_FILTER, "content_filter", row_is_bad=True),
    refusal(
        "filtered OpenAI",
        400,
        error("Your request was rejected.", type="image_generation_user_error", code="content_policy_violation"),
        "content_policy_violation",
        row_is_bad=True,
    ),
    refusal(
        "filtered OpenAI prompt",
        400,
        error(
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            type="invalid_request_error",
            code="invalid_prompt",
        ),
        "invalid_prompt",
        row_is_bad=True,
    ),
    refusal(
        "filtered Anthropic",
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        "content_filter",
        row_is_bad=True,
    ),
    refusal(
        "filtered OpenRouter",
        403,
        error(
            'openai/gpt-4 requires moderation on OpenAI. Your input was flagged for "sexual".',
            code=403,
            metadata={"reasons": ["sexual"], "flagged_input": "…"},
        ),
        "content_filter",
        row_is_bad=True,
    ),
    refusal(
        "filtered DeepSeek",
        400,
        error("Content Exists Risk", type="invalid_request_error", param=None, code="invalid_request_error"),
        "content_filter",
        row_is_bad=True,
    ),
    # --- key refused
    bad_key(
        "401 OpenAI",
        401,
        error("Incorrect API key provided: sk-ab***yz.", type="invalid_request_error", code="invalid_api_key"),
        "invalid_api_key",
    ),
    bad_key("401 Anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), "authentication_error"),
    bad_key(
        "401 Azure",
        401,
        {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid, or expired."},
        "http_401",
    ),
    bad_key("401 Mistral", 401, {"detail": "Unauthorized"}, "http_401"),
    bad_key(
        "401 DeepSeek",
        401,
        error(
            "Authentication Fails (no such user)", type="authentication_error", param=None, code="invalid_request_error"
        ),
        "invalid_request_error",
    ),
    bad_key("401 HTML", 401, "<html><title>401</title></html>", "http_401"),
    bad_key(
        "403 Anthropic",
        403,
        anthropic("permission_error", "Your API key does not have permission to use the specified resource"),
        "permission_error",
    ),
    bad_key(
        "403 Gemini",
        403,
        gemini(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers."),
        "PERMISSION_DENIED",
    ),
    bad_key("400 Gemini native", 400, BAD_GEMINI_KEY, "API_KEY_INVALID"),
    bad_key("400 Gemini compatible", 400, [BAD_GEMINI_KEY], "API_KEY_INVALID"),
    bad_key(
        "400 Gemini in words",
        400,
        [error("API key expired. Please renew the API key.", code=400, status="INVALID_ARGUMENT")],
        "invalid_api_key",
    ),
    # --- money
    spent(
        "402 DeepSeek",
        402,
        error("Insufficient Balance", type="unknown_error", param=None, code="invalid_request_error"),
        "insufficient_quota",
    ),
    spent(
        "402 OpenRouter",
        402,
        error(
            "This request requires more credits, or fewer max_tokens. You requested up to 16384 "
            "tokens, but can only afford 3919.",
            code=402,
        ),
        "http_402",
    ),
    spent(
        "402 Together", 402, error("Credit limit exceeded", type="credit_limit", param=None, code=None), "credit_limit"
    ),
    spent("402 Anthropic", 402, anthropic("billing_error", "Your account has a billing problem"), "billing_error"),
    throttle(
        "402 OpenRouter with Retry-After",
        402,
        error("Insufficient credits", code=402),
        "http_402",
        headers={"retry-after": "30"},
        retry_after=30.0,
    ),
    spent(
        "429 OpenAI insufficient_quota",
        429,
        error(
            "You exceeded your current quota, please check your plan and billing details.",
            type="insufficient_quota",
            param=None,
            code="insufficient_quota",
        ),
        "insufficient_quota",
    ),
    spent(
        "429 OpenAI credit_balance_exhausted",
        429,
        error("No credits", type="insufficient_quota", code="credit_balance_exhausted"),
        "credit_balance_exhausted",
    ),
    spent(
        "429 OpenAI project limit",
        429,
        error("x", type="insufficient_quota", code="project_spend_limit_exceeded"),
        "project_spend_limit_exceeded",
    ),
    spent(
        "429 OpenAI organization limit",
        429,
        error("x", type="insufficient_quota", code="organization_usage_limit_exceeded"),
        "organization_usage_limit_exceeded",
    ),
    spent(
        "429 OpenAI billing",
        429,
        error(
            "Your account is not active, please check your billing details on our website.",
            type="billing_not_active",
            code="billing_not_active",
        ),
        "billing_not_active",
    ),
    spent(
        "429 money before pace, whatever the headers",
        429,
        error("x", type="insufficient_quota"),
        "insufficient_quota",
        headers={"retry-after": "2", "x-should-retry": "true"},
        retry_after=2.0,
    ),
    spent(
        "400 Anthropic credit",
        400,
        anthropic(
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing "
            "to upgrade or purchase credits.",
        ),
        "insufficient_quota",
    ),
    spent(
        "400 Anthropic own limit",
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
        ),
        "spend_limit_reached",
        headers=DATE,
        retry_after=7.5 * 86_400,
    ),
    spent(
        "400 Anthropic own limit, impossible day",
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified workspace API usage limits. You will regain access on "
            "2026-99-01 at 00:00 UTC.",
        ),
        "spend_limit_reached",
        headers=DATE,
    ),
    spent(
        "429 Anthropic tier limit",
        429,
        anthropic("rate_limit_error", "x", details={"error_code": "enforced_spend_limit_reached"}),
        "enforced_spend_limit_reached",
        headers=DATE,
        retry_after=7.5 * 86_400,
    ),
    spent(
        "429 Anthropic contract",
        429,
        anthropic("rate_limit_error", "x", details={"error_code": "contract_spend_limit_reached"}),
        "contract_spend_limit_reached",
    ),
    spent(
        "403 OpenRouter key limit",
        403,
        error("Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys", code=403),
        "insufficient_quota",
    ),
    # --- model
    no_model(
        "404 OpenAI",
        404,
        error(
            "The model `gpt-9` does not exist or you do not have access to it.",
            type="invalid_request_error",
            code="model_not_found",
        ),
        "model_not_found",
    ),
    no_model("404 Anthropic", 404, anthropic("not_found_error", "model: claude-9"), "not_found_error"),
    no_model(
        "404 Azure",
        404,
        error("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        "DeploymentNotFound",
    ),
    no_model(
        "404 vLLM",
        404,
        {
            "object": "error",
            "message": "The model `x` does not exist.",
            "type": "NotFoundError",
            "param": None,
            "code": 404,
        },
        "model_not_found",
    ),
    no_model("404 wrong path", 404, {"detail": "Not Found"}, "http_404"),
    no_model(
        "404 Ollama",
        404,
        error('model "x" not found, try pulling it first', type="api_error", param=None, code=None),
        "api_error",
    ),
    no_model(
        "400 Groq decommissioned",
        400,
        error("The model `x` has been decommissioned", type="invalid_request_error", code="model_decommissioned"),
        "model_decommissioned",
    ),
    no_model(
        "400 Mistral",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "param": None, "code": "1500"},
        "invalid_model",
    ),
    no_model("400 OpenRouter", 400, error("acme/x is not a valid model ID", code=400), "model_not_found"),
    no_model("410", 410, error("retired"), "http_410"),
    # --- sick provider
    failure("408", 408, error("timeout"), "http_408"),
    failure("424 Bedrock", 424, {"message": "Model error"}, "http_424"),
    failure("425", 425, "", "http_425"),
    failure(
        "500 OpenAI",
        500,
        error("The server had an error while processing your request.", type="server_error", param=None, code=None),
        "server_error",
    ),
    failure("500 Anthropic", 500, anthropic("api_error", "Internal server error"), "api_error"),
    failure("500 Anthropic overloaded", 500, anthropic("api_error", "Overloaded"), "overloaded_error", min_backoff=5.0),
    failure("502 nginx", 502, NGINX, "http_502", headers={"content-type": "text/html"}),
    failure(
        "504 Gemini",
        504,
        [gemini(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.")],
        "DEADLINE_EXCEEDED",
    ),
    failure("520 Cloudflare", 520, "error code: 520", "http_520"),
    failure("530 Cloudflare", 530, "error code: 1033", "http_530"),
    failure("500 keeps its hint", 500, b"", "http_500", headers={"retry-after": "400"}, retry_after=400.0),
    failure(
        "503 OpenAI",
        503,
        error("That model is currently overloaded.", type="service_unavailable_error", code="server_is_overloaded"),
        "server_is_overloaded",
        min_backoff=5.0,
    ),
    failure(
        "503 Gemini",
        503,
        [gemini(503, "UNAVAILABLE", "The model is overloaded. Please try again later.", RETRY_47)],
        "overloaded_error",
        retry_after=47.5,
        min_backoff=5.0,
    ),
    failure(
        "503 Mistral",
        503,
        {
            "object": "error",
            "message": "Service tier capacity exceeded for this model.",
            "type": "internal_server_error",
            "code": "3505",
        },
        "internal_server_error",
        min_backoff=5.0,
    ),
    failure("503 with hint", 503, b"", "http_503", headers={"retry-after": "120"}, retry_after=120.0, min_backoff=5.0),
    failure("529 Anthropic", 529, anthropic("overloaded_error", "Overloaded"), "overloaded_error", min_backoff=5.0),
    failure("101", 101, b"", "http_101"),
    failure("no such status", 999, b"denied", "http_999"),
    Case("409 Anthropic", 409, anthropic("conflict_error", "x"), "rejected", "row", "conflict_error", retry=True),
    # --- pace
    Case(
        "498 Groq",
        498,
        error("Flex tier capacity exceeded", type="internal_server_error", code="capacity_exceeded"),
        "throttled",
        "provider",
        "capacity_exceeded",
        retry=True,
        min_backoff=1.0,
    ),
    Case(
        "429 OpenAI flex",
        429,
        error("Resource unavailable", type="resource_unavailable", code="resource_unavailable"),
        "throttled",
        "provider",
        "resource_unavailable",
        retry=True,
        min_backoff=1.0,
    ),
    throttle(
        "429 OpenAI",
        429,
        error(
            "Rate limit reached for gpt-5-mini on requests per min (RPM): Limit 3, Used 3. Please try again in 20s.",
            type="requests",
            param=None,
            code="rate_limit_exceeded",
        ),
        "rate_limit_exceeded",
        retry_after=20.0,
    ),
    throttle(
        "429 OpenAI reset",
        429,
        error("Rate limit", type="tokens", code="rate_limit_exceeded"),
        "rate_limit_exceeded",
        headers={
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "6m0s",
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-reset-requests": "9h",
        },
        retry_after=360.0,
    ),
    throttle("429 without anything", 429, b"", "http_429"),
    throttle("429 HTML", 429, "<html><title>429 Too Many Requests</title></html>", "http_429"),
    throttle(
        "429 Anthropic",
        429,
        anthropic("rate_limit_error", "This request would exceed your organization's rate limit"),
        "rate_limit_error",
        headers={"retry-after": "12"},
        retry_after=12.0,
    ),
    throttle(
        "429 Anthropic reset",
        429,
        anthropic("rate_limit_error", "x"),
        "rate_limit_error",
        headers={
            **DATE,
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:33Z",
        },
        retry_after=33.0,
    ),
    throttle(
        "429 Anthropic reset in the past",
        429,
        anthropic("rate_limit_error", "x"),
        "rate_limit_error",
        headers={
            **DATE,
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-23T11:00:00Z",
        },
    ),
    throttle("429 Groq", 429, GROQ_LIMIT, "rate_limit_exceeded", retry_after=578.016),
    throttle(
        "429 Mistral",
        429,
        {
            "object": "error",
            "message": "Rate limit exceeded",
            "type": "rate_limited",
            "param": None,
            "code": "1300",
            "raw_status_code": 429,
        },
        "rate_limited",
    ),
    throttle("429 Mistral short", 429, {"message": "Requests rate limit exceeded"}, "http_429"),
    throttle(
        "429 Mistral capacity",
        429,
        {
            "object": "error",
            "message": "Service tier capacity exceeded for this model.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        "invalid_request_error",
    ),
    throttle(
        "429 Together",
        429,
        error("You have reached the rate limit specific to this model", type="model_rate_limit", param=None, code=None),
        "model_rate_limit",
    ),
    throttle(
        "429 OpenRouter",
        429,
        error(
            "Provider returned error",
            code=429,
            metadata={"raw": "x is temporarily rate-limited upstream", "provider_name": "Chutes"},
        ),
        "http_429",
    ),
    throttle(
        "429 OpenRouter reset",
        429,
        error(
            "Rate limit exceeded: free-models-per-day",
            code=429,
            metadata={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795438800000"}},
        ),
        "http_429",
        headers=DATE,
        retry_after=3600.0,
    ),
    throttle(
        "429 Azure",
        429,
        error(
            "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your "
            "current OpenAI S0 pricing tier. Please retry after 7 seconds.",
            code="429",
        ),
        "http_429",
        headers={"retry-after": "7", "retry-after-ms": "6543"},
        retry_after=6.543,
    ),
    throttle(
        "429 Azure, zero is unknown",
        429,
        error("busy", code="429"),
        "http_429",
        headers={"retry-after-ms": "0", "x-ms-retry-after-ms": "0"},
    ),
    throttle(
        "429 Gemini PerMinute",
        429,
        [
            gemini(
                429,
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details.",
                quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                RETRY_47,
            )
        ],
        "RESOURCE_EXHAUSTED",
        retry_after=47.5,
    ),
    throttle(
        "429 Gemini bare",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        "RESOURCE_EXHAUSTED",
    ),
    spent(
        "429 Gemini PerDay",
        429,
        [
            gemini(
                429,
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details.",
                quota(
                    "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                    "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                ),
                RETRY_47,
            )
        ],
        "daily_quota_exhausted",
        headers=DATE,
        retry_after=20 * 3600.0,
    ),
    spent(
        "429 Gemini PerDay in summer",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", "x", quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")),
        "daily_quota_exhausted",
        headers={"date": "Fri, 03 Jul 2026 12:00:00 GMT"},
        retry_after=19 * 3600.0,
    ),
    throttle(
        "429 Cerebras",
        429,
        {
            "message": "Tokens per minute limit exceeded - too many tokens processed.",
            "type": "too_many_tokens_error",
            "param": "quota",
            "code": "token_quota_exceeded",
        },
        "token_quota_exceeded",
    ),
    throttle(
        "429 OpenAI slow_down",
        429,
        error("Slow down", type="rate_limit_error", code="slow_down"),
        "slow_down",
        retry_after=60.0,
    ),
    throttle(
        "503 OpenAI slow_down",
        503,
        error("Slow down", type="rate_limit_error", code="slow_down"),
        "slow_down",
        headers={"retry-after": "5"},
        retry_after=60.0,
    ),
    throttle(
        "429 OpenAI slow_down for long",
        429,
        error("Slow down", code="slow_down"),
        "slow_down",
        headers={"retry-after": "300"},
        retry_after=300.0,
    ),
    throttle("429 vLLM proxy", 429, {"detail": "Too many requests"}, "http_429"),
    throttle(
        "a code in the body comes before the status", 500, error("x", code="rate_limit_exceeded"), "rate_limit_exceeded"
    ),
    # --- wrong address
    no_api("301", 301, b"", "http_301", headers={"location": "https://www.example.com/v1"}),
    no_api("307", 307, b"", "http_307", headers={"location": "/v1/"}),
    no_api("302 to nowhere", 302, b"", "http_302", headers={"location": "https://[half"}),
    no_api("308 HTML", 308, NGINX, "http_308"),
    no_api("405", 405, {"detail": "Method Not Allowed"}, "http_405"),
    # --- x-should-retry
    refusal(
        "5xx that is not to be retried",
        500,
        anthropic("api_error", "x"),
        "api_error",
        headers={"x-should-retry": "false"},
    ),
    refusal("409 that is not to be retried", 409, b"", "http_409", headers={"x-should-retry": "false"}),
    failure(
        "400 that is to be retried",
        400,
        error("x", type="invalid_request_error"),
        "invalid_request_error",
        headers={"x-should-retry": "true"},
    ),
    failure("401 that is to be retried", 401, b"", "http_401", headers={"x-should-retry": "true"}),
    throttle("429 stays pace", 429, b"", "http_429", headers={"x-should-retry": "false"}),
    failure("503 that is to be retried", 503, b"", "http_503", headers={"x-should-retry": "true"}, min_backoff=5.0),
    refusal(
        "a code in the body comes before the header",
        400,
        error("x", code="context_length_exceeded"),
        "context_length_exceeded",
        headers={"x-should-retry": "true"},
        row_is_bad=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_row_of_the_table(case: Case) -> None:
    """Verdict, scope, retry, final, auth, waits and code of each answer are those of the table."""
    outcome = judge(case.status, case.body, case.headers, case.endpoint)

    assert (outcome.verdict, outcome.scope, outcome.code) == (case.verdict, case.scope, case.code)
    assert (outcome.retry, outcome.row_is_bad, outcome.key_refused) == (case.retry, case.row_is_bad, case.key_refused)
    assert outcome.retry_after == (None if case.retry_after is None else pytest.approx(case.retry_after))
    assert outcome.min_backoff == case.min_backoff
    assert outcome.status == case.status
    assert outcome.message
    assert bool(outcome.hint) == (
        case.verdict == "account_refused" or case.code in {"unexpected_stream", "response_queued"}
    ) or (case.code == "request_too_large")


def test_every_rule_is_proved_by_some_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule of the table goes untested, and so none is dead (the search for rules is watched, not replaced)."""
    used: set[str] = set()

    def watched(facts: Facts) -> tuple[Rule, Match]:
        found = find_rule(facts)
        used.add(found[0].name)
        return found

    monkeypatch.setattr(outcomes, "find_rule", watched)

    for case in CASES:
        judge(case.status, case.body, case.headers, case.endpoint)
    for answer in FIELD:
        judge(answer.status, answer.body, answer.headers, answer.endpoint)
    classify_reply(Reply(413, {}, b""), endpoint="chat", mask=MASK, asked=b"a small request")

    assert {rule.name for rule in (*body_rules.BODY_RULES, *body_rules.STATUS_RULES)} == used


def test_every_rule_names_its_source_and_date() -> None:
    """They are a column of docs/providers.md; a source of a rule that is gone is removed with it."""
    rules = (*body_rules.BODY_RULES, *body_rules.STATUS_RULES)

    assert [rule.name for rule in rules] == list(SOURCES)
    assert all(re.fullmatch(r"20\d\d-(0\d|1[012])", source.date) and source.where for source in SOURCES.values())


def test_a_success_carries_text_tokens_and_the_body_unchanged() -> None:
    """What the provider sent, on one line; its request id; nothing to retry."""
    raw = json.dumps(CHAT_OK, indent=2)

    outcome = judge(200, raw, {"x-request-id": "req_1", "content-type": "application/json"})

    assert (outcome.verdict, outcome.code, outcome.text, outcome.request_id) == ("success", "", "Hello", "req_1")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (12, 40)
    assert outcome.retry_after is None
    assert outcome.body is not None
    assert "\n" not in outcome.body
    assert outcome.body.replace(" ", "") == raw.replace("\n", "").replace(" ", "")


def test_numbers_in_a_body_are_not_rounded() -> None:
    """A 30-digit integer and a trailing zero stay as the provider wrote them."""
    raw = '{"choices":[{"message":{"content":"x"}}],"n":123456789012345678901234567890,"p":1.10}'

    assert judge(200, raw).body == raw


@pytest.mark.parametrize("finish", ["length", "stop", "tool_calls", "pause_turn", None])
def test_an_answer_with_text_is_a_success_however_it_ended(finish: str | None) -> None:
    """Cut at max_tokens, the text was paid for; the finish reason tells how it ended."""
    outcome = judge(200, {"choices": [{"message": {"content": "some"}, "finish_reason": finish}]})

    assert (outcome.verdict, outcome.code, outcome.text) == ("success", "", "some")


def test_a_filtered_answer_still_tells_its_tokens_and_body() -> None:
    """It was billed."""
    outcome = judge(200, {**CHAT_OK, "choices": [{"message": {}, "finish_reason": "content_filter"}]})

    assert outcome.usage is not None
    assert outcome.body is not None


@pytest.mark.parametrize("prefix", ["", "llm_provider-"])
def test_a_success_that_names_a_wait_keeps_it(prefix: str) -> None:
    """Retry-After counts on any answer; one that litellm's proxy passed on was not looked for on a success."""
    assert judge(200, CHAT_OK, {prefix + "retry-after": "3"}).retry_after == 3.0
    assert judge(200, CHAT_OK, {prefix + "retry-after-ms": "1500"}).retry_after == 1.5
    assert judge(200, CHAT_OK, {"retry-after": "0"}).retry_after is None


def test_a_byte_order_mark_does_not_spoil_a_success() -> None:
    """Some gateways send one; the body goes on without it."""
    outcome = judge(200, b"\xef\xbb\xbf" + json.dumps(CHAT_OK).encode())

    assert outcome.verdict == "success"
    assert outcome.body is not None
    assert outcome.body.startswith("{")


def test_without_the_answers_date_the_end_of_a_quota_is_unknown() -> None:
    """An instant needs the provider's clock, and the misleading seconds beside a daily quota are not believed."""
    outcome = judge(429, gemini(429, "RESOURCE_EXHAUSTED", "x", quota("RequestsPerDay"), RETRY_47))

    assert (outcome.verdict, outcome.retry_after) == ("account_refused", None)


def test_midnight_in_california_is_known_without_time_zone_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no tz database, winter time stands in: at most an hour late."""
    import zoneinfo

    def missing(name: str) -> zoneinfo.ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    body = gemini(429, "RESOURCE_EXHAUSTED", "x", quota("RequestsPerDay"))

    outcome = judge(429, body, {"date": "Fri, 03 Jul 2026 12:00:00 GMT"})

    assert outcome.retry_after == pytest.approx(20 * 3600.0)


def test_a_redirect_names_the_host_and_nothing_else_of_its_target() -> None:
    """The path or query may carry the key or the prompt."""
    outcome = judge(307, b"", {"location": f"https://user:{KEY}@login.example.com/path?key={KEY}"})

    assert outcome.message == "redirected to login.example.com, and not followed"
    assert "base URL" in outcome.hint


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"x-request-id": "a", "cf-ray": "b"}, "a"),
        ({"request-id": "req_011"}, "req_011"),
        ({"apim-request-id": "3d37de60-f6c3"}, "3d37de60-f6c3"),
        ({"x-ms-request-id": "m"}, "m"),
        ({"cf-ray": "8c-FRA"}, "8c-FRA"),
        ({"x-request-id": "", "cf-ray": "b"}, "b"),
        ({"x-request-id": "a\x1b[31m b"}, "a_31m_b"),
        ({"x-request-id": f"id-{KEY}"}, "id-***"),
        ({"x-request-id": "\x1b" * 3}, None),
        ({}, None),
    ],
)
def test_the_request_id_is_found_and_harmless(headers: dict[str, str], request_id: str | None) -> None:
    """Under every provider's name for it; without control characters, without the key."""
    assert judge(200, CHAT_OK, headers).request_id == request_id


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (error("line\nbreak\ttab \x1b[31mred\x1b[0m \u202ereversed\u2028 \x9b"), "line break tab [31mred [0m reversed"),
        (error("x" * 5000), "x" * 299 + "…"),
        (NGINX, "HTML answer: 502 Bad Gateway"),
        ("no healthy upstream", "no healthy upstream"),
        (b"", "HTTP 502"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (error(f"bad key {KEY}"), "bad key ***"),
        (error("x" * 280 + KEY), "x" * 280 + "***"),
        (error("lone \ud83d surrogate"), "lone surrogate"),
    ],
)
def test_messages_are_short_clean_and_without_keys(body: object, message: str) -> None:
    """One line, no control characters, masked before it is cut."""
    assert judge(502, body).message == message


@pytest.mark.parametrize(
    ("code", "token"),
    [
        ("weird code!\x1b[31m", "weird_code_31m"),
        ("x" * 200, "x" * 64),
        ("…", "http_502"),
        ("", "http_502"),
        (f"bad_{KEY}", "bad"),
        (None, "http_502"),
        (12345, "http_502"),
    ],
)
def test_codes_are_short_tokens(code: object, token: str) -> None:
    """They become labels and columns, so nothing strange gets in."""
    assert judge(502, error("x", code=code)).code == token


def test_a_key_in_the_answer_is_masked_in_body_and_text() -> None:
    """A provider or a model that echoes the key does not put it in the file."""
    document = {"choices": [{"message": {"content": f"your key is {KEY}"}}]}

    outcome = judge(200, document)

    assert outcome.text == "your key is ***"
    assert outcome.body is not None
    assert KEY not in outcome.body
    assert parse(outcome.body) == {"choices": [{"message": {"content": "your key is ***"}}]}


def test_a_body_that_the_mask_would_break_is_left_out() -> None:
    """A key that stands for more than the inside of a string: no body rather than a broken line."""
    mask = Mask(["123456789"]).mask

    outcome = classify_reply(
        Reply(200, {}, b'{"choices":[{"message":{"content":"x"}}],"created":1234567890}'), endpoint="chat", mask=mask
    )

    assert (outcome.verdict, outcome.body, outcome.status) == ("success", None, 200)


def test_an_error_body_is_kept_only_when_it_is_json() -> None:
    """A row that fails has the provider's words in its line; HTML and half a body are no JSON."""
    assert judge(400, error("x")).body == '{"error": {"message": "x"}}'
    assert judge(502, NGINX).body is None
    assert judge(400, '{"error": {"mess').body is None
    assert judge(400, b'{"error": "\xff"}').body is None


@pytest.mark.parametrize(
    ("fault", "verdict", "scope", "retry"),
    [
        ("unknown_host", "failure", "provider", True),
        ("dns", "failure", "provider", True),
        ("connect", "failure", "provider", True),
        ("connect_timeout", "failure", "provider", True),
        ("tls", "account_refused", "provider", False),
        ("timeout", "failure", "provider", True),
        ("reset", "failure", "provider", True),
        ("truncated", "failure", "provider", True),
        ("garbage", "failure", "provider", True),
        ("too_large", "failure", "provider", True),
        ("no_network", "local", "machine", True),
        ("local", "local", "machine", True),
    ],
)
@pytest.mark.parametrize("sent", [True, False])
def test_every_fault_of_the_transport_is_judged(
    fault: TransportFault, verdict: str, scope: str, retry: bool, sent: bool
) -> None:
    """The provider is blamed for what it did, the operator asked for a certificate, this machine for the rest."""
    outcome = classify_fault(TransportError(fault, "went\nwrong", sent=sent))

    assert (outcome.verdict, outcome.scope, outcome.retry) == (verdict, scope, retry)
    assert outcome.message == "went wrong"
    assert re.fullmatch("[a-z_]+", outcome.code)
    assert bool(outcome.hint) == (verdict in {"account_refused", "local"} or fault in {"unknown_host", "timeout"})
    assert outcome.unreachable == (fault in {"unknown_host", "dns", "connect", "connect_timeout", "no_network"})
    assert (outcome.status, outcome.retry_after, outcome.body) == (None, None, None)


def test_a_time_out_of_one_attempt_names_the_flag_that_allows_more() -> None:
    """Answers that are merely slow look like an outage; the way out is told."""
    assert "--timeout" in classify_fault(TransportError("timeout", "no whole answer within 2 s", sent=True)).hint


bodies = (
    st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | st.sampled_from([json.dumps(case.body).encode() for case in CASES if isinstance(case.body, dict | list)]).map(
        lambda raw: raw.replace(b'"m', b'"' + KEY.encode())
    )
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=10)
        | st.just(KEY),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "error",
                        "message",
                        "code",
                        "type",
                        "details",
                        "status",
                        "choices",
                        "content",
                        "data",
                        "output",
                        KEY,
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
names = st.sampled_from(
    [
        "date",
        "retry-after",
        "x-should-retry",
        "x-request-id",
        "cf-ray",
        "location",
        "content-type",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ]
)
values = st.text(max_size=30) | st.sampled_from(
    ["0", "5", "true", "false", "text/event-stream", "text/html", f"https://{KEY}/x", "https://[", KEY]
)


@pytest.mark.slow  # hundreds of random answers
@settings(max_examples=400)
@given(
    st.integers(-5, 700),
    st.dictionaries(names, values, max_size=5),
    bodies,
    st.sampled_from(["chat", "completions", "responses", "embeddings", "messages"]),
)
def test_any_answer_comes_to_a_sane_outcome(status: int, headers: dict[str, str], body: bytes, endpoint: str) -> None:
    """No status, header or byte raises; waits are above zero, codes are tokens, bodies one line of JSON, keys gone."""
    outcome = classify_reply(Reply(status, headers, body), endpoint=endpoint, mask=MASK)

    assert outcome.retry_after is None or outcome.retry_after > 0
    assert (outcome.verdict == "success") == (outcome.code == "")
    assert re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", outcome.code)
    assert len(outcome.message) <= 300
    assert outcome.message.isprintable()
    if outcome.body is not None:
        parse(outcome.body)
        assert "\n" not in outcome.body
        assert "\r" not in outcome.body
    shown = (
        outcome.code,
        outcome.message,
        outcome.request_id or "",
        outcome.body or "",
        outcome.text or "",
        outcome.hint,
    )
    assert not any(KEY in text for text in shown)
    if not 200 <= status < 300:
        assert outcome.verdict != "success"
    assert outcome.verdict != "local"
