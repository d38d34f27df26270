"""The cap of ``--max-cost`` that processes share: each claims what it has spent and a little more, and never the rest.

Amounts are absolute, so that to claim again, or to resume an output, spends nothing twice. Without the board a process
spends what it has claimed, and then waits. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

from llmbatch.money.cap import CostCap
from llmbatch.peers.member import ANSWER_TIME, Message

__all__ = ["ClaimedCap"]

_NANO = 1_000_000_000
"""Claims are whole billionths of a dollar: up to nine million dollars are exact."""

_PARTS = 100
"""A claim goes ahead by the limit over so many, divided among the processes."""


class ClaimedCap(CostCap):
    """A :class:`~llmbatch.money.cap.CostCap` whose limit is that of all processes. *part*: whose claims these are.

    *clock* returns seconds; *members* is how many processes share the cap, as far as is known.
    """

    __slots__ = ("_asked_at", "_clock", "_is_refused", "_is_up", "_members", "_part", "_send", "granted")

    def __init__(
        self,
        cap: CostCap,
        part: str,
        send: Callable[[Message], None],
        *,
        members: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(cap.limit, cap.spent)
        self.reserved = cap.reserved
        self._part = part
        self._send = send
        self._members = members
        self._clock = clock
        self._is_up = False
        self._asked_at = -math.inf
        self._is_refused = False
        """Whether the last answer granted less than was claimed."""
        self.granted = 0
        """What this process may spend in all, in billionths of a dollar."""

    def allows(self, most: Decimal) -> bool:
        """Whether a request that costs at most *most* may be sent now; if not, more is claimed."""
        needed = math.ceil((self.spent + self.reserved + most) * _NANO)
        if needed <= self.granted:
            return True
        if self._is_up and self._clock() - self._asked_at >= ANSWER_TIME and not self._is_refused:
            ahead = int(self.limit * _NANO / (_PARTS * max(1, self._members())))
            self._asked_at = self._clock()
            self._claim(needed + ahead)
        return False

    @property
    def is_final(self) -> bool:
        """Whether a request that is not allowed will not be, unless those in flight turn out cheaper."""
        return self._is_refused

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replace what was *reserved* for a request by its *cost*."""
        super().settle(reserved, cost)
        self._is_refused = False  # it may have become less

    def close(self) -> None:
        """Claim no more than was spent."""
        self._claim(math.ceil((self.spent + self.reserved) * _NANO))

    def _claim(self, amount: int) -> None:
        self._send(Message("claim", ("cap", self._part, amount, int(self.limit * _NANO))))

    # The board.

    def answered(self, message: Message, amount: int, now: float) -> None:
        """Take the board's answer: what this process may spend in all."""
        self.granted = amount
        self._asked_at = -math.inf
        self._is_refused = amount < message.args[2]

    def went_down(self, now: float) -> None:
        """Go on with what was granted."""
        self._is_up = False
        self._asked_at = -math.inf

    def came_back(self, now: float) -> None:
        """Claim again: a board that forgot must know what was granted."""
        self._is_up = True
        self._is_refused = False
        if self.granted:
            self._claim(self.granted)
