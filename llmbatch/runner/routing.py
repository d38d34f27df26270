"""Choose the route of a row that has several: fallbacks in their order, and pools by weight.

A route takes rows while its circuit is closed, it was not given up, and it has not named a long wait. Routes of one
rank are a pool. A route of a higher rank gets a row only if none of the lower ranks takes it, or while those ramp up
after an outage and have no room.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence

from llmbatch.core.calls import Route
from llmbatch.core.rows import Row
from llmbatch.runner.pending import PendingRow, RoutesByRank, RunRoute
from llmbatch.runner.routes import Routes

__all__ = ["Routing"]


class Routing:
    """Chooses routes of one run. *is_paused* tells whether a route waits for the end of a long named wait."""

    def __init__(self, routes: Routes, *, is_paused: Callable[[RunRoute], bool]) -> None:
        self._routes = routes
        self._is_paused = is_paused
        self.is_used = False
        """Whether any row so far has several routes."""
        self._credits: list[tuple[RunRoute, float]] = []
        """Of the routes of the last new row, before one was chosen."""

    def __repr__(self) -> str:
        return f"<Routing {'used' if self.is_used else 'unused'}>"

    # What a route takes.

    def takes(self, route: RunRoute) -> bool:
        """Whether the route takes rows, be it that they wait for their turn there."""
        state = route.state
        return state.is_closed and state.dead is None and not state.throttle.given_up and not self._is_paused(route)

    def overflows(self, route: RunRoute) -> bool:
        """Whether rows of the route may go to the next rank: it takes none, or it ramps up after an outage."""
        if not self.takes(route):
            return True
        if route.ramps_to and route.state.limit.value >= route.ramps_to:
            route.ramps_to = 0
        return route.ramps_to > 0

    def is_wanted(self, route: RunRoute) -> bool:
        """Whether rows should be read for the route: it is the first choice of some, or those overflow."""
        return route.is_first or not route.serves or any(self.overflows(first) for first in route.serves)

    def is_covered(self, route: RunRoute) -> bool:
        """Whether rows of the route, which takes none, can go to another one."""
        return any(self.takes(backup) for backup in route.backups)

    def cover(self, route: RunRoute) -> str:
        """The label of a route to which rows of *route* can go; empty if there is none."""
        return next((backup.state.label for backup in route.backups if self.takes(backup)), "")

    @staticmethod
    def may_leave(route: RunRoute, blocked: Collection[RunRoute]) -> bool:
        """Whether rows of a route to which nothing more is sent may still go to another one, which is not *blocked*."""
        ways = {other for other in route.backups if other not in blocked}
        if not ways:
            return False
        is_dead = route.state.dead is not None
        return route.skipped or any(
            other in ways and (is_dead or other not in row.failed_on)
            for row in route.parked.values()
            for group in row.routes
            for other in group
        )

    # The route of a row.

    def known(self, row: Row, routes: Sequence[Route], now: float) -> RoutesByRank:
        """The run's routes for those of *row*, which are ordered by rank."""
        self.is_used = True
        known = self._routes.routes_of(row, routes, now)
        groups = tuple(
            tuple(route for _, route in group)
            for _, group in itertools.groupby(zip(routes, known, strict=True), key=lambda pair: pair[0].rank)
        )
        first = groups[0][0]
        if not first.is_first or any(
            other is not first and other not in first.backups for group in groups for other in group
        ):
            self._connect(groups)
        return groups

    def renew(self, pending: PendingRow, now: float) -> None:
        """Look up the routes of a row again that has waited for another's answer: idle ones may have been dropped."""
        if pending.routes:
            routes = [route.route for group in pending.routes for route in group]
            pending.routes = self.known(pending.row, routes, now)
        pending.route = self._routes.route_of(pending.row, pending.route.route, now)
        pending.route.is_first = pending.route.is_first or not pending.routes

    @staticmethod
    def _connect(groups: RoutesByRank) -> None:
        for rank, group in enumerate(groups):
            for route in group:
                route.is_first = route.is_first or not rank
                route.backups |= dict.fromkeys(other for others in groups for other in others if other is not route)
                route.serves |= dict.fromkeys(other for others in groups[:rank] for other in others)

    def choose(self, groups: RoutesByRank, now: float, wanted: RunRoute | None = None) -> RunRoute:
        """The route for a new row: *wanted* if it is one of its *groups*, and the first if none takes the row."""
        self._credits = []
        if wanted is not None and any(wanted in group for group in groups):
            return wanted
        self._credits = [(route, route.credit) for group in groups for route in group]
        return self._best(groups, now) or groups[0][0]

    def take_back(self) -> None:
        """Take the last choice for a new row back: no request is sent for it, so it was nobody's turn in a pool."""
        for route, credit in self._credits:
            route.credit = credit

    def other(self, pending: PendingRow, now: float) -> RunRoute | None:
        """Another route that takes the row, which its own does not; None if there is none.

        One on which the row would have ended as failed takes it again only if its own will never answer.
        """
        best = self._best(pending.routes, now, besides=(pending.route, *pending.failed_on))
        if best is None and pending.failed_on and pending.route.state.dead is not None:
            best = self._best(pending.routes, now, besides=(pending.route,))
        return best

    def untried(self, pending: PendingRow, now: float) -> RunRoute | None:
        """As :meth:`other`, but none on which the row would have ended as failed; if need be one to wait for."""
        tried = (pending.route, *pending.failed_on)
        best = self._best(pending.routes, now, besides=tried)
        if best is not None:
            return best
        others = (route for group in pending.routes for route in group if route not in tried)
        return next((route for route in others if route.state.dead is None and not route.state.throttle.given_up), None)

    def _best(self, groups: RoutesByRank, now: float, *, besides: Collection[RunRoute] = ()) -> RunRoute | None:
        """A route that takes a row now, if possible with room; None if none takes it."""
        waiting: RunRoute | None = None
        for group in groups:
            taking = [route for route in group if route not in besides and self.takes(route)]
            roomy = [route for route in taking if route.room(now)]
            if roomy:
                return _by_weight(roomy)
            if taking and waiting is None:
                waiting = _by_weight(taking)
            if not all(self.overflows(route) for route in taking):
                break
        return waiting

    def relief(self, pending: PendingRow, now: float, *, has_room: bool) -> RunRoute | None:
        """A better route for a row that is queued, with room; None if there is none.

        *has_room*: whether its own route has room too. If so, only a row that has never moved is given another one: it
        was read while none of a lower rank took it, and goes to such a one that does not throttle everything.
        A row that has failed where it is stays there: elsewhere, what is known of it would be lost. One that was
        throttled may go to each of its other routes once.
        """
        here = pending.route
        if has_room and pending.moves:
            return None
        if pending.row.number in here.state.evidence.records:
            last = pending.last
            if last is None or last.verdict != "throttled" or not pending.may_move:
                return None
        was_here = False
        for group in pending.routes:
            if (was_here and not self.overflows(here)) or (has_room and here in group):
                break
            others = [route for route in group if route is not here and route not in pending.failed_on]
            if has_room:
                others = [route for route in others if route.state.throttle.since is None]
            roomy = [route for route in others if self.takes(route) and route.room(now)]
            if roomy:
                return _by_weight(roomy)
            was_here = was_here or here in group
        return None


def _by_weight(routes: Sequence[RunRoute]) -> RunRoute:
    """Choose one of *routes* in turn, each as often as its weight says: smooth weighted round robin, as nginx has it.

    A route that could not take its turns gets no more of them later: credit is bounded by one turn of all.
    """
    if len(routes) == 1:
        return routes[0]
    total = sum(route.route.weight for route in routes)
    for route in routes:
        route.credit = min(route.credit + route.route.weight, total)
    chosen = max(routes, key=lambda route: route.credit)
    chosen.credit -= total
    return chosen
