"""What the rows of an input may cost, for ``llmbatch check``: a low and a high estimate.

Both take four bytes of text for an input token. Low: answers take a tenth of the tokens that their rows allow, or 100
where a row sets no limit. High: they take all of them, or 4,096.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from llmbatch.classify.tiers import is_flex_request
from llmbatch.core.calls import Request, Route, Usage
from llmbatch.core.raw_json import JSON
from llmbatch.core.token_estimate import input_tokens
from llmbatch.money.price import bill
from llmbatch.money.prices import Prices
from llmbatch.money.text import usd
from llmbatch.runner.costs import priced_name

__all__ = ["CostRange"]

_LOW_OUTPUT_TOKENS = 100
_HIGH_OUTPUT_TOKENS = 4096
_MOST_NAMES = 200
_SHOWN_NAMES = 3


class CostRange:
    """Adds up estimates of the rows of one input at *prices*."""

    def __init__(self, prices: Prices, *, in_batches: bool = False) -> None:
        self._prices = prices
        self._in_batches = in_batches
        self.low = self.high = Decimal(0)
        self.rows = 0
        """Rows of a known price."""
        self.unpriced_rows = 0
        self.unlimited_rows = 0
        """Rows of a known price whose answers have no limit."""
        self._unpriced: Counter[str] = Counter()

    def add(self, route: Route, request: Request) -> None:
        """Add the estimate of *request*, which would be sent on *route*."""
        name = priced_name(route)
        model = self._prices.of(name)
        tier = route.tier or ("flex" if is_flex_request(request.body) else None)
        price = None if model is None else model.of("batch" if self._in_batches else tier) or model.standard
        sent, most = input_tokens(request.body), request.max_output_tokens
        short = _LOW_OUTPUT_TOKENS if most is None else most // 10
        low = None if price is None else bill(price, Usage(sent, short * request.answers))
        long = _HIGH_OUTPUT_TOKENS if most is None else most
        high = None if price is None else bill(price, Usage(sent, long * request.answers))
        if low is None or high is None:
            self.unpriced_rows += 1
            if name in self._unpriced or len(self._unpriced) < _MOST_NAMES:
                self._unpriced[name] += 1
            return
        self.rows += 1
        self.unlimited_rows += most is None
        self.low += low
        self.high += high

    def to_json(self) -> JSON:
        """``{"low": …, "high": …}`` in US$; null if no row has a price."""
        return {"low": float(self.low), "high": float(self.high)} if self.rows else None

    def lines(self) -> list[str]:
        """The estimate in words."""
        names = ", ".join(name for name, _ in self._unpriced.most_common(_SHOWN_NAMES))
        unknown = f"price unknown: {names} (--prices FILE tells it)" if self.unpriced_rows else ""
        if not self.rows:
            return [unknown] if unknown else []
        text = f"{usd(self.low)} to {usd(self.high)}, by the length of the answers"
        if self.unlimited_rows:
            text += "; without a limit they are taken for up to 4,096 tokens (-P max_tokens=N sets one)"
        if not self.unpriced_rows:
            return [text]
        rows = "1 row" if self.unpriced_rows == 1 else f"{self.unpriced_rows:,} rows"
        return [text, f"besides {rows} of {unknown}"]
