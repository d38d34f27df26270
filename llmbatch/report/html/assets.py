"""The style sheet and scripts of pages, from files of this package: uPlot, the charts and the live updates."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from llmbatch.report.html.style import STYLE

__all__ = ["chart_script", "digest", "live_script", "style_sheet"]

_PACKAGE = "llmbatch.report.html"


@cache
def style_sheet() -> str:
    """The style sheet of every page."""
    return f"{_read('vendor/uPlot.min.css')}\n{STYLE}"


@cache
def chart_script() -> str:
    """Draws the charts; without it the plain pictures stay."""
    return f"{_read('vendor/uPlot.iife.min.js')}\n{_read('assets/charts.js')}"


@cache
def live_script() -> str:
    """As :func:`chart_script`, and keeps the page up to date."""
    return f"{chart_script()}\n{_read('assets/live.js')}"


def digest(text: str) -> str:
    """*text* as a content security policy names it: ``'sha256-…'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    # A carriage return would be gone when the page is parsed, and the digest wrong.
    return files(_PACKAGE).joinpath(name).read_text("utf-8").replace("\r\n", "\n").strip()
