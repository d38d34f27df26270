"""What failed probes, rows judged alone, and good answers leave behind in the state of a route."""

from __future__ import annotations

import pytest
from route_states import FAILED, GOOD, KEY_REFUSED, OVERLOADED, THROTTLED, TIMEOUT, Story, kinds, waiting

from llmbatch.core.calls import Outcome
from llmbatch.route.calls import CallKind
from llmbatch.route.decisions import CircuitMoved, OutageConfirmed, ParkUntil, RetryAt, Tell

# Probes that fail.


@pytest.mark.parametrize("outcome", [FAILED, OVERLOADED])
def test_a_probe_that_fails_at_once_shows_that_not_all_takes_too_long(outcome: Outcome) -> None:
    """The opening rests on failures from then on."""
    story = Story()
    story.open(TIMEOUT)

    story.probe(100, outcome)

    assert story.route.outage is not None
    assert story.route.outage.cause == "failures"


@pytest.mark.parametrize(("hung", "limit"), [(0, 12.0), (1, 24.0), (2, 48.0), (3, 60.0)])
def test_each_probe_that_hangs_gets_the_next_twice_the_time(hung: int, limit: float) -> None:
    """Three times the slowest good answer, and at most the time limit of a call."""
    story = Story()
    call = story.send(200)
    story.wait(4.0)
    story.come(call, GOOD)
    story.open()

    for row in range(100, 100 + hung):
        story.probe(row, TIMEOUT)

    assert story.route.probe_timeout() == limit


@pytest.mark.parametrize("hung", [10, 11])
def test_the_time_of_a_probe_is_doubled_ten_times_at_most(hung: int) -> None:
    """Nearly three hours."""
    story = Story(timeout=100_000.0)
    story.call(200, GOOD)
    call = story.send(201)
    story.wait(1.0)
    story.come(call, GOOD)
    story.open()

    for row in range(100, 100 + hung):
        story.probe(row, TIMEOUT)

    assert story.route.probe_timeout() == 10.0 * 1024


@pytest.mark.parametrize(
    ("ever", "probes", "warned"),
    [
        (False, ["ping"], [True]),
        (False, ["good"], [True]),
        (False, ["row"], [False]),
        (False, ["row", "ping"], [False, False]),
        (True, ["ping"], [False]),
    ],
)
def test_silence_is_named_where_the_first_probe_is_a_check(
    ever: bool, probes: list[CallKind], warned: list[bool]
) -> None:
    """And where nothing was ever answered. A row may take too long by itself."""
    story = Story(ever=ever)
    story.open(TIMEOUT)

    told = ["Tell" in kinds(story.probe(100 if kind == "row" else 0, TIMEOUT, kind)) for kind in probes]

    assert told == warned


def test_silence_is_named_with_the_time_limit_and_how_long_it_is_borne() -> None:
    """The limit of the request that had no answer, and the one that the user may raise."""
    story = Story(ever=False, timeout=300.0)
    story.open(TIMEOUT)

    told = [decision for decision in story.probe(0, TIMEOUT, "ping") if isinstance(decision, Tell)]

    hint = (
        "is the address right, and is the server up? if it is only slow at first, raise --timeout (300 s); still trying"
    )
    message = "m has never answered, not even the smallest request within 60 s"
    assert told == [Tell("warning", message, f"{hint}, for 10 minutes at most")]


def test_the_row_that_confirms_an_outage_is_parked_like_those_before_it() -> None:
    """Four of them, where no check can be sent."""
    story = Story()
    story.open()
    began = story.now

    decisions = [story.probe(row, FAILED) for row in (100, 101, 102, 103)]

    closed, told = CircuitMoved("half_open", "open"), OutageConfirmed(began, "5 rows in a row failed: broken")
    assert decisions[:3] == [[closed, ParkUntil(row)] for row in (100, 101, 102)]
    assert decisions[3] == [closed, ParkUntil(103), told]


def test_waits_are_spread_by_what_they_are_for() -> None:
    """A row's by its number and its failures, a probe's by its turn."""
    story = Story()
    purposes: list[str] = []
    story.route._chance = lambda purpose: purposes.append(purpose) or 0.5  # type: ignore[func-returns-value]
    story.call(1, FAILED)
    story.call(1, FAILED)
    story.open()
    del purposes[2:]

    story.probe(100, FAILED)
    story.probe(101, FAILED)

    assert purposes == ["retry:1:1", "retry:1:2", "probe:1", "probe:2"]


# Openings.


def test_an_opening_for_a_lost_route_is_told_with_the_time_and_its_row_is_parked() -> None:
    """Ten minutes after the first row took too long."""
    story = Story(ever=False, can_check=True)
    story.call(1, TIMEOUT)
    story.wait(550.0)
    late = story.send(2)
    story.wait(60.0)

    assert story.come(late, TIMEOUT) == [
        CircuitMoved("closed", "open"),
        OutageConfirmed(story.now, "the last rows failed: no answer"),
        ParkUntil(2),
    ]


def test_few_rows_that_are_spent_open_the_circuit_where_other_tenants_fail_too() -> None:
    """Together they are as many as the threshold: the row is parked, and has not failed."""
    story = Story(failure_threshold=3)
    story.quiet()
    for _ in range(2):
        story.call(1, FAILED)
    story.route.judge_alone(story.now, 1)
    story.history.failing.update({50: FAILED, 51: FAILED})  # of another tenant

    assert story.call(1, FAILED) == [CircuitMoved("closed", "open"), ParkUntil(1)]
    assert story.route.reason == "the last rows failed: broken"


