"""The page of a report: a sentence that says it all, charts, hostile text that stays text, and nothing loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from llmbatch.report.history import History
from llmbatch.report.html.axis import TimeAxis, columns, known_buckets
from llmbatch.report.html.chart_data import chart_data
from llmbatch.report.html.data import RunNow, RunReport
from llmbatch.report.html.page import PAGE_START, build_page
from llmbatch.report.html.text import day_and_clock, escaped, number, offset, without_passwords
from llmbatch.report.html.verdict import state_of, verdict
from llmbatch.report.iso_time import to_iso
from llmbatch.report.journal import Journal
from llmbatch.report.output_lines import FailedRow, FailureGroups, LineRoute
from llmbatch.report.row_spread import RowSpread
from llmbatch.report.timeline import Bucket

WALL = 1_795_744_800.0  # 2026-11-27 02:00 UTC
HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[2J\u202e\ud800\x00"


def sha256(text: str) -> str:
    """As a policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


VOID = {"meta", "br", "rect", "path", "link", "img"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.pictures: list[dict[str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "svg":
            self.pictures.append(dict(attrs))
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        if tag not in VOID or (tag == "rect" and not (self.get_starttag_text() or "").endswith("/>")):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._open[-1:] != ["style"]:
            self.text.append(data)


def without_scripts(text: str) -> str:
    """The page without what its scripts say."""
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.S)


def history(*values: dict[str, Any]) -> History:
    return History(json.dumps(value) for value in values)


def outage(begin: float, end: float | None, route: str = "openai/gpt-5-mini", message: str = "503") -> dict[str, Any]:
    return {
        "route": route,
        "from": to_iso(WALL + begin),
        "to": None if end is None else to_iso(WALL + end),
        "message": message,
    }


def report(**values: Any) -> RunReport:
    """A night of 10,000 rows with one outage, as the issue of this page tells it."""
    outages = values.pop("outages", [outage(420, 6060)])
    route = LineRoute("openai/gpt-5-mini", 10_000, 12, input_tokens=1_000_000, output_tokens=500_000)
    route.cost_usd = Decimal("3.12")
    for latency in (0.5, 0.7, 1.2, 9.0):
        route.latency.add(latency)
    spread = RowSpread()
    line = b'{"row":7,"hash":"0123456789abcdef","status":"success","id":"slow one",'
    spread.add(line, route.label, 100, 50, 9.0, is_priced=True, failed=False)
    groups = FailureGroups()
    for at in range(12):
        groups.add(FailedRow(f"r{at}", "context_length_exceeded", f"too long by {at % 7}"))
    buckets = [
        {"kind": "bucket", "start": WALL + at, "width": 60, "success": 20, "in_flight": 40, "limit": 40, "p50_s": 0.5}
        | {"p95_s": 1.5, "good_calls": 20, "cost_usd": 0.01}
        | ({"open_circuits": 1, "parked": 900, "success": 0, "good_calls": 0} if 420 <= at < 6060 else {})
        for at in range(0, 7200, 60)
    ]
    run = {
        "kind": "run",
        "began": to_iso(WALL),
        "ended": to_iso(WALL + 7200),
        "exit_code": 1,
        "command": "llmbatch run",
    }
    error = {"kind": "error", "code": "overloaded", "count": 30, "examples": [{"message": "m", "route": "r", "row": 3}]}
    notice = {"kind": "notice", "at": to_iso(WALL), "level": "warning", "message": "slow disk", "hint": "look"}
    told: dict[str, Any] = {
        "output": "night/prompts.results.jsonl",
        "state": "finished",
        "success": 9_988,
        "failed": 12,
        "was_killed": False,
        "total_rows": 10_000,
        "total_is_estimate": False,
        "deferred_rows": 0,
        "exit_code": 1,
        "reason": "",
        "waits_for": "",
        "calls_avoided": 1_940,
        "input": "prompts.jsonl",
        "command": "llmbatch run prompts.jsonl",
        "next": "to send the failed rows again: llmbatch run prompts.jsonl --retry-failed",
        "began": WALL,
        "ended": WALL + 7200,
        "journal": Journal({"began": to_iso(WALL), "runs": 1, "outages": outages}),
        "history": history(run, error, notice, *buckets),
        "history_note": "",
        "failures": list(groups),
        "routes": [route],
        "spread": spread,
        "made_at": WALL + 8000,
        "version": "0.1.0",
        "zone": UTC,
    }
    return RunReport(**(told | values))


def test_the_verdict_says_what_happened_in_one_sentence() -> None:
    """Rows, failures, cost, the outage with its times, and what it cost."""
    assert verdict(report()) == (
        "10,000 rows: 9,988 answered, 12 failed, US$ 3.12; openai/gpt-5-mini was down from 02:07 to 03:41, "
        "nothing was lost, 1,940 calls avoided."
    )
    assert state_of(report()) == ("finished, rows failed", "mild")


@pytest.mark.parametrize(
    ("values", "words", "state"),
    [
        (
            {"outages": [], "failed": 0, "success": 10_000, "calls_avoided": 0},
            "10,000 rows: 10,000 answered, US$ 3.12.",
            "finished",
        ),
        (
            {"outages": [outage(0, 9), outage(10, 400)]},
            "2 outages, 6m39s in all: openai/gpt-5-mini was down from 02:00 to 02:06, the longest",
            "finished, rows failed",
        ),
        ({"outages": [outage(60, 69)]}, "down from 02:01:00 to 02:01:09", "finished, rows failed"),
        (
            {
                "state": "running",
                "ended": None,
                "success": 900,
                "failed": 0,
                "outages": [outage(420, None)],
                "waits_for": "x to answer again",
            },
            "900 answered, 9,100 to go, US$ 3.12; openai/gpt-5-mini has been down since 02:07, 1,940 calls avoided; "
            "the run goes on, it waits for x to answer again.",
            "running",
        ),
        ({"state": "stopped", "was_killed": True, "success": 5}, "9,983 not done yet", "killed"),
        (
            {"state": "stopped", "exit_code": 75, "reason": "rows are deferred"},
            "the run has stopped (rows are deferred), the same command goes on.",
            "stopped",
        ),
        ({"state": "unknown", "total_rows": None}, "not known from the output alone.", "not running"),
        (
            {"success": 0, "failed": 0, "total_rows": None, "routes": [], "outages": []},
            "no row has been answered yet",
            "finished",
        ),
        ({"began": WALL - 200_000}, "from 2026-11-27 02:07 to 2026-11-27 03:41", "finished, rows failed"),
        ({"state": "stopped", "outages": [outage(420, None)]}, "to 04:00, when the run ended, 1,940 calls", "stopped"),
    ],
)
def test_the_verdict_of_other_runs(values: dict[str, Any], words: str, state: str) -> None:
    """Several outages, short ones, runs that go on, were killed or stopped, and outputs without a history."""
    told = report(**values)

    assert words in verdict(told)
    assert state_of(told)[0] == state
    if told.state != "finished":
        assert "nothing was lost" not in verdict(told)


def test_the_page_is_whole_and_loads_nothing() -> None:
    """Well-formed, with a strict policy, unique ids, names for all pictures, and no reference to anywhere."""
    text = build_page(report())
    page = Page(text)

    assert text.startswith(PAGE_START)
    policy = dict(item.split(" ", 1) for item in re.findall('Policy" content="([^"]*)"', text)[0].split("; "))
    (data, points), (plain, script) = page.scripts
    assert (data, plain) == ({"type": "application/json", "id": "chart-data"}, {})
    assert json.loads(points)["buckets"]
    style = re.findall("<style>(.*)</style>", text, re.S)[0]
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"]) == (sha256(script), sha256(style))
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    assert not [
        name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "action", "style")
    ]
    assert not re.search(r"url\(|@import|https?://", without_scripts(text))
    assert not re.search(r"fetch\(|XMLHttpRequest|EventSource|WebSocket|import\(|sendBeacon", script)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert page.tags["svg"] >= 9
    assert all("aria-hidden" in one or (one["role"] == "img" and one["aria-label"]) for one in page.pictures)
    assert all(value for name, value in page.attributes if name == "aria-label")
    assert page.tags["h1"] == page.tags["main"] == 1
    for words in ("too long by 4", "slow one", "slow disk", "--retry-failed", "US$ 3.12", "context_length_exceeded"):
        assert words in "".join(page.text), words


def test_an_error_has_up_to_five_examples_that_differ() -> None:
    """Seven messages were said: five are shown, each with a row."""
    said = re.findall(r"too long by (\d)", build_page(report()))

    assert said == ["0", "1", "2", "3", "4"]


def hostile_report() -> RunReport:
    groups = FailureGroups()
    groups.add(FailedRow(HOSTILE, HOSTILE, HOSTILE))
    spread = RowSpread()
    line = b'{"row":7,"hash":"0123456789abcdef","status":"failed","id":' + json.dumps(HOSTILE).encode() + b","
    spread.add(line, HOSTILE, 10**400, -5, float("inf"), is_priced=False, failed=True)
    names: dict[str, Any] = dict.fromkeys(
        ("output", "input", "command", "next", "reason", "waits_for", "history_note", "version"), HOSTILE
    )
    iso = to_iso(WALL)
    bad = history(
        {"kind": "run", "began": iso, "reason": HOSTILE, "command": HOSTILE, "input": HOSTILE, "exit_code": 10**300},
        {
            "kind": "error",
            "code": HOSTILE,
            "count": 10**300,
            "examples": [{"message": HOSTILE, "route": {}, "row": []}],
        },
        {"kind": "notice", "at": iso, "level": HOSTILE, "message": HOSTILE, "hint": [HOSTILE]},
        {"kind": "bucket", "start": WALL, "width": 60, "success": 10**17, "in_flight": 10**17, "limit": 10**17},
        {"kind": "bucket", "start": 1e300, "width": 1e-300, "success": 1},
        {"kind": "bucket", "start": -1e17, "width": 1e17, "success": 1},
        {"kind": "bucket", "start": WALL, "width": 1, "success": 10**400},
        {"kind": "bucket", "start": 5.0, "width": 1e-12, "failed": 3, "p95_s": 1e17, "good_calls": 1, "cost_usd": 1e17},
    )
    outages = [outage(5, 2, HOSTILE, HOSTILE), {**outage(0, None, HOSTILE), "from": "0001-01-01T00:00:00Z"}]
    route = LineRoute(HOSTILE, 1, 1, input_tokens=10**400, cost_usd=Decimal("1e18"))
    return report(
        **names, outages=outages, failures=list(groups), spread=spread, history=bad, routes=[route], tiers={HOSTILE: 3}
    )


@pytest.mark.parametrize("zone", [UTC, None])
@pytest.mark.parametrize("state", ["running", "finished", "stopped", "unknown"])
def test_hostile_text_and_numbers_stay_text(state: Any, zone: Any) -> None:
    """Of ids, models, errors, commands and files: no tag, no handler, no control character; and numbers beyond any."""
    text = build_page(replace(hostile_report(), state=state, zone=zone))
    page = Page(text)

    assert [attributes.get("type") for attributes, _ in page.scripts] == ["application/json", None]
    assert json.loads(page.scripts[0][1])["shades"]
    assert page.tags["img"] == 0
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", without_scripts(text))
    assert text.encode()
    assert "\\x1b[2J" in text


def test_without_a_history_the_page_says_so() -> None:
    """All else is there."""
    text = build_page(report(history=History(), journal=Journal(), began=None, ended=None))

    assert "There is no history beside the output" in text
    assert "When it ran is not known" in text
    assert "slow one" in text
    assert Page(text).tags["svg"] >= 2


def test_an_output_without_a_line_has_a_page() -> None:
    """Of a run that stopped before any row was finished."""
    text = build_page(
        report(
            success=0,
            failed=0,
            failures=[],
            routes=[],
            spread=RowSpread(),
            history=History(),
            outages=[],
            total_rows=None,
        )
    )

    Page(text)
    assert "No row has been answered yet" in text or "no row has been answered yet" in text


@pytest.mark.slow  # up to some seconds of CPU
def test_a_week_with_hundreds_of_errors_stays_under_two_megabytes() -> None:
    """The worst: full history, text of nothing but quotes, hundreds of codes and routes, a hundred outages."""
    groups = FailureGroups()
    routes = [LineRoute(f"provider/{chr(34) * 80}-{at}", 10, 1) for at in range(500)]
    for at in range(2_000):
        groups.add(FailedRow('"' * 500, f"code_{at % 120}", f"{at} " + '"' * 1_000))
    full = {
        "kind": "bucket",
        "width": 1.0,
        "success": 99,
        "failed": 1,
        "throttled": 5,
        "in_flight": 4000,
        "limit": 4000,
    }
    full |= {"parked": 123_456, "p50_s": 1.51, "p95_s": 2.72, "good_calls": 99, "cost_usd": 0.123456}
    errors = [
        {
            "kind": "error",
            "code": f"e{at}",
            "count": 5,
            "examples": [{"message": f"{n}" + '"' * 500, "route": "r", "row": n} for n in range(5)],
        }
        for at in range(100)
    ]
    lines = (json.dumps(value) for value in [*errors, *({**full, "start": WALL + at} for at in range(30_000))])
    outages = [outage(at * 60, at * 60 + 30, message='"' * 300) for at in range(100)]

    text = build_page(report(history=History(lines), failures=list(groups), routes=routes, outages=outages))

    assert len(text.encode()) < 2_000_000
    Page(text)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (RunNow(5.0, 40, 65.0, 65.0), "<dt>time left</dt><dd>1m05s</dd>"),
        (RunNow(0.0, 0, None, 65.0), "<dt>left once it goes on</dt><dd>about 1m05s</dd>"),
        (RunNow(0.0, 0, None), "<dt>time left</dt><dd>unknown</dd>"),
    ],
)
def test_what_is_left_is_told_also_in_an_outage(now: RunNow, words: str) -> None:
    """As the terminal does: by the work that is left once the provider answers again."""
    assert words in build_page(report(state="running", now=now, ended=None))


