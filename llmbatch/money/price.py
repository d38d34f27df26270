"""Prices of a model, and what one call costs at them.

The formula is the providers' own: each token is paid once, at the price of its kind. Cached input, cache writes and
audio are parts of the input tokens; reasoning and audio are parts of the output tokens. A kind without a price of its
own costs what plain tokens of its direction cost. Above a threshold of input tokens all tokens of the call have
another price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from types import MappingProxyType

from llmbatch.core.calls import Usage

__all__ = ["ModelPrice", "Price", "batch_price", "bill"]

_MILLION = Decimal(1_000_000)
_THOUSAND = Decimal(1000)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US$ per million tokens of each kind; None: as plain tokens of that direction, and for those unknown."""

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio: Decimal | None = None
    output_audio: Decimal | None = None
    reasoning: Decimal | None = None
    per_1000_requests: Decimal | None = None
    """US$ per thousand calls, besides their tokens."""
    per_1000_searches: Decimal | None = None
    """US$ per thousand searches that the provider made for the answer."""
    above: tuple[tuple[int, Price], ...] = ()
    """Prices of calls with more input tokens than a number, ascending; each replaces the whole price."""

    @property
    def kinds(self) -> dict[str, Decimal]:
        """The prices that there are, by name."""
        named = ((item.name, getattr(self, item.name)) for item in fields(self) if item.name != "above")
        return {name: price for name, price in named if price is not None}


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model: the standard one, and those of service tiers and batch APIs by name.

    ``source`` says where they are from, for messages: ``price list of 2026-11-27``.
    """

    standard: Price
    tiers: Mapping[str, Price] = field(default_factory=lambda: MappingProxyType({}))
    source: str = ""

    def of(self, tier: str | None) -> Price | None:
        """The price at *tier* (None or ``standard``: the standard one); None if that is unknown."""
        return self.standard if tier is None or tier == "standard" else self.tiers.get(tier)


def batch_price(model: ModelPrice | None) -> Price | None:
    """The price in a batch; None if it is unknown. One that equals the standard price is no discount: unknown too."""
    price = None if model is None else model.tiers.get("batch")
    return None if model is None or price is None or price == model.standard else price


def bill(price: Price, usage: Usage) -> Decimal | None:
    """US$ for one call that used *usage*; None if it used tokens whose price is unknown."""
    for start, higher in reversed(price.above):
        if usage.input_tokens > start:
            price = higher
            break
    if (price.input is None and usage.input_tokens) or (price.output is None and usage.output_tokens):
        return None
    plain, made = price.input or _ZERO, price.output or _ZERO
    details = usage.details
    if details is None:
        total = plain * usage.input_tokens + made * usage.output_tokens
        return total / _MILLION if price.per_1000_requests is None else total / _MILLION + _fee(price)
    cached = min(details.cached_tokens, usage.input_tokens)
    written = min(details.cache_write_tokens, usage.input_tokens - cached)
    written_1h = min(details.cache_write_1h_tokens, written)
    cached_audio = min(details.cached_audio_tokens, cached)
    audio = min(max(0, details.input_audio_tokens - cached_audio), usage.input_tokens - cached - written)
    reasoning = min(details.reasoning_tokens, usage.output_tokens)
    spoken = min(details.output_audio_tokens, usage.output_tokens - reasoning)
    write = _first(price.cache_write, plain)
    total = (
        plain * (usage.input_tokens - cached - written - audio)
        + _first(price.cached_input, plain) * (cached - cached_audio)
        + _first(price.cached_audio, _first(price.cached_input, plain)) * cached_audio
        + write * (written - written_1h)
        + _first(price.cache_write_1h, write) * written_1h
        + _first(price.input_audio, plain) * audio
        + made * (usage.output_tokens - reasoning - spoken)
        + _first(price.reasoning, made) * reasoning
        + _first(price.output_audio, made) * spoken
    ) / _MILLION
    if details.searches and price.per_1000_searches is not None:
        total += price.per_1000_searches * details.searches / _THOUSAND
    return total + _fee(price)


def _first(price: Decimal | None, other: Decimal) -> Decimal:
    return other if price is None else price


def _fee(price: Price) -> Decimal:
    return _ZERO if price.per_1000_requests is None else price.per_1000_requests / _THOUSAND