@pytest.mark.parametrize(("rows", "given_up"), [(3, True), (2, False)])
def test_as_many_rows_as_the_threshold_that_all_time_out_alone_blame_the_time_limit(rows: int, given_up: bool) -> None:
    """Of a tenant that was never answered; the row is parked then."""
    story = Story(failure_threshold=3)
    story.route.is_tenant = True
    story.open()
    story.wait(200.0)
    story.route.judge_parked(story.now, many=True)
    for row in list(story.route.evidence.records)[rows:]:
        story.route.forget(row)

    decisions = []
    for _ in range(30):
        for row in list(story.route.evidence.records):
            if story.route.is_closed and story.route.dead is None:
                decisions = story.call(row, TIMEOUT)

    assert (story.route.dead is not None) == given_up
    assert kinds(decisions) == (["GiveUpRoute", "ParkUntil"] if given_up else ["Fail"])
    if given_up:
        assert decisions[-1] == ParkUntil(1)


def test_rows_that_took_too_long_are_known_by_their_numbers() -> None:
    """One that does so again and again is one."""
    story = Story(ever=False, can_check=True)
    for row in (1, 1, 2):
        story.call(row, TIMEOUT)

    assert story.history.slow == {1, 2}


# Good answers.


def throttled_row() -> Story:
    """Row 50 was throttled, and a call that was sent later may show that others pass."""
    story = Story()
    large = story.send(50)
    story.send(51)
    assert kinds(story.come(large, THROTTLED)) == ["RetryAt"]
    return story


def test_a_success_that_takes_an_opening_back_proves_what_was_throttled() -> None:
    """The row is known since then to be throttled while others pass."""
    story = throttled_row()
    story.open()
    story.go_to_probe()

    assert "CircuitMoved" in kinds(story.probe(100, GOOD))

    assert story.route.evidence.records[50].throttled_at == story.now


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_late_success_proves_what_was_throttled(is_closed: bool) -> None:
    """It was sent before the circuit opened: after all calls that failed, or before some."""
    story = throttled_row()
    calls = [story.send(row) for row in range(1, 9)]
    good = calls.pop(-1 if is_closed else 0)
    for call in calls:
        story.come(call, FAILED)
    assert not story.route.is_closed
    story.wait(0.5)

    story.come(good, GOOD)

    assert story.route.is_closed is is_closed
    assert story.route.evidence.records[50].throttled_at == story.now


def test_failed_checks_of_before_a_good_row_do_not_count() -> None:
    """It takes as many as at first to open the circuit."""
    story = Story(can_check=True)
    for _ in range(2):
        story.call(1, FAILED)
    for _ in range(3):
        assert story.call(0, FAILED, "ping") == []
    story.call(2, GOOD)
    for _ in range(2):
        story.call(3, FAILED)

    assert story.route.checks.log_chance == 0.0
    assert [kinds(story.call(0, FAILED, "ping")) for _ in range(3)] == [[], [], []]


def test_a_row_that_probes_is_no_sample_of_the_error_rate() -> None:
    """Probes that fail do not count either."""
    story = Story()
    story.call(50, GOOD)
    story.open()

    story.probe(100, GOOD)

    assert story.route.evidence.rate.rows == 1


def test_a_finished_row_s_request_counts_in_the_rate_unless_it_probes() -> None:
    """With those that failed before it."""
    story = Story(can_check=True)
    story.call(0, FAILED, "good")
    story.call(0, GOOD, "good")
    before = story.route.evidence.rate.since(0, ())
    story.open()
    story.probe(0, GOOD, "good")

    assert (before.checks, before.failed) == (1, 1)
    assert story.route.evidence.rate.since(0, ()).checks == 1


# Tenants.


def test_a_key_is_refused_to_one_tenant_alone_if_another_was_answered_since() -> None:
    """By a call that was sent after the refusal, whichever answer comes last."""
    story, other = Story(), Story()
    other.history = other.route.history = story.history
    early = other.send(1)
    story.wait(5.0)
    other.wait(5.0)
    story.call(10, KEY_REFUSED)
    seen = [story.route.is_refused_alone]

    other.wait(5.0)
    other.call(2, GOOD)
    seen.append(story.route.is_refused_alone)
    other.come(early, GOOD)
    seen.append(story.route.is_refused_alone)

    assert seen == [False, True, True]


def test_a_key_that_was_refused_before_anything_was_answered_is_not_refused_alone() -> None:
    story, other = Story(ever=False), Story(ever=False)
    other.history = other.route.history = story.history
    early = other.send(1)
    story.wait(5.0)
    other.wait(5.0)
    first = story.send(10)
    story.send(11)
    story.come(first, KEY_REFUSED)
    assert not story.route.is_refused_alone

    other.come(early, GOOD)

    assert not story.route.is_refused_alone


def test_a_row_goes_again_no_earlier_than_it_was_asked_to_wait() -> None:
    """Its backoff is shorter."""
    assert Story().call(1, waiting(FAILED, 3.0)) == [RetryAt(1, 1003.0, "http_500")]
