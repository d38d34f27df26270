"""The displays that print line by line, driven by the events' own times: no test here sleeps."""

from __future__ import annotations

import io
import json
import re
from typing import Literal

import pytest

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    LimitLearned,
    Notice,
    OutageEnded,
    OutageStarted,
    Progress,
    RetryPlanned,
    RowFinished,
    RowJudged,
    RowParked,
    RowsRequeued,
    RunEnded,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.display.json_lines import JsonDisplay
from llmbatch.display.line_display import LineDisplay
from llmbatch.display.plain import PlainDisplay
from llmbatch.display.quiet import QuietDisplay
from llmbatch.report.stats import RunStats

ROUTE = "openai/gpt-5-mini"
HOSTILE = "\x1b[31mred\x1b[0m\nforged line\r\x07"


def plain(*events: Event, verbose: int = 0) -> list[str]:
    """The lines that *events* make, without their time of day."""
    stream = io.StringIO()
    display = PlainDisplay(stream, verbose=verbose, clock=lambda: 0.0)
    for event in events:
        display.observe(event)
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    return [line[10:] for line in lines]


def as_objects(*events: Event, verbose: int = 0) -> list[dict[str, object]]:
    stream = io.StringIO()
    display = JsonDisplay(stream, verbose=verbose, clock=lambda: 1_700_000_000.5)
    for event in events:
        display.observe(event)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def started(*, total: int | None = 600, done: int = 0) -> RunStarted:
    return RunStarted(0.0, "in.jsonl", "out.jsonl", 40, done, 0, total)


def rows(first: float, last: float, *, every: float = 0.5) -> list[Event]:
    steps = int((last - first) / every)
    return [RowFinished(first + i * every, ROUTE, i + 1, "success", "", 1) for i in range(steps)]


def opened(at: float, route: str = ROUTE) -> OutageStarted:
    return OutageStarted(at, route, at, "5 rows failed in a row", 3.2)


def opening(at: float, route: str = ROUTE) -> CircuitChanged:
    return CircuitChanged(at, route, "closed", "open", "5 rows failed in a row", 3.2)


def closed(at: float, route: str = ROUTE, since: float = 1.0) -> OutageEnded:
    return OutageEnded(at, route, since, at - since)


def test_a_line_every_ten_seconds_says_where_the_run_stands() -> None:
    """Rows, rate, calls in flight, failures and time left, ten seconds apart."""
    lines = plain(started(done=188), CallSent(0.0, ROUTE, 1, 1, False), *rows(0.5, 31.0))

    assert lines[0] == "in.jsonl -> out.jsonl, 188 rows done before"
    assert lines[1] == "208/600 rows  2.0 rows/s  in flight 1  failed 0  eta 3m16s"
    assert len(lines) == 4


def test_lines_grow_rarer_in_a_long_run() -> None:
    """After ten minutes a line a minute is enough."""
    lines = plain(started(total=None), *rows(0.5, 7200.0, every=1.0))

    assert 110 < len(lines) < 150


def test_an_outage_that_begins_and_ends_is_told_at_once() -> None:
    """The lines do not wait for the next ten seconds, and say why, how long and what follows."""
    lines = plain(started(), opened(1.0), CircuitChanged(4.2, ROUTE, "open", "half_open", "", 0.0), closed(64.0))

    assert lines[1] == f"outage of {ROUTE}: 5 rows failed in a row; its rows wait, probe in 3.2 s"
    assert f"{ROUTE} is back after 1m03s: its rows are resent" in lines[2]


def test_an_opening_that_is_no_outage_is_told_with_verbose_only() -> None:
    """The next probe may show that the provider was up all along."""
    events = (started(), opening(1.0), CircuitChanged(2.5, ROUTE, "half_open", "closed", "", 0.0))

    assert not [line for line in plain(*events) if "circuit" in line]
    assert [line for line in plain(*events, verbose=1) if line.startswith("circuit")] == [
        f"circuit {ROUTE} opened: 5 rows failed in a row",
        f"circuit {ROUTE} closed",
    ]


def test_the_line_of_an_outage_says_what_waits() -> None:
    """While a circuit is open the line counts parked rows and down to the next probe, and promises no time left."""
    lines = plain(
        started(),
        RowParked(1.0, ROUTE, 1, 9.0, "open", True),
        opening(1.0),
        opening(2.0, "other/m"),
        RowParked(2.0, "other/m", 2, 9.0, "open", True),
        opening(2.0, "ended/m"),  # no row of it is left
        Progress(10.0, 9, 0.1, False),
    )

    outage = f"circuit {ROUTE} open for 9.0 s, probe due (+1 more)"
    assert lines[-1] == f"0/600 rows  0.0 rows/s  in flight 0  parked 2  {outage}  failed 0"


