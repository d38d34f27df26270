"""HTML fragments for notebooks: everything is escaped and cut, and takes its colors from the page around it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from reprlib import Repr
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.core.rows import Result

__all__ = ["MUTED", "box", "escaped", "facts", "result_html"]

MUTED = "opacity:.7"
_FONT = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit;background:transparent"
_NAME = f"text-align:left;vertical-align:top;font-weight:400;padding:1px 12px 1px 0;white-space:nowrap;{MUTED}"
_VALUE = "text-align:left;vertical-align:top;padding:1px 0;white-space:pre-wrap;overflow-wrap:anywhere"
_MOST_TEXT = 2000
_MOST_WORDS = 300
_short = Repr()
"""Shows any object, also one whose ``repr`` fails, in a bounded time for lists, dicts and text of any size."""
_short.maxstring = _short.maxother = _MOST_TEXT
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxdict = 50


def escaped(text: object, most: int = _MOST_WORDS) -> str:
    """*text* cut to *most* characters, as text of HTML; what could hide or turn text around is a space."""
    words = str(text)
    if len(words) > most:
        words = words[: most - 1] + "…"
    if not words.isprintable():
        words = "".join(one if one.isprintable() or one == "\n" else " " for one in words)
    return html.escape(words, quote=True)


def box(content: str) -> str:
    """A block with *content*, which is HTML."""
    return f'<div class="llmbatch" style="{_FONT};max-width:60em">{content}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, which are HTML; empty values are left out."""
    rows = "".join(
        f'<tr style="background:transparent"><th scope="row" style="{_NAME}">{name}</th>'
        f'<td style="{_VALUE}">{value}</td></tr>'
        for name, value in pairs
        if value
    )
    return f'<table style="border-collapse:collapse;border:0;margin:4px 0;font-size:inherit">{rows}</table>'


def result_html(result: Result) -> str:
    """One result: its status, its answer or its error, and what it took."""
    error = f"{result.error_code}: {result.error_message or ''}" if result.error_code else ""
    took = [f"{result.attempts} {'attempt' if result.attempts == 1 else 'attempts'}"] if result.attempts else []
    if result.latency_s is not None:
        took.append(f"{result.latency_s:.2f} s")
    if result.usage is not None:
        took.append(f"{result.usage.input_tokens:,} + {result.usage.output_tokens:,} tokens")
    if result.cost_usd is not None:
        took.append(f"US$ {result.cost_usd:.6f}".rstrip("0").rstrip("."))
    if result.cached:
        took.append("cached")
    value = result.parsed if result.fit is not None else result.value
    pairs = [
        ("value", escaped(_short.repr(value), _MOST_TEXT) if value is not None else ""),
        ("text", escaped(result.text, _MOST_TEXT) if result.text and result.fit is None else ""),
        ("error", escaped(error, _MOST_TEXT)),
        ("reason", escaped(result.reason or "")),
        ("retry at", escaped(result.retry_at or "")),
        ("model", escaped(result.model or "")),
        ("took", escaped(", ".join(took))),
    ]
    return box(f"<b>{escaped(result.id, 100)}</b> <span>{escaped(result.status)}</span>{facts(pairs)}")
