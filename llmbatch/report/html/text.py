"""Text, times and numbers as HTML. All text of rows, models, errors and files goes through :func:`escaped`."""

from __future__ import annotations

import html
import re
from datetime import datetime, tzinfo

from llmbatch.report.words import shown

__all__ = [
    "clock",
    "day_and_clock",
    "escaped",
    "number",
    "offset",
    "offset_seconds",
    "table",
    "without_passwords",
]

_find_passwords = re.compile(r"(://)[^/@\s'\"]+@")


def escaped(text: object, limit: int = 1000) -> str:
    """*text* cut to *limit* characters, safe between tags and in quoted attributes; control characters are visible."""
    line = shown(text, limit)
    # Escapes of characters are longer than these: without a second cut a page of them would have no bound.
    return html.escape(line if len(line) <= limit else line[: limit - 1] + "…", quote=True)


def without_passwords(command: str) -> str:
    """*command* without user names and passwords in URLs: a page is passed on."""
    return _find_passwords.sub(r"\1***@", command)


def _at(wall: float, zone: tzinfo | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(wall, zone) if zone is not None else datetime.fromtimestamp(wall).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def clock(wall: float, zone: tzinfo | None, *, seconds: bool = False) -> str:
    """``02:07`` or ``02:07:10``; *wall* is in seconds since the epoch, *zone* None is the local one."""
    at = _at(wall, zone)
    return "?" if at is None else at.strftime("%H:%M:%S" if seconds else "%H:%M")


def day_and_clock(wall: float, zone: tzinfo | None, *, seconds: bool = False) -> str:
    """``2026-11-27 02:07``."""
    at = _at(wall, zone)
    return "?" if at is None else at.replace(tzinfo=None).isoformat(" ", "seconds" if seconds else "minutes")


def offset(wall: float, zone: tzinfo | None) -> str:
    """``UTC+01:00``: the offset that holds at *wall*."""
    at = _at(wall, zone)
    if at is None:
        return ""
    sign = at.strftime("%z")
    return "UTC" if sign in ("", "+0000") else f"UTC{sign[:3]}:{sign[3:5]}"


def offset_seconds(wall: float, zone: tzinfo | None) -> int:
    """Seconds that local time is ahead of UTC at *wall*."""
    at = _at(wall, zone)
    ahead = None if at is None else at.utcoffset()
    return 0 if ahead is None else round(ahead.total_seconds())


def number(value: float) -> str:
    """A number of a chart: ``41.2``, ``0.03``, ``12,340``, ``1.2M``."""
    if value >= 1e6:
        for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
            if value >= size:
                return f"{value / size:,.3g}{sign}" if value < 1000 * size else f"{value / size:,.0f}{sign}"
    if value >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def table(name: str, heads: list[str], rows: list[list[str]], *, numeric: frozenset[int] = frozenset()) -> str:
    """A table called *name*, which scrolls sideways where it is too wide. Cells are HTML, heads and *name* are text."""

    def cell(tag: str, at: int, text: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        kind = ' class="n"' if at in numeric else ""
        return f"<{tag}{scope}{kind}>{text}</{tag}>"

    head = "".join(cell("th", at, html.escape(text)) for at, text in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', at, text) for at, text in enumerate(row))}</tr>\n" for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escaped(name)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )
