"""Decide whether the account has no money, by the requests that were refused for it since a call last succeeded.

One such refusal may concern its row only (an echoed input, one product that it asks for). So where calls have
succeeded before, several rows must be refused, or one row and a health check. An empty account refuses every further
call, so this costs a call or two.
"""

from __future__ import annotations

from llmbatch.core.calls import Outcome

__all__ = ["AccountRefusals", "is_money"]

ENOUGH = 3
"""Refused rows, without a success in between, that mean the account has no money."""

ENOUGH_WITH_CHECK = 2
"""The same if one of the refused requests was a health check."""


def is_money(outcome: Outcome) -> bool:
    """Whether the provider says that the account has no money, or no quota until an operator acts."""
    return outcome.verdict == "account_refused" and outcome.scope == "key" and not outcome.key_refused


class AccountRefusals(dict[int, float]):
    """Requests refused for money since the last success, of all tenants of a route: when each was sent, by row number.

    Health checks have negative numbers. Memory: one entry per such request, until a later call succeeds.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<AccountRefusals {len(self)} requests>"

    def add(self, row: int, serial: int, sent_at: float) -> None:
        """Note that call *serial*, sent at *sent_at*, was refused; *row* is 0 for a health check."""
        self[row or -serial] = sent_at

    def prove(self, sent_at: float) -> None:
        """Forget refusals of calls sent up to *sent_at*, as a call sent then has succeeded."""
        for request in [request for request, sent in self.items() if sent <= sent_at]:
            del self[request]

    @property
    def mean_the_account(self) -> bool:
        """Whether enough different requests were refused to mean the account and not single rows."""
        return len(self) >= (ENOUGH_WITH_CHECK if min(self, default=0) < 0 else ENOUGH)
