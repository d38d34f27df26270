"""The port to what several processes share of a circuit: who may probe, and what is told of its moves.

Standard library only. ``llmbatch.RedisBoard`` makes gates; a breaker without one shares nothing and pays nothing.
"""

from __future__ import annotations

from typing import Literal, Protocol

from llmbatch.breaker.core import State

__all__ = ["CircuitBoard", "Gate", "Heard", "Hearer", "ProbeEnd"]

Heard = Literal["open", "failed", "close", "hold", "ready"]
"""What another process did: it opened the circuit, its probe failed, or passed, or a server named a wait; or: ask
again."""

ProbeEnd = Literal["success", "failure", "release", "again"]
"""How a probe ended: it closed the circuit, it failed, it counted nothing, or another one follows."""


class Hearer(Protocol):
    """A circuit that hears of others."""

    @property
    def name(self) -> str:
        """By which the processes know the circuit."""
        ...

    def hear(self, what: Heard, wait: float, why: str) -> None:
        """Do what another process did; *wait*: seconds until the next probe, or of the wait."""
        ...

    def is_probe_due(self) -> bool:
        """Whether the next call would probe."""
        ...


class Gate(Protocol):
    """One circuit of this process at the board. No method but the first two waits, or does any I/O."""

    def prepare(self) -> None:
        """Before a call that may probe, outside the lock: ask for the lease, and wait a moment for the answer."""
        ...

    async def prepare_async(self) -> None:
        """The same, on an event loop."""
        ...

    def may_probe(self) -> bool:
        """Whether this process may probe now."""
        ...

    def moved(self, old: State, new: State, wait: float, why: str, *, by_hand: bool) -> None:
        """Note that the circuit has changed by itself or *by_hand*, and not because it heard of others."""
        ...

    def probe_ended(self, how: ProbeEnd, wait: float) -> None:
        """Note how a probe ended; *wait*: seconds until the next one."""
        ...


class CircuitBoard(Protocol):
    """What several processes share, such as ``llmbatch.RedisBoard``."""

    def attach(self, circuit: Hearer, lease: float) -> Gate:
        """Share *circuit*, whose probes take *lease* seconds at most; it is referenced weakly."""
        ...
