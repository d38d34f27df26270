"""One attempt to send a request, from the permit to the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from llmbatch.core.calls import Request
from llmbatch.pace.learned import SentTotals
from llmbatch.route.route import Call
from llmbatch.runner.pending import PendingRow, RunRoute

__all__ = ["Attempt"]

_ZERO = Decimal(0)


@dataclass(slots=True)
class Attempt:
    """An admitted call with its route, row and request. ``pending`` is None for a health check.

    ``reserved``: tokens reserved in the budgets. ``sent``: what was sent on its route up to it, for what it learns.
    ``number``: of its request on the route, where the rate that is delivered is learned; else 0.
    ``cost_reserved``: US$ that it costs at most, reserved under ``--max-cost``.
    """

    call: Call
    route: RunRoute
    pending: PendingRow | None
    request: Request
    reserved: int = 0
    sent: SentTotals | None = None
    number: float = 0.0
    cost_reserved: Decimal = _ZERO
