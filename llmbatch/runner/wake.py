"""When a run that may send nothing now has to look again."""

from __future__ import annotations

import math
from collections.abc import Callable

from llmbatch.runner.context import RunContext
from llmbatch.runner.left_over import held_until
from llmbatch.runner.pending import RunRoute
from llmbatch.runner.routes import max_wait_without_progress

__all__ = ["next_wake"]


def next_wake(run: RunContext, now: float, *, is_blocked: Callable[[RunRoute], bool]) -> float | None:
    """When something may be sent that may not be sent now; None if only an answer can change that.

    *is_blocked*: whether nothing more is sent to a route in this run.
    """
    times = [run.machine.until] if run.machine.until > now else []
    times.append(run.backlog.next_retry)
    if run.machine.since is not None:
        times.append(run.machine.since + max_wait_without_progress(run.options))
    times.append(held_until(run))
    for route in run.routes:
        state = route.state
        times += (state.lost_at, route.budget_until)
        if state.outage is not None and run.options.max_outage is not None:
            times.append(state.outage.since + run.options.max_outage)
        if is_blocked(route):
            continue
        change = state.next_change(now)
        if change is not None and (not state.is_closed or _is_awaited(route)):
            times.append(change)
            if change <= now and not state.is_closed:
                times.append(run.backlog.probe_at(route))
                if (later := run.peers.next_change(route, now)) is not None:
                    times.append(later)
        if state.evidence.unproven:
            times.append(state.check_at)
    return min((time for time in times if now < time < math.inf), default=None)


def _is_awaited(route: RunRoute) -> bool:
    """Whether rows wait for the route: its own, or those of others that it may take."""
    return route.unfinished > 0 or any(other.unfinished or other.skipped for other in route.backups)
