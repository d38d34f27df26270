"""Regular expressions for codes and words of the table's rules: providers say one thing in many ways.

Matching ignores case: codes must match as a whole, words anywhere in the message. Each line names who answers so, where
it was reported, and when. The rules are in :mod:`llmbatch.classify.body_rules`.
"""

from __future__ import annotations

__all__ = [
    "ADDRESS_CODES",
    "ADDRESS_WORDS",
    "CLOSED_CODES",
    "CLOSED_WORDS",
    "ELSEWHERE_WORDS",
    "EXPIRED_CODES",
    "EXPIRED_WORDS",
    "FILTER_CODES",
    "FILTER_WORDS",
    "FLOP_CODES",
    "FLOP_WORDS",
    "LACKING_WORDS",
    "LONG_CODES",
    "LONG_QUOTA_WORDS",
    "LONG_WORDS",
    "MODEL_CODES",
    "MODEL_DOWN_WORDS",
    "MODEL_WORDS",
    "MONEY_CODES",
    "MONEY_WORDS",
    "NEEDED",
    "NETWORK_WORDS",
    "NOT_OFFERED_WORDS",
    "NO_QUOTA_WORDS",
    "PACE_WORDS",
]


def _any(*patterns: str) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns)


_OWN = r"(?:(?:its|your|the|their|this|our|a) )?"

MONEY_CODES = _any(
    r"insufficient_(?:\w+_)?(?:quota|credits?|balances?|funds)\w*",  # OpenAI; new-api: insufficient_user_quota, 2025
    r"credit_balance_\w+|\w*(?:spend|usage)_limit_(?:exceeded|reached)",  # OpenAI, Anthropic
    r"billing_\w+|\w+_billing_\w+|credit_limit\w*|payment_required",  # OpenAI, Together, Google: BILLING_DISABLED
    r"exceeded_current_quota\w*",  # Moonshot's Kimi, BettaFish#524, 2025-12
    r"budget_exceeded|\w*exceeded_?budget\w*",  # litellm#4139, 2024; #37000, 2026
    r"arrear(?:s|age)|account_?overdue\w*",  # DashScope; Volcengine
    r"not_enough_(?:balance|credits?|quota|funds)",  # Novita; Hugging Face's router, hub-docs#2392, 2026
    r"(?:out_of|no)_(?:credits?|balance)|(?:credits?|balance|free_tier|funds)_(?:exhausted|depleted|expired)\w*",
    r"1113",  # Zhipu, continue#11823, 2026: "Your account is in arrears"
    r"base_resp_1008",  # MiniMax, also inside a 200
    r"30001",  # SiliconFlow
    r"set_?limit_?exceeded",  # Volcengine's own limit of a model, which pauses it, 2026
    r"token_quota_(?:reached|exhausted)",  # IBM watsonx at 403, in a list of errors
)

