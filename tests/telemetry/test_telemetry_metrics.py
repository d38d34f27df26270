"""The metrics of a run: what is counted, under which names and labels, and how many series there can be."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from scrapes import call, fold, parsed, scrape, serving, started, value

from llmbatch.classify.body_rules import BODY_RULES, STATUS_RULES
from llmbatch.classify.faults import _FAULTS
from llmbatch.core.calls import Verdict
from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    OutageEnded,
    OutageStarted,
    Progress,
    RowFinished,
    RowParked,
    RunEnded,
)
from llmbatch.report.stats import RunStats
from llmbatch.telemetry.labels import ERROR_CODES, OTHER, FirstValues, error_code
from llmbatch.telemetry.run_metrics import METRICS, MOST_SERIES, Histogram, RunMetrics


def read(stats: RunStats, now: float | None = None) -> dict[str, dict[tuple[str, ...], object]]:
    metrics = RunMetrics(stats, clock=lambda: stats.at if now is None else now, version="9.9")
    return {reading.metric.name: dict(reading.values) for reading in metrics.read()}


def test_the_numbers_are_those_of_the_fold() -> None:
    """Rows, calls, tokens and cost by route; latency in buckets whose bounds are exact, with count and sum."""
    events: list[Event] = [started(total=9)]
    events += call(2.0, "openai/a", 1, cost=Decimal("0.25"))
    events += call(3.0, "openai/a", 2, cost=Decimal("0.50"))
    events += call(4.0, "openai/b", 3, "server_error")
    events += [CallSent(5.0, "openai/b", 4, 1, False, 4), Progress(5.0, 9, 1.0, exhausted=True)]

    seen = read(fold(events))

    assert seen["rows"] == {("success",): 2, ("failed",): 1}
    assert seen["row_failures"] == seen["call_errors"] == {("server_error",): 1}
    assert seen["calls"]["openai/a", "success"] == 2
    assert seen["calls"]["openai/b", "failure"] == 1
    assert seen["in_flight"] == {("openai/a",): 0, ("openai/b",): 1}
    assert seen["concurrency_limit"] == {("openai/a",): 7, ("openai/b",): 7}
    assert seen["tokens"]["openai/a", "output"] == 40
    assert seen["cost"] == {("openai/a",): 0.75}, "what is unknown is not 0"
    assert seen["input_rows"] == {(): 9}
    duration = seen["call_duration"][()]
    assert isinstance(duration, Histogram)
    assert (duration.count, duration.total) == (2, 1.0)
    assert dict(duration.buckets)[0.4096] == 0
    assert dict(duration.buckets)[0.8192] == 2


def test_an_outage_is_seen_while_it_lasts() -> None:
    """The circuit's state, the rows that wait, the calls that were avoided; the time of the outage grows on."""
    route = "openai/a"
    events: list[Event] = [started(), *call(2.0, route, 1), *call(9.0, route, 2, "overloaded_error")]
    events += [
        CircuitChanged(10.0, route, "closed", "open", "down", 5.0),
        OutageStarted(10.0, route, 10.0, "down"),
        RowParked(10.0, route, 3, 5.0, "down", avoided=True),
        CallSent(15.0, route, 0, 1, True, 5),
    ]
    stats = fold(events)

    seen = read(stats, now=40.0)

    assert seen["circuit_state"] == {(route,): 2}
    assert seen["parked_rows"] == {(route,): 1}
    assert seen["calls_avoided"] == {(): 1}
    assert seen["probes"] == {(): 1}
    assert seen["outages"] == {(route,): 1}
    assert seen["outage"] == {(route,): 30.0}
    assert "eta" not in seen

    for event in (CircuitChanged(50.0, route, "half_open", "closed", "", 0.0), OutageEnded(50.0, route, 10.0, 40.0)):
        stats.observe(event)

    assert read(stats, now=99.0)["outage"] == {(route,): 40.0}
    assert read(stats, now=99.0)["circuit_state"] == {(route,): 0}


def test_the_state_of_the_run_is_one_of_a_closed_set() -> None:
    """One of the states is 1; which states there are never changes."""
    stats = fold([started()])
    running = read(stats)["run_state"]
    stats.observe(RunEnded(2.0, 0, "", 0))
    finished = read(stats)["run_state"]

    assert [state for state, is_it in running.items() if is_it] == [("running",)]
    assert [state for state, is_it in finished.items() if is_it] == [("finished",)]
    assert running.keys() == finished.keys()


@pytest.mark.slow  # up to some seconds of CPU
def test_ten_thousand_models_hosts_and_codes_make_fewer_than_200_series() -> None:
    """The first few stand for themselves, the rest is "other"; nothing is lost in the sums, at any scrape."""
    stats = fold([started(total=10_000)])
    known = sorted(ERROR_CODES)
    for at in range(10_000):
        code = known[at % len(known)] if at % 2 else f"strange_{at}"
        for event in call(2.0 + at, f"https://host{at}.test/v1 model-{at}", at + 1, code if at % 3 else "", cost=None):
            stats.observe(event)
        stats.observe(RowParked(2.0 + at, f"route {at}", at + 1, 1.0, "", avoided=False))
    with serving(stats) as server:
        series = scrape(server.url)
        again = scrape(server.url)

    assert len(series) <= MOST_SERIES < 200
    assert series == again
    assert sum(v for (name, _), v in series.items() if name == "llmbatch_calls_total") == 10_000
    failed = value(series, "llmbatch_rows_total", status="failed")
    assert sum(v for (name, _), v in series.items() if name == "llmbatch_row_failures_total") == failed
    assert value(series, "llmbatch_calls_total", route=OTHER, outcome="success") > 3000