def test_a_flapping_provider_is_no_flood() -> None:
    """An outage that begins and ends every second for an hour makes some hundred lines, not seven thousand."""
    flaps = [event for i in range(1, 3600) for event in (opened(float(i)), closed(i + 0.5))]

    lines = plain(started(), *flaps)

    told = [line for line in lines if line.startswith("outage")]
    assert 8 < len(told) < 400
    assert any("such lines left out" in line for line in told)


def test_errors_are_never_left_out() -> None:
    """The gate that thins warnings lets every error through."""
    lines = plain(started(), *(Notice(1.0, "error", f"trouble {i}", "do this") for i in range(50)))

    assert lines[-1] == "error: trouble 49; hint: do this"
    assert len(lines) == 51


def throttled(at: float, row: int, *, code: str = "http_429", route: str = ROUTE) -> CallEnded:
    message = "Rate limit reached: 500 requests per minute"
    return CallEnded(at, route, row, False, "throttled", code, message, 429, 0.1, 0, 0)


def test_the_message_of_a_429_was_never_shown_only_its_code() -> None:
    """Once for each route and code, as for openings: it says which limit it is."""
    events = [throttled(float(row), row) for row in range(1, 20)]

    lines = plain(started(), *events, throttled(21.0, 21, code="tokens"), throttled(22.0, 22, route="other"))

    told = [line for line in lines if "500 requests per minute" in line]
    assert len(told) == 3
    assert f"{ROUTE} asks for a slower pace: Rate limit reached: 500 requests per minute (http_429)" in told[0]


def test_the_end_has_a_last_line() -> None:
    """A run that is shorter than ten seconds still leaves one line of progress, with the rate of the whole run."""
    lines = plain(started(total=10), *rows(0.2, 2.2, every=0.2), RunEnded(2.5, 0, "", 0))

    assert lines[-1] == "10/10 rows  4.0 rows/s  in flight 0  failed 0  elapsed 2.5 s"


def test_what_files_and_models_say_stays_on_its_line() -> None:
    """Escape sequences and line breaks in names, messages and codes forge no line and steer no terminal."""
    stream = io.StringIO()
    display = PlainDisplay(stream, verbose=1)

    for event in (
        RunStarted(0.0, HOSTILE, HOSTILE, 1, 0, 0, None),
        CallEnded(1.0, HOSTILE, 1, False, "failure", HOSTILE, HOSTILE, 500, 0.1, 0, 0),
        RowParked(1.0, HOSTILE, 1, 2.0, HOSTILE, True),
        Throttled(1.0, HOSTILE, 2.0, HOSTILE),
        RetryPlanned(1.0, HOSTILE, 1, 2.0, HOSTILE),
        OutageStarted(1.0, HOSTILE, 1.0, HOSTILE, 1.0),
        Notice(1.0, "warning", HOSTILE, HOSTILE),
        RunStopping(1.0, HOSTILE),
        RunEnded(20.0, 1, HOSTILE, 0),
    ):
        display.observe(event)

    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 9
    assert all(line.isprintable() for line in lines)


def test_verbose_adds_a_line_for_each_failed_attempt_parked_row_and_retry() -> None:
    """``-v`` tells code, row and message; good attempts and our own cancellations stay silent."""
    events: list[Event] = [
        CallEnded(1.0, ROUTE, 17, False, "failure", "overloaded_error", "try later", 529, 0.81, 0, 0),
        CallEnded(1.0, ROUTE, 0, True, "failure", "timeout", "", None, 9.0, 0, 0),
        CallEnded(1.0, ROUTE, 18, False, "success", "", "", 200, 0.5, 1, 1),
        CallEnded(1.0, ROUTE, 19, False, None, "", "", None, 0.5, 0, 0),
        RetryPlanned(1.0, ROUTE, 17, 2.1, "overloaded_error"),
        RowParked(1.0, ROUTE, 17, 4.0, "circuit open", True),
        RowsRequeued(1.0, ROUTE, 1),
        RowJudged(1.0, ROUTE, 17, "overloaded_error", "failed 6 of 6 while 0.4% of other attempts failed"),
        CircuitChanged(1.0, ROUTE, "closed", "open", "5 rows failed: down", 1.0, "0.4% of attempts of good rows fail"),
        CircuitChanged(1.0, ROUTE, "half_open", "closed", "", 0.0),
    ]

    assert plain(started(), *events) == ["in.jsonl -> out.jsonl"]
    assert plain(started(), *events, verbose=1)[1:] == [
        "row 17: overloaded_error (529) after 0.8 s: try later",
        "canary: timeout after 9.0 s",
        "row 17: again in 2.1 s after overloaded_error",
        "row 17: parked, retry after 4.0 s: circuit open",
        f"1 parked row of {ROUTE} may go again",
        "row 17: ends as failed (overloaded_error): failed 6 of 6 while 0.4% of other attempts failed",
        f"circuit {ROUTE} opened: 5 rows failed: down; usually 0.4% of attempts of good rows fail",
        f"circuit {ROUTE} closed",
    ]


