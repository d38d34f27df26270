"""What ``llmbatch check --via batch`` says of batches: how many, how large, and which rows would be sent live."""

from __future__ import annotations

from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.raw_json import JSON
from llmbatch.core.rows import Row
from llmbatch.display.phrases import count, plural
from llmbatch.money.estimate import is_priced
from llmbatch.money.price import batch_price
from llmbatch.money.prices import Prices
from llmbatch.runner.options import RunOptions
from llmbatch.runs.batches.chunks import ChunkBuilder
from llmbatch.runs.batches.context import usual_limits
from llmbatch.runs.batches.rows import BatchProvider, bind

__all__ = ["BatchCheck"]

_LINE_BYTES = 120
"""What a line has besides its body, about."""


class BatchCheck:
    """Cuts the rows of one input as a run would. *options*: of the run; *prices*: to see which batch prices are known.

    Memory: a few numbers for each model.
    """

    def __init__(self, options: RunOptions, prices: Prices) -> None:
        self._options = options
        self._prices = prices
        self._builders: dict[str, ChunkBuilder] = {}
        self.batches = self.rows = self.live_rows = self.tokens = self.size_bytes = self.largest_rows = 0
        self._unpriced: dict[str, None] = {}

    def add(self, row: Row, provider: BatchProvider) -> None:
        """Add a row that a run would send."""
        try:
            bound = bind(provider, row)
        except (MalformedRowError, MissingKeyError):
            return
        size = len(bound.request.body) + _LINE_BYTES
        if bound.family is None:
            self.live_rows += 1
            return
        limits = usual_limits(self._options, bound.family, self._options.queue_tokens)
        if size > limits.row_bytes:
            self.live_rows += 1
            return
        builder = self._builders.get(bound.route)
        if builder is None or not builder.takes(size, bound.tokens):
            builder = self._builders[bound.route] = ChunkBuilder(limits)
            self.batches += 1
        builder.add(row.number, "", size, bound.tokens)
        self.rows += 1
        self.largest_rows = max(self.largest_rows, builder.rows)
        self.tokens += bound.tokens
        self.size_bytes += size
        name = bound.request.route.model or bound.request.route.label
        if len(self._unpriced) < 10 and not is_priced(batch_price(self._prices.of(name)), bound.request):
            self._unpriced[name] = None

    def to_json(self) -> JSON:
        """The same as JSON values."""
        return {
            "batches": self.batches,
            "rows": self.rows,
            "live_rows": self.live_rows,
            "input_tokens": self.tokens,
            "bytes": self.size_bytes,
            "batch_price_unknown": list[JSON](self._unpriced),
        }

    def lines(self) -> list[tuple[str, str]]:
        """The same in words, as pairs of label and text."""
        words = f"{plural(self.batches, 'batch', 'batches')} of at most {plural(self.largest_rows, 'row')}"
        words += f", {self.size_bytes / 1e6:,.1f} MB, about {count(self.tokens)} tokens in"
        facts = [("batches", words)]
        if self.live_rows:
            facts.append(("live", f"{plural(self.live_rows, 'row')}: too large for a batch, or of no batch API"))
        if self._unpriced:
            facts.append(("batch price", f"unknown, shown at full price: {', '.join(list(self._unpriced)[:3])}"))
        return facts
