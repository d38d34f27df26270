"""Builds the page. Pure: the same values give the same text."""

from __future__ import annotations

import html
from collections.abc import Iterable

from llmbatch.report.html.assets import chart_script, digest, style_sheet
from llmbatch.report.html.axis import TimeAxis, known_buckets
from llmbatch.report.html.chart_data import chart_data, in_script
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.sections import SECTIONS, file_name, header
from llmbatch.report.html.text import day_and_clock, escaped, offset
from llmbatch.report.html.timeline_section import numbers_table, span_words, time_section
from llmbatch.report.html.verdict import state_of

__all__ = ["PAGE_START", "build_live_page", "build_page", "live_head", "live_parts", "page_title"]

PAGE_START = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="llmbatch report'
)
"""What every page starts with: by it a page of an earlier report is known."""


def build_page(report: RunReport) -> str:
    """The document, well-formed and self-contained."""
    return "".join(_whole(report))


def build_live_page(report: RunReport, *, events: str, up: str = "") -> str:
    """The document of a server: style and scripts have paths of their own, and updates come from the path *events*.

    *up*: the path of the list of outputs; empty where there is none.
    """
    return "".join(_served(report, events, up))


def live_head(title: str, events: str) -> str:
    """The start of a page that a server keeps up to date, as far as its body's first element. All is HTML."""
    return (
        f'{PAGE_START}">\n{_META}'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n'
        f'<link rel="stylesheet" href="/static/page.css">\n<script src="/static/page.js" defer></script>\n'
        f'</head>\n<body data-events="{events}">\n<main>\n'
        '<p id="live" class="dim" role="status">Not live: scripts are off. Reload the page to see what is new.</p>\n'
    )


def page_title(report: RunReport) -> str:
    """The document's title, not escaped."""
    return f"{state_of(report)[0]}: {file_name(report.output)[:200]}"


def live_parts(report: RunReport, *, slow: bool = True, outages: bool = True) -> dict[str, str]:
    """The content of the page's elements by their ids. Without *slow* only what is made at once: the first screen.

    *outages*: their table too. Empty text hides a section.
    """
    parts = {"head": header(report)}
    if outages:
        parts |= _contents(report, {"outages"})
    if slow:
        buckets = known_buckets(report.history.timeline.buckets())
        parts["span"] = escaped(span_words(report, TimeAxis(buckets))) if buckets else ""
        parts["numbers"] = numbers_table(report)
        parts |= _contents(report, {key for key, _, _ in SECTIONS} - {"outages"})
    return parts


_META = (
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
)


def _contents(report: RunReport, keys: set[str]) -> Iterable[tuple[str, str]]:
    for key, title, content in SECTIONS:
        if key in keys:
            inside = content(report)
            yield key, f"<h2>{html.escape(title)}</h2>\n{inside}" if inside else ""


def _whole(report: RunReport) -> Iterable[str]:
    style, script = f"\n{style_sheet()}", f"\n{chart_script()}\n"
    policy = f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; img-src data:"
    yield f'{PAGE_START} {escaped(report.version)}">\n'
    yield f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">\n"
    yield f"{_META}<title>{escaped(page_title(report))}</title>\n<style>{style}</style>\n</head>\n"
    yield f"<body>\n<main>\n<header>\n{header(report)}</header>\n{_time(report)}"
    for key, content in _contents(report, {key for key, _, _ in SECTIONS}):
        if content:
            yield f'<section id="{key}">\n{content}</section>\n'
    yield f"{_footer(report)} This page is one file and loads nothing.</footer>\n</main>\n"
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def _served(report: RunReport, events: str, up: str) -> Iterable[str]:
    yield live_head(escaped(page_title(report)), escaped(events, 4000))
    if up:
        yield f'<nav><a href="{escaped(up)}">All outputs</a></nav>\n'
    yield f'<header id="head">\n{header(report)}</header>\n{_time(report)}'
    for key, content in _contents(report, {key for key, _, _ in SECTIONS}):
        yield f'<section id="{key}"{"" if content else " hidden"}>\n{content}</section>\n'
    yield f"{_footer(report)}</footer>\n</main>\n</body>\n</html>\n"


def _time(report: RunReport) -> str:
    data = chart_data(report)
    words = escaped(span_words(report, TimeAxis(known_buckets(report.history.timeline.buckets())))) if data else ""
    filled = "" if data is None else f'<script type="application/json" id="chart-data">{in_script(data)}</script>\n'
    return (
        f'<section id="time">\n<h2>What happened when</h2>\n<p class="dim" id="span">{words}</p>\n'
        f'<div id="plain">\n{time_section(report)}</div>\n<div id="charts" hidden></div>\n{filled}'
        f'<div id="numbers">{numbers_table(report)}</div>\n</section>\n'
    )


def _footer(report: RunReport) -> str:
    made = f"{day_and_clock(report.made_at, report.zone, seconds=True)} ({offset(report.made_at, report.zone)})"
    source = f"<code>{escaped(report.output)}</code>"
    return f"<footer>Made by llmbatch {escaped(report.version)} from {source} at {made}."
