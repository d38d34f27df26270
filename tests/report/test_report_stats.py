"""The fold of events into numbers, by hand-made sequences and by random ones."""

from __future__ import annotations

import json
from dataclasses import fields
from decimal import Decimal
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.calls import Verdict
from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    CircuitState,
    Event,
    LimitChanged,
    LimitLearned,
    Notice,
    OutageEnded,
    OutageStarted,
    Progress,
    RetryPlanned,
    RowFinished,
    RowParked,
    RowsRequeued,
    RunEnded,
    RunStarted,
    RunStopping,
    Throttled,
)
from llmbatch.report.stats import RunStats
from llmbatch.report.summary import Summary

ROUTE = "openai/gpt-5-mini"


def fold(*events: Event) -> RunStats:
    stats = RunStats()
    for event in events:
        stats.observe(event)
    return stats


def started(at: float = 0.0, *, success: int = 0, failed: int = 0, total: int | None = None) -> RunStarted:
    return RunStarted(at, "in.jsonl", "out.jsonl", 40, success, failed, total)


def sent(at: float, row: int, *, attempt: int = 1, probe: bool = False, route: str = ROUTE) -> CallSent:
    return CallSent(at, route, row, attempt, probe)


def ended(
    at: float,
    row: int,
    *,
    verdict: Verdict | None = "success",
    code: str = "",
    latency: float = 0.5,
    route: str = ROUTE,
) -> CallEnded:
    return CallEnded(at, route, row, False, verdict, code, "", 200, latency, 10, 20)


def finished(at: float, row: int, status: Literal["success", "failed"] = "success", code: str = "") -> RowFinished:
    return RowFinished(at, ROUTE, row, status, code, 1)


def circuit(
    at: float, old: CircuitState, new: CircuitState, *, retry_after: float = 0.0, route: str = ROUTE
) -> CircuitChanged:
    return CircuitChanged(at, route, old, new, "5 rows failed", retry_after)


def test_ordinary_rows_are_counted_once_each() -> None:
    """A row that is sent, answered and finished counts as one call, one success, its tokens and its latency."""
    stats = fold(started(total=4), sent(1.0, 1), ended(2.0, 1), finished(2.0, 1), sent(2.0, 2))

    now = stats.snapshot()

    assert (now.calls, now.in_flight, now.success, now.failed, now.done_rows) == (2, 1, 1, 0, 1)
    assert (now.input_tokens, now.output_tokens) == (10, 20)
    assert now.latency_p50_s == pytest.approx(0.5, rel=0.05)


def test_lines_of_an_earlier_run_count_in_the_whole_and_not_in_this_run() -> None:
    """``success`` and ``failed`` cover the output; ``this_run_…`` only what this run added."""
    stats = fold(started(success=100, failed=3), finished(1.0, 104), finished(1.0, 105, "failed", "timeout"))

    now = stats.snapshot()

    assert (now.success, now.failed, now.done_rows, now.already_done) == (101, 4, 105, 103)
    assert (now.this_run_success, now.this_run_failed) == (1, 1)
    assert now.failures_by_code == {"timeout": 1}


def test_retries_probes_and_canaries_are_told_apart() -> None:
    """A probe is no retry whatever its attempt, and a canary is a probe without a row."""
    stats = fold(
        started(),
        sent(0, 1),
        sent(1, 1, attempt=2),
        sent(2, 2, attempt=3, probe=True),
        sent(3, 0, attempt=1, probe=True),
    )

    now = stats.snapshot()

    assert (now.calls, now.retries, now.probes, now.canaries) == (4, 1, 2, 1)


def test_a_waiting_retry_stops_waiting_when_it_is_sent_parked_or_finished() -> None:
    """Each row that waits for its retry leaves the count by whichever way it goes on."""
    stats = fold(started(), *(RetryPlanned(1.0, ROUTE, row, 2.0, "timeout") for row in (1, 2, 3, 4)))

    stats.observe(sent(3.0, 1, attempt=2))
    stats.observe(RowParked(3.0, ROUTE, 2, 5.0, "circuit open", avoided=True))
    stats.observe(finished(3.0, 3, "failed", "timeout"))

    now = stats.snapshot()
    assert (now.waiting_retries, now.parked, now.calls_avoided) == (1, 1, 1)


def test_a_parked_row_that_probes_is_not_counted_as_parked() -> None:
    """A probe takes its row out of the parked ones, and a failed probe brings it back once."""
    stats = fold(started(), *(RowParked(1.0, ROUTE, row, 5.0, "open", avoided=True) for row in (1, 2, 3)))

    stats.observe(sent(2.0, 1, probe=True))
    while_probing = stats.snapshot().parked
    stats.observe(RowParked(2.5, ROUTE, 1, 5.0, "probe failed", avoided=False))

    assert while_probing == 2
    assert stats.snapshot().parked == 3
    assert stats.snapshot().calls_avoided == 3