def test_pauses_by_the_user_are_shaded_and_told() -> None:
    """In the plain pictures, in the charts of scripts, and in words; one that goes on lasts until now."""
    pauses: list[dict[str, Any]] = [
        {"kind": "pause", "from": to_iso(WALL + 60), "to": to_iso(WALL + 180)},
        {"kind": "pause", "from": to_iso(WALL + 7140), "to": None},
    ]
    buckets: list[dict[str, Any]] = [
        {"kind": "bucket", "start": WALL + at, "width": 60, "success": 20} for at in range(0, 7200, 60)
    ]
    paused = report(history=history(*pauses, *buckets))

    page = build_page(paused)

    chart = chart_data(paused)
    assert chart is not None
    assert [shade for shade in chart["shades"] if shade[3] == "pause"] == [  # type: ignore[union-attr, index]
        [WALL + 60, WALL + 180, "paused by its user, 2m00s", "pause"],
        [WALL + 7140, WALL + 7200, "paused by its user, 1m00s", "pause"],
    ]
    assert page.count('<rect class="pause"') == 2 * page.count('<rect class="outage"') > 0
    assert "Red areas are outages. Blue areas are pauses by the user." in page
    assert "after 2h00m, 3m00s of it paused by its user" in page
    assert "paused" not in build_page(report())


