"""What is left when a run ends before its last row: why, and the rows that still wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from llmbatch.core.rows import Result
from llmbatch.runner.context import RunContext
from llmbatch.runner.finish import deferred_result
from llmbatch.runner.options import RunOptions
from llmbatch.runner.pending import PendingRow, RowState, RunRoute
from llmbatch.runner.routes import max_wait_without_progress

__all__ = ["all_wait", "deferred_results", "held_until", "why_stuck"]


def all_wait(run: RunContext, now: float, *, is_blocked: Callable[[RunRoute], bool]) -> bool:
    """Whether all rows left wait for blocked routes, or longer than this run will, as the provider asked of each.

    *is_blocked*: whether nothing more is sent to a route in this run.
    """
    blocked = {route for route in run.routes if is_blocked(route)}
    routes = [route for route in run.routes if route.unfinished or route.skipped]
    if not routes or any(run.routing.may_leave(route, blocked) for route in routes if route in blocked):
        return False
    others = {route for route in routes if route not in blocked}
    return not others or _ask_too_long(run, others, now)


def held_until(run: RunContext) -> float:
    """When this machine has sent none of the rows in memory for as long as this run waits, though it sent others."""
    return run.machine.held_until(run.backlog.rows, longest=max_wait_without_progress(run.options))


def _ask_too_long(run: RunContext, routes: set[RunRoute], now: float) -> bool:
    """Whether each row left of *routes*, which are not blocked, was asked to wait longer than this run will."""
    bound = max_wait_without_progress(run.options)
    if bound == math.inf or any(route.skipped for route in routes):
        return False
    return all(
        wait > bound and pending.state is RowState.RETRYING and _is_asked(pending)
        for pending, wait in run.backlog.waiting(run.routes, now)
        if pending.route in routes
    )


def _is_asked(pending: PendingRow) -> bool:
    """Whether the row's last answer named the time for which it waits."""
    record = pending.route.state.evidence.records.get(pending.row.number)
    last = (None if record is None else record.last) or pending.last
    return last is not None and last.retry_after is not None


def why_stuck(run: RunContext) -> str:
    """Why the run is stuck, for humans; meaningful if it is stuck and no route is dead."""
    if held_until(run) <= run.now():
        return f"this machine cannot send what is left, though it sends other rows: {run.machine.why_held()}"
    if run.machine.since is not None:
        return "this machine cannot send anything"
    now, flag = run.now(), _flag_that_stops(run.options)
    for route in run.routes:
        state = route.state
        if state.is_lost(now):
            if state.is_reached:
                return f"{state.label} answers the smallest request and no row{flag}: {state.recent.error}"
            ask = "is the address right?" if state.throttle.since is None else "it was throttled each time"
            return f"{state.label} has never answered{flag}: {ask} ({state.recent.error})"
        if state.is_mute:
            return f"{state.label} has never answered{flag}, not even the smallest request: {state.recent.error}"
        if not state.is_closed:
            # An opening that no probe has confirmed is not counted as an outage.
            what = "is in an outage" if state.is_confirmed else "has answered no row since its circuit opened"
            return f"{state.label} {what}{flag}: {state.reason}"
    limited = [route for route in run.routes if route.unfinished and route.limited_by is not None]
    if limited and all(route.limited_by is not None for route in run.routes if route.unfinished):
        limits = dict.fromkeys(f"{route.limited_by} is used up" for route in limited)
        return f"{', '.join(limits)}"
    waits = ", ".join(route.state.label for route in run.routes if route.unfinished)
    return f"{waits} asks to wait longer than this run will"


def deferred_results(run: RunContext) -> Iterator[Result]:
    """Results for the rows in memory that still wait, sorted by row number."""
    now = run.now()
    machine = why_stuck(run) if run.machine.since is not None else ""
    waits: dict[PendingRow, float] = {}
    for pending, retry_after in run.backlog.waiting(run.routes, now):
        waits[pending] = max(retry_after, run.machine.until - now)
    for follower, leader in run.followers.waiting():
        if leader in waits:
            waits[follower] = waits[leader]
    for pending in sorted(waits, key=lambda pending: pending.row.number):
        yield deferred_result(pending, waits[pending], machine)


def _flag_that_stops(options: RunOptions) -> str:
    """Option that ended the wait for an outage, in parentheses; empty if none was set."""
    if options.on_outage == "defer":
        return " (--on-outage defer)"
    return "" if options.max_outage is None else f" (--max-outage {options.max_outage:g} reached)"
