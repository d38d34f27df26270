"""How an opening ends, and what is remembered of it at the next one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from route_states import (
    EVERYTHING,
    FAILED,
    GOOD,
    KEY_REFUSED,
    REFUSED,
    THROTTLED,
    TIMEOUT,
    UNREACHABLE,
    WEB_PAGE,
    Story,
    kinds,
    waiting,
)

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.route.decisions import GiveUpRoute, PauseRoute, Tell
from llmbatch.route.outage import Probe


def confirm(story: Story, outcome: Outcome) -> None:
    """The smallest request ends so until there is an outage."""
    for _ in range(9):
        if not story.route.is_confirmed:
            story.probe(0, outcome, "ping")
    assert story.route.is_confirmed


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_smallest_request_that_is_answered_reaches_the_route(is_closed: bool) -> None:
    """As a check of held rows, and as a probe; no row has its answer yet."""
    story = Story(ever=False, can_check=True)
    story.call(1, FAILED)
    if is_closed:
        story.call(0, GOOD, "ping")
    else:
        story.open()
        story.probe(0, GOOD, "ping")

    assert story.route.is_reached
    assert not story.history.ever


def test_refusals_that_close_a_circuit_reach_the_route() -> None:
    """They are answers."""
    story = Story(ever=False)
    story.open(UNREACHABLE)

    for row in (100, 101, 102):
        story.probe(row, REFUSED)

    assert story.route.is_closed
    assert story.route.is_reached


def test_a_tenant_of_a_route_that_answers_the_smallest_request_is_not_lost() -> None:
    """It says no more of the tenant's rows: nothing is proven."""
    story = Story(ever=False, can_check=True)
    story.route.is_tenant = True
    story.call(1, TIMEOUT)
    assert story.route.lost_at == story.now + 600.0

    assert story.call(0, GOOD, "ping") == []

    assert story.route.lost_at == math.inf
    assert story.route.evidence.records[1].pending


def test_a_tenant_is_not_lost_while_the_provider_answers_others() -> None:
    """Be it with refusals: the provider is back, so this tenant is probed on."""
    story, other = (Story(ever=False, is_tenant=True) for _ in range(2))
    other.route.history = story.route.history
    story.call(1, UNREACHABLE)
    began = story.now
    assert story.route.lost_at == began + 600.0

    other.wait(500.0)
    other.call(2, REFUSED)

    assert story.route.lost_at == began + 1100.0
    assert not story.route.is_lost(began + 600.0)
    assert story.route.is_lost(began + 1100.0)


def test_a_route_whose_rows_fail_beside_the_smallest_request_is_lost_since_they_did() -> None:
    """And not since this request said so."""
    story = Story(ever=False, can_check=True, failure_threshold=2)
    story.call(1, UNREACHABLE)
    story.call(0, GOOD, "ping")
    story.wait(30.0)
    story.call(2, UNREACHABLE)
    began = story.now
    story.wait(5.0)

    assert kinds(story.call(0, GOOD, "ping")) == ["CircuitMoved"]

    assert story.route.lost_at == began + 600.0


def test_a_route_that_a_smallest_request_has_closed_is_lost_since_it_was_not_reached() -> None:
    """Which was before the circuit opened."""
    story = Story(ever=False)
    began = story.now
    story.call(1, UNREACHABLE)
    story.wait(5.0)
    story.open(UNREACHABLE)

    story.probe(0, GOOD, "ping")

    assert story.route.lost_at == began + 600.0


def test_a_smallest_request_that_outlives_held_rows_is_trusted_less_each_time() -> None:
    """It has closed the circuit before, and vouches for too many rows now."""
    story = Story(can_check=True)
    story.open()
    story.probe(0, GOOD, "ping")
    assert story.route.trust.pings == 1
    story.call(11, FAILED)

    assert kinds(story.call(0, GOOD, "ping")) == ["CircuitMoved"]

    assert story.route.trust.pings == 2


def test_a_smallest_request_that_closes_a_circuit_again_is_trusted_less() -> None:
    story = Story()
    for pings in (1, 2, 3):
        story.open()
        story.probe(0, GOOD, "ping")
        assert story.route.trust.pings == pings


def test_waits_go_on_growing_across_openings_that_pings_alone_have_closed() -> None:
    """Rows have failed since the first of them: a tenth of that time."""
    story = Story(chance=0.0)
    story.open()
    began = story.now
    for _ in range(2):
        story.wait(100.0)
        story.probe(0, GOOD, "ping")
        story.open()

    story.probe(100, FAILED)

    assert story.route.next_change(story.now) == story.now + 0.1 * (story.now - began)


def test_a_row_that_passes_begins_the_waits_anew() -> None:
    story = Story(chance=0.0)
    story.open()
    story.wait(100.0)
    story.probe(100, GOOD)
    for row in range(11, 51):
        if story.route.is_closed:
            story.call(row, FAILED)

    story.probe(101, FAILED)

    assert story.route.next_change(story.now) == story.now + 1.0


