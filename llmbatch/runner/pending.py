"""An unfinished row in memory, and the route of a run that it goes to."""

from __future__ import annotations

import math
from collections import deque
from decimal import Decimal
from enum import Enum, auto

from llmbatch.core.calls import Outcome, Request, Route, Usage
from llmbatch.core.rows import Row
from llmbatch.pace.budget_wait import BudgetWait
from llmbatch.pace.retries import RetryBudget
from llmbatch.route.route import RouteState

__all__ = ["PendingRow", "RoutesByRank", "RowState", "RunRoute"]


class RowState(Enum):
    """State of an unfinished row."""

    QUEUED = auto()  # in the queue of its route
    RETRYING = auto()  # on the heap, until its backoff ends
    HELD = auto()  # waits for evidence on whether it or its route is at fault; not resent by itself
    PARKED = auto()  # deferred: its circuit is open, or the provider named a long wait
    IN_FLIGHT = auto()
    DONE = auto()


class RunRoute:
    """One route of a run, or one tenant of it: its state, its queue, and its parked rows."""

    __slots__ = (
        "backups",
        "budget_until",
        "credit",
        "good_bytes",
        "good_request",
        "is_first",
        "limited_by",
        "parked",
        "prefer_new",
        "queue",
        "ramps_to",
        "retries",
        "route",
        "serves",
        "skipped",
        "state",
        "template",
        "unfinished",
    )

    def __init__(self, route: Route, state: RouteState) -> None:
        self.route = route
        self.state = state
        self.queue: deque[PendingRow] = deque()
        self.parked: dict[int, PendingRow] = {}
        self.unfinished = 0
        """Unfinished rows in memory."""
        self.prefer_new = self.skipped = False
        """Whether rows were skipped, to be read in a later pass over the input."""
        self.template: Request | None = None
        """The first request sent, from which the smallest request (a ping) is made."""
        self.good_request: Request | None = None
        """The smallest request that has succeeded, for health checks."""
        self.good_bytes = math.inf
        """Length of its body: only a shorter request replaces it."""
        self.is_first = False
        """Whether it is the preferred route of some rows."""
        self.backups: dict[RunRoute, None] = {}
        """Other routes that can answer its rows."""
        self.serves: dict[RunRoute, None] = {}
        """Those of them whose rows go to it only while they take none."""
        self.retries = RetryBudget()
        self.ramps_to = 0
        """The limit before its circuit opened, until it has been regained; else 0."""
        self.budget_until = 0.0
        """Until when a rate limit leaves no room for its next request."""
        self.limited_by: BudgetWait | None = None
        """The rate limit that it has waited for last."""
        self.credit = 0.0
        """Share of rows of a pool that it has not had yet."""

    def __repr__(self) -> str:
        return f"<RunRoute {self.state.label}, {self.unfinished} rows, {len(self.parked)} parked>"

    def room(self, now: float) -> int:
        """Number of calls that may be sent now."""
        return 0 if now < self.budget_until else self.state.room(now)

    @property
    def waiting(self) -> int:
        """Rows that are neither in flight nor parked."""
        return self.unfinished - self.state.in_flight - len(self.parked)


RoutesByRank = tuple[tuple[RunRoute, ...], ...]
"""Routes of a row: those of each rank, preferred first."""


class PendingRow:
    """One unfinished row in memory."""

    __slots__ = (
        "attempts",
        "bytes",
        "cost",
        "deferrals",
        "earlier_usage",
        "failed_on",
        "follow_ups",
        "is_body_dropped",
        "is_retry",
        "last",
        "latency",
        "moves",
        "not_before",
        "probes",
        "request",
        "retry_number",
        "route",
        "routes",
        "row",
        "state",
    )

    def __init__(self, row: Row, request: Request | None, route: RunRoute, routes: RoutesByRank = ()) -> None:
        self.row = row
        self.request = request
        self.route = route
        self.routes = routes
        """All routes that can answer it, if there are several; else empty."""
        self.state = RowState.QUEUED
        self.is_body_dropped = False
        """Whether its body was dropped from memory, to be read again from the input."""
        self.is_retry = False
        """Whether it is sent again because it failed, and not because it was parked or moved."""
        self.bytes = 0
        """Length of the dropped body."""
        self.attempts = self.deferrals = self.retry_number = self.follow_ups = 0
        self.probes = self.moves = 0
        """Failed probes by this row, and how often it went to another route."""
        self.failed_on: tuple[RunRoute, ...] = ()  # where it would have ended as failed, by its own attempts alone
        self.latency: float | None = None
        self.not_before = 0.0
        """End of the wait that the provider named for this row, on the loop's clock."""
        self.last: Outcome | None = None
        self.earlier_usage: Usage | None = None
        """Tokens of earlier calls whose answers asked for a follow-up."""
        self.cost: Decimal | None = None
        """US$ of its calls so far; None if none had an answer to pay for, NaN if a price is unknown."""

    @property
    def may_move(self) -> bool:
        """Whether it may still go to another of its routes of its own accord: to each of them once."""
        return self.moves < sum(map(len, self.routes))

    def __repr__(self) -> str:
        return f"<PendingRow {self.row.number} {self.state.name.lower()}>"
