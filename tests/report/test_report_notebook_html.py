"""How summaries, results and runs show themselves in a notebook: escaped, bounded, and with the page's own colors."""

from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from llmbatch import BatchRunner
from llmbatch.core.calls import Parsed, Usage
from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Notice,
    OutageStarted,
    Progress,
    RowFinished,
    RowParked,
    RunEnded,
    RunStarted,
    RunStopping,
)
from llmbatch.core.rows import Result
from llmbatch.report.notebook_html import progress_html
from llmbatch.report.stats import RunStats

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">\'"&\u202e\x1b[2J\x00' + "x" * 9000


class Page(HTMLParser):
    """The tags and the text of a fragment; it fails where tags are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def checked(text: str) -> Page:
    """The page, if nothing in it can act, load or hide."""
    page = Page(text)
    assert page.tags <= {"div", "b", "span", "table", "tr", "th", "td"}
    assert page.attributes <= {"style", "class", "scope", "role", "aria-label"} | {
        f"aria-value{name}" for name in ("min", "max", "now")
    }
    assert "url(" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
    # Only what is good or bad has a color of its own.
    assert set(re.findall("#[0-9a-f]{6}", text)) <= {"#2a9d6a", "#d1483f"}
    return page


def hostile_stats() -> RunStats:
    stats = RunStats()
    route = "m" + HOSTILE
    for event in (
        RunStarted(1.0, HOSTILE, HOSTILE, 40, 0, 0, 100),
        Progress(1.5, 50, 0.5, exhausted=False),
        CallSent(2.0, route, 1, 1, False, 1),
        CallEnded(3.0, route, 1, False, "success", "", "", 200, 1.0, 5, 5, 1, Decimal("0.5")),
        RowFinished(3.0, route, 1, "success", "", 1),
        CallSent(3.0, route, 2, 1, False, 2),
        CallEnded(4.0, route, 2, False, "failure", HOSTILE, HOSTILE, 500, 1.0, 0, 0, 2),
        RowFinished(4.0, route, 2, "failed", HOSTILE, 1),
        CircuitChanged(4.0, route, "closed", "open", HOSTILE, 5.0),
        OutageStarted(4.0, route, 4.0, HOSTILE),
        RowParked(4.0, route, 3, 5.0, HOSTILE, avoided=True),
        Notice(4.0, "warning", HOSTILE, HOSTILE),
        RunStopping(5.0, HOSTILE),
    ):
        stats.observe(event)
    return stats


def test_a_run_with_hostile_names_is_text() -> None:
    """While it goes on, and at its end."""
    stats = hostile_stats()
    during = checked(progress_html(stats.snapshot(6.0)))
    summary = stats.summary(RunEnded(7.0, 75, HOSTILE, 1))
    after = checked(progress_html(stats.snapshot(7.0)))
    checked(summary._repr_html_())

    assert "2 of 100 rows" in during.words
    assert "is down for 2.0 s; next probe in 3.0 s; 1 row waits: <script>" in during.words
    assert "stopped" in after.words
    assert len(progress_html(stats.snapshot(7.0))) < 10_000
    assert len(summary._repr_html_()) < 10_000


def test_a_result_with_hostile_text_is_text() -> None:
    """Answers, errors, ids and values alike; none is longer than a screen."""
    good = Result(1, "h", "success", '"<b>"', text=HOSTILE, model=HOSTILE, usage=Usage(1, 2), cost_usd=0.5, attempts=1)
    bad = Result(2, "h", "failed", '"<b>"', error_code=HOSTILE, error_message=HOSTILE, reason=HOSTILE)
    value = Result(3, "h", "success", "3", value=HOSTILE, fit=Parsed("{}", {"a": HOSTILE}))

    for result in (good, bad, value):
        assert checked(result._repr_html_()).words
        assert len(result._repr_html_()) < 30_000
    assert "alert(1)" in checked(good._repr_html_()).words


def test_a_value_whose_repr_fails_is_shown_all_the_same() -> None:
    """Any object may be returned by a function."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("broken")

    assert "Broken" in checked(Result(1, "h", "success", "1", value=Broken())._repr_html_()).words


async def test_a_summary_has_the_numbers_of_the_run() -> None:
    """Those that a run without trouble has, and no more."""
    stream = BatchRunner("sim/steady").stream(["one", "two"])
    async for _ in stream:
        pass
    page = checked(stream.summary._repr_html_())

    assert page.words.startswith("2 rows: 2 success, 0 failed")
    for word in ("time", "calls", "tokens", "cost", "latency"):
        assert word in page.words
    for word in ("outages", "stopped", "failed rows", "results"):
        assert word not in page.words


@pytest.mark.parametrize("total", [None, 0, 7])
def test_a_run_without_rows_has_a_page(total: int | None) -> None:
    """Before the first row, and without any."""
    stats = RunStats()
    checked(progress_html(stats.snapshot(0.0)))
    stats.observe(RunStarted(1.0, "", "", 40, 0, 0, total))
    page = checked(progress_html(stats.snapshot(2.0)))

    assert page.words.startswith("running 0")
    assert ("progressbar" in progress_html(stats.snapshot(2.0))) == bool(total)
