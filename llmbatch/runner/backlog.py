"""Where rows wait: in the queue of their route, until a time on the heap, held for evidence, or parked.

A waiting row occupies no slot. What waits is bounded in bytes: a large row keeps its offset in the input, not its body,
and is read again when it goes. Nothing here decides which row goes next; :mod:`llmbatch.runner.schedule` does.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto

from llmbatch.core.calls import Outcome, Request, Route, Usage
from llmbatch.core.events import Event, RetryPlanned, RowParked, RowsRequeued
from llmbatch.core.rows import Row
from llmbatch.route.route import RouteState

__all__ = ["Backlog", "PendingRow", "RowState", "RunRoute"]

GOLDEN = 0.6180339887498949
"""Multiples of it modulo 1 are spread evenly, however many are taken."""

SMALL_BYTES = 4096
"""A waiting row up to this size keeps its body."""


class RowState(Enum):
    """Where an unfinished row is."""

    QUEUED = auto()  # may go as soon as its route takes it
    RETRYING = auto()  # on the heap, until its time has come
    HELD = auto()  # waits for evidence; is not sent again by itself
    PARKED = auto()  # deferred: its route's circuit is open, or a long wait was named
    IN_FLIGHT = auto()
    DONE = auto()


class RunRoute:
    """One route of a run, or one tenant's part of it: its state, and its rows that wait."""

    __slots__ = ("good", "live", "parked", "prefer_new", "queue", "route", "skipped", "state", "template")

    def __init__(self, route: Route, state: RouteState) -> None:
        self.route = route
        self.state = state
        self.queue: deque[PendingRow] = deque()
        self.parked: dict[int, PendingRow] = {}
        self.live = 0
        """Unfinished rows in memory."""
        self.prefer_new = False
        self.skipped = False
        """Whether rows were left for a later pass over the input."""
        self.template: Request | None = None
        """A request that the route takes, to make the smallest one from."""
        self.good: Request | None = None
        """A request that has succeeded."""

    def __repr__(self) -> str:
        return f"<RunRoute {self.state.label}, {self.live} rows, {len(self.parked)} parked>"

    @property
    def waiting(self) -> int:
        """Rows that are neither in flight nor parked."""
        return self.live - self.state.in_flight - len(self.parked)


class PendingRow:
    """One unfinished row in memory."""

    __slots__ = (
        "attempts",
        "bytes",
        "deferrals",
        "last",
        "latency",
        "not_before",
        "probes",
        "request",
        "route",
        "row",
        "slim",
        "spent",
        "stamp",
        "state",
    )

    def __init__(self, row: Row, request: Request | None, route: RunRoute) -> None:
        self.row = row
        self.request = request
        self.route = route
        self.state = RowState.QUEUED
        self.slim = False
        """Whether its body was dropped, to be read again from the input."""
        self.bytes = 0
        """The length of its body, where that was dropped."""
        self.attempts = 0
        self.deferrals = 0
        self.probes = 0
        """Failed probes by this row."""
        self.latency: float | None = None
        self.not_before = 0.0
        """Until then the provider asked this row to wait."""
        self.stamp = 0
        self.last: Outcome | None = None
        self.spent: Usage | None = None
        """Tokens of earlier calls whose answers asked for a follow-up."""

    def __repr__(self) -> str:
        return f"<PendingRow {self.row.number} {self.state.name.lower()}>"