MONEY_WORDS = _any(
    r"credit balance is too low|\bkey limit exceeded|billing hard limit",  # Anthropic, OpenRouter, OpenAI
    r"insufficient (?:\w+ )?(?:balances?|credits?|funds)",  # DeepSeek, Kimi, many gateways
    r"account is not active, please check your billing",  # OpenAI
    # xAI at 429 and 403: "has either used all available credits or reached its monthly spending limit",
    # continue#10373, 2026-02; "doesn't have any credits or licenses yet", koan#2412
    # Hugging Face's router, 402: "exceeded your monthly included credits", agents-course#386, 2025-03
    r"(?:used|consumed|exhausted|exceeded|spent|depleted) (?:up )?(?:all )?(?:of )?"
    + _OWN
    + r"(?:\w+ ){0,2}credits?\b",
    r"(?:out of|no(?: more)?|(?:have|has|had) any|without(?: any)?) (?:\w+ )?credits?\b(?! card)"
    # OpenRouter's moderation, 403: "Your input was flagged for …. No credits were charged."
    r"(?! (?:was|were|is|are|have been|will be) )",
    r"(?:credits?|balance|prepayment|funds|free (?:tier|trial|quota|credits?)) "
    r"(?:has|have|is|are|was|were) (?:now )?(?:been )?"
    r"(?:exhausted|depleted|used up|expired|run out|insufficient|too low|negative|not enough|below zero)",
    r"(?:not enough|low) (?:account )?(?:balance|credits?|funds)|credits? expired",  # Novita; NVIDIA NIM
    r"inactive subscription",  # Mistral, 401: "Inactive subscription or usage limit reached"
    r"(?:purchase|buy|add|load|top[ -]up) (?:more |additional |some |your )?(?:prepaid )?(?:credits?|funds|balance)\b",
    r"(?:spend|spending|budget|billing|cost) (?:limit|cap) (?:has been |was |is |of .{1,40} )?(?:reached|exceeded|hit)",
    r"(?:reached|exceeded|exceeds|hit|over) " + _OWN + r"(?:\w+ ){0,2}(?:spend|spending|billing|cost) (?:limit|cap)",
    # litellm's proxy, as 400 and as 429: "Budget has been exceeded!", "over budget", "Crossed budget"
    r"(?<!thinking )(?<!reasoning )(?<!token )budget (?:has been |was |is )?exceeded",
    r"(?:crossed|exceeded|exceeds|over) " + _OWN + r"(?:max(?:imum)? )?budget",
    r"\barrears?\b|arrearage|overdue (?:payment|invoice|balance|bill)",
    r"payment (?:is )?(?:overdue|past due)|unpaid invoice",
    r"(?:please )?recharge your account|quota (?:is )?not enough|user quota is insufficient",  # Kimi; new-api
    # Zhipu, many gateways
    r"余额不足|余额不够|余额已|欠费|请充值|充值后|无可用资源包|额度(?:不足|已用|耗尽|用尽)",
    r"账户余额",
)

CLOSED_CODES = _any(
    r"(?:account|organi[sz]ation|team|workspace|project|user|consumer)_(?:\w+_)?(?:deactivated|suspended|disabled"
    r"|restricted|blocked|banned|locked|terminated|frozen|closed|archived|on_hold)",  # Groq, one-api#1764, 2025; OpenAI
    r"111[012]",  # Zhipu: inactive, gone, locked
)

CLOSED_WORDS = _any(
    # Anthropic: "This organization has been disabled.", claude-code#19028, 2026-01; Fireworks at 412: "Account … is
    # suspended, possibly due to reaching the monthly spending limit", pollinations#12136, 2026; Groq: "… restricted"
    r"\b(?:account|organi[sz]ation|team|workspace|consumer)\b.{0,80}?\b(?:is|has been|was|been) (?:\w+ly )?(?:suspended"
    r"|disabled|deactivated|restricted|blocked|banned|locked|terminated|frozen|closed|on hold|inactive)\b",
    r"账[号户](?:已|被)(?:停用|冻结|封禁|锁定|注销)",
)

# Kimi: "request reached TPD rate limit, current: 1500123, limit: 1500000"; Groq and others: RPD, IPD for images.
_PERIOD = r"(?:\b(?:daily|weekly|monthly|[TRI]PD)|(?:\bper[ -]|/ ?|\ba )(?:day|week|month))\b"

LONG_QUOTA_WORDS = _any(
    # Cohere: "limited to 1000 API calls / month"; OpenRouter: "free-models-per-day"; Bedrock: "Too many tokens per
    # day"; Cerebras; Cloudflare: "daily free allocation"; Ollama: "weekly usage limit"; Qianfan inside a 200, 2026
    _PERIOD + r"[^.;,!?]{0,40}\b(?:limit|quota|allocation|allowance|cap)\b",
    r"\b(?:limited|limit|quota|allocation|allowance|too many|exceeded|exhausted)\b[^.;,!?]{0,40}" + _PERIOD,
)

NO_QUOTA_WORDS = _any(
    # Gemini's free tier says "…_free_tier_requests, limit: 0", OpenAI "Limit: 0 / min" and "Limit 0, Used 0",
    # Databricks "a rate limit set to 0", and Anthropic "the rate limit for your organization of 0 input tokens" (2026).
    r"(?<!remaining )\b(?:limit|quota)(?: is| of| set to|:|=)? ?0(?![\d.]\d|\d)",
    r"\brate limit\b[^.]{0,60} of 0 ",
)

