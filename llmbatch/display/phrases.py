"""Phrases that all displays share: routes, waits, progress; words and numbers alone: :mod:`llmbatch.report.words`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from llmbatch.report.snapshot import RouteSnapshot, Snapshot
from llmbatch.report.words import count, duration, elided, plural, rate, shown

__all__ = [
    "circuit_phrase",
    "codes_phrase",
    "count",
    "duration",
    "elided",
    "gives_up_phrase",
    "idle_reason",
    "is_idle",
    "local_time",
    "next_probe_phrase",
    "outage_left",
    "pause_phrase",
    "paused_phrase",
    "plural",
    "rate",
    "rows_phrase",
    "shown",
    "stamp",
    "state_word",
    "time_left",
    "waits_for",
]


def stamp(wall: float) -> str:
    """The local time of day of *wall* (seconds since the epoch): ``12:03:14``."""
    return time.strftime("%H:%M:%S", time.localtime(wall))


def local_time(wall: float) -> str:
    """*wall* (seconds since the epoch) in the local time zone (``TZ``): ``2026-11-26 02:14:05+01:00``."""
    return datetime.fromtimestamp(wall).astimezone().isoformat(" ", "seconds")


def rows_phrase(now: Snapshot) -> str:
    """``412/600 rows``; ``~`` before an estimate."""
    if now.total_rows is None:
        return f"{now.done_rows:,} rows"
    return f"{now.done_rows:,}/{'~' if now.total_is_estimate else ''}{now.total_rows:,} rows"


def state_word(route: RouteSnapshot) -> Literal["open", "probing", "paused", "closed"]:
    """One word for what a route's circuit and pace let through."""
    if route.state == "closed":
        return "paused" if route.paused_s > 0 else "closed"
    return "open" if route.state == "open" else "probing"


def circuit_phrase(route: RouteSnapshot) -> str:
    """What a route's circuit does: ``open for 4m12s, probe in 3.2 s``, ``probing``, ``paused: …``, ``closed``."""
    word = state_word(route)
    if word == "open":
        since = "" if route.open_s is None else f" for {duration(route.open_s)}"
        return f"open{since}, {next_probe_phrase(route)}"
    return f"paused: {pause_phrase(route)}" if word == "paused" else word


def next_probe_phrase(route: RouteSnapshot) -> str:
    """``probe in 3.2 s``, ``probe due``; ``nothing waits for it`` where no row is left that could probe."""
    if is_idle(route):
        return "nothing waits for it"
    return f"probe in {duration(route.next_probe_s)}" if route.next_probe_s else "probe due"


def is_idle(route: RouteSnapshot) -> bool:
    """Whether the route's circuit is open and a probe due, but the run has no row for it: it waits for others."""
    return route.state == "open" and not (route.next_probe_s or route.parked or route.in_flight)


def pause_phrase(route: RouteSnapshot) -> str:
    """Why nothing is sent to a route that asked for a slower pace, and whose wait it is.

    ``provider's wait, 12 s left: rate_limit_exceeded``; ``own backoff`` where the provider named no wait.
    """
    if route.pause_is_limit:
        return f"{shown(route.pause_code, 80)}, {duration(route.paused_s)} left"
    code = f": {shown(route.pause_code, 40)}" if route.pause_code else ""
    whose = "provider's wait" if route.pause_is_named else "own backoff"
    return f"{whose}, {duration(route.paused_s)} left{code}"


def gives_up_phrase(now: Snapshot, route: RouteSnapshot) -> str | None:
    """What is left of ``--max-outage`` for a route in an outage: ``gives up in 55m00s``."""
    left = outage_left(now, route)
    if left is None:
        return None
    return f"gives up in {duration(left)}" if left else "gives up now"


def outage_left(now: Snapshot, route: RouteSnapshot) -> float | None:
    """Seconds until the run stops waiting for *route*; None without ``--max-outage``, or if its circuit is closed."""
    if now.max_outage_s is None or route.open_s is None:
        return None
    return max(0.0, now.max_outage_s - route.open_s)


