"""What a run needs of peers when it shares nothing, and what carries messages when it does.

The circuits that it shares are in :mod:`llmbatch.runner.sharing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmbatch.core.calls import Outcome
from llmbatch.route.decisions import CircuitMoved, Decision, PauseRoute
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.pending import RunRoute

if TYPE_CHECKING:
    from llmbatch.peers.group import Delivery
    from llmbatch.peers.member import Message

__all__ = ["Apply", "Channel", "NoPeers"]


class Channel(Protocol):
    """Carries messages to the board and deliveries back. Used on one event loop; no method waits."""

    @property
    def address(self) -> str:
        """Where the board is, for people."""
        ...

    @property
    def owner(self) -> str:
        """The name of this process at the board."""
        ...

    @property
    def part(self) -> str:
        """Whose claims on a shared cost cap these are: the same for each run on one output."""
        ...

    @property
    def shares_cost(self) -> bool:
        """Whether a cost cap means all processes; else it is a part that was dealt out before."""
        ...

    def start(self, on_delivery: Callable[[], None]) -> None:
        """Call *on_delivery*, on the event loop, whenever there is something to :meth:`take`."""
        ...

    def send(self, message: Message) -> None:
        """Send a message as soon as that is possible."""
        ...

    def take(self) -> Sequence[Delivery]:
        """Return what was delivered since the last time."""
        ...


Apply = Callable[[RunRoute, Iterable[Decision], float], None]


class NoPeers:
    """A run that shares nothing: what is told goes nowhere, and any probe may be sent."""

    def changed(self, route: RunRoute, now: float) -> None:
        """Note that *route* is new, or was dropped."""

    def may_probe(self, route: RunRoute, now: float) -> bool:
        """Whether *route* may probe now."""
        return True

    def unused(self, route: RunRoute, now: float) -> None:
        """Note that a probe that *route* might send was not sent."""

    def next_change(self, route: RunRoute, now: float) -> float | None:
        """When *route* may probe that may not now; None if only news can change that."""
        return None

    def moved(self, route: RunRoute, moved: CircuitMoved, now: float) -> None:
        """Note that the circuit of *route* has moved."""

    def settling(self, attempt: Attempt) -> None:
        """Note that the outcome of *attempt*, a probe, is about to be applied."""

    def settled(self, attempt: Attempt, outcome: Outcome | None, now: float) -> None:
        """Note that the outcome of *attempt*, a probe, was applied; None as *outcome*: the call was canceled."""

    def paused(self, route: RunRoute, pause: PauseRoute) -> None:
        """Note that *route* pauses."""

    def hear(self, now: float) -> None:
        """Apply what other processes told."""
