"""Whether the account has no money: which rows were told so since a call last succeeded.

One row's words may be its own (an echoed input, one product that it asks for), so that where calls have succeeded
before it takes several rows, or one and a request that no row waits for. An account that is really empty refuses every
call that follows: that costs a call or two.
"""

from __future__ import annotations

from llmbatch.core.calls import Outcome

__all__ = ["AccountRefusals", "is_money"]

ENOUGH = 3
"""Rows without a good answer between that mean the account."""

ENOUGH_WITH_CHECK = 2
"""The same where one of the requests was a check, which nothing speaks against."""


def is_money(outcome: Outcome) -> bool:
    """Whether the answer says that the account has no money, or no quota until somebody acts."""
    return outcome.verdict == "account_refused" and outcome.scope == "key" and not outcome.key_refused


class AccountRefusals:
    """Requests that were refused for money since the last success, over all tenants of a route.

    Memory: one entry per such request; all go at the next good answer to a later call.
    """

    __slots__ = ("_sent",)

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}
        """A row's number, or that of a check below zero, to when its call was sent."""

    def __bool__(self) -> bool:
        return bool(self._sent)

    def __repr__(self) -> str:
        return f"<AccountRefusals {len(self._sent)} requests>"

    def add(self, row: int, serial: int, sent_at: float) -> None:
        """Call *serial*, sent at that time, was refused; *row* is 0 for a check."""
        self._sent[row or -serial] = sent_at

    def prove(self, sent_at: float) -> None:
        """A call that was sent then has succeeded: there was money for it."""
        self._sent = {request: sent for request, sent in self._sent.items() if sent > sent_at}

    @property
    def mean_the_account(self) -> bool:
        """Whether so many different requests were refused that it is no single row's matter."""
        return len(self._sent) >= (ENOUGH_WITH_CHECK if min(self._sent, default=0) < 0 else ENOUGH)
