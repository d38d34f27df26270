"""The live picture: what it says, that it fits, and that nothing a model or a file says can steer the terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    LimitChanged,
    Notice,
    OutageStarted,
    RetryPlanned,
    RowFinished,
    RowParked,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.display.frame import frame
from llmbatch.display.plain import progress_text
from llmbatch.report.stats import RunStats

HOSTILE = "[bold red]x[/bold red]\x1b[2J\x1b]0;owned\x07\r\n\u202eevil\u2028end\x9b31m"


def busy(*, routes: int = 1, text: str = "overloaded_error", label: str = "openai/gpt-5-mini") -> RunStats:
    stats = RunStats()
    events: list[Event] = [RunStarted(0.0, f"in {text}", f"out {text}", 40, 100, 1, 1000)]
    for number in range(routes):
        name = f"{label}-{number}" if number else label
        for row in range(1, 31):
            at = row / 3
            events += [
                CallSent(at, name, row, 1, False),
                CallEnded(at, name, row, False, "success", "", "", 200, 0.8, 1000, 4000),
                RowFinished(at, name, row, "success", "", 1),
            ]
        events.append(CallSent(10.0, name, 31, 1, False))
        events.append(LimitChanged(10.0, name, 40))
    events += [
        CallEnded(10.0, label, 31, False, "failure", text, text, 529, 0.2, 0, 0),
        RowFinished(10.0, label, 32, "failed", text, 3),
        RowParked(10.0, label, 33, 5.0, text, True),
        CircuitChanged(10.0, label, "closed", "open", f"5 rows failed: {text}", 5.0),
        Notice(10.0, "warning", f"the key may have been revoked {text}", "look"),
    ]
    for event in events:
        stats.observe(event)
    return stats


def drawn(stats: RunStats, *, width: int = 80, height: int = 24, now: float = 12.0) -> str:
    """What a terminal of *width* columns without colour shows."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False)
    console.print(frame(stats.snapshot(now), stats.history(30, now), width=width - 1, height=height))
    return out.getvalue()


def test_an_outage_is_told_in_words() -> None:
    """Without any colour the picture says what is open, when the next probe goes and what waits."""
    text = drawn(busy())

    assert "○ open" in text
    assert "probe in 3.0 s" in text
    assert "1 parked" in text
    assert re.search(r"about 4m\d\ds of work once it answers", text)
    assert "for 2.0 s" in text
    assert "132/1,000  13 %" in text
    assert "2 rows · attempts: overloaded_error 1" in text
    assert "30,000 in · 120k out · latency p50 0.8 s · p95 0.8 s" in text
    assert "the key may have been revoked" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("routes", [1, 3, 4, 30])
def test_every_line_fits_the_terminal(width: int, routes: int) -> None:
    """No more lines than the terminal has, none wider than it, however many routes there are."""
    lines = drawn(busy(routes=routes), width=width).splitlines()

    assert len(lines) <= 24
    assert all(cell_len(line) < width for line in lines)
    assert any("open" in line for line in lines)


def test_many_routes_show_the_worst_and_count_the_rest() -> None:
    """The open circuit stands first, and what has no line of its own is counted by state."""
    lines = drawn(busy(routes=9), height=13).splitlines()

    assert "○ open" in next(line for line in lines if line.startswith("circuit"))
    assert any("+5 more: 5 closed" in line for line in lines)


def test_routes_were_left_out_where_there_was_room() -> None:
    """As many as fit: those in trouble first, the others by name and not by how busy they are."""
    lines = drawn(busy(routes=9), height=24).splitlines()

    names = [line.split()[2] for line in lines if "● closed" in line]
    assert not any("more:" in line for line in lines)
    assert names == [f"openai/gpt-5-mini-{number}" for number in range(1, 9)]


def test_routes_beyond_those_that_a_snapshot_holds_were_not_counted() -> None:
    """Of 70 routes a snapshot holds 50; the last line counts all that are not shown."""
    lines = drawn(busy(routes=70), height=24).splitlines()

    shown = sum("● closed" in line or "○ open" in line for line in lines)
    assert any(f"+{70 - shown} more: {70 - shown} closed" in line for line in lines)


@pytest.mark.parametrize("width", [40, 80])
def test_the_end_of_a_long_name_was_cut_off(width: int) -> None:
    """Routes and files that differ at their ends are told apart: the middle goes."""
    lines = drawn(busy(label="openrouter/a-vendor-with-a-name/a-family-of-models/v2-instruct-fp8"), width=width)

    circuit = next(line for line in lines.splitlines() if line.startswith("circuit"))
    assert re.search(r"○ open +op\S*…\S*p8", circuit)
    assert "2.0 s" in circuit


def test_what_is_left_of_the_longest_outage_is_told() -> None:
    """How long the circuit has been open, and when the run stops waiting for it."""
    stats = RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 4, 0, 0, 10, max_outage=3600.0))
    stats.observe(CircuitChanged(10.0, "openai/x", "closed", "open", "down", 30.0))
    stats.observe(OutageStarted(20.0, "openai/x", 10.0, "down", 20.0))

    text = drawn(stats, now=70.0)

    assert "○ open    openai/x · for 1m00s · nothing waits for it" in text
    stats.observe(RowParked(20.0, "openai/x", 1, 9.0, "open", True))
    text = drawn(stats, now=70.0)
    assert "○ open    openai/x · for 1m00s · probe due" in text
    assert "gives up  in 59m00s (--max-outage 1h00m)" in text