def most_series(kinds: int) -> Iterator[Event]:
    """Events that give every metric a value, with *kinds* routes and every known code."""
    yield started(total=100_000)
    yield Progress(1.5, 50_000, 0.5, exhausted=False)
    codes = [*sorted(ERROR_CODES), "strange"]
    for at in range(max(kinds, len(codes))):
        route, now = f"route {at % kinds}", 2.0 + at
        yield from call(now, route, 10 * at + 1, cost=Decimal("0.1"))
        yield from call(now, route, 10 * at + 2, codes[at % len(codes)])
        verdicts: tuple[Verdict | None, ...] = ("throttled", "rejected", "account_refused", "local", None)
        for verdict in verdicts:
            yield CallSent(now, route, 10 * at + 3, 2, False, 3)
            yield CallEnded(now, route, 10 * at + 3, False, verdict, "x", "", 400, 1.0, 1, 0, 3)


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_every_metric_at_its_most_stays_below_the_bound() -> None:
    """With more routes and codes than are told apart, each with every outcome."""
    with serving(fold(most_series(30))) as server:
        series = scrape(server.url)

    names = {name for name, _ in series}
    assert 150 < len(series) <= MOST_SERIES
    for metric in METRICS.values():
        assert any(name.startswith(f"llmbatch_{metric.name}") for name in names), metric.name


@pytest.mark.slow  # up to some seconds of CPU
def test_counters_never_fall() -> None:
    """Between any two scrapes of a run; Prometheus would take a fall for a new process."""
    stats = RunStats()
    before: dict[tuple[str, tuple[str, ...]], float] = {}
    metrics = RunMetrics(stats, clock=lambda: stats.at, version="9.9")
    for event in most_series(12):
        stats.observe(event)
        now = {
            (reading.metric.name, labels): number
            for reading in metrics.read()
            if reading.metric.kind == "counter"
            for labels, number in reading.values.items()
            if isinstance(number, float | int)
        }
        assert not [key for key, number in before.items() if now[key] < number]
        before = now


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_names_follow_the_conventions_of_prometheus() -> None:
    """Counters end in _total, times are in seconds, each metric has a help and a type."""
    with serving(fold(most_series(2))) as server:
        from scrapes import get

        text = get(server.url)[1]

    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert name.startswith("llmbatch_")
            assert name.endswith("_total") == (kind == "counter"), name
            assert not name.endswith(("_ms", "_minutes", "_milliseconds"))
            assert f"# HELP {name} " in text
    assert parsed(text)


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_label_values_are_cut_and_hold_no_control_characters() -> None:
    """A route's name may come from a row."""
    hostile = 'm"\n\\}\x1b[2J' + "x" * 5000
    with serving(fold([started(), *call(2.0, hostile, 1)])) as server:
        series = scrape(server.url)

    (route,) = {dict(labels)["route"] for name, labels in series if name == "llmbatch_in_flight"}
    assert len(route) <= 110
    assert route.startswith('m" \\}\\x1b[2Jx')


@pytest.mark.parametrize("code", ["http_503", "http_429", "RATE_LIMIT_EXCEEDED", "input_bad_json"])
def test_known_codes_stand_for_themselves(code: str) -> None:
    assert error_code(code) == code.lower()


@pytest.mark.parametrize("code", ["", "http_999", "http_5030", "sk-secret", "rate_limit_exceeded ", "e\n"])
def test_other_codes_do_not(code: str) -> None:
    assert error_code(code) == OTHER


def test_every_code_of_our_own_rules_is_known() -> None:
    """A rule that gives a new code needs it in the closed set too."""
    rules = {rule.code for rule in (*BODY_RULES, *STATUS_RULES) if rule.code}
    faults = {fault.code for fault in _FAULTS.values()}

    assert rules | faults <= ERROR_CODES


def test_a_value_that_was_folded_stays_so() -> None:
    """Also when "other" itself comes first."""
    first = FirstValues(2)

    assert [first(value) for value in ("other", "a", "b", "c", "a", "c")] == ["other", "a", "b", "other", "a", "other"]
    assert first.sums({"a": 1, "c": 2, "d": 3}) == {"a": 1, "other": 5}


def test_a_row_that_is_no_request_counts_without_a_route() -> None:
    """It was never meant for one."""
    seen = read(fold([started(), RowFinished(2.0, "", 1, "failed", "input_bad_json", 0)]))

    assert seen["rows"] == {("success",): 0, ("failed",): 1}
    assert seen["row_failures"] == {("input_bad_json",): 1}
    assert "calls" not in seen
