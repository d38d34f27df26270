"""Classification rules: what the body's codes and words, the header ``x-should-retry`` and the status mean.

Rules are data and tried in order; the first match decides::

    BODY_RULES      by the body, whatever the status: money, size, content, key, model, rate limit, overload
    STATUS_RULES    by the status; ``x-should-retry`` overrides only these

so that a code in the body comes before headers, headers before the status, and quota before rate limit. For a provider
that is new or has changed its wording, add a rule or extend a pattern; :mod:`llmbatch.classify.find_rule` tries them.
"""

from __future__ import annotations

from llmbatch.classify.conditions import (
    day_in_message,
    has_failed_generation,
    has_no_quota,
    is_daily_quota,
    is_flagged,
    is_gateway_page,
    is_long_quota,
    is_pace_called_quota,
    lacks_flex_capacity,
    midnight_in_california,
    never,
    next_month,
)
from llmbatch.classify.hints import ACCOUNT, ADDRESS, GATEWAY, KEY, LATER, MODEL, NETWORK, NO_QUOTA, PAY, REGION, RENEW
from llmbatch.classify.patterns import (
    ADDRESS_CODES,
    ADDRESS_WORDS,
    CLOSED_CODES,
    CLOSED_WORDS,
    ELSEWHERE_WORDS,
    EXPIRED_CODES,
    EXPIRED_WORDS,
    FILTER_CODES,
    FILTER_WORDS,
    FLOP_CODES,
    FLOP_WORDS,
    LACKING_WORDS,
    LONG_CODES,
    LONG_WORDS,
    MODEL_CODES,
    MODEL_DOWN_WORDS,
    MODEL_WORDS,
    MONEY_CODES,
    MONEY_WORDS,
    NETWORK_WORDS,
    NOT_OFFERED_WORDS,
    PACE_WORDS,
)
from llmbatch.classify.rule import Rule
from llmbatch.classify.status_rules import ROW_RULE, STATUS_RULES

__all__ = ["BODY_RULES", "ROW_RULE", "STATUS_RULES", "UNKNOWN"]

UNKNOWN = 0
"""The status of a success status whose body is not a success and names none."""

_REFUSALS = frozenset({UNKNOWN, 400, 403, 422})
_SERVER_ERRORS = frozenset(range(500, 600))
# TGI and Kimi say "overloaded" with a 429: a rate limit, by the status.
_NOT_429 = frozenset(range(1000)) - {429}

_SPENT = "insufficient_quota"

