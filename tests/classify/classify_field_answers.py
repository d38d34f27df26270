"""Answers that were misread in the field, rebuilt: real codes, statuses and structure, in words of our own.

The source and date of each kind stand beside its pattern in :mod:`llmbatch.classify.patterns`.
"""

from __future__ import annotations

import json
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


def key(name: str, body: object, **more: object) -> Answer:
    return spent(name, 200, body, "invalid_api_key", retry=True, **more)


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


def minimax(number: int, message: str) -> dict[str, object]:
    return {"choices": None, "base_resp": {"status_code": number, "status_msg": message}}


PAGE_404 = "<html><head><title>Error</title></head><body><pre>Cannot POST /v2/chat</pre></body></html>"
DASHSCOPE = (
    "You exceeded your current quota, please check your plan and billing details. See "
    "https://help.example/error-code#token-limit"
)
SUSPENDED = "Account acme is suspended, possibly due to reaching the spending limit or failure to pay past invoices."
VERTEX = [{"@type": "x/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_EXPIRED"}]
BUDGET = "Budget has been exceeded! Current cost: 0.02, Max budget: 0.01"
KIMI = "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge your account"
KIMI_DAY = "Your account org-1 <ak-1> request reached TPD rate limit, current: 1500123, limit: 1500000"
SPENT, EXCEEDED = "quota_exhausted", "exceeded_current_quota_error"
XAI_SPENT = "Your team has either used all available credits or reached its monthly spending limit."
QUOTA = "Out of call volume quota. Quota will be replenished in 02:13:44."
JSON_FAILED = {"code": "json_validate_failed", "failed_generation": "{"}

BEDROCK_WAITS = "BedrockException - (ThrottlingException) when calling Converse: Too many tokens, please wait before"
MODERATED = 'x requires moderation on Acme. Your input was flagged for "violence". No credits were charged.'
ON_DEMAND = "Invocation of model ID acme.x with on-demand throughput isn’t supported."
INVALID_NAME = "The provided model identifier is invalid."
QUOTED = "{'error': '/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view models.'}"
FREE_TIER = "The free tier of the model has been exhausted."
FREE_TIER_CODE = "AllocationQuota.FreeTierOnly"
DEGRADED = "Function id '3b9748d8': DEGRADED function cannot be invoked"
DOWN = ("failure", "provider", "model_unavailable")
TOO_LONG = (
    "Unable to submit request because the input token count is 40000 but model only supports up to 32768.",
    "Your request exceeded model token limit: 8192 (requested: 9120)",
    "Range of input length should be [1, 30720]",
    "The estimated number of input and maximum output tokens (9000) exceeded this model context window limit (8000).",
    "Input exceeds maximum allowed token size 4096",
    "The input exceeds the model limit of 8192 tokens",
    "Input should have at most 8192 tokens",
)
LM_STUDIO_LONG = "the model is loaded with context length of only 4096 tokens, which is not enough"
LONG, NO, NETWORK, BAD = "context_length_exceeded", "model_not_found", "network_not_allowed", "invalid_params"
PACE = "rate_limit_exceeded"

