"""Refuse requests for what their key, model and tier may not have: money, rate limits, capacity of the flex tier."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace

from llmbatch.core.raw_json import JSON
from llmbatch.sim.faulty_plans import error_plan
from llmbatch.sim.protocol import Dialect, ErrorResponse
from llmbatch.sim.rate_limits import Buckets
from llmbatch.sim.response_plan import ResponsePlan
from llmbatch.sim.scenario import Phase, Scenario

__all__ = ["Admission", "has_key", "key_of", "no_money"]

_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_USUAL_OUTPUT = 256
"""Tokens that a request without a limit of its own counts for its output."""


class Admission:
    """The rate limits of each model and key, and what else keeps a request from being answered."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], Buckets] = {}

    def reset(self) -> None:
        """Fill all buckets."""
        self._buckets.clear()

    def apply(
        self,
        plan: ResponsePlan,
        scenario: Scenario,
        phase: Phase,
        name: str,
        dialect: Dialect,
        headers: Mapping[str, str],
        body: bytes,
        document: dict[str, JSON] | None,
        elapsed: float,
    ) -> ResponsePlan:
        """*plan* with the headers of the model's rate limits, or the refusal of a request that may not have it.

        A request that is refused for want of money or flex capacity takes nothing from the limits.
        """
        if scenario.spent_keys and scenario.is_spent(key_of(headers)):
            return error_plan(dialect, no_money(dialect), "spent", plan.delay / 5, None, down=False)
        if not phase.flex and document is not None and document.get("service_tier") == "flex":
            error = ErrorResponse(429, "Resource unavailable", code="resource_unavailable", kind="resource_unavailable")
            return error_plan(dialect, error, "flex", plan.delay / 5, phase.retry_after, down=False)
        limits = scenario.limits
        if limits is None:
            return plan
        owner = name, key_of(headers)
        buckets = self._buckets.get(owner)
        if buckets is None:
            buckets = self._buckets[owner] = Buckets(limits)
        refused, shown = buckets.admit(len(body) / 4, _output_tokens(document), elapsed, phase.limits)
        if refused is not None:
            plan = error_plan(dialect, refused, "limited", plan.delay / 5, None, down=False)
        return replace(plan, headers={**_without_limits(plan.headers), **shown})


def no_money(dialect: Dialect) -> ErrorResponse:
    """The refusal of an account whose money is spent."""
    if dialect == "anthropic":
        return ErrorResponse(402, "Your credit balance is too low to access the API.")
    message = "You exceeded your current quota, please check your plan and billing details."
    return ErrorResponse(429, message, code="insufficient_quota")


def has_key(headers: Mapping[str, str], key: str) -> bool:
    """Return whether a request with these *headers* was sent with *key*."""
    given = key_of(headers)
    return hmac.compare_digest(given.encode(errors="surrogateescape"), key.encode())


def _without_limits(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if "ratelimit" not in name}


def _output_tokens(document: dict[str, JSON] | None) -> float:
    """The output that a request asks for, or a usual one."""
    asked = next((document.get(name) for name in _OUTPUT_LIMITS if document.get(name)), None) if document else None
    return float(asked) if isinstance(asked, int) else _USUAL_OUTPUT


def key_of(headers: Mapping[str, str]) -> str:
    """The API key that a request was sent with, however it was; empty without one."""
    return (
        headers.get("x-api-key") or headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    )