def test_requeued_rows_leave_their_own_route_only() -> None:
    """``RowsRequeued`` takes as many parked rows of its route as it says, and none of another one."""
    stats = fold(
        started(),
        *(RowParked(1.0, ROUTE, row, 5.0, "open", avoided=True) for row in (1, 2, 3)),
        RowParked(1.0, "other/m", 4, 5.0, "open", avoided=True),
    )

    stats.observe(RowsRequeued(2.0, ROUTE, 2))

    assert stats.route(ROUTE).parked == 1
    assert stats.route("other/m").parked == 1


def test_one_outage_lasts_from_the_opening_until_the_circuit_closes() -> None:
    """It is counted once a probe has confirmed it; its time began when the circuit opened."""
    stats = fold(
        started(),
        circuit(10.0, "closed", "open", retry_after=2.0),
        circuit(12.0, "open", "half_open"),
        circuit(13.0, "half_open", "open", retry_after=4.0),
        OutageStarted(13.0, ROUTE, 10.0, "5 rows failed", 4.0),
        circuit(17.0, "open", "half_open"),
        circuit(18.0, "half_open", "closed"),
        OutageEnded(18.0, ROUTE, 10.0, 8.0),
        circuit(30.0, "closed", "open", retry_after=2.0),
        OutageStarted(32.0, ROUTE, 30.0, "5 rows failed"),
    )

    now = stats.snapshot(35.0)

    assert now.outages == 2
    assert now.outage_s == pytest.approx(8.0 + 5.0)
    assert stats.route(ROUTE, 35.0).recovered_s == pytest.approx(17.0)


def test_an_opening_that_no_probe_confirms_is_no_outage() -> None:
    """The next probe disproved it."""
    stats = fold(started(), circuit(10.0, "closed", "open", retry_after=1.0), circuit(11.5, "half_open", "closed"))

    now = stats.snapshot(20.0)

    assert (now.outages, now.outage_s) == (0, 0.0)


def test_overlapping_outages_of_two_routes_count_their_time_once() -> None:
    """``outage_s`` of the run is time in which anything was down; each route keeps its own."""
    stats = fold(
        started(),
        OutageStarted(11.0, "a", 10.0, "down"),
        OutageStarted(17.0, "b", 15.0, "down"),
        OutageEnded(20.0, "a", 10.0, 10.0),
        OutageEnded(30.0, "b", 15.0, 15.0),
    )

    now = stats.snapshot(40.0)

    assert (now.outages, now.outage_s) == (2, 20.0)
    assert {route.label: route.outage_s for route in now.routes} == {"a": 10.0, "b": 15.0}


def test_the_next_probe_counts_down() -> None:
    """While a circuit is open its route says when the next probe goes, never less than 0; otherwise None."""
    stats = fold(started(), circuit(10.0, "closed", "open", retry_after=3.0))

    assert stats.route(ROUTE, 11.0).next_probe_s == pytest.approx(2.0)
    assert stats.route(ROUTE, 99.0).next_probe_s == 0.0
    stats.observe(circuit(13.0, "open", "half_open"))
    assert stats.route(ROUTE, 13.0).next_probe_s is None


def test_time_left_is_known_only_with_a_total_a_rate_and_closed_circuits() -> None:
    """No total, no rate or an open circuit makes the time left unknown, rather than a lie."""
    rows = [finished(i / 10, i + 1) for i in range(1, 100)]
    without_total = fold(started(), *rows)
    with_total = fold(started(total=199), *rows)
    while_open = fold(started(total=199), *rows, circuit(10.0, "closed", "open", retry_after=1.0))

    assert without_total.snapshot(10.0).eta_s is None
    assert fold(started(total=100)).snapshot(10.0).eta_s is None
    assert with_total.snapshot(10.0).eta_s == pytest.approx(10.1, rel=0.05)
    assert while_open.snapshot(10.0).eta_s is None


def test_the_total_is_estimated_from_the_share_of_bytes_until_it_is_known() -> None:
    """Rows over fraction is an estimate; a count or the end of the input is not."""
    stats = fold(started(), Progress(1.0, 50, 0.25, exhausted=False))

    assert (stats.snapshot().total_rows, stats.snapshot().total_is_estimate) == (200, True)
    stats.observe(Progress(2.0, 190, 1.0, exhausted=True))
    assert (stats.snapshot().total_rows, stats.snapshot().total_is_estimate) == (190, False)