def time_left(now: Snapshot, *, short: bool = False) -> str | None:
    """``left 1m02s``; while a circuit is open ``about 40 s of work once it answers``; None where it is not known.

    *short* says the latter as ``40 s of work``.
    """
    if now.eta_s == 0.0:
        return None
    if now.eta_s is not None:
        return f"left {duration(now.eta_s)}"
    if now.pause_s is not None and now.work_left_s and now.stopping is None:
        return f"{duration(now.work_left_s)} of work" if short else f"about {duration(now.work_left_s)} once resumed"
    down = [route for route in now.routes if route.state != "closed" and not is_idle(route)]
    if not down or now.stopping is not None:
        return None
    if now.work_left_s is None:
        return "left unknown"
    if short:
        return f"{duration(now.work_left_s)} of work"
    return f"about {duration(now.work_left_s)} of work once {'it answers' if len(down) == 1 else 'they answer'}"


def idle_reason(now: Snapshot) -> str | None:
    """Why nothing is in flight although rows are left; None where something is, or a line of its own tells why."""
    if now.in_flight or now.exit_code is not None or now.eta_s == 0.0 or now.pause_s is not None or not now.calls:
        return None
    if any(route.state != "closed" and not is_idle(route) for route in now.routes):
        return None
    paused = [route for route in now.routes if route.paused_s > 0]
    if paused:
        return f"{elided(paused[0].label, 40)} paused ({pause_phrase(paused[0])})"
    retried = f"{plural(now.waiting_retries, 'row')} waiting to be retried" if now.waiting_retries else None
    if retried and _only_retries_left(now):
        return retried
    if now.own_limits:
        return f"waiting for {shown(now.own_limits)}"
    limited = _limited(now)
    return f"waiting for {limited}" if limited else retried


def _only_retries_left(now: Snapshot) -> bool:
    """Whether all rows that are left wait for their retry."""
    total = None if now.total_is_estimate else now.total_rows
    return total is not None and now.done_rows + now.waiting_retries >= total


def paused_phrase(now: Snapshot) -> str | None:
    """That the user has paused the run, and for how long: ``paused for 3m12s``; None if it is not, or is stopping."""
    if now.pause_s is None or now.stopping is not None or now.exit_code is not None:
        return None
    return f"paused for {duration(now.pause_s)}"


def codes_phrase(codes: Mapping[str, int], most: int = 3, *, longest: int = 40) -> str:
    """``overloaded_error 41, timeout 3, +2 more``; each code is cut to *longest* characters."""
    items = [f"{shown(code, longest)} {number:,}" for code, number in list(codes.items())[:most]]
    if len(codes) > most:
        items.append(f"+{len(codes) - most} more")
    return ", ".join(items)


def waits_for(now: Snapshot) -> str | None:
    """What keeps the run from going on, or None: ``openai/gpt-5-mini to answer again, probe in 3.2 s``."""
    if now.pause_s is not None and now.stopping is None and now.exit_code is None:
        resume = f": llmbatch resume {shown(shlex.quote(now.output))}" if now.output not in ("", "-") else ""
        return f"its user, who paused it {duration(now.pause_s)} ago{resume}"
    down = [route for route in now.routes if route.state != "closed" and not is_idle(route)]
    if down:
        more = f" (and {plural(len(down) - 1, 'more route')})" if len(down) > 1 else ""
        next_step = next_probe_phrase(down[0]) if down[0].state == "open" else "probing"
        gives_up = gives_up_phrase(now, down[0])
        limit = f" (--max-outage: {gives_up})" if gives_up else ""
        return f"{elided(down[0].label, 80)} to answer again, {next_step}{limit}{more}"
    paused = [route for route in now.routes if route.paused_s > 0]
    if paused and not now.in_flight:
        if paused[0].pause_is_limit:
            return f"{elided(paused[0].label, 80)}, whose limit is used up ({pause_phrase(paused[0])})"
        return f"the slower pace that {elided(paused[0].label, 80)} asked for ({pause_phrase(paused[0])})"
    if _only_retries_left(now):
        return None
    if not now.in_flight and now.own_limits and now.calls and now.exit_code is None:
        return f"its turn under {shown(now.own_limits)}"
    limited = _limited(now) if not now.in_flight and now.calls and now.exit_code is None else ""
    return f"its turn under {limited}" if limited else None


def _limited(now: Snapshot) -> str:
    """The rate limits of a route that were learned from its answers; empty if there are none."""
    route = next((route for route in now.routes if route.learned_limits), None)
    if route is None:
        return ""
    return f"the limit of {elided(route.label, 40)} ({', '.join(map(shown, route.learned_limits[:3]))})"
