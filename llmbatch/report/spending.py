"""Adds up what the calls of a run cost. Amounts are US$."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from llmbatch.core.events import CallEnded

__all__ = ["Spending"]


@dataclass(slots=True)
class Spending:
    """Tokens and costs of the calls so far. ``cost_usd`` is None if no call had an answer of a known price.

    ``unpriced_calls``: answers whose price is unknown. ``unanswered_calls`` were sent and got no answer,
    ``unmetered_calls`` got one that names no tokens; if the provider bills both, they cost at most ``at_risk_usd``.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced_calls: int = 0
    unanswered_calls: int = 0
    unmetered_calls: int = 0
    at_risk_usd: Decimal = Decimal(0)

    def add(self, call: CallEnded) -> None:
        """Count one call that has ended."""
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        if call.cost_usd is not None:
            self.cost_usd = call.cost_usd if self.cost_usd is None else self.cost_usd + call.cost_usd
        elif call.input_tokens or call.output_tokens:
            self.unpriced_calls += 1
        elif call.at_risk_usd:
            if call.status is None and call.verdict != "success":
                self.unanswered_calls += 1
            else:
                self.unmetered_calls += 1
            self.at_risk_usd += call.at_risk_usd

    @classmethod
    def total(cls, several: Iterable[Spending]) -> Spending:
        """The sum of *several*."""
        total = cls()
        for one in several:
            total.input_tokens += one.input_tokens
            total.output_tokens += one.output_tokens
            total.unpriced_calls += one.unpriced_calls
            total.unanswered_calls += one.unanswered_calls
            total.unmetered_calls += one.unmetered_calls
            total.at_risk_usd += one.at_risk_usd
            if one.cost_usd is not None:
                total.cost_usd = one.cost_usd if total.cost_usd is None else total.cost_usd + one.cost_usd
        return total

    def add_since(self, now: Spending, then: Spending) -> None:
        """Add what *now* has more than *then*, an earlier state of it."""
        self.input_tokens += now.input_tokens - then.input_tokens
        self.output_tokens += now.output_tokens - then.output_tokens
        self.unpriced_calls += now.unpriced_calls - then.unpriced_calls
        self.unanswered_calls += now.unanswered_calls - then.unanswered_calls
        self.unmetered_calls += now.unmetered_calls - then.unmetered_calls
        self.at_risk_usd += now.at_risk_usd - then.at_risk_usd
        if now.cost_usd is not None:
            self.cost_usd = (self.cost_usd or Decimal(0)) + now.cost_usd - (then.cost_usd or Decimal(0))
