"""Closed sets of label values: providers may send any number of codes, and rows name any number of models.

What is not in the set, or comes when it is full, is :data:`OTHER`, so that a run never makes more than a fixed number
of time series.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from llmbatch.report.words import shown

__all__ = ["ERROR_CODES", "OTHER", "FirstValues", "error_code", "label_text"]

OTHER = "other"

ERROR_CODES = frozenset(
    {
        # This machine and the network
        "unknown_host",
        "dns_failed",
        "connection_failed",
        "connect_timeout",
        "tls_failed",
        "timeout",
        "connection_reset",
        "truncated_body",
        "not_http",
        "answer_too_large",
        "duplicate_answer",
        "no_network",
        "local_resources",
        # The account, the key, the model, the address
        "daily_quota_exhausted",
        "spend_limit_reached",
        "quota_exhausted",
        "insufficient_quota",
        "account_disabled",
        "no_quota_for_model",
        "access_token_expired",
        "invalid_api_key",
        "authentication_error",
        "permission_error",
        "permission_denied",
        "unauthenticated",
        "unauthorized",
        "forbidden",
        "unsupported_country",
        "not_supported",
        "model_not_found",
        "not_found",
        "not_found_error",
        "wrong_address",
        "blocked_by_gateway",
        "network_not_allowed",
        "no_key",
        "method_not_supported",
        # The request
        "context_length_exceeded",
        "request_too_large",
        "content_filter",
        "refusal",
        "invalid_request",
        "invalid_request_error",
        "invalid_argument",
        "invalid_params",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "failed_precondition",
        "bad_request",
        "validation_error",
        "conflict_error",
        "generation_failed",
        "truncated",
        "schema_mismatch",
        # The provider
        "rate_limit_exceeded",
        "rate_limit_error",
        "resource_exhausted",
        "resource_unavailable",
        "capacity_exceeded",
        "overloaded",
        "overloaded_error",
        "model_unavailable",
        "server_error",
        "api_error",
        "internal",
        "internal_error",
        "internal_server_error",
        "unavailable",
        "service_unavailable",
        "service_unavailable_error",
        "timeout_error",
        "deadline_exceeded",
        "finish_reason_error",
        "binary_answer",
        "empty_body",
        "web_page",
        # Functions
        "circuit_open",
        "cancelled",
        "exception",
        "threads_hang",
        # Rows that cannot be sent
        "input_bad_csv",
        "input_bad_json",
        "input_bad_messages",
        "input_bad_text",
        "input_bad_url",
        "input_missing_field",
        "input_no_prompt",
        "input_not_a_row",
        "input_template_error",
        "input_too_deep",
        "input_too_long",
        "input_unknown_provider",
    }
)
"""The error codes that metrics tell apart, besides ``http_`` and a status."""

_STATUS = re.compile("http_[1-5][0-9][0-9]")


def error_code(code: str) -> str:
    """*code* if it is one of :data:`ERROR_CODES` or ``http_`` and a status, in small letters, else :data:`OTHER`."""
    code = code.lower()
    return code if code in ERROR_CODES or _STATUS.fullmatch(code) else OTHER


def label_text(text: str) -> str:
    """*text* as a label's value: one line of at most 100 characters, without control characters."""
    return shown(text, 100)


class FirstValues:
    """The first *most* values that occur; :data:`OTHER` stands for all later ones. A value never changes sides."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: set[str] = set()

    def __call__(self, value: str) -> str:
        """*value* itself if it is kept, else :data:`OTHER`."""
        if value in self._kept:
            return value
        if value == OTHER or len(self._kept) >= self._most:
            return OTHER
        self._kept.add(value)
        return value

    def sums(self, counts: Mapping[str, int] | Iterable[tuple[str, int]]) -> dict[str, int]:
        """*counts* by the value that stands for each; every value that was kept is in it."""
        pairs = counts.items() if isinstance(counts, Mapping) else counts
        sums: dict[str, int] = {}
        for value, count in pairs:
            label = self(value)
            sums[label] = sums.get(label, 0) + count
        return sums