def test_the_rate_forgets_what_is_older_than_its_window() -> None:
    """Rows of a fast minute do not brighten the rate of a stalled one, but stay in the overall rate."""
    stats = fold(started(), *(finished(i / 10, i) for i in range(1, 301)))

    assert stats.snapshot(30.0).rows_per_s == pytest.approx(10.0, rel=0.1)
    assert stats.snapshot(60.0).rows_per_s == 0.0
    assert stats.snapshot(60.0).overall_rows_per_s == pytest.approx(5.0)


def test_history_keeps_its_size_and_its_sum_over_a_long_run() -> None:
    """The rate along a run of any length fits the columns asked for, and its area is the number of rows."""
    stats = fold(started(), *(finished(float(i), i) for i in range(1, 5001)))

    history = stats.history(40, 5000.0)

    assert len(history) <= 40
    assert all(value == pytest.approx(1.0, abs=0.05) for value in history[:-1])


def test_error_codes_are_bounded() -> None:
    """A provider that invents codes cannot fill the memory: past 100 they count as ``other``."""
    stats = fold(started(), *(ended(1.0, i, verdict="failure", code=f"code-{i}") for i in range(300)))

    codes = stats.snapshot().errors_by_code

    assert len(codes) == 101
    assert next(iter(codes.items())) == ("other", 200)
    assert sum(codes.values()) == 300


def test_routes_are_bounded() -> None:
    """A file in which every row names its own model cannot fill the memory; its calls are still counted."""
    stats = fold(started(), *(sent(1.0, i, route=f"openai/m{i}") for i in range(2000)))

    assert stats.snapshot().in_flight == 2000
    assert len(stats._routes) <= 501


def test_a_cancelled_call_is_no_error() -> None:
    """A call that we ended ourselves (verdict None) is neither an error nor a latency."""
    stats = fold(started(), sent(0.0, 1), ended(1.0, 1, verdict=None, code="cancelled"))

    now = stats.snapshot()

    assert (now.in_flight, now.errors_by_code, now.latency_p50_s) == (0, {}, None)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "starting"),
        ([started()], "running"),
        ([started(), circuit(1.0, "closed", "open")], "waiting"),
        ([started(), sent(0.5, 1), circuit(1.0, "closed", "open")], "running"),
        ([started(), RunStopping(1.0, "Ctrl-C")], "stopping"),
        ([started(), RunEnded(1.0, 1, "", 0)], "finished"),
        ([started(), RunEnded(1.0, 75, "deferred", 3)], "stopped"),
    ],
)
def test_the_state_of_a_run_has_a_word(events: list[Event], state: str) -> None:
    """Each phase of a run has its state; waiting means that nothing is in flight and a circuit is not closed."""
    assert fold(*events).snapshot().state == state


def test_worst_routes_come_first() -> None:
    """Open before probing before paused before closed, so that a short list shows what is wrong."""
    stats = fold(
        started(),
        sent(1.0, 1, route="fine"),
        Throttled(1.0, "paused", 30.0, "rate_limit"),
        circuit(1.0, "closed", "half_open", route="probing"),
        circuit(1.0, "closed", "open", route="open"),
        LimitChanged(1.0, "fine", 12),
    )

    routes = stats.snapshot(2.0).routes

    assert [route.label for route in routes] == ["open", "probing", "paused", "fine"]
    assert routes[2].paused_s == pytest.approx(29.0)
    assert routes[3].limit == 12


def test_summary_adds_up_and_carries_the_advice() -> None:
    """The summary names whole and part apart, and repeats what the last warning told the operator to do."""
    stats = fold(
        started(success=7, failed=1, total=12),
        sent(1.0, 9),
        ended(2.0, 9),
        finished(2.0, 9),
        RowParked(2.0, ROUTE, 10, 9.0, "no money", avoided=True),
        Notice(3.0, "error", "insufficient_quota", "add credit"),
        Notice(3.5, "info", "something else"),
    )

    summary = stats.summary(RunEnded(4.0, 3, "the provider refuses the account", 4))

    assert (summary.rows, summary.success, summary.failed, summary.already_done) == (9, 8, 1, 8)
    assert (summary.this_run_success, summary.this_run_failed, summary.deferred) == (1, 0, 4)
    assert (summary.total_rows, summary.duration_s, summary.rows_per_s) == (12, 4.0, 0.25)
    assert (summary.stopped_reason, summary.advice) == ("the provider refuses the account", "add credit")
    assert json.loads(json.dumps(summary.to_json()))["routes"][0]["label"] == ROUTE


