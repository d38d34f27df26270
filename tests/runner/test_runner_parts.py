"""Small parts of a run, each by itself: health checks, results, this machine's faults, routes and their names."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from runner_parts import FAILED, GOOD, Parts, open_circuit, pending, row

from llmbatch.core.calls import Outcome, Route, Usage
from llmbatch.core.events import Progress, RowFinished
from llmbatch.core.rows import Row
from llmbatch.runner import routes as routes_module
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.finish import deferred_result
from llmbatch.runner.health_requests import MAX_GOOD_BYTES, MOST_TRIES, HealthRequests
from llmbatch.runner.intents import find_intent
from llmbatch.runner.options import RunOptions
from llmbatch.runner.routes import max_wait_without_progress
from llmbatch.runner.tenant_keys import MAX_KEYS, TenantKeys

# Health checks.


def test_a_ping_is_made_from_the_first_request_of_the_route() -> None:
    """None before one was sent, nor where the provider has none."""
    run = Parts(smallest=True).context()
    one = pending(run, 1)
    checks = HealthRequests(run, lambda: ())
    assert checks.ping(one.route) is None

    one.route.template = one.request

    ping = checks.ping(one.route)
    assert ping is not None
    assert ping.body == b""
    without = Parts().context()
    other = pending(without, 1)
    other.route.template = other.request
    assert HealthRequests(without, lambda: ()).ping(other.route) is None


def test_a_ping_says_nothing_about_a_tenant() -> None:
    """It would carry no tenant's name."""
    run = Parts(smallest=True, circuit_key="tenant").context()
    one = pending(run, 1, tenant="acme")
    one.route.template = one.request

    assert one.route.state.label == "m [tenant acme]"
    assert HealthRequests(run, lambda: ()).ping(one.route) is None


def test_the_smallest_request_that_succeeded_is_kept() -> None:
    """None above a megabyte; from the first on, rows that fail wait for health checks."""
    run = Parts().context()
    one = pending(run, 1)
    checks = HealthRequests(run, lambda: ())
    request = one.request
    assert request is not None
    checks.keep(one.route, replace(request, body=b"x" * (MAX_GOOD_BYTES + 1)))
    assert (one.route.good_request, one.route.state.checks.available) == (None, False)

    for size in (50, 20, 30):
        checks.keep(one.route, replace(request, body=b"x" * size))

    assert one.route.good_request is not None
    assert len(one.route.good_request.body) == 20
    assert one.route.state.checks.available


def test_rows_of_earlier_runs_are_looked_up_once() -> None:
    """When first needed; one that is no request any more is passed over."""
    asked: list[int] = []

    def good_rows() -> list[Row]:
        asked.append(1)
        return [Row(1, "", '"r1"', {}), row(2), row(3, model="other")]

    run = Parts().context()
    one = pending(run, 7)
    checks = HealthRequests(run, good_rows)
    assert checks.good(one.route) is None
    assert not asked

    one.route.template = one.request
    found = checks.good(one.route)

    assert found is not None
    assert found.body == b'"row 2"'
    assert checks.good(one.route) is found
    assert asked == [1]
    assert run.routes.known["other"].good_request is not None


def test_rows_of_earlier_runs_that_cannot_be_read_are_looked_up_again() -> None:
    """A disk that failed once does not cost the run its best health check; one that fails on is left alone."""
    answers: list[list[Row] | None] = [None, None, [row(2)]]
    asked: list[int] = []

    def good_rows() -> list[Row] | None:
        asked.append(1)
        return answers.pop(0) if answers else None

    run = Parts().context()
    one = pending(run, 7)
    one.route.template = one.request
    checks = HealthRequests(run, good_rows)

    assert [checks.good(one.route) is not None for _ in range(4)] == [False, False, True, True]
    assert len(asked) == 3

    fails_on = HealthRequests(run, lambda: asked.append(1))
    other = pending(run, 8, model="other").route
    other.template = one.request
    assert {fails_on.good(other) for _ in range(20)} == {None}
    assert len(asked) == 3 + MOST_TRIES


