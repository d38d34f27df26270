"""Charts as SVG without text in it, so that they stretch to any width; labels are HTML around them.

Every picture has a name for screen readers; its numbers are in a table beside it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal

from llmbatch.report.html.axis import Column, TimeAxis
from llmbatch.report.html.text import clock, day_and_clock, escaped, number
from llmbatch.report.words import duration

__all__ = ["Panel", "Series", "Shade", "bar_chart", "circuit_band", "panel", "time_labels"]

_HEIGHT = 100.0
_WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line or area of a panel; None where there is no value. ``kind`` is its class in the style sheet."""

    name: str
    kind: str
    values: Sequence[float | None]
    shape: Literal["area", "line"] = "line"


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart over the time axis: its title, the unit of its values, and what of it is drawn."""

    title: str
    unit: str
    series: Sequence[Series]
    say: Callable[[float], str] = number


@dataclass(frozen=True, slots=True)
class Shade:
    """A part of the time axis that is shaded: 0 to 1, with its explanation."""

    left: float
    right: float
    text: str
    kind: Literal["outage", "pause", "gap"] = "outage"


def panel(what: Panel, cols: Sequence[Column], shades: Sequence[Shade], zone: tzinfo | None, *, days: bool) -> str:
    """The figure of a panel."""
    top = max((value for one in what.series for value in one.values if value is not None), default=0.0)
    scale = top or 1.0
    drawn = [_shade(shade) for shade in shades]
    drawn += [_path(one, cols, scale) for one in what.series]
    drawn += list(_hover(what, cols, zone, days=days))
    legend = "".join(
        f'<span class="key {one.kind}"><i aria-hidden="true"></i>{html.escape(one.name)}</span>' for one in what.series
    )
    label = html.escape(_description(what, cols, zone, days=days), quote=True)
    return (
        f'<figure><figcaption><b>{html.escape(what.title)}</b> <span class="unit">{html.escape(what.unit)}</span>'
        f'<span class="keys">{legend}</span></figcaption>'
        f'<div class="plot"><span class="top">{html.escape(what.say(top))}</span><span class="zero">0</span>'
        f"{_svg(label, drawn)}</div></figure>\n"
    )


def circuit_band(cols: Sequence[Column], shades: Sequence[Shade]) -> str:
    """The band that says when circuits were closed, when one was not, and when no run was at work."""
    drawn: list[str] = []
    begin = 0
    for at in range(1, len(cols) + 1):
        if at == len(cols) or _circuit(cols[at]) != _circuit(cols[begin]):
            kind, words = _circuit(cols[begin])
            if kind:
                drawn.append(_rect(cols[begin].left, cols[at - 1].right, kind, words))
            begin = at
    drawn += [_shade(shade) for shade in shades if shade.kind == "gap"]
    seconds = sum(column.seconds for column in cols if column.sums.get("open_circuits"))
    label = (
        f"Circuit over time: a circuit was not closed for about {duration(seconds)}"
        if seconds
        else ("Circuit over time: closed all the time")
    )
    keys = "".join(
        f'<span class="key {kind}"><i aria-hidden="true"></i>{words}</span>'
        for kind, words in (("closed", "closed"), ("open", "open or probing"))
    )
    return (
        f'<figure><figcaption><b>Circuit</b><span class="keys">{keys}</span></figcaption>'
        f'<div class="plot band">{_svg(label, drawn)}</div></figure>\n'
    )


def time_labels(axis: TimeAxis, zone: tzinfo | None) -> str:
    """The labels below the panels; the picture's names tell the times, so that screen readers need not read them."""
    marks = "".join(
        _mark(
            place, label, ("end" if place > 0.93 else "start" if place < 0.04 else "mid") + (" odd" if at % 2 else "")
        )
        for at, (place, label) in enumerate(axis.ticks(zone))
    )
    return _marks(marks)


