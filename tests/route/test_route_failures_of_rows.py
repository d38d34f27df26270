"""What becomes of a row whose call failed, and when its failures count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from route_states import (
    BAD_ROW,
    FAILED,
    GOOD,
    NO_HANDLES,
    NO_NETWORK,
    OVERLOADED,
    RAISED,
    REFUSED,
    THROTTLED,
    TIMEOUT,
    TRY_AGAIN,
    Story,
    kinds,
    waiting,
)

from llmbatch.core.calls import Outcome, Scope
from llmbatch.route.decisions import Fail, HoldForEvidence, RetryAt, Succeed


def test_a_success_ends_its_row() -> None:
    """The ordinary case: one decision."""
    story = Story()

    assert story.call(1, GOOD) == [Succeed()]
    assert not story.route.evidence.records


def test_a_failed_row_goes_again_after_its_backoff() -> None:
    """One second the first time; where no other request can tell whether the route works, it does so itself."""
    story = Story(can_check=False)

    assert story.call(1, FAILED) == [RetryAt(1, story.now + 1.0, "http_500")]


def test_a_failed_row_is_held_where_another_request_can_tell() -> None:
    """And goes again after its backoff, once that one has passed."""
    story = Story(can_check=True)
    failed_at = story.now

    assert story.call(1, FAILED) == [HoldForEvidence(1)]
    assert story.route.evidence.records[1].held
    assert story.call(2, GOOD) == [Succeed(), RetryAt(1, failed_at + 1.0, "http_500")]
    assert not story.route.evidence.records[1].held


def test_a_row_whose_backoff_is_over_goes_at_once() -> None:
    """No retry is planned for the past."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    story.wait(10.0)

    assert story.call(2, GOOD)[1:] == [RetryAt(1, story.now, "http_500")]


def test_a_second_unproven_failure_is_held_even_where_nothing_else_can_tell() -> None:
    """A third would teach nothing."""
    story = Story(can_check=False)
    story.call(1, FAILED)

    assert story.call(1, FAILED) == [HoldForEvidence(1)]


def test_a_row_fails_after_three_proven_failures() -> None:
    """Where errors are rare; the last answer is its result, and nothing is kept of it."""
    story = Story()
    for _ in range(2):
        story.call(1, FAILED)
        story.call(100, GOOD)
    story.quiet()

    story.call(1, TIMEOUT)
    assert story.route.explain(1) == "failed 2 of 3 while 0.0% of other attempts failed, 1 more not proven yet"
    decisions = story.call(101, GOOD)
    assert decisions == [Succeed(), Fail(1, TIMEOUT)]
    assert isinstance(decisions[1], Fail)
    assert decisions[1].why == "failed 3 of 3 while 0.0% of other attempts failed"
    assert story.route.explain(1) == ""


def test_a_failure_that_is_proven_when_it_comes_back_may_end_its_row() -> None:
    """No other answer is waited for."""
    story = Story()
    for _ in range(2):
        story.call(1, FAILED)
        story.call(100, GOOD)
    story.quiet()
    late = story.send(1)
    story.call(101, GOOD)

    assert story.come(late, FAILED) == [Fail(1, FAILED)]


def test_a_row_in_flight_is_judged_when_it_comes_back() -> None:
    """Not by the proof of what it met before."""
    story = Story(max_attempts=1)
    for _ in range(2):
        story.call(1, FAILED)
        story.call(100, GOOD)
    story.call(1, FAILED)
    again = story.send(1)

    assert story.call(101, GOOD) == [Succeed()]
    assert story.come(again, GOOD) == [Succeed()]


def test_a_row_that_passes_after_failures_raises_the_error_rate() -> None:
    """Two failed of three attempts, and two more good ones."""
    story = Story()
    for _ in range(2):
        story.call(1, FAILED)
        story.call(100, GOOD)
    story.call(1, GOOD)

    assert story.route.explain() == "40.0% of attempts of good rows fail"


def test_a_row_waits_as_long_as_its_answer_asked() -> None:
    """The provider's wait, or the least one for such an answer; the backoff if that is longer."""
    story = Story()

    assert story.call(1, waiting(FAILED, 90.0)) == [RetryAt(1, story.now + 90.0, "http_500")]
    assert story.call(2, replace(FAILED, min_backoff=7.0)) == [RetryAt(2, story.now + 7.0, "http_500")]
    story.call(100, GOOD)
    assert story.call(3, waiting(FAILED, 0.1)) == [RetryAt(3, story.now + 1.0, "http_500")]


def test_failures_of_a_row_while_others_pass_do_not_speak_against_the_route() -> None:
    """Once one is proven, it does not count among those in a row."""
    story = Story()
    story.call(1, FAILED)
    story.call(100, GOOD)

    story.call(1, FAILED)

    assert not story.route.window.rows