# Results.


def test_a_row_ends_as_its_outcome_says() -> None:
    """A failed one with its code; tokens of earlier calls for it are added."""
    parts = Parts()
    run = parts.context()
    good, bad = pending(run, 1), pending(run, 2)
    good.earlier_usage = Usage(10, 20)
    good.attempts = 2
    bad.earlier_usage = Usage(1, 2)
    run.finisher.finish(good, replace(GOOD, usage=Usage(1, 2)), "success", 1000.0)
    run.finisher.finish(bad, FAILED, "failed", 1000.0)

    first, second = parts.sink.results

    assert (first.number, first.status, first.text, first.usage, first.attempts) == (
        1,
        "success",
        "fine",
        Usage(11, 22),
        2,
    )
    assert first.error is None
    assert (second.error, second.usage) == ({"code": "http_500", "message": "broken"}, Usage(1, 2))
    assert [(event.row, event.status, event.code) for event in parts.of(RowFinished)] == [
        (1, "success", ""),
        (2, "failed", "http_500"),
    ]


def test_progress_is_told_four_times_a_second_at_most() -> None:
    """However many rows end."""
    parts = Parts()
    run = parts.context()
    for number in range(100):
        run.finisher.finish(pending(run, number + 1), GOOD, "success", 1000.0 + number / 100)

    assert [event.at for event in parts.of(Progress)] == [1000.0, 1000.25, 1000.5, 1000.75]


def test_a_deferred_result_says_what_it_waits_for() -> None:
    """This machine, then the circuit, then the row's last answer, then its turn."""
    run = Parts().context()
    one = pending(run, 1)
    assert deferred_result(one, 5.0, "").reason == "waiting for its turn"
    one.last = FAILED
    assert deferred_result(one, 5.0, "").reason == "broken"
    open_circuit(run, one.route)

    result = deferred_result(one, 5.0, "")

    assert result.reason == "5 rows in a row failed: broken"
    assert (result.status, result.retry_after, result.deferrals, result.model) == ("deferred", 5.0, 1, "m")
    assert deferred_result(one, 5.0, "this machine cannot send anything").reason == "this machine cannot send anything"


# Routes and tenants.


def test_rows_of_one_label_share_a_route() -> None:
    """Of another model they do not."""
    run = Parts().context()
    first, second, other = pending(run, 1), pending(run, 2), pending(run, 3, "n")

    assert first.route is second.route
    assert other.route is not first.route
    assert [route.state.label for route in run.routes] == ["m", "n"]
    assert repr(run.routes) == "<Routes ['m', 'n']>"


def test_tenants_of_one_route_share_what_is_known_of_it() -> None:
    """Whether it has ever answered; not their circuits."""
    run = Parts(circuit_key="tenant").context()
    acme, beta = pending(run, 1, tenant="acme"), pending(run, 2, tenant="beta")

    assert acme.route is not beta.route
    assert acme.route.state.history is beta.route.state.history
    assert run.routes.has_tenants


def test_idle_routes_are_dropped_before_more_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with unfinished rows, or an open circuit, stay."""
    monkeypatch.setattr(routes_module, "MAX_IDLE", 4)
    run = Parts().context()
    busy = pending(run, 1, "busy")
    down = run.routes.route_of(row(2), Route("down", "a"), 1000.0)
    open_circuit(run, down)
    for number in range(10):
        run.routes.route_of(row(3), Route(f"idle {number}", "a"), 1000.0)

    assert len(run.routes) <= 5
    assert busy.route in list(run.routes)
    assert down in list(run.routes)


def test_too_many_routes_with_unfinished_rows_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until some have ended."""
    monkeypatch.setattr(routes_module, "MAX_LIVE", 2)
    run = Parts().context()
    one = pending(run, 1, "a")
    seen = [run.routes.is_full]
    pending(run, 2, "b")
    seen.append(run.routes.is_full)
    run.backlog.drop(one)
    seen.append(run.routes.is_full)

    assert seen == [False, True, False]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, math.inf),
        ({"max_outage": 90.0}, 90.0),
        ({"on_outage": "defer"}, 60.0),
        ({"on_outage": "defer", "max_outage": 30.0}, 30.0),
    ],
)
def test_how_long_a_run_goes_on_without_progress(options: dict[str, object], seconds: float) -> None:
    """With ``--on-outage defer`` no longer than a probe would be waited for."""
    assert max_wait_without_progress(RunOptions(**options)) == seconds  # type: ignore[arg-type]