DAY = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "x/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]},
            {"@type": "x/google.rpc.RetryInfo", "retryDelay": "17s"},
        ],
    }
}
WRAPPED_DAY = f"litellm.RateLimitError: VertexAIException - {json.dumps(DAY, indent=2)}. Received Model Group=x"
QUOTA_WITHIN = 'upstream: {"error": {"message": "Out of it", "type": "insufficient_quota"}}'
OVERLOADED_WITHIN = '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
AWS = "com.amazon.coral.service#ThrottlingException"

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
    # Found in issue threads, 2026-11. Throttling of Bedrock behind a gateway failed rows as too long.
    pace("Bedrock", 429, {"message": "Too many tokens, please wait before trying again."}, "http_429"),
    pace("Bedrock behind litellm", 500, error(BEDROCK_WAITS, code="500"), "rate_limit_exceeded"),
    pace("Bedrock behind litellm, as 400", 400, error(BEDROCK_WAITS.split(": ")[1]), "rate_limit_exceeded"),
    row("Cohere, too long", 400, {"message": "too many tokens: 9000 in the prompt"}, LONG, row_is_bad=True),
    # A flagged row stopped the run for lack of credit.
    filtered("OpenRouter's moderation", 403, error(MODERATED, code=403, metadata={"reasons": ["violence"]})),
    spent("no credits at all", 403, error("Your team has no credits."), "insufficient_quota"),
    filtered("Cohere", 498, {"message": "blocked output: a potential violation of our terms of use"}),
    filtered(
        "Volcengine",
        400,
        error("may contain sensitive information", code="InputTextSensitiveContentDetected.PolicyViolation"),
        "InputTextSensitiveContentDetected.PolicyViolation",
    ),
    # A row that asks for tools stopped the run for the model.
    row("OpenRouter, tools", 404, error("No endpoints found that support tool use.", code=404), "not_supported"),
    row("OpenRouter, pictures", 404, error("No endpoints found that support image input"), "not_supported"),
    no_model("OpenRouter, no such model", 404, error("No endpoints found for acme/x:free.", code=404), "http_404"),
    # Models that nobody can use: each row failed for itself.
    no_model("Bedrock, on demand", 400, {"message": ON_DEMAND}, "model_not_found", certain=False),
    no_model("Bedrock, name", 400, {"message": INVALID_NAME}, "model_not_found", certain=False),
    no_model(
        "Cloudflare", 400, {"errors": [{"message": "AiError: No such model @cf/x", "code": 5007}]}, NO, certain=False
    ),
    no_model(
        "SiliconFlow", 400, {"code": 20012, "message": "Model does not exist. Please check it."}, NO, certain=False
    ),
    no_model("Zhipu's model", 400, error("模型不存在，请检查模型代码。", code="1211"), NO, certain=False),
    no_model("Groq's terms", 400, error("no", code="model_terms_required"), "model_terms_required"),
    no_model(
        "Groq's project",
        403,
        error("The model `x` is blocked at the project level.", code="model_permission_blocked_project"),
        "model_permission_blocked_project",
    ),
    no_model(
        "Hugging Face's router",
        400,
        error("The requested model 'x/y' is not supported by any provider you have enabled."),
        "model_not_found",
        certain=False,
    ),
    no_model("litellm's proxy, quoted", 400, error(QUOTED, type="None", code="400"), NO, certain=False),
    no_model(
        "litellm's key",
        401,
        error("key not allowed to access model", type="key_model_access_denied", code="401"),
        "key_model_access_denied",
    ),
    no_model(
        "litellm's team",
        401,
        error("team not allowed to access model", type="team_model_access_denied"),
        "team_model_access_denied",
    ),
    no_model(
        "litellm's project",
        401,
        error("project not allowed", type="project_model_access_denied", code="401"),
        "project_model_access_denied",
    ),
    no_model("DashScope's free tier", 403, error(FREE_TIER, code=FREE_TIER_CODE), FREE_TIER_CODE),
    no_model("DashScope's free tier, in words", 403, error(FREE_TIER), "no_quota_for_model"),
    # A network that may not ask: the key was blamed.
    elsewhere("Azure's firewall", 403, error("Access denied due to Virtual Network/Firewall rules."), NETWORK),
    elsewhere("Azure, private", 403, error("Public access is disabled. Please configure private endpoint."), NETWORK),
    # Money in other words: the key was blamed, or the wait was endless.
    spent("Novita", 403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"}),
    spent("Mistral", 401, {"detail": "Inactive subscription or usage limit reached. Please head to the console."}),
    spent("Hugging Face", 402, {"error": "You have exceeded your monthly included credits."}, certain=False),
    # A model that is down, as 400: every row counted as refused.
    Answer("NVIDIA NIM", 400, {"title": "Bad Request", "detail": DEGRADED}, *DOWN, retry=True),
    Answer(
        "LM Studio's crash", 400, {"error": "The model has crashed without additional information."}, *DOWN, retry=True
    ),
    # Rows that are too long, in words of local servers.
    row("LM Studio, long", 400, {"error": LM_STUDIO_LONG}, LONG, row_is_bad=True),
    row("LM Studio, keep", 400, {"error": "n_keep is greater than the context length"}, LONG, row_is_bad=True),
    *(row(f"too long {number}", 400, error(said), LONG, row_is_bad=True) for number, said in enumerate(TOO_LONG, 1)),
    row("Zhipu, long", 400, error("Prompt 超长", code="1261"), LONG, row_is_bad=True),
    row(
        "Ollama's memory", 500, error("model requires more system memory (9.1 GiB) than is available"), "not_supported"
    ),
    row("MiniMax, parameters", 200, {"choices": None, "base_resp": {"status_code": 2013, "status_msg": "no"}}, BAD),
    # MiniMax's codes inside a 200: a refused key was an outage, which the run waited for.
    key("MiniMax, no key", minimax(1004, "login fail: Please carry the API secret key in the header")),
    key("MiniMax, wrong key", minimax(2049, "invalid api key")),
    key("MiniMax, key without choices", {"base_resp": {"status_code": 1004, "status_msg": "token not match group"}}),
    key("MiniMax, key of a row sent as it is", minimax(1004, "login fail"), endpoint="raw"),
    key("MiniMax, key and embeddings", {"vectors": None, **minimax(2049, "x")}, endpoint="embeddings"),
    spent("MiniMax, balance", 200, minimax(1008, "insufficient balance")),
    pace("MiniMax, rate", 200, minimax(1002, "rate limit"), PACE),
    pace("MiniMax, tokens", 200, minimax(1039, "token limit"), PACE),
    pace("MiniMax, connections", 200, minimax(1041, "conn limit"), PACE),
    pace("MiniMax, growth", 200, minimax(2045, "rate growth limit"), PACE),
    filtered("MiniMax, input", 200, minimax(1026, "input new_sensitive")),
    filtered("MiniMax, output", 200, minimax(1027, "output new_sensitive")),
    row("MiniMax, characters", 200, minimax(1042, "invisible character ratio limit"), BAD),
    # A quota of a day in abbreviations was a rate limit, and the run waited all night.
    spent("Kimi's day", 429, error(KIMI_DAY, type="rate_limit_reached_error"), SPENT),
    spent("requests of a day", 429, error("Rate limit exceeded: RPD limit 200, used 200"), SPENT),
    spent("images of a day", 429, error("You have exceeded the IPD of your plan"), SPENT),
    spent("a day by a code of money", 429, error(KIMI_DAY, type=EXCEEDED), EXCEEDED),
    pace("Kimi's day with a wait", 429, error(f"{KIMI_DAY}, try again after 60 seconds"), "http_429", retry_after=60.0),
    pace("Kimi's tokens", 429, error(KIMI_DAY.replace("TPD", "TPM")), "http_429"),
    pace("Kimi's requests", 429, error(KIMI_DAY.replace("TPD", "RPM")), "http_429"),
    # Waits in words.
    pace("Gemini's hours", 429, error("Your quota will reset after 8h44m7s."), "http_429", retry_after=31447.0),
    pace("GitHub Models", 429, error("Please wait 36 seconds before retrying."), "http_429", retry_after=36.0),
    pace("Mistral, busy", 429, {"message": "Service tier capacity exceeded for this model."}, "http_429"),
    pace(
        "Gemini, busy",
        429,
        error("No capacity available for model x on the server", status="RESOURCE_EXHAUSTED"),
        "RESOURCE_EXHAUSTED",
    ),
    pace("Together's free tier", 429, error("Your rate limit is 60 queries per minute.", type="credit_limit"), PACE),
    # Found by variants of the above, 2026-11: a provider's error that a gateway put into its own message.
    spent("litellm, Gemini's day", 429, error(WRAPPED_DAY, code="429"), "daily_quota_exhausted"),
    spent("the same, as 500", 500, error(WRAPPED_DAY, code="500"), "daily_quota_exhausted"),
    spent("a quota within", 500, error(QUOTA_WITHIN), says="upstream: Out of it"),
    Answer("overload within", 502, error(OVERLOADED_WITHIN), "failure", "provider", "overloaded_error", retry=True),
    row("an echo", 400, error(QUOTA_WITHIN), "http_400"),
    # Codes in a list of errors, in a header, and in AWS's own member.
    spent("watsonx", 403, {"errors": [{"code": "token_quota_reached", "message": "x"}]}, "token_quota_reached"),
    pace("Bedrock", 400, {"__type": AWS, "message": "Rate exceeded"}, "ThrottlingException"),
    pace(
        "Bedrock, in a header",
        400,
        {"message": "Rate exceeded"},
        "ThrottlingException",
        headers={"x-amzn-errortype": "ThrottlingException:http://internal.example/"},
    ),
    pace("wrapped, with a wait", 400, error("Rate limit reached. Try again in 20s"), PACE, retry_after=20.0),
    no_model("Ollama's cloud", 403, {"error": "this model requires a subscription, upgrade for access"}, NO),
    no_model(
        "Databricks",
        404,
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Endpoint x does not exist"},
        "RESOURCE_DOES_NOT_EXIST",
    ),
    no_model("DashScope", 403, {"code": "AccessDenied.Unpurchased", "message": "x"}, "AccessDenied.Unpurchased"),
    Answer(
        "Azure's filter is down",
        500,
        error("x", code="content_filter_error"),
        "failure",
        "provider",
        "content_filter_error",
        retry=True,
    ),
    elsewhere(
        "nginx, http:// to a TLS port",
        400,
        "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
        "wrong_address",
        certain=False,
    ),
    elsewhere("Go, the same", 400, "Client sent an HTTP request to an HTTPS server.", "wrong_address", certain=False),
]
