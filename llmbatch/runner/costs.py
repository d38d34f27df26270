"""What the calls of a run cost, and the cap of ``--max-cost``, which a request must fit before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.errors import MalformedRowError
from llmbatch.money.cap import CostCap
from llmbatch.money.estimate import CostEstimate, is_priced
from llmbatch.money.prices import Prices
from llmbatch.money.text import usd
from llmbatch.runner.attempt import Attempt

__all__ = ["Costs", "priced_name", "told_unknown"]

_MOST_MODELS = 4096
_ZERO = Decimal(0)


def priced_name(route: Route) -> str:
    """The name by which prices of *route* are found: ``PROVIDER/MODEL``."""
    return route.model or route.label


class Costs:
    """Costs of one run. *cap*: of ``--max-cost``; None: no cap, and nothing is estimated.

    *on_reserve* is called before a request is sent under the cap, once the cap counts it.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        cap: CostCap | None = None,
        *,
        on_reserve: Callable[[CostCap], None] = lambda cap: None,
    ) -> None:
        self.prices = self._prices = prices or Prices()
        self._estimates: dict[str, CostEstimate] = {}
        self.on_reserve = self._on_reserve = on_reserve
        self.cap = cap

    def __repr__(self) -> str:
        return f"<Costs {self.cap!r}>"

    def check_prices(self, routes: Sequence[Route], request: Request) -> None:
        """Check that the cap can be kept on each of the *routes* of a row, which is sent as *request* or alike.

        Raises:
            MalformedRowError: the price of one is unknown; the row cannot be sent.
        """
        if self.cap is not None and (told := told_unknown(self._prices, routes, request)) is not None:
            raise MalformedRowError("price_unknown", "; ".join(told))

    def allows(self, route: Route, request: Request, *, halt: Callable[[int, str, str], None]) -> bool:
        """Whether the cap allows *request* now. If not, calls in flight may turn out cheaper; without any, *halt*."""
        if self.cap is None:
            return True
        most = self._most(route, request)
        if self.cap.allows(most):
            return True
        if not self.cap.reserved and self.cap.is_final:
            halt(4, *_told_cap(self.cap, most))
        return False

    def _most(self, route: Route, request: Request) -> Decimal:
        estimate = self._estimate(route)
        return _ZERO if estimate is None else estimate.most(request)

    def reserve(self, attempt: Attempt, cap: CostCap) -> None:
        """Count *attempt*, which is sent now, with the most that it can cost."""
        attempt.cost_reserved = self._most(attempt.route.route, attempt.request)
        cap.reserve(attempt.cost_reserved)
        self._on_reserve(cap)

    def settle(self, attempt: Attempt, outcome: Outcome | None) -> tuple[Decimal | None, Decimal]:
        """What a call that has ended cost, and what it may have cost besides. None as *outcome*: it was canceled.

        The first is None if it is unknown, or if the call has no answer to pay for. The second is the most that a call
        can cost that was sent and got no whole answer: it may be billed, so the cap counts it.
        """
        cost: Decimal | None = None
        route, at_risk = attempt.route.route, _ZERO
        name = priced_name(route)
        has_price = self._prices.of(name) is not None
        usage = None if outcome is None or outcome.is_cached else outcome.usage
        if usage is not None and (has_price or usage.details is not None):
            # A tier that asks for less than it gets says so; one that says nothing gave what was asked for.
            tier = None if outcome is None else outcome.tier
            cost = self._prices.cost(name, usage, tier or route.tier or None)
        if has_price and cost is None and (outcome is None or _may_be_billed(outcome)):
            at_risk = self._most(route, attempt.request)
        if self.cap is not None:
            estimate = self._estimate(route)
            if estimate is not None and outcome is not None and outcome.usage is not None:
                estimate.learn(attempt.request, outcome.usage)
            self.cap.settle(attempt.cost_reserved, at_risk if cost is None else cost)
        return cost, at_risk

    def _estimate(self, route: Route) -> CostEstimate | None:
        name = priced_name(route)
        known = self._estimates.get(name)
        if known is None:
            price = self._prices.of(name)
            if price is None:
                return None
            if len(self._estimates) >= _MOST_MODELS:
                del self._estimates[next(iter(self._estimates))]
            known = self._estimates[name] = CostEstimate(price)
        return known


def told_unknown(prices: Prices, routes: Sequence[Route], request: Request) -> tuple[str, str] | None:
    """On which of the *routes* of a row ``--max-cost`` cannot be kept, and what can be done; None: on each it can."""
    for route in routes:
        name = priced_name(route)
        price = prices.of(name)
        if not is_priced(None if price is None else price.standard, request):
            part = "" if price is None else " of input" if price.standard.input is None else " of output"
            return (
                f"--max-cost needs the price{part} of {name}, which is unknown",
                f'name it in a file: --prices prices.toml, with ["{name}"], input = 0.25 and output = 2.0 '
                "(US$ per million)",
            )
    return None


def _told_cap(cap: CostCap, most: Decimal) -> tuple[str, str]:
    """Why the run stops at *cap*, before a request that costs at most *most*, and what can be done."""
    reason = f"--max-cost {cap.limit:f} is reached: {usd(cap.spent)} spent, and the next request could cost {usd(most)}"
    return reason, "raise --max-cost to go on; a smaller max_tokens makes requests cheaper"


def _may_be_billed(outcome: Outcome) -> bool:
    """Whether the provider may have answered in full: it was reached, and refused nothing.

    Refusals and errors with a status of their own are not billed, nor are refusals of the account inside a 200.
    """
    is_refused = outcome.verdict in ("local", "account_refused", "throttled")
    if is_refused or outcome.is_withheld or outcome.is_cached or outcome.unreachable:
        return False
    return outcome.status is None or 200 <= outcome.status < 300