def test_the_hint_of_any_earlier_warning_was_told_as_advice_for_the_end() -> None:
    """``check its spelling`` of a --circuit-key stood below an outage; only what is about the reason is advice."""
    spelling = Notice(3.0, "warning", "no row has the --circuit-key a.b", "check its spelling")
    torn = Notice(3.5, "warning", "p.jsonl:9: the last line is cut off: it gets no result yet", "run it again")
    revoked = Notice(3.5, "warning", "openai suddenly refuses the key (invalid)", "it may have been revoked")
    outage = RunEnded(4.0, 75, "openai is in an outage", 4)

    unrelated = fold(started(), spelling).summary(outage)
    of_the_route = fold(started(), spelling, revoked).summary(outage)
    of_the_input = fold(started(), torn).summary(RunEnded(4.0, 75, "p.jsonl:9: the last line is cut off", 0))

    assert unrelated.advice == ""
    assert (of_the_route.advice, of_the_input.advice) == ("it may have been revoked", "run it again")


def test_a_run_that_finished_has_no_stopped_reason() -> None:
    """With every row done there is nothing that stopped the run, whatever its last event says."""
    assert fold(started()).summary(RunEnded(1.0, 0, "end of input", 0)).stopped_reason is None
    assert fold(started()).summary(RunEnded(1.0, 75, "deferred", 1)).stopped_reason == "deferred"


def test_json_has_no_infinity() -> None:
    """A forced circuit's endless wait becomes null, which JSON has a form for."""
    stats = fold(started(), circuit(1.0, "closed", "open", retry_after=float("inf")))

    text = json.dumps(stats.snapshot().to_json(), allow_nan=False)

    assert json.loads(text)["routes"][0]["next_probe_s"] is None


# -- random sequences --------------------------------------------------------------------------------------------------

routes = st.sampled_from(["a", "b", "c", ""])
rows = st.integers(0, 6)
states = st.sampled_from(get_args(CircuitState))
seconds = st.floats(0, 1e6)
codes = st.sampled_from(["", "timeout", "overloaded_error"])
verdicts = st.one_of(st.none(), st.sampled_from(get_args(Verdict)))

any_event = st.one_of(
    st.builds(lambda r, n, a, p: CallSent(0, r, n, a, p), routes, rows, st.integers(1, 3), st.booleans()),
    st.builds(
        lambda r, n, v, c, s: CallEnded(0, r, n, False, v, c, "", None, s, 1, 2), routes, rows, verdicts, codes, seconds
    ),
    st.builds(lambda r, n, s, c: RetryPlanned(0, r, n, s, c), routes, rows, seconds, codes),
    st.builds(lambda r, n, s, v: RowParked(0, r, n, s, "why", v), routes, rows, seconds, st.booleans()),
    st.builds(lambda r, n: RowsRequeued(0, r, n), routes, st.integers(-1, 9)),
    st.builds(
        lambda r, n, s, c: RowFinished(0, r, n, s, c, 1), routes, rows, st.sampled_from(["success", "failed"]), codes
    ),
    st.builds(lambda r, o, n, s: CircuitChanged(0, r, o, n, "why", s), routes, states, states, seconds),
    st.builds(lambda r, n: LimitChanged(0, r, n), routes, st.integers(1, 99)),
    st.builds(lambda r, s: Throttled(0, r, s, "rate_limit"), routes, seconds),
    st.builds(
        lambda n, f, e: Progress(0, n, f, e),
        st.integers(0, 10**6),
        st.one_of(st.none(), st.floats(0, 1)),
        st.booleans(),
    ),
    st.just(Notice(0, "warning", "x", "y")),
    st.just(RunStopping(0, "asked to")),
    st.just(RunStarted(0, "i", "o", 4, 1, 1, 5)),
)


def stamped(events: list[Event], steps: list[float]) -> list[Event]:
    at = 0.0
    out: list[Event] = []
    for event, step in zip(events, steps, strict=False):
        at += step
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        out.append(type(event)(**{**values, "at": at}))
    return out