def test_long_waits_between_runs_are_cut_short() -> None:
    """Two hours of work three days apart: each takes nearly half of the axis, and the wait is named."""
    day = 86_400
    buckets = [Bucket(WALL + at, 60.0, success=1) for at in (*range(0, 3600, 60), *range(3 * day, 3 * day + 3600, 60))]
    axis = TimeAxis(buckets)

    assert [(end - begin) for begin, end in axis.spans] == [3600, 3600]
    assert axis.place(WALL) == 0
    assert axis.place(WALL + 3600) == pytest.approx(0.485)
    assert axis.place(WALL + day) == pytest.approx(0.485), "an instant within the wait is at its begin"
    assert axis.place(WALL + 3 * day) == pytest.approx(0.515)
    assert axis.place(WALL + 9 * day) == pytest.approx(1)
    assert axis.instant(0.5) == WALL + 3600
    assert axis.instant(0.515 + 0.485 / 2) == pytest.approx(WALL + 3 * day + 1800)
    places = [place for place, _ in axis.ticks(UTC)]
    assert places == sorted(places)
    assert 4 <= len(places) <= 10


def test_columns_lose_no_row_and_keep_the_highest_values() -> None:
    """Whatever the widths of the buckets."""
    buckets = [Bucket(WALL + at, 1.0, success=3, parked=at, good_calls=2, p50_s=0.5) for at in range(500)]
    buckets += [Bucket(WALL + 500 + 64 * at, 64.0, failed=2, in_flight=9) for at in range(20)]
    axis = TimeAxis(buckets)

    for most in (1, 7, 48, 240):
        cols = columns(buckets, axis, most)

        assert len(cols) == most
        assert sum(column.sums.get("success", 0) for column in cols) == pytest.approx(1500)
        assert sum(column.sums.get("failed", 0) for column in cols) == pytest.approx(40)
        assert sum(column.seconds for column in cols) == pytest.approx(1780)
        assert max(column.sums.get("parked", 0) for column in cols) == 499
        assert cols[0].rate("success") == pytest.approx(3) or most == 1
        assert cols[0].sums["p50_s"] == pytest.approx(0.5)