BODY_RULES: tuple[Rule, ...] = (
    # Money and quota: only the operator, or waiting until a date, helps.
    Rule(
        name="quota of a day spent (Gemini)",
        verdict="account_refused",
        scope="key",
        when=is_daily_quota,
        resumes=midnight_in_california,
        code="daily_quota_exhausted",
        hint=LATER,
    ),
    Rule(
        name="spend limit of the month reached (Anthropic)",
        verdict="account_refused",
        scope="key",
        codes="enforced_spend_limit_reached",
        resumes=next_month,
        hint=PAY,
    ),
    Rule(
        name="own spend limit reached (Anthropic)",
        verdict="account_refused",
        scope="key",
        words="reached your specified (workspace )?API usage limits",
        words_in=_REFUSALS | {402, 429},
        resumes=day_in_message,
        code="spend_limit_reached",
        hint=PAY,
    ),
    Rule(
        name="credit on its way (OpenRouter)",
        verdict="throttled",
        scope="key",
        statuses=frozenset({402}),
        when=lambda facts: facts.retry_after is not None,
        retry=True,
        min_backoff=1.0,
    ),
    Rule(
        name="tokens of a minute under a code of quota (DashScope)",
        verdict="throttled",
        scope="key",
        statuses=frozenset({429}),
        when=is_pace_called_quota,
        retry=True,
        min_backoff=1.0,
        code="rate_limit_exceeded",
    ),
    Rule(
        name="quota until it is replenished (Azure API Management)",
        verdict="account_refused",
        scope="key",
        statuses=frozenset({403, 429}),
        words=r"out of (call volume|bandwidth) quota|quota will be replenished",
        code="quota_exhausted",
        hint=LATER,
    ),
    Rule(name="no money, no quota", verdict="account_refused", scope="key", codes=MONEY_CODES, code=_SPENT, hint=PAY),
    Rule(name="no money, in words", verdict="account_refused", scope="key", words=MONEY_WORDS, code=_SPENT, hint=PAY),
    Rule(
        name="account closed",
        verdict="account_refused",
        scope="key",
        codes=CLOSED_CODES,
        words=CLOSED_WORDS,
        code="account_disabled",
        hint=ACCOUNT,
    ),
    Rule(
        name="no quota at all (Gemini, Databricks, OpenAI: a limit of 0)",
        verdict="account_refused",
        scope="model",
        codes=r"allocation_?quota\.freetieronly",
        words=r"free tier of the model has been exhausted",  # DashScope as 400 and 403, 2025 and 2026
        statuses=frozenset({403, 429}),
        when=has_no_quota,
        resumes=never,
        code="no_quota_for_model",
        hint=NO_QUOTA,
    ),
    Rule(
        name="quota of a day, a week or a month that names no wait",
        verdict="account_refused",
        scope="key",
        statuses=frozenset({UNKNOWN, 403, 429}),
        when=is_long_quota,
        code="quota_exhausted",
        hint=LATER,
    ),
    Rule(
        name="no capacity in the flex tier (OpenAI, Azure OpenAI, Groq, Gemini)",
        verdict="throttled",
        scope="provider",
        when=lacks_flex_capacity,
        retry=True,
        min_backoff=1.0,
        lacks_capacity=True,
    ),
    # The row's own content: no evidence from other rows is needed.
    Rule(
        name="too long",
        verdict="rejected",
        scope="row",
        codes=LONG_CODES,
        words=LONG_WORDS,
        words_in=frozenset({UNKNOWN, 400, 413, 422, 500}),
        row_is_bad=True,
        code="context_length_exceeded",
    ),
    Rule(
        name="one request above the limit of a whole minute (OpenAI, Groq)",
        verdict="rejected",
        scope="row",
        statuses=frozenset({413, 429}),
        words=r"^request too large for |extra usage is required for long context",
        row_is_bad=True,
        code="request_too_large",
        hint="shorten the row or its max_tokens, or raise the account's tokens per minute",
    ),
    Rule(
        name="filtered",
        verdict="rejected",
        scope="row",
        codes=FILTER_CODES,
        words=FILTER_WORDS,
        words_in=_REFUSALS | {498},
        when=is_flagged,
        row_is_bad=True,
        code="content_filter",
    ),
    Rule(
        name="broken generation (Groq)",
        verdict="rejected",
        scope="row",
        codes=FLOP_CODES,
        words=FLOP_WORDS,
        words_in=_REFUSALS | {500},
        when=has_failed_generation,
        retry=True,
        code="generation_failed",
    ),
    # The key and the model.
    Rule(
        name="key expired",
        verdict="account_refused",
        scope="key",
        codes=EXPIRED_CODES,
        words=EXPIRED_WORDS,
        words_in=frozenset({UNKNOWN, 400, 401, 403}),
        code="access_token_expired",
        hint=RENEW,
    ),
    Rule(
        name="key refused",
        verdict="account_refused",
        scope="key",
        codes=r"(invalid|incorrect)_api_key\w*|api_key_(invalid|expired|service_blocked)"
        r"|(invalid|mismatched)_organization|ip_not_authorized|base_resp_(1004|2049)",  # the last: MiniMax
        words=r"api key (not valid|expired|is invalid|was reported as leaked)|(invalid|incorrect) api key",
        words_in=frozenset({UNKNOWN, 400, 401, 403, 404}),
        retry=True,
        key_refused=True,
        code="invalid_api_key",
        hint=KEY,
    ),
    Rule(
        name="country or region not served",
        verdict="account_refused",
        scope="key",
        codes=r"unsupported_country\w*",
        words=ELSEWHERE_WORDS,
        words_in=frozenset({UNKNOWN, 400, 403, 451}),
        code="unsupported_country",
        hint=REGION,
    ),
    Rule(
        name="what no provider of the model offers (OpenRouter)",
        verdict="rejected",
        scope="row",
        statuses=frozenset({404}),
        words=NOT_OFFERED_WORDS,
        code="not_supported",
    ),
    Rule(
        name="no such model",
        verdict="account_refused",
        scope="model",
        codes=MODEL_CODES,
        words=MODEL_WORDS,
        words_in=frozenset({UNKNOWN, 400, 403, 404}),
        code="model_not_found",
        hint=MODEL,
    ),
    Rule(
        name="wrong address",
        verdict="account_refused",
        scope="provider",
        codes=ADDRESS_CODES,
        words=ADDRESS_WORDS,
        words_in=frozenset({UNKNOWN, 400, 404, 405}),
        code="wrong_address",
        hint=ADDRESS,
    ),
    Rule(
        name="blocked before it came to the provider",
        verdict="account_refused",
        scope="provider",
        statuses=frozenset({403}),
        when=is_gateway_page,
        code="blocked_by_gateway",
        hint=GATEWAY,
    ),
    Rule(
        name="not from this network (Azure)",
        verdict="account_refused",
        scope="provider",
        statuses=frozenset({403}),
        words=NETWORK_WORDS,
        code="network_not_allowed",
        hint=NETWORK,
    ),
    Rule(
        name="what this server lacks",
        verdict="rejected",
        scope="row",
        statuses=frozenset({500}),
        words=LACKING_WORDS,
        code="not_supported",
    ),
    # Rows that asked for something other than one complete answer.
    Rule(
        name="streams and background answers",
        verdict="rejected",
        scope="row",
        codes="unexpected_stream|response_queued|response_in_progress",
        hint='take "background" out of the row; a server that always streams needs "stream": false',
    ),
    Rule(
        name="invalid parameters inside a 200 (MiniMax)",
        verdict="rejected",
        scope="row",
        codes="base_resp_(1042|2013)",
        code="invalid_params",
    ),
    # Rate limit and overload.
    Rule(
        name="growing too fast (OpenAI)",
        verdict="throttled",
        scope="key",
        codes="slow_down",
        retry=True,
        min_backoff=1.0,
        least_pause=60.0,
    ),
    Rule(
        name="rate limit",
        verdict="throttled",
        scope="key",
        # The numbers: Zhipu, MiniMax.
        codes=r"\w*rate_?limit\w*|too_?many_?requests|throttl[\w.]*|resource_exhausted|ramp_limit_exceeded"
        r"|(request|token)_quota_exceeded|130[235]|base_resp_(1002|1039|1041|2045)",
        # Qianfan inside a 200: {"error_code": 18, …}; gateways that wrap another's 429 in a 400 or 500.
        words=PACE_WORDS,
        words_in=frozenset({UNKNOWN, 400, 403, 500}),
        code="rate_limit_exceeded",
        retry=True,
        min_backoff=1.0,
    ),
    Rule(
        name="overloaded",
        verdict="failure",
        scope="provider",
        statuses=_NOT_429,
        codes=r"overloaded(_error)?|server_is_overloaded|engine_overloaded\w*|capacity_exceeded",
        words="overloaded",
        words_in=_SERVER_ERRORS | {UNKNOWN},
        retry=True,
        min_backoff=5.0,
        code="overloaded_error",
    ),
    Rule(
        name="model down under another status (NVIDIA NIM, LM Studio)",
        verdict="failure",
        scope="provider",
        words=MODEL_DOWN_WORDS,
        words_in=frozenset({UNKNOWN, 400, 404}),
        retry=True,
        min_backoff=5.0,
        code="model_unavailable",
    ),
)
