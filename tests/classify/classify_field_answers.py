"""Answers that were misread in the field, rebuilt: real codes, statuses and structure, in words of our own.

The source and date of each kind stand beside its pattern in :mod:`llmbatch.classify.patterns`.
"""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """One answer, and what it must come to; ``says`` is what the message must contain."""

    name: str
    status: int
    body: object
    verdict: str
    scope: str
    code: str
    certain: bool = True
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to
    retry: bool = False
    row_is_bad: bool = False
    retry_after: float | None = None
    endpoint: str = "chat"
    says: str = ""


def spent(name: str, status: int, body: object, code: str = "insufficient_quota", **more: object) -> Answer:
    return Answer(name, status, body, "account_refused", "key", code, **more)  # type: ignore[arg-type]


def row(name: str, status: int, body: object, code: str, **more: object) -> Answer:
    return Answer(name, status, body, "rejected", "row", code, **more)  # type: ignore[arg-type]


def filtered(name: str, status: int, body: object, code: str = "content_filter", **more: object) -> Answer:
    return row(name, status, body, code, row_is_bad=True, **more)


def pace(name: str, status: int, body: object, code: str, **more: object) -> Answer:
    return Answer(name, status, body, "throttled", "key", code, retry=True, **more)  # type: ignore[arg-type]


def no_model(name: str, status: int, body: object, code: str, **more: object) -> Answer:
    return Answer(name, status, body, "account_refused", "model", code, **more)  # type: ignore[arg-type]


def elsewhere(name: str, status: int, body: object, code: str, **more: object) -> Answer:
    return Answer(name, status, body, "account_refused", "provider", code, **more)  # type: ignore[arg-type]


def error(message: str, **members: object) -> dict[str, object]:
    return {"error": {"message": message, **members}}


XAI = "The caller does not have permission to execute the specified operation"
DENIED = "<!DOCTYPE html><html><head><title>{}</title></head><body>Ray ID</body></html>"
MINIMAX = {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}
PAGE_404 = "<html><head><title>Error</title></head><body><pre>Cannot POST /v2/chat</pre></body></html>"
DASHSCOPE = (
    "You exceeded your current quota, please check your plan and billing details. See "
    "https://help.example/error-code#token-limit"
)
SUSPENDED = "Account acme is suspended, possibly due to reaching the spending limit or failure to pay past invoices."
VERTEX = [{"@type": "x/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_EXPIRED"}]
BUDGET = "Budget has been exceeded! Current cost: 0.02, Max budget: 0.01"
KIMI = "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge your account"
XAI_SPENT = "Your team has either used all available credits or reached its monthly spending limit."
QUOTA = "Out of call volume quota. Quota will be replenished in 02:13:44."
JSON_FAILED = {"code": "json_validate_failed", "failed_generation": "{"}

