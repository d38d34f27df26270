"""Words and numbers for people, in every layer from here up: text that is safe to show, durations, counts, rates."""

from __future__ import annotations

__all__ = ["count", "duration", "elided", "plural", "rate", "shown"]


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