def test_a_shared_tally_is_not_fed_twice() -> None:
    """With a tally that something else feeds, the display only reads it."""
    stream, stats = io.StringIO(), RunStats()
    display = PlainDisplay(stream, stats=stats)

    for event in (started(total=4), *rows(0.5, 2.5), RunEnded(3.0, 0, "", 0)):
        stats.observe(event)
        display.observe(event)

    assert "4/4 rows" in stream.getvalue().splitlines()[-1]


def test_a_tick_prints_what_fell_due_while_no_event_came() -> None:
    """In a silent outage the ticker's thread prints the line, as of the time that has gone by."""
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.observe(started())

    display._print_if_due(9.0)
    before = stream.getvalue().count("\n")
    display._print_if_due(12.0)

    assert (before, stream.getvalue().count("\n")) == (1, 2)


@pytest.mark.slow  # waits 1.2 s for the real thread
def test_the_ticker_prints_without_any_event() -> None:
    """A run that is silent from its start still shows signs of life."""
    import time

    stream = io.StringIO()
    with PlainDisplay(stream) as display:
        display.observe(started())
        display._due_at = 0.0
        time.sleep(1.2)

    assert stream.getvalue().count("\n") == 2


def test_json_lines_are_snapshots_and_changes() -> None:
    """Every line is one ASCII JSON object with its event and time; progress carries the whole snapshot."""
    objects = as_objects(
        started(),
        opened(1.0),
        Notice(2.0, "warning", "wählt\u2028", ""),
        Progress(10.0, 5, 0.5, False),
        RunEnded(11.0, 75, "x", 2),
    )

    assert [item["event"] for item in objects] == [
        "started",
        "outage_started",
        "notice",
        "progress",
        "progress",
        "ended",
    ]
    assert objects[0]["time"] == "2023-11-14T22:13:20.500Z"
    assert objects[1] == {
        "event": "outage_started",
        "time": "2023-11-14T22:13:20.500Z",
        "route": ROUTE,
        "reason": "5 rows failed in a row",
        "retry_after": 3.2,
        "goes_to": "",
    }
    assert (objects[3]["state"], objects[3]["total_rows"], objects[3]["eta_s"]) == ("running", 600, None)
    assert objects[5]["exit_code"] == 75


def test_json_lines_say_more_with_verbose() -> None:
    """Failed attempts, parking and retries become objects; good attempts do not."""
    events: list[Event] = [
        started(),
        CallEnded(1.0, ROUTE, 1, False, "success", "", "", 200, 0.5, 1, 1),
        CallEnded(1.0, ROUTE, 2, False, "failure", "timeout", HOSTILE, None, 0.5, 0, 0),
        RowParked(1.0, ROUTE, 2, float("inf"), "open", True),
    ]

    objects = as_objects(*events, verbose=1)

    assert [item["event"] for item in objects] == ["started", "attempt_failed", "parked"]
    assert (objects[1]["message"], objects[2]["retry_after"]) == (HOSTILE, None)


def test_quiet_shows_errors_and_nothing_else() -> None:
    """Errors with their hint; no warning, no progress, no start and no end."""
    stream = io.StringIO()
    display = QuietDisplay(stream)

    for event in (started(), opened(1.0), Notice(2.0, "warning", "w"), Notice(3.0, "error", "no\nmoney", "add credit")):
        display.observe(event)

    assert stream.getvalue() == "error: no money\nhint: add credit\n"


class _Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("kind", [PlainDisplay, JsonDisplay])
def test_a_reader_that_went_away_changes_nothing(kind: type[PlainDisplay] | type[JsonDisplay]) -> None:
    """Writing to a closed pipe or a closed stream is forgotten; the run goes on."""
    stream = io.StringIO()
    stream.close()

    for target in (_Gone(), stream):
        display: LineDisplay = kind(target)
        for event in (started(), *rows(0.5, 30.0), RunEnded(31.0, 0, "", 0)):
            display.observe(event)


def test_what_the_encoding_lacks_is_escaped() -> None:
    """A log in plain ASCII shows other characters by their numbers."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    display = PlainDisplay(stream)

    display.observe(Notice(1.0, "error", "Schlüssel"))

    assert b"error: Schl\\xfcssel\n" in raw.getvalue()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("headers", "reports its rate limit: 60 requests in 1m"),
        ("refusal", "states, where it refuses, its rate limit: 60 requests in 1m"),
        ("delivered", "states no rate limit, but its refusals show one of about 60 requests in 1m"),
    ],
)
def test_a_limit_that_was_learned_says_from_what(
    source: Literal["headers", "refusal", "delivered"], words: str
) -> None:
    """An estimate is called one."""
    lines = plain(LimitLearned(1.0, ROUTE, "requests", 60.0, 60.0, source), verbose=1)

    assert any(words in line for line in lines), lines