def bar_chart(title: str, bars: Sequence[tuple[str, int]], label: str, kind: str) -> str:
    """A distribution: *bars* of a range's words and its count."""
    most = max((count for _, count in bars), default=0) or 1
    width = 1.0 / max(1, len(bars))
    total = sum(count for _, count in bars) or 1
    drawn = [
        f'<rect class="bar {kind}" x="{_WIDTH * (at + 0.06) * width:.1f}" width="{_WIDTH * 0.88 * width:.1f}" '
        f'y="{_HEIGHT - _tall(count, most):.1f}" height="{_tall(count, most):.1f}">'
        f"<title>{html.escape(words)}: {count:,} rows ({100 * count / total:.1f} %)</title></rect>"
        for at, (words, count) in enumerate(bars)
    ]
    step = max(1, -(-len(bars) // 5))
    lowest = [(at, bars[at][0].partition(" to ")[0]) for at in range(0, len(bars), step)]
    marks = "".join(_mark(at * width, low, "start") for at, low in lowest)
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b></figcaption>"
        f'<div class="plot"><span class="top">{most:,}</span><span class="zero">0</span>'
        f"{_svg(html.escape(label, quote=True), drawn)}</div>"
        f"{_marks(marks)}</figure>\n"
    )


def _marks(marks: str) -> str:
    # A picture without a view box: its text keeps its size, and a strict policy lets no style attribute place it.
    return f'<svg class="times" aria-hidden="true">{marks}</svg>\n'


def _mark(place: float, label: str, kind: str) -> str:
    return f'<text x="{100 * place:.2f}%" y="12" class="{kind}">{html.escape(label)}</text>'


def _tall(count: int, most: int) -> float:
    """The height of a bar; what is there can be seen."""
    return max(1.5, 96.0 * count / most) if count else 0.0


def _svg(label: str, drawn: Iterable[str]) -> str:
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none">'
        f"{''.join(drawn)}</svg>"
    )


def _rect(left: float, right: float, kind: str, words: str) -> str:
    width = max(_WIDTH * (right - left), 1.0)
    return (
        f'<rect class="{kind}" x="{_WIDTH * left:.1f}" y="0" width="{width:.1f}" height="{_HEIGHT:.0f}">'
        f"<title>{escaped(words)}</title></rect>"
    )


def _shade(shade: Shade) -> str:
    return _rect(shade.left, shade.right, shade.kind, shade.text)


def _path(series: Series, cols: Sequence[Column], top: float) -> str:
    pieces: list[list[tuple[float, float, float]]] = [[]]
    for column, value in zip(cols, series.values, strict=True):
        if value is None:
            pieces.append([])
        else:
            tall = 96.0 * value / top
            pieces[-1].append((column.left, column.right, _HEIGHT - (max(tall, 1.5) if value > 0 else 0.0)))
    path: list[str] = []
    for piece in filter(None, pieces):
        steps = " ".join(f"V{y:.1f}H{_WIDTH * right:.1f}" for _, right, y in piece)
        start = _WIDTH * piece[0][0]
        if series.shape == "area":
            path.append(f"M{start:.1f} {_HEIGHT:.0f}{steps}V{_HEIGHT:.0f}Z")
        else:
            path.append(f"M{start:.1f} {piece[0][2]:.1f}{steps}")
    return f'<path class="{series.shape} {series.kind}" d="{"".join(path)}"/>' if path else ""


def _hover(what: Panel, cols: Sequence[Column], zone: tzinfo | None, *, days: bool) -> Iterable[str]:
    """What a mouse over the chart shows, at every column."""
    for at, column in enumerate(cols):
        said = [f"{one.name} {what.say(value)}" for one in what.series if (value := one.values[at]) is not None]
        if said:
            text = f"{_instant(column.begin, zone, days=days)}: {', '.join(said)}"
            yield _rect(column.left, column.right, "h", text)


def _instant(wall: float, zone: tzinfo | None, *, days: bool) -> str:
    return day_and_clock(wall, zone, seconds=True) if days else clock(wall, zone, seconds=True)


def _description(what: Panel, cols: Sequence[Column], zone: tzinfo | None, *, days: bool) -> str:
    said = []
    for one in what.series:
        value, at = max(((value, -at) for at, value in enumerate(one.values) if value is not None), default=(0.0, 0))
        when = f" at {_instant(cols[-at].begin, zone, days=days)}" if value else ""
        said.append(f"{one.name}: highest {what.say(value)}{when}")
    return f"{what.title} over time ({what.unit}). {'; '.join(said)}"


def _circuit(column: Column) -> tuple[str, str]:
    if column.seconds <= 0:
        return "", ""
    return ("open", "a circuit was not closed") if column.sums.get("open_circuits") else ("closed", "closed")