def test_a_circuit_is_named_after_its_tenant() -> None:
    """By any member, nested too; rows without it share the route's own; long names are cut."""
    keys = TenantKeys("metadata.tenant")
    assert keys.missing == ""
    assert keys.label("m", row(1)) == "m"
    assert keys.missing == "metadata.tenant"

    labels = [
        keys.label("m", Row(2, "", "", {"metadata": text}))
        for text in (
            '{"tenant": "acme"}',
            '{"tenant": 7}',
            '{"tenant": ["x"]}',
            '{"tenant": null}',
            "not JSON",
            '"text"',
        )
    ]

    assert labels == ["m [tenant acme]", "m [tenant 7]", 'm [tenant ["x"]]', "m", "m", "m"]
    assert keys.missing == ""
    long = keys.label("m", Row(3, "", "", {"metadata": f'{{"tenant": "{"x" * 61}"}}'}))
    assert long == f"m [tenant {'x' * 60}… #3]"


def test_objects_of_python_have_their_tenant_as_a_member_or_an_attribute() -> None:
    """A value that is no JSON is shown as Python shows it."""

    class Job:
        tenant = complex(1, 2)

    keys = TenantKeys("tenant")

    assert keys.label("f", Row(1, "", "", {}, {"tenant": "acme"})) == "f [tenant acme]"
    assert keys.label("f", Row(2, "", "", {}, Job())) == "f [tenant (1+2j)]"
    assert keys.label("f", Row(3, "", "", {}, "text")) == "f"


def test_tenants_beyond_a_thousand_share_one_circuit() -> None:
    """Known ones keep theirs."""
    keys = TenantKeys("tenant")
    for number in range(MAX_KEYS):
        keys.label("m", row(number, tenant=f"t{number}"))

    assert keys.label("m", row(1, tenant="one more")) == "m [other tenant]"
    assert keys.label("m", row(1, tenant="t5")) == "m [tenant t5]"


# The rest.


def test_a_run_keeps_more_rows_in_memory_the_more_it_sends_at_once() -> None:
    """A thousand at least."""
    assert Parts(concurrency=1).context().max_waiting == 1000
    assert Parts(concurrency=100).context().max_waiting == 2000


def test_an_attempt_reserves_nothing_by_itself() -> None:
    """Where no budget is set."""
    run = Parts().context()
    one = pending(run, 1)
    call = one.route.state.admit(1, 1000.0, timeout=60.0)
    assert call is not None
    assert one.request is not None

    assert Attempt(call, one.route, one, one.request).reserved == 0


@pytest.mark.parametrize("name", ["--max-retries", "max_retries", "MAX-RETRIES"])
def test_options_of_other_tools_are_known_however_they_are_written(name: str) -> None:
    """With dashes, underscores, in capitals."""
    assert "--max-attempts" in find_intent(name)


def test_request_parameters_are_known_as_such_and_nothing_else_is() -> None:
    """The hint shows the value."""
    assert find_intent("temperature") == "request parameters go through -P: -P temperature=0.2"
    assert find_intent("no-such-thing") == ""


def test_a_dead_route_is_why_its_rows_wait() -> None:
    """Its last answer, not the row's own."""
    run = Parts().context()
    one = pending(run, 1)
    one.last = Outcome("failure", message="earlier")
    state = one.route.state
    for number in range(2, 6):
        call = state.admit(number, 1000.0, timeout=60.0)
        if call is not None:
            refused = Outcome("account_refused", "key", code="insufficient_quota", message="no money")
            state.settle(call, refused, 1000.0)

    assert state.dead is not None
    assert deferred_result(one, 5.0, "").reason == "no money"
