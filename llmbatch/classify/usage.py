"""Token counts and reported costs in an answer's ``usage``, in every spelling that providers have.

===================  ===============================================================================================
who                  what is special
===================  ===============================================================================================
OpenAI and others    ``prompt_tokens_details`` or ``input_tokens_details``: ``cached_tokens``, ``cache_write_tokens``,
                     ``audio_tokens``; ``completion_tokens_details``: ``reasoning_tokens``, ``audio_tokens``
Anthropic            cached input and cache writes are counted apart from ``input_tokens``; ``cache_creation``:
                     ``ephemeral_1h_input_tokens``; ``server_tool_use``: ``web_search_requests``
xAI, Gemini          reasoning tokens are in ``total_tokens`` only; xAI's ``cost_in_usd_ticks``: 10^-10 US$
DeepSeek             ``prompt_cache_hit_tokens``
Moonshot, Together   ``cached_tokens``, in ``usage`` itself
Perplexity           ``reasoning_tokens`` and ``citation_tokens`` beside the others; ``cost``: ``total_cost``
OpenRouter           ``cost``; with one's own key at the provider ``cost_details``: ``upstream_inference_cost`` besides
DeepInfra            ``estimated_cost``
LiteLLM's proxy      a header, ``x-litellm-response-cost``
===================  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation

from llmbatch.core.calls import Usage, UsageDetails
from llmbatch.core.raw_json import JSON

__all__ = ["COST_HEADER", "read_usage", "with_cost_of"]

COST_HEADER = "x-litellm-response-cost"

_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"})
_XAI_TICKS = Decimal(10_000_000_000)
_MOST_USD = Decimal(1_000_000)


def read_usage(usage: JSON, *, cached_apart: bool = False) -> Usage | None:
    """The tokens of *usage*; None if it has none. Servers mix both spellings of the counts.

    *cached_apart*: cached input is not part of the input tokens, as in Anthropic's format; it is added to them.
    """
    if not isinstance(usage, dict):
        return None
    sent, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(sent) is int and type(made) is int and sent >= 0 and made >= 0:
        if len(usage) == 3 and usage.get("total_tokens") == sent + made:  # those three alone: most servers
            return Usage(sent, made)
    else:
        sent = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        made = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if sent is None or made is None:
        return None
    total = _count(usage.get("total_tokens"))
    if usage.keys() <= _PLAIN and (total is None or total <= sent + made):
        return Usage(sent, made)
    details = _details_apart(usage) if cached_apart else _details(usage)
    if cached_apart:
        sent += details.cached_tokens + details.cache_write_tokens
    else:
        made += _hidden_tokens(usage, total, sent + made)
    return Usage(sent, made, details if details != _NOTHING else None)


_NOTHING = UsageDetails()


def _details(usage: dict[str, JSON]) -> UsageDetails:
    of_input = _part(usage, "prompt_tokens_details", "input_tokens_details")
    of_output = _part(usage, "completion_tokens_details", "output_tokens_details")
    return UsageDetails(
        cached_tokens=_first(
            *(of_input.get("cached_tokens"), of_input.get("cache_read_input_tokens")),
            *(usage.get("cached_tokens"), usage.get("prompt_cache_hit_tokens")),
        ),
        cache_write_tokens=_first(of_input.get("cache_write_tokens")),
        input_audio_tokens=_first(of_input.get("audio_tokens")),
        reasoning_tokens=_first(of_output.get("reasoning_tokens"), usage.get("reasoning_tokens")),
        output_audio_tokens=_first(of_output.get("audio_tokens")),
        searches=_first(usage.get("num_search_queries")),
        reported_cost=_reported_cost(usage),
    )


def _details_apart(usage: dict[str, JSON]) -> UsageDetails:
    return UsageDetails(
        cached_tokens=_first(usage.get("cache_read_input_tokens")),
        cache_write_tokens=_first(usage.get("cache_creation_input_tokens")),
        cache_write_1h_tokens=_first(_part(usage, "cache_creation").get("ephemeral_1h_input_tokens")),
        reasoning_tokens=_first(_part(usage, "output_tokens_details").get("thinking_tokens")),
        searches=_first(_part(usage, "server_tool_use").get("web_search_requests")),
        reported_cost=_reported_cost(usage),
    )


def _hidden_tokens(usage: dict[str, JSON], total: int | None, counted: int) -> int:
    """Tokens that are billed as output and not counted as such.

    Perplexity counts them beside the others; elsewhere the total has them besides what is *counted*.
    """
    if "citation_tokens" in usage or "num_search_queries" in usage:
        return _first(usage.get("reasoning_tokens")) + _first(usage.get("citation_tokens"))
    return 0 if total is None else max(0, total - counted)


def _reported_cost(usage: dict[str, JSON]) -> Decimal | None:
    cost = usage.get("cost")
    if isinstance(cost, dict):
        return _as_cost(cost.get("total_cost"))
    found = _as_cost(cost)
    if found is not None:
        # The provider's own fee; what one's own key is billed by the upstream provider comes on top.
        upstream = _as_cost(_part(usage, "cost_details").get("upstream_inference_cost"))
        return found + upstream if upstream is not None and usage.get("is_byok") is True else found
    ticks = _count(usage.get("cost_in_usd_ticks"))
    if ticks is not None:
        return Decimal(ticks) / _XAI_TICKS
    return _as_cost(usage.get("estimated_cost"))


def with_cost_of(headers: Mapping[str, str], usage: Usage | None) -> Usage | None:
    """*usage* with the cost that a proxy reports in a header, if it does and the body has none."""
    text = headers.get(COST_HEADER)
    if text is None or usage is None or (usage.details is not None and usage.details.reported_cost is not None):
        return usage
    cost = _as_cost(text)
    return usage if cost is None else replace(usage, details=replace(usage.details or _NOTHING, reported_cost=cost))


def _as_cost(value: JSON) -> Decimal | None:
    """*value*, a number or its text, as US$; None if it is no amount of money."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount <= _MOST_USD else None


def _part(usage: dict[str, JSON], *names: str) -> dict[str, JSON]:
    for name in names:
        part = usage.get(name)
        if isinstance(part, dict):
            return part
    return {}


def _first(*values: JSON) -> int:
    for value in values:
        count = _count(value)
        if count is not None:
            return count
    return 0


def _count(value: JSON) -> int | None:
    # `type`, because True is an int.
    return value if type(value) is int and value >= 0 else None