def test_a_late_failure_is_one_of_the_usual_ones() -> None:
    """A call that a later one overtook has failed by chance: it raises the usual rate, and opens nothing."""
    story = Story()
    story.quiet()
    late = story.send(1)
    story.call(2, GOOD)
    usual = story.route._usual.value

    story.come(late, FAILED)

    assert story.route._usual.value > usual
    assert not story.route.window.rows


def test_failures_that_a_good_answer_explains_are_usual() -> None:
    """What was suspected of an outage was chance."""
    story = Story()
    story.each([1, 2, 3], FAILED)
    usual = story.route._usual.value

    story.call(4, GOOD)

    assert story.route._usual.value > usual


def test_a_check_that_passes_proves_what_failed_before() -> None:
    """A finished row's request is as good as a row."""
    story = Story(can_check=True)
    story.call(1, FAILED)

    assert kinds(story.call(0, GOOD, "good")) == ["RetryAt"]
    assert story.route.evidence.records[1].proven == 1


def test_more_rows_fail_together_than_the_smallest_request_vouches_for() -> None:
    """Then it says nothing about them, and they are deferred like the rows of an outage."""
    story = Story(can_check=True)
    for row in (1, 2, 3, 4):
        assert kinds(story.call(row, FAILED)) == ["HoldForEvidence"]
        assert kinds(story.call(0, GOOD, "ping")) == ["RetryAt"]
        assert story.route.evidence.records[row].proven == 1
    story.call(5, FAILED)

    assert kinds(story.call(0, GOOD, "ping")) == ["CircuitMoved"]

    assert story.route.trust.pings == 1
    assert story.route.evidence.records[5].proven == 0
    assert story.route.reason == "the last rows failed: broken"


def test_the_smallest_request_does_not_vouch_for_rows_in_flight() -> None:
    """They may be many; without an answer to any row, and all too slow, the time limit is too short."""
    story = Story(ever=False, can_check=True)
    calls = [story.send(row) for row in range(1, 9)]

    assert kinds(story.come(calls[0], TIMEOUT)) == ["HoldForEvidence"]
    assert kinds(story.call(0, GOOD, "ping")) == ["RetryAt"]
    assert [kinds(story.come(call, TIMEOUT)) for call in calls[1:5]] == [["HoldForEvidence"]] * 4
    named = story.call(0, GOOD, "ping")

    assert kinds(named) == ["GiveUpRoute"]
    assert story.route.dead is not None
    assert "answers take longer than --timeout" in story.route.dead.message


def test_a_good_row_renews_the_trust_in_the_smallest_request() -> None:
    """Others may be vouched for from then on."""
    story = Story(can_check=True)
    for row in (1, 2, 3, 4):
        story.call(row, FAILED)
        story.call(0, GOOD, "ping")
    assert len(story.route.trust.proven_by_ping) == 4

    story.call(100, GOOD)

    assert not story.route.trust.proven_by_ping


def test_a_refusal_of_the_row_s_content_ends_it_at_once() -> None:
    """No further evidence is needed, and nothing is said about the route."""
    story = Story()

    assert story.call(1, BAD_ROW) == [Fail(1, BAD_ROW)]
    assert not story.route.window.rows
    assert not story.route.evidence.records


def test_a_refusal_is_judged_like_a_failure() -> None:
    """It counts after a later success, and speaks against the route until then."""
    story = Story()

    assert story.call(1, REFUSED) == [RetryAt(1, story.now + 1.0, "http_400")]
    assert list(story.route.window.rows) == [1]
    story.call(2, GOOD)
    assert story.route.evidence.records[1].proven == 1


def test_a_function_that_raises_is_the_row_s_own_fault() -> None:
    """No other row has to pass for it to count, and the route is not suspected."""
    story = Story()

    assert kinds(story.call(1, RAISED)) == ["RetryAt"]
    assert kinds(story.call(1, RAISED)) == ["RetryAt"]
    story.quiet()
    assert story.call(1, RAISED) == [Fail(1, RAISED)]
    assert not story.route.window.rows


def test_a_row_s_own_fault_counts_what_it_met_before_as_one() -> None:
    """As a later success would have."""
    story = Story()
    story.call(1, FAILED)

    story.call(1, RAISED)

    record = story.route.evidence.records[1]
    assert (record.proven, record.pending) == (1, [])
    assert not story.route.evidence.unproven


def test_a_refusal_that_asks_to_be_tried_again_waits_for_proof() -> None:
    """But does not speak against the route."""
    story = Story()

    assert kinds(story.call(1, TRY_AGAIN)) == ["RetryAt"]
    assert story.route.evidence.records[1].pending == [1]
    assert not story.route.window.rows