def test_thousands_of_scattered_buckets_are_drawn_in_time() -> None:
    """A foreign file may have any: the axis has at most 50 gaps."""
    buckets = known_buckets(Bucket(float(at) * 1e6, 1.0, success=1) for at in range(20_000))
    axis = TimeAxis(buckets)

    assert len(axis.gaps) <= 50
    assert sum(column.sums.get("success", 0) for column in columns(buckets, axis, 240)) == pytest.approx(20_000)


def test_times_are_told_with_their_offset() -> None:
    """Also far from this age."""
    zone = timezone(timedelta(hours=5, minutes=30))

    assert day_and_clock(WALL, zone) == "2026-11-27 07:30"
    assert offset(WALL, zone) == "UTC+05:30"
    assert offset(WALL, UTC) == "UTC"
    assert day_and_clock(1e300, None) == "?"
    assert day_and_clock(-1e11, UTC) == "?"


def test_words_of_numbers_and_text() -> None:
    """What charts show; what a page may not pass on."""
    assert [number(value) for value in (0.0, 0.034, 41.23, 40.0, 12_340.0, 1.2e6, 1e17)] == [
        *("0", "0.034", "41.2", "40", "12,340", "1.2M", "100,000T")
    ]
    assert escaped('<a "b">\n\x07', 100) == "&lt;a &quot;b&quot;&gt; \\x07"
    assert escaped("x" * 50, 10) == "x" * 9 + "…"
    assert without_passwords("--base-url https://me:secret@host/v1 a@b") == "--base-url https://***@host/v1 a@b"