@pytest.mark.slow  # a hundred random runs
@settings(max_examples=150)
@given(st.lists(any_event, max_size=60), st.lists(st.floats(0, 50), min_size=60, max_size=60), st.floats(0, 1e5))
def test_no_sequence_makes_a_number_negative_or_a_snapshot_fail(
    events: list[Event], steps: list[float], later: float
) -> None:
    """Whatever comes in whatever order, every number stays at or above 0, and routes sum up to the whole."""
    stats = fold(*stamped(events, steps))

    now = stats.snapshot(stats.at + later)

    for name, value in now.to_json().items():
        assert not isinstance(value, (int, float)) or value >= 0, name
    for route in now.routes:
        assert min(route.in_flight, route.parked, route.paused_s, route.outage_s, route.next_probe_s or 0) >= 0
    assert now.in_flight == sum(route.in_flight for route in now.routes)
    assert now.parked == sum(route.parked for route in now.routes)
    assert now.outage_s <= sum(route.outage_s for route in now.routes) + 1e-6
    assert now.done_rows == now.success + now.failed
    assert all(value >= 0 for value in stats.history(30, stats.at + later))
    assert isinstance(stats.summary(RunEnded(stats.at, 75, "", 0)), Summary)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans()), max_size=60))
def test_in_flight_is_sent_minus_ended(steps: list[tuple[str, bool]]) -> None:
    """For calls that end after they were sent, what is in flight is the difference, on each route and in all."""
    model = {"a": 0, "b": 0}
    stats = fold(started())

    for at, (route, goes_out) in enumerate(steps):
        if goes_out:
            model[route] += 1
            stats.observe(sent(float(at), at + 1, route=route))
        elif model[route]:
            model[route] -= 1
            stats.observe(ended(float(at), at + 1, route=route))

    assert stats.snapshot().in_flight == sum(model.values())
    assert {name: stats.route(name).in_flight for name in model} == model


def test_the_time_left_remembered_the_outage() -> None:
    """Ten rows per second before and after an hour without any: 100 rows are 10 s of work, in the outage and after."""
    rows = [finished(0.1 * number, number) for number in range(1, 201)]
    stats = fold(started(total=400), sent(0.0, 1), *rows, circuit(20.0, "closed", "open"))
    stats.observe(OutageStarted(25.0, ROUTE, 20.0, "down"))
    during = stats.snapshot(2000.0)
    stats.observe(circuit(3620.0, "open", "closed"))
    stats.observe(OutageEnded(3620.0, ROUTE, 20.0, 3600.0))
    back = stats.snapshot(3620.5)
    for number in range(201, 301):
        stats.observe(finished(3620.0 + 0.1 * (number - 200), number))
    after = stats.snapshot(3630.0)

    assert (during.eta_s, during.rows_per_s) == (None, 0.0)
    assert during.work_left_s == pytest.approx(20.0, rel=0.1)
    assert back.eta_s == pytest.approx(20.0, rel=0.15)
    assert after.eta_s == pytest.approx(10.0, rel=0.1)


def test_one_route_that_is_down_does_not_stop_the_clock_of_the_others() -> None:
    """While another route goes on, its speed is measured as ever; the whole time left is not promised."""
    events: list[Event] = [started(total=400), sent(0.0, 1), sent(0.0, 2, route="other/y")]
    events += [circuit(1.0, "closed", "open", route="other/y")]
    events += [finished(0.1 * number, number) for number in range(10, 301)]

    now = fold(*events).snapshot(30.0)

    assert now.eta_s is None
    assert now.work_left_s == pytest.approx((400 - 291) / 10, rel=0.1)


def test_an_estimated_limit_is_told_as_one() -> None:
    """What a provider states replaces it."""
    stats = RunStats()
    stats.observe(LimitLearned(1.0, "fine", "requests", 59.6, 60.0, "delivered"))
    assert stats.snapshot().routes[0].learned_limits == ("about 60 requests a minute",)

    stats.observe(LimitLearned(2.0, "fine", "requests", 60.0, 60.0, "refusal"))
    assert stats.snapshot().routes[0].learned_limits == ("60 requests a minute",)


def test_answers_without_tokens_were_counted_as_calls_without_an_answer() -> None:
    """Both may be billed, but only a call without any status got no answer."""
    risk = Decimal("0.01")
    lost = CallEnded(1.0, ROUTE, 1, False, "failure", "timeout", "", None, 0.5, 0, 0, 1, None, risk)
    canceled = CallEnded(1.0, ROUTE, 2, False, None, "", "", None, 0.5, 0, 0, 2, None, risk)
    good = CallEnded(1.0, ROUTE, 3, False, "success", "", "", 200, 0.5, 0, 0, 3, None, risk)
    broken = CallEnded(1.0, ROUTE, 4, False, "failure", "error_toxic", "", 200, 0.5, 0, 0, 4, None, risk)
    unspoken = CallEnded(1.0, ROUTE, 5, False, "success", "", "", None, 0.5, 0, 0, 5, None, risk)

    spending = fold(started(total=5), lost, canceled, good, broken, unspoken).snapshot().spending

    assert (spending.unanswered_calls, spending.unmetered_calls) == (2, 3)
    assert spending.at_risk_usd == 5 * risk
