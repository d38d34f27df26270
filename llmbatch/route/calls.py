"""One admitted call of a route, and the set of all its calls in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbatch.breaker.permit_state import PermitState

__all__ = ["OVERDUE_SECONDS", "Call", "CallKind", "CallsInFlight"]

OVERDUE_SECONDS = 5.0
"""Seconds beyond its time limit within which a call has ended, unless this process was stopped meanwhile."""

CallKind = Literal["row", "ping", "good"]
"""What a call sends: a row of the input, or a health check, which no row waits for. ``ping`` is the smallest request of
the route, ``good`` the request of a finished row, sent once more."""


@dataclass(slots=True)
class Call:
    """One admitted call. ``row`` is its row's number, 0 for a health check; ``timeout`` is in seconds."""

    row: int
    kind: CallKind
    permit: PermitState
    timeout: float
    sent_at: float
    fresh: bool = False
    """Whether it carries a row that had never failed."""
    load: int = 1
    """Calls of the route in flight when it was sent, with it."""

    @property
    def serial(self) -> int:
        """The call's number on its route, from 1, in the order of sending."""
        return self.permit.serial

    @property
    def probe(self) -> bool:
        """Whether it probes an open circuit."""
        return self.permit.probe


class CallsInFlight(dict[int, Call]):
    """The calls that were admitted and have not ended, by number, oldest first."""

    __slots__ = ("checks", "fresh")

    def __init__(self) -> None:
        super().__init__()
        self.fresh = 0
        """How many carry a row that had never failed."""
        self.checks = 0
        """How many are health checks."""

    def __repr__(self) -> str:
        return f"<CallsInFlight {len(self)}, {self.fresh} of fresh rows, {self.checks} health checks>"

    def add(self, call: Call) -> None:
        """Note an admitted call."""
        self[call.permit.serial] = call
        self.fresh += call.fresh
        self.checks += call.kind != "row"

    def remove(self, call: Call) -> None:
        """Note that *call* ended or was canceled."""
        self.pop(call.permit.serial, None)
        self.fresh -= call.fresh
        self.checks -= call.kind != "row"

    @property
    def newest(self) -> int:
        """The highest number of a call in flight; 0 if there is none."""
        return next(reversed(self), 0)
