"""A rate limit that processes share: units are booked in blocks of a quarter of a second, one block ahead. Pure.

Of less than a unit a second nothing is booked ahead: whoever has no row left would waste seconds or minutes of it.

The board only says when a booked block may be used. So there is no polling and no waiting list, and a process that dies
wastes at most the two blocks that it has booked. Without the board each process keeps to its part of the rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from llmbatch.pace.tokens import RateBudget
from llmbatch.peers.member import ANSWER_TIME, Message
from llmbatch.peers.messages import MICROS

__all__ = ["BookedRate"]

BLOCK_SECONDS = 0.25
"""A block is what the process's part of the rate gives in so long."""

BURST_SECONDS = 0.1
"""How far behind the clock the rate may be caught up: what comes too late is not lost, and nothing gathers."""

_LONG = 1.0
"""How long to wait, in seconds, while an answer is awaited that wakes whoever waits."""


class BookedRate:
    """A budget of *per_minute* requests or tokens for all processes; see :class:`~llmbatch.core.ports.Budget`.

    *members*: how many processes share it, as far as is known. *send* takes messages to the board.
    """

    def __init__(
        self, name: str, per_minute: float, send: Callable[[Message], None], *, members: Callable[[], int]
    ) -> None:
        self._name = name
        self._per_minute = per_minute
        self._send = send
        self._members = members
        self._unit = 60.0 * MICROS / per_minute
        """Microseconds that one unit takes to pass."""
        self._level = 0.0
        """Units that may be used now; below 0: more was used than had been booked."""
        self._blocks: deque[tuple[float, float]] = deque()
        """When each block that is booked ahead may be used, and its units."""
        self._asked: tuple[Message, float, float] | None = None
        """The booking that is not answered yet: its message, its units, and when it was sent."""
        self._alone: RateBudget | None = None
        """This process's own part, while the board is away."""

    def __repr__(self) -> str:
        return f"<BookedRate {self._name} {self._per_minute:g} a minute>"

    @property
    def _block(self) -> float:
        return max(1.0, self._per_minute / 60.0 * BLOCK_SECONDS / max(1, self._members()))

    def _promote(self, now: float) -> None:
        while self._blocks and self._blocks[0][0] <= now:
            self._level += self._blocks.popleft()[1]

    def wait(self, amount: int, now: float) -> float:
        """Seconds until *amount* may be reserved; 0 if it may be now."""
        if self._alone is not None:
            return self._alone.wait(amount, now)
        self._promote(now)
        missing = amount - self._level
        if missing <= 1e-9:
            return 0.0
        for at, units in self._blocks:
            missing -= units
            if missing <= 1e-9:
                return max(at - now, 1e-3)
        self._book(max(missing, self._block), now)
        return _LONG

    def reserve(self, amount: int, now: float) -> None:
        """Use *amount*, and book the next block, unless it takes long to pass."""
        if self._alone is not None:
            self._alone.reserve(amount, now)
            return
        self._promote(now)
        self._level -= amount
        if self._unit > _LONG * MICROS:
            return
        if self._level + sum(units for _, units in self._blocks) < self._block:
            self._book(self._block, now)

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Replace a reservation by what was *used*; what is far too much goes back to all."""
        if self._alone is not None:
            self._alone.settle(reserved, used, now)
            return
        self._level += reserved - used
        most = 2.0 * self._block
        if self._level > most and used < reserved:
            cost = round((self._level - most) * self._unit)
            self._level = most
            self._send(Message("book", (self._name, -cost, round(BURST_SECONDS * MICROS))))

    def _book(self, units: float, now: float) -> None:
        if self._asked is not None and now - self._asked[2] < ANSWER_TIME:
            return
        message = Message("book", (self._name, round(units * self._unit), round(BURST_SECONDS * MICROS)))
        self._asked = (message, units, now)
        self._send(message)

    def change(self, per_minute: float, now: float) -> None:
        """Go on with another rate; what is booked stays so."""
        self._per_minute, self._unit = per_minute, 60.0 * MICROS / per_minute
        if self._alone is not None:
            self._alone.change(per_minute / max(1, self._members()), now, burst_s=BURST_SECONDS)

    # The board.

    def answered(self, message: Message, amount: int, now: float) -> None:
        """Take the board's answer: in how many microseconds the block may be used."""
        if self._asked is None or message is not self._asked[0]:
            return
        self._blocks.append((now + amount / MICROS, self._asked[1]))
        self._asked = None

    def went_down(self, now: float) -> None:
        """Go on with this process's part of the rate."""
        self._asked = None
        if self._alone is None:
            self._alone = RateBudget(self._per_minute / max(1, self._members()), now, burst_s=BURST_SECONDS)

    def came_back(self, now: float) -> None:
        """Book at the board again. At the first connection, what was asked for before is still to be answered."""
        if self._alone is None:
            return
        self._alone = self._asked = None
        self._level = min(self._level, 0.0)
        self._blocks.clear()