def test_a_ramp_after_an_outage_is_what_the_next_opening_by_mistake_goes_back_to() -> None:
    """Not half of what ran before the outage."""
    story = Story(concurrency=40)
    story.open()
    story.confirm()
    story.probe(100, GOOD)
    story.open()

    story.probe(101, GOOD)

    assert story.route.limit.value == 2


def test_an_opening_by_mistake_that_a_pause_has_outlasted_ends_in_a_ramp() -> None:
    """As any wait: the process was stopped meanwhile."""
    story = Story()
    story.open()
    story.route.plan_ramp()

    story.probe(100, GOOD)

    assert story.route.limit.value == 2


def test_a_good_row_asks_for_no_check_where_two_are_needed() -> None:
    """The turns go on: what was parked comes next."""
    story = Story(success_threshold=2)
    story.open()
    story.probe(100, FAILED)
    story.probe(101, GOOD)

    assert story.route.next_probe(story.now, EVERYTHING) == Probe("parked")


@pytest.mark.parametrize(
    ("outcome", "kind", "pinged"),
    [
        (UNREACHABLE, "ping", "silent"),
        (FAILED, "ping", "answered"),
        (WEB_PAGE, "ping", "silent"),
        (UNREACHABLE, "good", "no"),
        (UNREACHABLE, "row", "no"),
    ],
)
def test_a_smallest_request_that_fails_tells_whether_anything_answers(outcome: Outcome, kind: str, pinged: str) -> None:
    """A status is an answer, a web page is none. Other probes tell nothing of it."""
    story = Story()
    story.open()

    story.probe(100 if kind == "row" else 0, outcome, kind)  # type: ignore[arg-type]

    assert story.route.outage is not None
    assert story.route.outage.pinged == pinged


def test_a_small_request_that_passed_once_is_not_answered_if_it_fails() -> None:
    """With a status or not: it worked before."""
    story = Story()
    story.history.good = Request(Route("openai", "m"), "https://example.com", {}, b"{}", "chat", 1)
    story.open()

    story.probe(0, FAILED, "ping")

    assert story.route.outage is not None
    assert story.route.outage.pinged == "silent"


@pytest.mark.parametrize(
    ("ever", "outcomes", "cause"),
    [
        (False, (TIMEOUT, TIMEOUT), "timeouts"),
        (False, (TIMEOUT, FAILED), "last rows"),
        (True, (TIMEOUT, TIMEOUT), "last rows"),
    ],
)
@pytest.mark.parametrize("ping", [TIMEOUT, UNREACHABLE], ids=["slow", "unreachable"])
def test_held_rows_that_all_took_too_long_open_a_route_that_has_never_answered(
    ever: bool, outcomes: tuple[Outcome, ...], cause: str, ping: Outcome
) -> None:
    """Then the time limit may be to blame: as many as the threshold."""
    story = Story(ever=ever, can_check=True, failure_threshold=2)
    for row, outcome in enumerate(outcomes, 1):
        story.call(row, outcome)

    for _ in range(5):
        if story.route.is_closed:
            story.call(0, ping, "ping")

    assert story.route.outage is not None
    assert story.route.outage.cause == cause


@pytest.mark.parametrize(("ping", "cause"), [(TIMEOUT, "timeouts"), (UNREACHABLE, "last rows"), (FAILED, "last rows")])
def test_one_row_that_took_too_long_opens_so_where_the_smallest_request_did_too(ping: Outcome, cause: str) -> None:
    """Fewer rows than the threshold may be slow by themselves, that one hardly."""
    story = Story(ever=False, can_check=True)
    story.call(1, TIMEOUT)

    for _ in range(9):
        if story.route.is_closed:
            story.call(0, ping, "ping")

    assert story.route.outage is not None
    assert story.route.outage.cause == cause


def test_answers_that_are_too_slow_after_an_outage_as_before_it_stop_the_run() -> None:
    """The smallest request has ended it twice, and no row ever had its answer in time."""
    story = Story(ever=False)
    ends = []
    for _ in range(2):
        story.open(TIMEOUT)
        confirm(story, TIMEOUT)
        ends.append(kinds(story.probe(0, GOOD, "ping")))

    assert ends == [["CircuitMoved", "OutageOver", "Requeue"], ["CircuitMoved", "OutageOver", "GiveUpRoute"]]
    assert story.route.dead == Outcome(
        "account_refused",
        code="timeout",
        message="m: answers take longer than --timeout (60 s)",
        hint="raise --timeout; nothing was marked as failed",
    )


@pytest.mark.parametrize(("ever", "outcome"), [(False, FAILED), (True, TIMEOUT), (True, FAILED)])
def test_outages_that_the_smallest_request_ends_again_and_again_are_outages(ever: bool, outcome: Outcome) -> None:
    """Where rows were answered before, or fail otherwise."""
    story = Story(ever=ever)
    for _ in range(3):
        story.open(outcome)
        confirm(story, outcome)

        assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "OutageOver", "Requeue"]