@pytest.mark.parametrize("outcome", [NO_HANDLES, NO_NETWORK])
def test_a_fault_of_this_machine_blames_nobody(outcome: Outcome) -> None:
    """The row goes again at once, as far as the route is concerned, and traffic ramps up."""
    story = Story()

    assert story.call(1, outcome) == [RetryAt(1, story.now, outcome.code)]

    assert not story.route.evidence.records
    assert not story.route.window.rows
    assert story.route.throttle.ramp_due


@pytest.mark.parametrize("scope", ["machine", "row"])
def test_a_row_that_waits_by_itself_for_this_machine_slows_nothing_down(scope: Scope) -> None:
    """Whether it is known already that it is this row that fails, or not yet."""
    story = Story()

    told = story.call(1, replace(NO_HANDLES, scope=scope, min_backoff=4.0))

    assert told == [RetryAt(1, story.now + 4.0, NO_HANDLES.code)]
    assert story.route.limit.value == 10
    assert not story.route.throttle.ramp_due
    assert not story.route.evidence.records


def test_too_few_handles_mean_fewer_calls_and_no_network_does_not() -> None:
    """A tenth fewer at least, until it turns out that more will do."""
    few, cut_off = Story(), Story()

    few.call(1, NO_HANDLES)
    cut_off.call(1, NO_NETWORK)

    assert few.route.limit.value == 9
    assert cut_off.route.limit.value == 10


def test_a_fault_of_this_machine_in_a_check_concerns_no_row() -> None:
    """Nothing is decided."""
    assert Story().call(0, NO_NETWORK, "ping") == []


def test_overload_lowers_the_limit() -> None:
    """Answers that name a least wait are about load: less is tried, where they are more than a few."""
    story = Story(failure_threshold=1000, concurrency=40)
    limits = set()
    for _ in range(10):
        calls = [story.send(row) for row in range(1, 41)]
        for call in calls:
            story.come(call, GOOD if call.row % 2 else OVERLOADED)
            limits.add(story.route.limit.value)

    assert min(limits) < 40


def test_the_last_message_is_that_of_an_answer_that_was_not_good() -> None:
    """Or its code; throttling says nothing about the route."""
    story = Story()
    story.call(1, FAILED)
    story.call(2, THROTTLED)
    assert story.route.recent.error == "broken"

    story.call(3, replace(FAILED, message=""))
    assert story.route.recent.error == "http_500"


def test_one_good_answer_judges_every_row_that_failed_before_it() -> None:
    """Each has its decision."""
    story = Story(can_check=True)
    story.each([1, 2, 3], FAILED)

    decisions = story.call(4, GOOD)

    assert [decision.row for decision in decisions if isinstance(decision, RetryAt)] == [1, 2, 3]


def test_the_usual_rate_counts_failures_of_fresh_rows_once_each() -> None:
    """One in a hundred of ten calls is assumed; three that a good answer proves, that one, and one that was late."""
    story = Story()
    late = story.send(9)
    story.each([1, 2, 3], FAILED)
    story.call(4, GOOD)
    assert story.route._usual.value == pytest.approx((0.1 + 3) / (10 + 3 + 1))

    story.come(late, FAILED)

    assert story.route._usual.value == pytest.approx((0.1 + 4) / (10 + 3 + 2))


def test_a_failure_of_a_row_that_has_ended_since_is_usual_too() -> None:
    """Its content was refused in the end; the good answer shows that what it met at first was chance."""
    story = Story()
    story.call(1, FAILED)
    story.call(1, BAD_ROW)

    story.call(2, GOOD)

    assert story.route._usual.value == pytest.approx((0.1 + 1) / (10 + 1 + 1))


@pytest.mark.parametrize(("is_out", "last"), [(True, "RetryAt"), (False, "Fail")])
def test_a_row_is_judged_by_the_errors_before_the_oldest_call_in_flight(is_out: bool, last: str) -> None:
    """Every second call failed when it was sent. The hundreds that have passed since say nothing of that time."""
    story = Story()
    for row in range(1, 321):
        story.call(row, FAILED)
        story.call(row, GOOD)
    oldest = story.send(1000)
    story.quiet(400)
    if not is_out:
        story.come(oldest, GOOD)

    story.call(1001, FAILED)
    story.call(1002, GOOD)
    story.call(1001, FAILED)
    story.call(1003, GOOD)
    late = story.send(1001)
    story.call(1004, GOOD)

    assert kinds(story.come(late, FAILED)) == [last]


def test_each_draw_of_chance_has_a_purpose_of_its_own() -> None:
    """So that a run is repeated exactly, and rows do not wait alike."""
    purposes: list[str] = []
    story = Story()
    story.route._chance = lambda purpose: purposes.append(purpose) or 0.5  # type: ignore[func-returns-value]

    story.call(7, FAILED)
    story.call(7, FAILED)
    story.call(8, THROTTLED)

    assert purposes == ["retry:7:1", "retry:7:2", "throttle:3"]