PACE_WORDS = _any(
    # Bedrock through litellm, also as 400 and 500: claude-code#1466, 2025-06; litellm#589, 2023
    r"too many (?:\w+ )?tokens,? (?:please )?wait|\bthrottlingexception\b",
    r"rate[ -]?limit(?:s|ing)? (?:has been |was |is |have been )?(?:exceeded|reached|hit)",
    r"(?:exceeded|exceeds|reached|hit) (?:the |your |its |our )?(?:\w+ ){0,3}rate[ -]?limit",
    r"(?:qps|qpm|rpm|tpm|request) (?:\w+ ){0,2}limit (?:is |was |has been )?(?:exceeded|reached|hit)",
    r"too many (?:concurrent )?requests\b",
)

ELSEWHERE_WORDS = _any(
    # Gemini, 400: "User location is not supported for the API use."; OpenAI, 403: "Country, region, or territory not
    # supported"
    r"\b(?:location|country|region|territory)(?:, region, or territory)? (?:is |are )?not (?:supported|available"
    r"|allowed|served)",
    r"not available in your (?:country|region|location|territory)",
)

EXPIRED_CODES = _any(
    r"access_token_expired|(?:\w+_)?(?:token|jwt|credentials?|session)_?expired",  # Vertex, 2026
    r"expired_?(?:access_?)?(?:token|credentials?)(?:_?exception)?",  # AWS: ExpiredTokenException
)

EXPIRED_WORDS = _any(
    r"\b(?:token|jwt|credentials?|session|signature)(?: included in the request)? (?:has |have |is "
    r"|was )?(?:already |been )?"
    r"expired",
    r"expired (?:access |auth\w* |bearer |security |oauth2? )?(?:token|jwt|credentials?|session)\b",
    r"lifetime validation failed",
)

LONG_CODES = _any(
    r"context_length_exceeded|context_window_exceeded|exceed_context_size_error|string_above_max_length",
    r"string_too_long|max_tokens_exceeded|token_limit_exceeded|request_too_large|model_max_prompt_tokens_exceeded",
    r"request_body_too_large_after_decoding",
    r"1261",  # Zhipu
)

LONG_WORDS = _any(
    r"maximum context length|model's context length|prompt is too long",
    # Not Bedrock's throttling through a gateway: "Too many tokens, please wait before trying again.",
    # claude-code#1466, 2025-06
    r"too many (?:input )?tokens(?!,? (?:please wait|processed|per ))",
    # LM Studio: "the model is loaded with context length of only 4096 tokens, which is not enough",
    # lmstudio-bug-tracker#237, 2024; "greater than the context length (n_keep: …)", openclaude#353, 2026-04
    r"context length of only \d+ tokens|greater than the context length|prompt 超长",
    r"exceeds? the (?:maximum|max) number of tokens|exceeds? the available context size",
    r"context size has been exceeded",
    r"exceeds? (?:the )?(?:model's )?(?:context|maximum) (?:window|length|limit of tokens)",
    r"exceeds? the model's (?:maximum|max) (?:context|input|model)|longer than the (?:maximum|max) model length",
    r"tokens? exceed context window|maximum (?:prompt|input) length|input length and `max_tokens` exceed",
    r"input is too (?:long for|large to process)|must have less than \d+ tokens|`max_new_tokens` must be <=",
    # Vertex: "the input token count is 40000 but model only supports up to 32768"; Kimi: "Your request exceeded model
    # token limit: 8192 (requested: 9120)"; DashScope: "Range of input length should be [1, 30720]"; Cloudflare:
    # "exceeded this model context window limit"; Databricks, 2026: "exceeds maximum allowed token size"
    r"input token count .{0,60}(?:exceeds?|supports? (?:only )?up to)|range of input length should be",
    r"exceed(?:s|ed) (?:the |this |your )?model(?:'s)? context window|request exceeded model token limit",
    # Not of max_tokens, which may be that of all rows.
    r"\b(?:input|prompt)\b.{0,40}? exceed(?:s|ed) (?:the )?"
    r"(?:model(?:'s)? limit of \d+|maximum allowed (?:token|input|context|prompt))",
    r"input should have at most \d+ tokens",
)