FIELD = [
    # 1. What a filter refuses, on a status that elsewhere means the key.
    filtered("xAI", 403, {"code": XAI, "error": "Content violates usage guidelines. Check: SAFETY_CHECK_TYPE_BIO"}),
    filtered("xAI, in other words", 403, {"code": XAI, "error": "This request violates the content policy."}),
    filtered("policy", 403, error("Your prompt violates OpenAI's usage policies", type="forbidden")),
    filtered("guidelines", 400, error("It is in violation of our Acceptable Use Policy")),
    filtered("DashScope", 400, error("no", code="data_inspection_failed"), "data_inspection_failed"),
    filtered("Zhipu", 400, error("系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301")),
    filtered("guardrail", 400, error("no", code="guardrail_blocked"), "guardrail_blocked"),
    # 2. No money, or an account that is closed, on any status.
    spent("xAI 429", 429, {"code": "Some resource has been exhausted", "error": XAI_SPENT}),
    spent("xAI 403", 403, {"code": XAI, "error": "Your newly created team doesn't have any credits or licenses yet."}),
    spent("Fireworks", 412, error(SUSPENDED, code="PRECONDITION_FAILED"), "account_disabled"),
    spent("Anthropic", 400, error("This organization has been disabled."), "account_disabled", certain=False),
    spent("Groq", 400, error("no", code="organization_restricted", type="x"), "organization_restricted"),
    spent("suspended", 403, error("Your workspace was temporarily suspended"), "account_disabled"),
    spent("suspended, by its code", 401, error("no", code="account_suspended"), "account_suspended"),
    spent("OpenAI, deactivated", 401, error("no", code="account_deactivated"), "account_deactivated"),
    spent("Zhipu", 429, error("您的账户已欠费，请充值后重试。", code="1113")),
    spent("Zhipu, in a broken 200", 200, {"code": 1113, "msg": "arrears", "success": False}),
    spent("Zhipu, as 500", 500, error("x", code="1113")),
    spent("MiniMax, in a broken 200", 200, MINIMAX),
    spent("litellm of old", 400, error(BUDGET, type="budget_exceeded", code="400"), "budget_exceeded"),
    spent("litellm now", 429, error(BUDGET, type="budget_exceeded", code="429"), "budget_exceeded"),
    spent("litellm, crossed", 429, error("Crossed budget: user spend 5, max 4", type="auth_error")),
    spent("litellm, over", 400, error("User=u1 over budget. Spend=3, Budget=2", type="auth_error"), certain=False),
    spent("Kimi", 429, error(KIMI, type="exceeded_current_quota_error"), "exceeded_current_quota_error"),
    spent("new-api", 403, error("not enough", code="insufficient_user_quota"), "insufficient_user_quota"),
    spent("500 in words", 500, error("upstream: your balance has run out"), certain=False),
    spent("412 in words", 412, error("no more credits")),
    spent("200 in words", 200, {"error": "You have run out of credits"}, certain=False),
    spent("402 with a code", 402, error("x", code="insufficient_credits"), "insufficient_credits", certain=False),
    spent("DashScope, arrears", 400, {"code": "Arrearage", "message": "Access denied"}, "Arrearage"),
    # 3. A quota that is only a pace.
    pace("DashScope, pace", 429, error(DASHSCOPE, code="insufficient_quota"), "rate_limit_exceeded"),
    pace("a minute's", 429, error("60000 tokens per minute", code="insufficient_quota"), "rate_limit_exceeded"),
    spent("a month's", 429, error("100 requests per minute, monthly quota used up", code="insufficient_quota")),
    pace("dotted", 429, {"code": "Throttling.AllocationQuota", "message": "x"}, "Throttling.AllocationQuota"),
    # 6. A model that missed the format, at random.
    row("Groq, JSON", 400, error("no", **JSON_FAILED), "json_validate_failed", retry=True),
    row("Groq, tools", 400, error("Failed to call a function.", code="tool_use_failed"), "tool_use_failed", retry=True),
    row("a new code", 400, error("no", code="schema_missed", failed_generation="["), "generation_failed", retry=True),
    row("only words", 422, error("The model generated invalid JSON"), "generation_failed", retry=True),
    # 8. An address that is none.
    elsewhere(
        "LM Studio",
        200,
        {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
        "wrong_address",
        certain=False,
    ),
    Answer("Express", 404, PAGE_404, "account_refused", "model", "http_404"),
    elsewhere("OpenAI", 404, error("Invalid URL (POST /v1/chat/completion)"), "wrong_address"),
    elsewhere(
        "Groq, address", 404, error("Unknown request URL: POST /openai/chat.", code="unknown_url"), "unknown_url"
    ),
    # 10. A page in place of the API's answer.
    elsewhere("Cloudflare, blocked", 403, DENIED.format("Attention Required! | Cloudflare"), "blocked_by_gateway"),
    elsewhere("Cloudflare, challenge", 403, "x", "blocked_by_gateway", headers={"cf-mitigated": "challenge"}),
    elsewhere("Cloudflare, text", 403, "error code: 1020", "blocked_by_gateway"),
    elsewhere("AWS, blocked", 403, DENIED.format("ERROR: The request could not be satisfied"), "blocked_by_gateway"),
    spent("Azure API Management", 403, {"statusCode": 403, "message": QUOTA}, "quota_exhausted", retry_after=8024.0),
    spent(
        "Azure API Management, with a header",
        403,
        {"statusCode": 403, "message": "Out of bandwidth quota."},
        "quota_exhausted",
        headers={"retry-after": "60"},
        retry_after=60.0,
    ),
    pace("Azure API Management, rate", 429, {"message": "Try again in 12 seconds."}, "http_429", retry_after=12.0),
    # 11. A token that was good a minute ago.
    spent("Vertex", 401, error("no", code=401, status="UNAUTHENTICATED", details=VERTEX), "ACCESS_TOKEN_EXPIRED"),
    spent(
        "AWS, expired",
        403,
        {"message": "The security token included in the request is expired"},
        "access_token_expired",
    ),
    spent("a JWT", 401, {"detail": "JWT expired"}, "access_token_expired"),
    # 12. Overload by a status of pace.
    pace("TGI", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded"),
    pace("Kimi, busy", 429, error("overloaded", type="engine_overloaded_error"), "engine_overloaded_error"),
    # 13. A row that needs too much for the credit.
    spent("OpenRouter", 402, error("Prompt tokens limit exceeded: 12000 > 8000.", code=402), "http_402", certain=False),
    # 14. Codes that are none.
    Answer("None", 403, error("no", code="None"), "account_refused", "key", "http_403", retry=True, says="no"),
    row(
        "RFC 9457", 400, {"type": "about:blank", "title": "Bad Request", "status": 400}, "http_400", says="Bad Request"
    ),
    row("about_blank", 400, error("x", code="about_blank"), "http_400"),
    row("a URL", 400, {"type": "https://api.example/problems/range", "detail": "n is 0"}, "http_400", says="n is 0"),
    row("a sentence", 400, {"code": "The_value_of_n_is_not_in_the_range"}, "http_400", says="The value of n is not"),
    row("a type", 400, error("n", code="Client specified an invalid argument", type="bad_request"), "bad_request"),
    # 17. What a server was not started for.
    row("llama-cpp-python", 500, error("Llama model must be created with embedding=True"), "not_supported"),
    # Found by variants of the above, 2026-11: quotas of a day or longer without a wait, and limits of nothing.
    spent(
        "Cohere's trial", 429, {"message": "This trial key is limited to 1000 API calls / month."}, "quota_exhausted"
    ),
    spent(
        "OpenRouter's free models", 429, error("Rate limit exceeded: free-models-per-day", code=429), "quota_exhausted"
    ),
    spent("Bedrock's day", 429, {"message": "Too many tokens per day, please wait."}, "quota_exhausted"),
    spent(
        "Cloudflare",
        429,
        {"errors": [{"message": "used up your daily free allocation of 10 neurons"}]},
        "quota_exhausted",
    ),
    spent("Ollama's week", 429, {"error": "you have reached your weekly usage limit, upgrade"}, "quota_exhausted"),
    spent(
        "Qianfan's day", 200, {"error_code": 17, "error_msg": "Open api daily request limit reached"}, "quota_exhausted"
    ),
    spent("Volcengine's own limit", 429, error("paused", code="SetLimitExceeded"), "SetLimitExceeded"),
    pace(
        "a day that names its wait",
        429,
        error("on tokens per day (TPD): try again in 7m12s"),
        "http_429",
        retry_after=432.0,
    ),
    pace("a plan per month", 429, error("Limit of 20 requests per second. See your monthly plan"), "http_429"),
    pace("Qianfan's second", 200, {"error_code": 18, "error_msg": "qps request limit reached"}, "rate_limit_exceeded"),
    pace("another's 429 in a 500", 500, error("upstream: 429 Too Many Requests"), "rate_limit_exceeded"),
    pace("another's 429 in a 400", 400, error("Rate limit exceeded, retry later"), "rate_limit_exceeded"),
    no_model(
        "Gemini's free tier", 429, error("Quota exceeded for metric free_tier_requests, limit: 0"), "no_quota_for_model"
    ),
    no_model(
        "a limit of nothing", 429, error("Rate limit reached: Limit 0, Used 0, Requested 1"), "no_quota_for_model"
    ),
    no_model("Databricks", 403, {"message": "disabled due to a rate limit set to 0."}, "no_quota_for_model"),
    pace("a limit above nothing", 429, error("Limit: 0.5 requests per second"), "http_429"),
    no_model("litellm's proxy", 400, error("Invalid model name passed in model=foo"), "model_not_found", certain=False),
    no_model(
        "Bedrock's access", 403, {"message": "You don't have access to the model with this ID."}, "model_not_found"
    ),
    spent(
        "not from here",
        400,
        error("User location is not supported for the API use."),
        "unsupported_country",
        certain=False,
    ),
    spent("nor from here", 403, error("Country, region, or territory not supported"), "unsupported_country"),
    filtered("Portkey's hooks", 446, error("The guardrail checks failed", type="hooks_failed"), "hooks_failed"),
]
