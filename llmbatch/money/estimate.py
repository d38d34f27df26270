"""The most that a request can cost, before it is sent.

A token is at least one byte of text, so a request has at most as many input tokens as bytes; base64 data (pictures,
sound, documents) has far fewer. Output tokens are bounded by the row's limit (``max_tokens``). Without one, twice the
longest answer so far is the bound, and at first 4,096 tokens: an estimate, which a longer answer exceeds.
"""

from __future__ import annotations

import re
from decimal import Decimal

from llmbatch.core.calls import Request, Usage
from llmbatch.money.price import ModelPrice, Price, bill

__all__ = ["CostEstimate", "is_priced", "most_input_tokens"]

_FIRST_OUTPUT_TOKENS = 4096
_LEAST_OUTPUT_TOKENS = 256
_LONG_BODY_BYTES = 4096
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_-]{1000,}")
_BASE64_BYTES_PER_TOKEN = 20
"""Of a picture a token has some 500 bytes, of compressed sound 500, of a scanned page 30."""
_BASE64_TOKENS = 3000
"""Tokens that a picture has at most, however small its file is."""
_SEARCHES = 10
"""Searches that one answer with web search is taken to make at most."""


class CostEstimate:
    """What the requests of one model can cost at most, corrected by the answers so far. Not thread-safe."""

    __slots__ = ("_longest", "_price")

    def __init__(self, price: ModelPrice) -> None:
        self._price = price
        self._longest: int | None = None

    def most(self, request: Request) -> Decimal:
        """US$ that *request* costs at most. Cost: a few microseconds, and a scan of bodies above 4 kB."""
        body = request.body
        output = request.max_output_tokens
        if output is None:
            longest = self._longest
            output = _FIRST_OUTPUT_TOKENS if longest is None else max(_LEAST_OUTPUT_TOKENS, 2 * longest)
        usage = Usage(most_input_tokens(body), output * request.answers)
        prices = [self._price.standard]
        if b'"service_tier"' in body:
            prices += self._price.tiers.values()
        return max(_most(price, usage, body) for price in prices)

    def learn(self, request: Request, usage: Usage) -> None:
        """Take in the *usage* of an answer to *request*."""
        if request.max_output_tokens is None:
            self._longest = max(self._longest or 0, usage.output_tokens // request.answers)


def is_priced(price: Price | None, request: Request) -> bool:
    """Whether *price* bounds what *request* costs: that of input is known, and that of output if it can have any."""
    has_output = request.max_output_tokens != 0
    return price is not None and price.input is not None and (price.output is not None or not has_output)


def most_input_tokens(body: bytes) -> int:
    """Input tokens that the request *body* has at most."""
    if len(body) < _LONG_BODY_BYTES or not (b"base64" in body or b'"data"' in body):
        return len(body)
    data = [len(run) for run in _BASE64.findall(body)]
    return len(body) - sum(data) + sum(size // _BASE64_BYTES_PER_TOKEN + _BASE64_TOKENS for size in data)


def _most(price: Price, usage: Usage, body: bytes) -> Decimal:
    """The bill of *usage* if all its tokens were of the dearest kind that *body* may lead to."""
    dearest = Price(
        input=_dearest_input(price, body),
        output=_dearest(price.output, price.reasoning, price.output_audio if b'"audio"' in body else None),
        per_1000_requests=price.per_1000_requests,
        above=tuple(
            (start, Price(input=_dearest_input(step, body), output=step.output)) for start, step in price.above
        ),
    )
    total = bill(dearest, usage) or Decimal(0)
    if price.per_1000_searches is not None and b"search" in body:
        total += price.per_1000_searches * _SEARCHES / 1000
    return total


def _dearest_input(price: Price, body: bytes) -> Decimal:
    hour = price.cache_write_1h if b'"1h"' in body else None
    return _dearest(price.input, price.cache_write, hour, price.input_audio if b"audio" in body else None)


def _dearest(*prices: Decimal | None) -> Decimal:
    return max((price for price in prices if price is not None), default=Decimal(0))