def test_a_concurrency_that_adapts_is_told() -> None:
    """On the drawn display, and in a line; a number is not repeated."""
    stats, plain = RunStats(), RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 1000, 0, 0, 10, adapts=True))
    plain.observe(RunStarted(0.0, "i", "o", 1000, 0, 0, 10))
    for each in (stats, plain):
        each.observe(CallSent(1.0, "openai/x", 1, 1, False))

    assert "1 of auto in flight" in drawn(stats, now=3.0)
    assert "in flight 1 of auto" in progress_text(stats.snapshot(3.0))
    assert "auto" not in drawn(plain, now=3.0)


def test_nothing_in_flight_was_not_explained() -> None:
    """A pause names its route, whose wait it is and its code; limits of the run's own are named as flags."""
    stats = RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 4, 0, 0, 10, own_limits="--rpm 6"))
    stats.observe(CallSent(1.0, "openai/x", 1, 1, False))
    stats.observe(CallEnded(2.0, "openai/x", 1, False, "throttled", "rate_limit", "slow", 429, 0.2, 0, 0))

    own = drawn(stats, now=3.0)
    stats.observe(Throttled(3.0, "openai/x", 20.0, "rate_limit"))
    provider = drawn(stats, now=5.0)
    stats.observe(Throttled(24.0, "openai/x", 8.0, "rate_limit", is_named=False))
    backoff = drawn(stats, now=25.0)

    assert "0 in flight: waiting for --rpm 6" in own
    assert "0 in flight: openai/x paused (provider's wait, 18 s left: rate_limit)" in provider
    assert "paused  openai/x · provider's wait, 18 s left: rate_limit" in provider
    assert "0 in flight: openai/x paused (own backoff, 7.0 s left: rate_limit)" in backoff


def test_the_last_rows_that_wait_for_their_retry_were_said_to_wait_for_a_rate_limit() -> None:
    """The limit counts only while other rows are left."""

    def reason(rows: int) -> str:
        stats = RunStats()
        stats.observe(RunStarted(0.0, "i", "o", 4, 0, 0, rows, own_limits="--rpm 600"))
        stats.observe(CallSent(1.0, "openai/x", 1, 1, False))
        stats.observe(CallEnded(2.0, "openai/x", 1, False, "failure", "server_error", "oops", 500, 0.2, 0, 0))
        stats.observe(RetryPlanned(2.0, "openai/x", 1, 5.0, "server_error"))
        return drawn(stats, now=3.0)

    assert "0 in flight: 1 row waiting to be retried" in reason(1)
    assert "0 in flight: waiting for --rpm 600" in reason(2)


@pytest.mark.parametrize("height", [1, 3, 6])
def test_a_low_terminal_keeps_what_matters_most(height: int) -> None:
    """Progress goes last of all; then the circuits."""
    lines = drawn(busy(), height=height).splitlines()

    assert len(lines) == height
    assert lines[0].startswith("rows") or lines[1].startswith("rows")
    assert height == 1 or any("○ open" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_hostile_text_is_shown_and_not_obeyed(width: int) -> None:
    """Markup, escape sequences, line breaks and reversed text arrive as visible characters."""
    stats = busy(text=HOSTILE, label=HOSTILE)

    text = drawn(stats, width=width)

    plain = text.replace("\n", "")
    assert plain.isprintable()
    assert "[bold red]" in text
    assert len(text.splitlines()) <= 12


def test_wide_characters_are_measured_in_columns() -> None:
    """A name in a script of double width is cut by columns, not characters."""
    lines = drawn(busy(text="漢字" * 60, label="模型" * 40), width=60).splitlines()

    assert all(cell_len(line) < 60 for line in lines)


def test_a_paused_route_and_a_stopping_run_are_told() -> None:
    """A slower pace counts down, and why the run stops stands in place of the last notice."""
    stats = RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 4, 0, 0, None))
    stats.observe(Throttled(1.0, "openai/x", 20.0, "rate_limit"))
    stats.observe(RunStopping(2.0, "Ctrl-C: requests in flight may finish"))

    text = drawn(stats, now=3.0)

    assert re.search(r"◌ paused +openai/x · provider's wait, 18 s left: rate_limit", text)
    assert "stopping  Ctrl-C" in text
    assert "of an unknown number" in text


@settings(max_examples=60)
@given(st.text(max_size=60), st.integers(1, 130), st.integers(1, 30))
def test_no_text_and_no_size_breaks_the_picture(text: str, width: int, height: int) -> None:
    """Any text at any size makes a picture that fits and is printable."""
    stats = busy(routes=2, text=text, label=text or "x")

    shown = frame(stats.snapshot(12.0), stats.history(30, 12.0), width=width, height=height)

    lines = shown.plain.split("\n")
    assert len(lines) <= height
    assert all(line.isprintable() and cell_len(line) <= width for line in lines)