class Backlog:
    """All unfinished rows in memory of one run, each in exactly one place. *on_wait* is told of each row that waits."""

    def __init__(self, *, emit: Callable[[Event], None], on_wait: Callable[[PendingRow], None]) -> None:
        self.rows: dict[int, PendingRow] = {}
        self.queued: dict[RunRoute, None] = {}
        """Routes with rows in their queue."""
        self._emit = emit
        self._on_wait = on_wait
        self._paused: dict[RunRoute, None] = {}
        self._heap: list[tuple[float, int, PendingRow]] = []
        self._stamp = 0

    def __repr__(self) -> str:
        return f"<Backlog {len(self.rows)} rows, {len(self._heap)} retrying>"

    @property
    def next_retry(self) -> float:
        """When the next retry is due; infinity where none is planned."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, pending: PendingRow) -> None:
        """A row was read."""
        self.rows[pending.row.number] = pending
        pending.route.live += 1

    def drop(self, pending: PendingRow) -> None:
        """The row is done, or left for another pass: take it out of wherever it waits."""
        route = pending.route
        if pending.state is RowState.QUEUED and pending in route.queue:
            route.queue.remove(pending)
            if not route.queue:
                self.queued.pop(route, None)
        route.parked.pop(pending.row.number, None)
        self.rows.pop(pending.row.number, None)
        route.live -= 1
        pending.state = RowState.DONE

    def release_due(self, now: float) -> None:
        """Move what is due: retries into their queues, and parked rows whose named wait is over."""
        while self._heap and self._heap[0][0] <= now:
            _, stamp, pending = heapq.heappop(self._heap)
            if _is_planned(pending, stamp):
                self.enqueue(pending)
        for route in list(self._paused) if self._paused else ():
            if not route.state.is_closed:
                del self._paused[route]
            elif now >= route.state.throttle.not_before:
                del self._paused[route]
                self.requeue(route, now)

    def enqueue(self, pending: PendingRow, *, first: bool = False) -> None:
        """The row may go as soon as its route takes it; *first*: before the others."""
        self._leave(pending)
        pending.state = RowState.QUEUED
        if first:
            pending.route.queue.appendleft(pending)
        else:
            pending.route.queue.append(pending)
        self.queued[pending.route] = None
        self._on_wait(pending)

    def next_of(self, route: RunRoute) -> PendingRow:
        """Take the first row out of the queue of *route*."""
        pending = route.queue.popleft()
        if not route.queue:
            del self.queued[route]
        return pending

    def hold(self, pending: PendingRow) -> None:
        """Keep the row until other answers tell whether it or the route is at fault."""
        pending.state = RowState.HELD
        self._on_wait(pending)

    def retry_at(self, pending: PendingRow, at: float, now: float, code: str) -> None:
        """Send the row again, not before *at*."""
        self._leave(pending)
        pending.state = RowState.RETRYING
        self._stamp += 1
        pending.stamp = self._stamp
        heapq.heappush(self._heap, (at, pending.stamp, pending))
        self._on_wait(pending)
        self._emit(RetryPlanned(now, pending.route.state.label, pending.row.number, at - now, code))

    def park(self, pending: PendingRow, now: float, *, avoided: bool) -> None:
        """Defer the row until its route recovers; *avoided*: a call that would have been made now is not."""
        route = pending.route
        pending.state = RowState.PARKED
        pending.deferrals += 1
        route.parked[pending.row.number] = pending
        self._on_wait(pending)
        state = route.state
        self._emit(RowParked(now, state.label, pending.row.number, state.retry_after(now), state.reason, avoided))

    def park_waiting(self, route: RunRoute, now: float) -> None:
        """The circuit opened, or a long wait was named: everything of the route that waits is parked."""
        waiting = list(route.queue)
        route.queue.clear()
        self.queued.pop(route, None)
        retrying = [entry for entry in self._heap if entry[2].route is route]
        if retrying:
            self._heap = [entry for entry in self._heap if entry[2].route is not route]
            heapq.heapify(self._heap)
            waiting += [pending for _, stamp, pending in retrying if _is_planned(pending, stamp)]
        held: list[PendingRow] = []
        if not route.state.is_closed:  # rows that are held for evidence are not sent again by the end of a pause
            held = [
                pending
                for row in route.state.evidence.records
                if (pending := self.rows.get(row)) is not None and pending.state is RowState.HELD
            ]
        for pending in waiting:
            self.park(pending, now, avoided=True)
        for pending in held:
            self.park(pending, now, avoided=False)

    def pause(self, route: RunRoute) -> None:
        """Parked rows of *route* go again when its named wait is over."""
        self._paused[route] = None

    def requeue(self, route: RunRoute, now: float) -> None:
        """Parked rows may go again: those that never failed first, neighbors apart, so that no bad block stays one."""
        untried, failed = self._parked(route)
        route.parked.clear()
        for pending in (*_spread(untried), *failed):
            if pending.not_before > now:
                code = "" if pending.last is None else pending.last.code
                self.retry_at(pending, pending.not_before, now, code)
            else:
                self.enqueue(pending)
        if untried or failed:
            self._emit(RowsRequeued(now, route.state.label, len(untried) + len(failed)))

    def best_probe(self, route: RunRoute, turn: int) -> PendingRow | None:
        """The parked row to probe with: of those that have probed least, one that never failed, from anywhere.

        *turn* counts the probes, so that a block of bad rows is left soon, however long.
        """
        untried, failed = self._parked(route)
        if not untried and not failed:
            return None
        fewest = min(pending.probes for pending in (*untried, *failed))
        rows = [pending for pending in untried or failed if pending.probes == fewest]
        rows = rows or [pending for pending in failed if pending.probes == fewest]
        return rows[int(turn * GOLDEN % 1.0 * len(rows))]

    def has_untried(self, route: RunRoute) -> bool:
        """Whether a parked row of *route* has never failed, not even as a probe."""
        records = route.state.evidence.records
        return any(number not in records and not pending.probes for number, pending in route.parked.items())

    def _parked(self, route: RunRoute) -> tuple[list[PendingRow], list[PendingRow]]:
        """The parked rows in order of their numbers: those that never failed, and the others."""
        records = route.state.evidence.records
        untried: list[PendingRow] = []
        failed: list[PendingRow] = []
        for number, pending in sorted(route.parked.items()):
            (failed if number in records else untried).append(pending)
        return untried, failed

    def every(self, routes: Iterable[RunRoute], now: float) -> list[tuple[PendingRow, float]]:
        """All rows that wait, in order of their numbers, each with the seconds until it may go."""
        due = {pending.row.number: at for at, stamp, pending in self._heap if _is_planned(pending, stamp)}
        waits = {route: route.state.retry_after(now) for route in routes}
        return [
            (pending, max(waits[pending.route], due.get(number, now) - now))
            for number, pending in sorted(self.rows.items())
            if pending.state is not RowState.IN_FLIGHT
        ]

    def _leave(self, pending: PendingRow) -> None:
        if pending.state is RowState.PARKED:
            pending.route.parked.pop(pending.row.number, None)


def _spread(rows: list[PendingRow]) -> list[PendingRow]:
    """The rows in an order in which neighbors are far apart (multiples of the golden ratio, modulo 1)."""
    order = sorted(range(len(rows)), key=lambda place: place * GOLDEN % 1.0)
    return [rows[place] for place in order]


def _is_planned(pending: PendingRow, stamp: int) -> bool:
    return pending.state is RowState.RETRYING and pending.stamp == stamp
