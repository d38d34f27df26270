"""Let rows go on at another of their routes: those that wait long, and those that nothing else speaks against."""

from __future__ import annotations

from llmbatch.runner.context import RunContext
from llmbatch.runner.pending import PendingRow, RunRoute

__all__ = ["LONG_WAIT", "borrow", "has_left", "is_tried_elsewhere"]

LONG_WAIT = 10.0
"""Seconds from which rows are parked, or go elsewhere, for a wait that the provider named."""


def has_left(run: RunContext, pending: PendingRow, now: float) -> bool:
    """Whether a row that has to wait went to another of its routes, or is parked until one takes it.

    For a lack of capacity it always goes; for a long wait to each of them once: a row that all of them throttle is
    judged where it is.
    """
    if pending.last is not None and pending.last.lacks_capacity and run.backlog.divert(pending, now):
        return True
    if not pending.may_move:
        return False
    if pending.route in run.backlog.paused:
        if not run.backlog.divert(pending, now):
            run.backlog.park(pending, now, avoided=False)
        return True
    return pending.not_before - now >= LONG_WAIT and run.backlog.divert(pending, now)


def is_tried_elsewhere(run: RunContext, pending: PendingRow, now: float) -> bool:
    """Whether a row that nothing but its own attempts speaks against can go to another of its routes instead.

    Its route may have been down for all its rows, which nobody could tell.
    """
    other = run.routing.untried(pending, now) if pending.routes else None
    if other is not None and run.options.on_outage == "fail" and not run.routing.takes(other):
        return False
    if other is not None:
        pending.failed_on += (pending.route,)
        run.backlog.move(pending, other, now)
    return other is not None


def borrow(run: RunContext, route: RunRoute, now: float) -> bool:
    """Move a row that is parked elsewhere to *route*, which has none, to probe with; False if there is none.

    A wait that was named to the row holds it where it is, unless nothing more is sent there in this run.
    """
    parked = (
        row
        for other in route.backups
        for row in other.parked.values()
        if row.not_before <= now or other.state.throttle.given_up
    )
    found = next((row for row in parked if any(route in group for group in row.routes)), None)
    if found is not None:
        run.backlog.move(found, route, now)
    return found is not None