FILTER_CODES = _any(
    # Not Azure's "content_filter_error": the filter itself has failed.
    r"content_?filter(?!_?error)\w*|content_?policy\w*|content_?(?:blocked|violation|moderation)\w*|ResponsibleAIPolicyViolation",
    r"moderation\w*|\w*policy_violation|invalid_prompt|bio_policy|cyber_policy|\w*safety\w*",
    r"prohibited_content|sensitive_\w+|\w*sensitive_?content\w*(?:\.\w+)?",  # the last: Volcengine
    r"data_?inspection_?failed",  # DashScope
    r"\w*guardrail\w*|hooks_failed",  # Bedrock, gateways; Portkey at 446
    r"1301|base_resp_102[67]",  # Zhipu; MiniMax: input, output
)

FILTER_WORDS = _any(
    r"content management policy|content filter(?:ing)? policy|(?:was|were|been) flagged",
    # xAI at 403: "Content violates usage guidelines … Failed check: SAFETY_CHECK_TYPE_BIO", inspect_ai#2267, 2025-08;
    # llmgateway#1785, 2026-03
    r"violat(?:e|es|ed|ing|ion of|ions of) (?:our |the |\w+['’]s )?(?:\w+ "
    r"){0,2}(?:guidelines?|polic(?:y|ies)|terms of)",
    r"safety_check|safety (?:system|filter|reason|guideline|polic|check|setting)",
    r"blocked (?:by|for|due to) (?:\w+ )?safety|^blocked (?:input|output)",  # the last: Cohere, 498
    # DeepSeek, DashScope
    r"content exists risk|(?:inappropriate|prohibited|unsafe|harmful|disallowed|sensitive) content",
    r"敏感内容|不安全或敏感|违规内容|内容安全",
)

FLOP_CODES = _any(
    # Groq, at random: groq-ruby#12, 2024; Plush#135, 2025. The same request passes the next time.
    r"json_validate_failed|tool_use_failed|output_parse_failed",
    r"malformed_(?:function|tool)_call|(?:function|tool)_call_(?:parse|parsing|generation)_\w+|invalid_model_output\w*",
)

FLOP_WORDS = _any(
    r"failed to (?:generate|validate|produce) (?:a )?(?:valid )?JSON|failed to call a function|failed_generation",
    r"model (?:generated|produced|returned|output) (?:an? )?(?:invalid|malformed|unparsable)",
    r"failed to parse (?:the )?(?:model'?s? )?(?:output|tool call|function call)",
)

ADDRESS_CODES = _any(
    r"unknown_(?:url|endpoint|route|path)|(?:endpoint|route|path)_not_found|no_such_(?:endpoint|route)"
)

ADDRESS_WORDS = _any(
    r"unexpected endpoint",  # LM Studio, inside a 200: bug-tracker#618, 2025
    r"(?:unknown|unrecognized|invalid|unsupported) (?:api )?(?:endpoint|path|route|request url|url \()",  # OpenAI, Groq
    # nginx, 400: "The plain HTTP request was sent to HTTPS port"; Go: "Client sent an HTTP request to an HTTPS server."
    r"http request (?:was sent )?to (?:an )?https (?:port|server)",
    r"cannot (?:post|get) /|no (?:such|matching) (?:endpoint|route|path)|no route matched",  # Express; Kong
    r"\b(?:endpoint|route|path) .{0,100}?(?:not found|does not exist|doesn't exist)",
)

MODEL_CODES = _any(
    r"model_not_found\w*|DeploymentNotFound|unknown_model|invalid_model|model_(?:decommissioned|deprecated)",
    r"model_not_(?:active|available|supported)",  # Hugging Face's router, cline#5098, 2025-07
    r"model_terms_required|model_permission_\w+",  # Groq
    r"\w*model_access_denied",  # litellm's proxy: of a key, a team, a user, an organization, a project
    r"resource_does_not_exist|access_?denied\.unpurchased|model\.access_?denied",  # Databricks; DashScope
)