def test_a_route_that_was_silent_before_an_opening_by_time_outs_is_given_another_chance() -> None:
    """It answered nothing, and now the smallest request: the server was starting. The next time it is the limit."""
    story = Story(ever=False, can_check=True)
    story.call(1, TIMEOUT)
    story.call(0, TIMEOUT, "ping")
    story.open(TIMEOUT)

    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "Requeue"]

    assert story.route.checks.log_chance == 0.0
    assert not story.route.evidence.records
    story.call(1, TIMEOUT)
    story.call(0, TIMEOUT, "ping")
    story.open(TIMEOUT)
    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "GiveUpRoute"]


def test_time_outs_of_all_tenants_are_told_once_with_the_name_of_the_route() -> None:
    """Where none was ever answered, they all have the same trouble."""
    story = Story(ever=False)
    story.history.name, story.route.label = "m", "m [tenant 1]"
    story.open(TIMEOUT)

    (given_up,) = [one for one in story.probe(0, GOOD, "ping") if isinstance(one, GiveUpRoute)]

    assert given_up.message == "m: answers take longer than --timeout (60 s)"


def test_a_server_that_was_never_reached_is_told_with_the_outage() -> None:
    """It may be a wrong address."""
    story = Story(ever=False)
    story.open(UNREACHABLE)

    decisions = [decision for _ in range(3) for decision in story.probe(0, UNREACHABLE, "ping")]

    hint = "is the address right, and is the server up? still trying, for 10 minutes at most"
    assert decisions[-1] == Tell("warning", "m has never answered", hint)


def test_a_key_that_no_more_than_half_of_the_rows_saw_refused_was_not_revoked() -> None:
    """The others were refused otherwise."""
    story = Story(can_check=True)
    story.call(1, KEY_REFUSED)
    story.call(2, REFUSED)

    story.call(0, REFUSED, "ping")
    later = [decision for _ in range(5) for decision in story.probe(0, REFUSED, "ping")]

    assert kinds(later).count("OutageConfirmed") == 1
    assert "Tell" not in kinds(later)


@pytest.mark.parametrize(("rows", "reason"), [(1, "1 row refused"), (2, "2 rows in a row refused")])
def test_an_opening_by_a_refused_check_says_how_many_rows_were_refused(rows: int, reason: str) -> None:
    story = Story(can_check=True)
    for row in range(1, rows + 1):
        story.call(row, REFUSED)

    story.call(0, REFUSED, "ping")

    assert story.route.reason == f"{reason}: bad parameter"


def test_an_opening_for_a_stop_says_that_the_first_rows_were_refused() -> None:
    """Two are rows."""
    story = Story(ever=False)
    story.send(3)
    story.call(1, FAILED)

    story.call(2, KEY_REFUSED)

    assert story.route.reason == "the first rows were refused: invalid key"


@pytest.mark.parametrize(("ever", "outcome", "is_mute"), [(False, TIMEOUT, True), (False, FAILED, False)])
def test_a_route_whose_first_rows_and_smallest_request_take_too_long_is_mute(
    ever: bool, outcome: Outcome, is_mute: bool
) -> None:
    story = Story(ever=ever)
    story.open(outcome)
    assert not story.route.is_mute

    story.probe(0, TIMEOUT, "ping")

    assert story.route.is_mute is is_mute


def test_short_waits_count_as_time_in_which_a_route_was_not_reached() -> None:
    """Of a named wait a minute does."""
    story = Story(ever=False)
    story.call(1, UNREACHABLE)
    began = story.now

    story.call(2, waiting(replace(THROTTLED, status=None), 30.0))

    assert story.route.throttle.not_before == story.now + 30.0
    assert story.route.lost_at == began + 600.0


def test_throttling_counts_from_when_no_other_route_answers_its_rows() -> None:
    """Before, nothing has waited for it."""
    story = Story(max_throttled=100.0)
    story.route.note_cover(is_covered=True)
    story.call(1, waiting(THROTTLED, 90.0))
    story.wait(90.0)
    story.route.note_cover(is_covered=False)

    for _ in range(2):
        story.call(1, waiting(THROTTLED, 45.0))
        assert not story.route.throttle.given_up
        story.wait(45.0)
    story.call(1, waiting(THROTTLED, 45.0))

    assert story.route.throttle.given_up


@pytest.mark.parametrize("is_named", [True, False])
def test_a_rate_limit_that_is_kept_is_no_refusal(is_named: bool) -> None:
    """Whether the provider has named the wait or not."""
    story = Story()

    assert story.route.pause(5.0, story.now, "requests", is_named=is_named) == [
        PauseRoute(5.0, "requests", is_named=is_named, is_refusal=False)
    ]
