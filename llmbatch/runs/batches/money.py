"""What rows in batches cost, and the cap of ``--max-cost`` for them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from llmbatch.core.calls import Request, Route, Usage
from llmbatch.money.estimate import CostEstimate, is_priced
from llmbatch.money.price import ModelPrice, batch_price
from llmbatch.runner.costs import Costs

__all__ = ["BatchMoney"]

_BATCH = "batch"


class BatchMoney:
    """Costs of rows in batches, under the cap of the run's *costs*. Not thread-safe.

    *spent_by_lines*: what the lines of the output cost.
    """

    def __init__(self, costs: Costs, spent_by_lines: Callable[[], Decimal] = Decimal) -> None:
        self._spent_by_lines = spent_by_lines
        self._prices = costs.prices
        self._cap = costs.cap
        self._on_reserve = costs.on_reserve
        self._estimates: dict[str, CostEstimate | None] = {}

    def __repr__(self) -> str:
        return f"<BatchMoney {self._cap!r}>"

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap."""
        return self._cap is not None

    def has_batch_price(self, route: Route) -> bool:
        """Whether the batch price of *route* is known."""
        return batch_price(self._prices.of(route.model or route.label)) is not None

    def cost(self, route: Route, usage: Usage | None) -> tuple[Decimal | None, Decimal | None]:
        """What a row that used *usage* cost in a batch, and what it would have cost more if sent live.

        At full price where the batch price is unknown. None: unknown.
        """
        if usage is None:
            return None, None
        name = route.model or route.label
        live = self._prices.cost(name, usage, None)
        if usage.details is not None and usage.details.reported_cost is not None:
            return live, None
        if not self.has_batch_price(route):
            return live, None
        cost = self._prices.cost(name, usage, _BATCH)
        return cost, None if cost is None or live is None else live - cost

    def most(self, route: Route, request: Request) -> Decimal | None:
        """The most that *request* can cost in a batch, US$; None if its price is unknown."""
        name = route.model or route.label
        if name not in self._estimates:
            model = self._prices.of(name)
            price = batch_price(model) or (None if model is None else model.standard)
            is_known = price is not None and is_priced(price, request)
            self._estimates[name] = CostEstimate(ModelPrice(price)) if price is not None and is_known else None
        estimate = self._estimates[name]
        return None if estimate is None else estimate.most(request)

    def learn(self, route: Route, request: Request, usage: Usage | None) -> None:
        """Take in the usage of an answer, for later estimates."""
        estimate = self._estimates.get(route.model or route.label)
        if estimate is not None and usage is not None:
            estimate.learn(request, usage)

    def allows(self, most: Decimal) -> bool:
        """Whether a chunk that costs at most *most* may be submitted now."""
        return self._cap is None or self._cap.allows(most)

    def take_over(self, most: Decimal) -> None:
        """Reserve *most* for the batches of earlier runs, which what those have booked may hold already."""
        if self._cap is not None and most:
            self._cap.spent = max(self._spent_by_lines(), self._cap.spent - most)
            self._cap.reserve(most)

    def reserve(self, most: Decimal) -> None:
        """Count a chunk that is submitted now."""
        if self._cap is not None:
            self._cap.reserve(most)
            self._on_reserve(self._cap)

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replace what was *reserved* for a chunk by what it cost."""
        if self._cap is not None:
            self._cap.settle(reserved, cost)

    def told_cap(self, most: Decimal) -> tuple[str, str]:
        """Why no further batch is submitted, and what can be done."""
        assert self._cap is not None  # noqa: S101 - without a cap everything is allowed
        from llmbatch.money.text import usd

        spent = usd(self._cap.spent + self._cap.reserved)
        return (
            f"--max-cost {self._cap.limit:f} is reached: {spent} spent or in batches, and the next row could cost "
            f"{usd(most)}",
            "raise --max-cost to go on; a smaller max_tokens makes requests cheaper",
        )