MODEL_WORDS = _any(
    r"is not a valid model id|model (?:.{1,200} )?(?:does not exist|has been decommissioned)|no such model",
    # litellm's proxy, 2026; Bedrock
    r"invalid model name|(?:no|n['’]o?t have) access to (?:the |this )?model",
    # Bedrock, 400: "Invocation of model ID … with on-demand throughput isn't supported", claude-code#1466, 2025-06
    r"model identifier is invalid|on-demand throughput isn['’]t supported",
    r"not supported by any provider you have enabled",  # Hugging Face's router, page-assist#727, 2025-10
    r"requires terms acceptance|模型不存在",  # Groq; Zhipu
    r"model requires (?:a |an )?(?:\w+ )?subscription",  # Ollama's cloud, 403
)

MODEL_DOWN_WORDS = _any(
    # NVIDIA NIM, 400: "Function id '…': DEGRADED function cannot be invoked", free-claude-code#1012, 2026-07
    r"\bdegraded function\b",
    # LM Studio, 400: "The model has crashed without additional information.", lmstudio-bug-tracker#932, 2025-08
    r"\bmodel has crashed\b",
)

NETWORK_WORDS = _any(
    # Azure, 403: "Access denied due to Virtual Network/Firewall rules.", azure-sql-db-chatbot#3, 2025-04; "A Virtual
    # Network is configured for this resource", continue#12547, 2026-06
    r"virtual network\b|firewall rules?\b|public (?:network )?access is disabled|approved private endpoint",
)

NOT_OFFERED_WORDS = _any(
    # OpenRouter, 404: "No endpoints found that support tool use", anon-kode#2, 2025-03; "… that support the provided
    # 'tool_choice' value", zed#36094, 2025-08; "… that support image input"
    r"no endpoints found that (?:can )?(?:support|handle)\b",
)

LACKING_WORDS = _any(
    # llama-cpp-python, 500 on /v1/embeddings: "Llama model must be created with embedding=True to call this method"
    r"must be created with embedding|(?:does|do) not support (?:embeddings?|this|the|chat|completions?|responses)",
    r"requires more (?:system )?memory",  # Ollama, 500
    r"embeddings? (?:are|is) not (?:supported|enabled|available)",
    r"not (?:been )?(?:implemented|supported) (?:by|in|on|for) this",
    r"(?:start|run|launch) (?:it|the server|with) .{0,40}--",  # llama.cpp: "Start it with `--embeddings`"
)

NEEDED: dict[str, tuple[str, ...]] = {
    MONEY_WORDS: (
        (
            "credit",
            "balance",
            "fund",
            "budget",
            "bill",
            "spend",
            "cost",
            "quota",
            "key limit",
            "free t",
            "subscription",
            "prepay",
            "arrear",
            "overdue",
            "past due",
            "invoice",
            "recharge",
            "余额",
            "欠费",
            "充值",
            "资源包",
            "额度",
        )
    ),
    CLOSED_WORDS: (
        (
            "suspend",
            "disabl",
            "deactivat",
            "restrict",
            "block",
            "bann",
            "lock",
            "terminat",
            "frozen",
            "closed",
            "on hold",
            "inactive",
            "账",
        )
    ),
    LONG_QUOTA_WORDS: ("day", "daily", "week", "month", "tpd", "rpd", "ipd"),
    NO_QUOTA_WORDS: ("limit", "quota"),
    MODEL_WORDS: ("model", "provider", "throughput", "模型"),
    MODEL_DOWN_WORDS: ("degraded", "crashed"),
    NETWORK_WORDS: ("network", "firewall", "public access", "private endpoint"),
    PACE_WORDS: ("limit", "too many", "throttling"),
    ELSEWHERE_WORDS: ("support", "available", "allowed", "served"),
    EXPIRED_WORDS: ("expired", "lifetime"),
    LONG_WORDS: ("length", "token", "too long", "too large", "context", "prompt"),
    FILTER_WORDS: ("content", "flagged", "violat", "safety", "blocked ", "敏感", "不安全", "违规"),
    FLOP_WORDS: ("failed to", "failed_generation", "model "),
    ADDRESS_WORDS: ("endpoint", "path", "route", "url", "cannot ", "https"),
    LACKING_WORDS: ("embedding", "support", "implemented", "--", "memory"),
}
"""A message in lower case must contain one of these before a long pattern is tried: a tenth of the time."""
