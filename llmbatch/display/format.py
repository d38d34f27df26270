"""Words and numbers for people: text that is safe to show, durations, counts, and the phrases that every face shares.

What it does not do: colour, measure a terminal, or write anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from llmbatch.report.snapshot import RouteSnapshot, Snapshot

__all__ = [
    "circuit_phrase",
    "codes_phrase",
    "count",
    "duration",
    "elided",
    "local_time",
    "plural",
    "rate",
    "rows_phrase",
    "shown",
    "stamp",
    "state_word",
    "waits_for",
]


def shown(text: object, limit: int | None = None) -> str:
    """*text* on one line, what could steer a terminal or hide itself as an escape; cut to *limit* characters."""
    line = str(text)
    if limit is not None and len(line) > limit:
        line = line[: max(0, limit - 1)] + "…"
    if line.isprintable():
        return line
    return "".join(_visible(character) for character in line)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character in "\t\n\r\xa0" else character.encode("unicode_escape").decode("ascii")


def duration(seconds: float | None) -> str:
    """``0.8 s``, ``42 s``, ``1m02s``, ``3h07m``, ``2d04h``; ``?`` for what is not known."""
    if seconds is None or not 0 <= seconds < 1e9:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def stamp(wall: float) -> str:
    """The local time of day of *wall* (seconds since the epoch): ``12:03:14``."""
    return time.strftime("%H:%M:%S", time.localtime(wall))


def local_time(wall: float) -> str:
    """*wall* (seconds since the epoch) in the local time zone (``TZ``): ``2026-11-26 02:14:05+01:00``."""
    return datetime.fromtimestamp(wall).astimezone().isoformat(" ", "seconds")


def elided(name: object, limit: int) -> str:
    """*name* as :func:`shown`, its middle left out where it is longer than *limit*: names differ at both ends."""
    text = shown(name)
    if len(text) <= limit:
        return text
    tail = max(0, limit - 1) // 2
    return f"{text[: max(0, limit - 1) - tail]}…{text[len(text) - tail :]}"


def count(number: int) -> str:
    """``412``, ``9,812``, ``124k``, ``1.2M``."""
    for size, sign in ((10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g}{sign}" if number < 1000 * size else f"{number // size:,}{sign}"
    return f"{number // 1000}k" if number >= 100_000 else f"{number:,}"


def rate(per_second: float) -> str:
    """``38.2 rows/s``, or by the minute where that reads better."""
    if 0 < per_second < 0.5:
        return f"{per_second * 60:.1f} rows/min"
    return f"{per_second:.1f} rows/s" if per_second < 100 else f"{per_second:,.0f} rows/s"


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


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
    """What a route's circuit does: ``open, probe in 3.2 s``, ``probing``, ``paused for 12 s``, ``closed``."""
    word = state_word(route)
    if word == "open":
        return f"open, probe in {duration(route.next_probe_s)}" if route.next_probe_s else "open, probe due"
    return f"paused for {duration(route.paused_s)}" if word == "paused" else word


def codes_phrase(codes: Mapping[str, int], most: int = 3) -> str:
    """``overloaded_error 41, timeout 3, +2 more``."""
    items = [f"{shown(code, 40)} {number:,}" for code, number in list(codes.items())[:most]]
    if len(codes) > most:
        items.append(f"+{len(codes) - most} more")
    return ", ".join(items)


def waits_for(now: Snapshot) -> str | None:
    """What keeps the run from going on, or None: ``openai/gpt-5-mini to answer again, probe in 3.2 s``."""
    sick = [route for route in now.routes if route.state != "closed"]
    if sick:
        more = f" (and {plural(len(sick) - 1, 'more route')})" if len(sick) > 1 else ""
        next_step = circuit_phrase(sick[0]).removeprefix("open, ")
        return f"{shown(sick[0].label, 80)} to answer again, {next_step}{more}"
    paused = [route for route in now.routes if route.paused_s > 0]
    if paused and not now.in_flight:
        return f"the slower pace that {shown(paused[0].label, 80)} asked for, {duration(paused[0].paused_s)} left"
    return None
