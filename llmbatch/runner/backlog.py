"""Unfinished rows in memory: queued per route, waiting for a retry, held for evidence, or parked.

A waiting row occupies no slot. Memory is bounded in bytes: of a large row only its offset in the input is kept, and it
is read again before it is sent. :mod:`llmbatch.runner.schedule` decides which row is sent next.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from llmbatch.core.events import Event, RetryPlanned, RowMoved, RowParked, RowsRequeued
from llmbatch.runner.pending import PendingRow, RowState, RunRoute

__all__ = ["Backlog"]

GOLDEN = 0.6180339887498949
"""Golden ratio less 1: its multiples modulo 1 are spread evenly, however many are taken."""

SMALL_BYTES = 4096
"""Largest request body, in bytes, that a waiting row keeps in memory."""


class Backlog:
    """Unfinished rows in memory of one run, each in exactly one state.

    *on_wait* is called for each row that waits, *find_other* for each that would be parked: a route that takes it now.
    """

    def __init__(
        self,
        *,
        emit: Callable[[Event], None],
        on_wait: Callable[[PendingRow], None],
        find_other: Callable[[PendingRow, float], RunRoute | None] = lambda pending, now: None,
    ) -> None:
        self.rows: dict[int, PendingRow] = {}
        self.queued: dict[RunRoute, None] = {}
        """Routes with rows in their queue."""
        self._emit = emit
        self._on_wait = on_wait
        self._find_other = find_other
        self.paused: dict[RunRoute, None] = {}
        """Routes whose rows are parked until a named wait is over."""
        self.retrying: list[tuple[float, int, PendingRow]] = []
        self._retries = 0

    def __repr__(self) -> str:
        return f"<Backlog {len(self.rows)} rows, {len(self.retrying)} retrying>"

    @property
    def next_retry(self) -> float:
        """When the next retry is due; infinity if none is planned."""
        return self.retrying[0][0] if self.retrying else math.inf

    def add(self, pending: PendingRow) -> None:
        """Add a row that was read."""
        self.rows[pending.row.number] = pending
        pending.route.unfinished += 1

    def drop(self, pending: PendingRow) -> None:
        """Remove a row that is done, or skipped for a later pass, from wherever it waits."""
        if pending.state is not RowState.IN_FLIGHT:
            self._take_out(pending)
        self.rows.pop(pending.row.number, None)
        pending.route.unfinished -= 1
        pending.state = RowState.DONE

    def release_due(self, now: float) -> None:
        """Queue the retries that are due, and the parked rows whose named wait is over."""
        while self.retrying and self.retrying[0][0] <= now:
            _, number, pending = heapq.heappop(self.retrying)
            if _is_planned(pending, number):
                self.enqueue(pending)
        for route in list(self.paused) if self.paused else ():
            if not route.state.is_closed:
                del self.paused[route]
            elif now >= route.state.throttle.not_before:
                del self.paused[route]
                self.requeue(route, now)
                self.divert_parked(route.backups, now)

    def enqueue(self, pending: PendingRow, *, first: bool = False) -> None:
        """Queue the row on its route; *first*: before the others."""
        self._leave(pending)
        pending.state = RowState.QUEUED
        if first:
            pending.route.queue.appendleft(pending)
        else:
            pending.route.queue.append(pending)
        self.queued[pending.route] = None
        self._on_wait(pending)

    def next_of(self, route: RunRoute) -> PendingRow:
        """Remove and return the first row in the queue of *route*."""
        pending = route.queue.popleft()
        if not route.queue:
            del self.queued[route]
        return pending

    def hold(self, pending: PendingRow) -> None:
        """Hold the row until other answers show whether it or the route is at fault."""
        pending.state = RowState.HELD
        self._on_wait(pending)

    def retry_at(self, pending: PendingRow, at: float, now: float, code: str) -> None:
        """Plan to resend the row, not before *at*."""
        self._leave(pending)
        pending.state = RowState.RETRYING
        pending.is_retry = True
        self._retries += 1
        pending.retry_number = self._retries
        heapq.heappush(self.retrying, (at, pending.retry_number, pending))
        self._on_wait(pending)
        self._emit(RetryPlanned(now, pending.route.state.label, pending.row.number, at - now, code))

    def move(self, pending: PendingRow, to: RunRoute, now: float, *, first: bool = False) -> None:
        """Let a waiting row go on, or wait, on another of its routes, where nothing counts against it yet."""
        old, row = pending.route, pending.row.number
        self._take_out(pending)
        old.state.forget(row)
        old.unfinished -= 1
        to.unfinished += 1
        pending.route = to
        pending.moves += 1
        if pending.request is not None:
            pending.request, pending.bytes = None, 0
        pending.last, pending.probes, pending.not_before, pending.is_retry = None, 0, 0.0, False
        pending.state = RowState.HELD  # in no container
        self._emit(RowMoved(now, old.state.label, row, to.state.label))
        self.enqueue(pending, first=first) if to.state.is_closed else self.park(pending, now, avoided=False)

    def divert(self, pending: PendingRow, now: float) -> bool:
        """Move a row that would be parked to another of its routes that takes rows; False if there is none."""
        if not pending.routes or (other := self._find_other(pending, now)) is None:
            return False
        self.move(pending, other, now)
        return True

    def divert_parked(self, routes: Iterable[RunRoute], now: float) -> None:
        """Move parked rows of *routes* to a route that takes them now."""
        for pending in [pending for route in routes if route.backups for pending in route.parked.values()]:
            self.divert(pending, now)

    def park(self, pending: PendingRow, now: float, *, avoided: bool) -> None:
        """Park the row until its route recovers; *avoided*: it would otherwise have been sent now."""
        route = pending.route
        pending.state = RowState.PARKED
        pending.is_retry = False
        pending.deferrals += 1
        route.parked[pending.row.number] = pending
        self._on_wait(pending)
        label, wait, reason = route.state.label, route.state.retry_after(now), route.state.reason
        self._emit(RowParked(now, label, pending.row.number, wait, reason, avoided))

    def park_waiting(self, route: RunRoute, now: float) -> None:
        """Park all waiting rows of the route, or move them: its circuit opened, or the provider named a long wait."""
        waiting = list(route.queue)
        route.queue.clear()
        self.queued.pop(route, None)
        retrying = [entry for entry in self.retrying if entry[2].route is route]
        if retrying:
            self.retrying = [entry for entry in self.retrying if entry[2].route is not route]
            heapq.heapify(self.retrying)
            waiting += [pending for _, number, pending in retrying if _is_planned(pending, number)]
        records = route.state.evidence.records
        held = [row for number in records if (row := self.rows.get(number)) and row.state is RowState.HELD]
        waits = route.state.is_closed and not route.state.dead  # its end is no evidence: held rows stay held through it
        for pending in (*waiting, *held):
            stays = waits and pending.state is RowState.HELD
            if not ((pending.may_move or not stays) and self.divert(pending, now)) and not stays:
                self.park(pending, now, avoided=pending.state is not RowState.HELD)

    def pause(self, route: RunRoute) -> None:
        """Requeue the parked rows of *route* when its named wait is over."""
        self.paused[route] = None

    def requeue(self, route: RunRoute, now: float) -> None:
        """Requeue parked rows: those that never failed first, with neighbors apart, to break up blocks of bad rows."""
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

    def probe_at(self, route: RunRoute) -> float:
        """When the first of the parked rows of *route* may probe, as each obeys the wait that its own answer named."""
        return min((pending.not_before for pending in route.parked.values()), default=math.inf)

    def best_probe(self, route: RunRoute, turn: int, now: float) -> PendingRow | None:
        """Choose the parked row to probe with; None if there is none that may be sent now.

        Prefers rows that have probed least, of these rows that never failed. *turn* counts the probes and spreads them
        over all parked rows, so that a block of bad rows is left soon.
        """
        untried, failed = ([one for one in rows if one.not_before <= now] for rows in self._parked(route))
        if not untried and not failed:
            return None
        fewest = min(pending.probes for pending in (*untried, *failed))
        rows = [row for row in untried if row.probes == fewest] or [row for row in failed if row.probes == fewest]
        return rows[int(turn * GOLDEN % 1.0 * len(rows))]

    def has_untried(self, route: RunRoute) -> bool:
        """Whether some parked row of *route* has never failed, not even as a probe."""
        records = route.state.evidence.records
        return any(number not in records and not pending.probes for number, pending in route.parked.items())

    def _parked(self, route: RunRoute) -> tuple[list[PendingRow], list[PendingRow]]:
        """Parked rows sorted by number: those that never failed, and the others."""
        records = route.state.evidence.records
        rows = [pending for _, pending in sorted(route.parked.items())]
        untried = [pending for pending in rows if pending.row.number not in records]
        return untried, [pending for pending in rows if pending.row.number in records]

    def waiting(self, routes: Iterable[RunRoute], now: float) -> list[tuple[PendingRow, float]]:
        """All waiting rows sorted by number, each with the seconds until it may be sent."""
        due = {pending.row.number: at for at, number, pending in self.retrying if _is_planned(pending, number)}
        waits = {route: route.state.retry_after(now) for route in routes}
        return [
            (pending, max(waits[pending.route], due.get(number, now) - now))
            for number, pending in sorted(self.rows.items())
            if pending.state is not RowState.IN_FLIGHT
        ]

    def _take_out(self, pending: PendingRow) -> None:
        route = pending.route
        if pending.state is RowState.QUEUED and pending in route.queue:
            route.queue.remove(pending)
            if not route.queue:
                self.queued.pop(route, None)
        route.parked.pop(pending.row.number, None)

    def _leave(self, pending: PendingRow) -> None:
        if pending.state is RowState.PARKED:
            pending.route.parked.pop(pending.row.number, None)


def _spread(rows: list[PendingRow]) -> list[PendingRow]:
    """Order *rows* so that neighbors are far apart (multiples of the golden ratio, modulo 1)."""
    return [rows[at] for at in sorted(range(len(rows)), key=lambda at: at * GOLDEN % 1.0)]


def _is_planned(pending: PendingRow, number: int) -> bool:
    return pending.state is RowState.RETRYING and pending.retry_number == number
