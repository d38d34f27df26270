"""A route that asks to slow down, and a row that is too large for its limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from route_states import FAILED, GOOD, THROTTLED, Story, bound_to_two, kinds, waiting

from llmbatch.route.decisions import CircuitMoved, Fail, HoldForEvidence, ParkUntil, PauseRoute, RetryAt, Succeed


def test_throttling_pauses_the_route_where_nothing_in_flight_could_disprove_it() -> None:
    """As long as the provider named; the row goes again then, and the limit gives way."""
    story = Story()

    assert story.call(1, waiting(THROTTLED, 8.0)) == [
        PauseRoute(8.0, "http_429"),
        RetryAt(1, story.now + 8.0, "http_429"),
    ]
    assert story.route.throttle.not_before == story.now + 8.0
    assert story.route.limit.value == 9


def test_waits_that_nobody_named_grow_until_something_passes() -> None:
    """One second, two, four; at most a minute."""
    story = Story()
    waits = []
    for _ in range(3):
        pause = story.call(1, THROTTLED)[0]
        assert isinstance(pause, PauseRoute)
        waits.append(pause.seconds)
        story.wait(pause.seconds)
    assert waits == [1.0, 2.0, 4.0]

    story.call(1, GOOD)
    assert story.call(1, THROTTLED)[0] == PauseRoute(1.0, "http_429", is_named=False)


def test_throttling_is_no_outage() -> None:
    """However many rows meet it."""
    story = Story()

    for row in range(1, 40):
        story.call(row, THROTTLED)
        story.wait(100.0)

    assert story.route.is_closed


def test_throttling_says_nothing_of_the_route_s_health() -> None:
    """Its words are not kept."""
    story = Story()
    story.call(1, THROTTLED)

    assert story.route.recent.error == ""


def test_one_throttled_row_waits_alone_while_a_later_call_is_in_flight() -> None:
    """It may be too large; the route goes on."""
    story = Story(can_check=True)
    large = story.send(1)
    later = story.send(2)

    assert story.come(large, waiting(THROTTLED, 8.0)) == [HoldForEvidence(1)]
    assert story.route.takes_calls(story.now)
    assert story.route.limit.value == 10

    assert story.come(later, GOOD) == [Succeed(), RetryAt(1, story.now + 8.0, "http_429")]
    assert story.route.evidence.records[1].throttled


def test_a_throttled_health_check_that_a_later_row_disproved_paused_the_route() -> None:
    """What it was asked to wait holds no more, once a call that was sent after it has succeeded."""
    story = Story(can_check=True)
    check = story.send(0, "ping")
    later = story.send(1)
    story.come(later, GOOD)

    assert story.come(check, waiting(THROTTLED, 8.0)) == []
    assert story.route.takes_calls(story.now)
    assert story.route.limit.value == 9


def test_several_throttled_rows_slow_the_route_before_it_is_paused() -> None:
    """From the second on; as long as later calls may pass."""
    story = Story()
    calls = [story.send(row) for row in range(1, 11)]

    assert kinds(story.come(calls[0], THROTTLED)) == ["RetryAt"]
    assert story.route.limit.value == 10
    assert kinds(story.come(calls[1], THROTTLED)) == ["RetryAt"]

    assert story.route.limit.value == 9
    assert story.route.takes_calls(story.now)


def test_a_throttled_row_fails_by_the_same_law_while_others_pass() -> None:
    """It is too large for the limit, and says so."""
    story = Story()
    decisions = []
    for _ in range(3):
        large, later = story.send(1), story.send(100)
        decisions.append(story.come(large, THROTTLED))
        story.quiet()
        decisions.append(story.come(later, GOOD))
        story.wait(100.0)

    (end,) = [decision for some in decisions for decision in some if isinstance(decision, Fail)]
    assert end.row == 1
    assert end.outcome.code == "request_too_large"
    assert (
        end.outcome.message
        == "throttled again and again while other rows passed: larger than the route's limit? (slow down)"
    )
    assert story.route.takes_calls(story.now)


def test_a_row_is_not_too_large_before_a_limit_per_minute_may_have_room_for_it() -> None:
    """However often it was refused: the last attempt comes as that minute is over, though the backoff is longer."""
    story = Story()
    story.quiet()
    began, attempts = story.now, 0
    while story.now < began + 100.0:
        large, later = story.send(1), story.send(100)
        decisions = [*story.come(large, THROTTLED), *story.come(later, GOOD)]
        attempts += 1
        if any(isinstance(decision, Fail) for decision in decisions):
            break
        story.now = max(decision.at for decision in decisions if isinstance(decision, RetryAt))

    assert story.now == pytest.approx(began + 61.0, abs=0.01)
    assert 3 < attempts < 12


def test_a_row_that_is_too_large_no_longer_sets_the_pace() -> None:
    """Even where nothing else is in flight."""
    story = Story()
    large, later = story.send(1), story.send(100)
    story.come(large, THROTTLED)
    story.come(later, GOOD)

    assert kinds(story.call(1, THROTTLED)) == ["RetryAt"]
    assert story.route.takes_calls(story.now)
    assert story.route.limit.value == 10


def test_a_route_that_is_throttled_as_a_whole_blames_no_row() -> None:
    """What was held for it goes again after the wait."""
    story = Story(can_check=True)
    calls = [story.send(row) for row in (1, 2, 3)]
    assert story.come(calls[0], THROTTLED) == [HoldForEvidence(1)]
    story.come(calls[2], FAILED)

    decisions = story.come(calls[1], waiting(THROTTLED, 5.0))

    assert decisions == [
        PauseRoute(5.0, "http_429"),
        RetryAt(1, story.now + 5.0, "http_429"),
        RetryAt(2, story.now + 5.0, "http_429"),
    ]
    assert list(story.route.evidence.records) == [3]


def test_a_row_that_was_throttled_alone_is_remembered() -> None:
    """If later calls pass, it was its own."""
    story = Story()
    story.call(1, THROTTLED)
    assert story.route.evidence.records[1].pending == [1]

    story.wait(10.0)
    story.call(2, GOOD)

    assert story.route.evidence.records[1].throttled


def test_two_throttled_calls_with_a_passed_health_check_between_them_are_two_single_ones() -> None:
    """The wait that the second was asked for is its own while a call that was sent later is in flight."""
    story = Story(can_check=True)
    first = story.send(1)
    check = story.send(0, "ping")
    story.come(first, THROTTLED)
    story.come(check, GOOD)
    second = story.send(2)
    story.send(1)

    assert "PauseRoute" not in kinds(story.come(second, waiting(THROTTLED, 83.0)))
    assert story.route.takes_calls(story.now)


def test_two_calls_confirm_a_wait_for_the_route() -> None:
    """The shorter of what they named, though others are in flight; the row waits for its own."""
    story = Story()
    calls = [story.send(row) for row in range(1, 6)]
    waits = [30.0, 20.0, 40.0]
    decisions = [story.come(call, waiting(THROTTLED, wait)) for call, wait in zip(calls, waits, strict=False)]

    assert kinds(decisions[0]) == kinds(decisions[1]) == ["RetryAt"]
    assert decisions[2] == [PauseRoute(30.0, "http_429"), RetryAt(3, story.now + 40.0, "http_429")]


def test_two_failures_that_name_a_wait_pause_the_route_where_chance_hardly_explains_them() -> None:
    """A 503 with ``Retry-After`` from one bad backend does not."""
    story = Story()
    for row in range(100, 120):
        story.call(row, GOOD)

    assert kinds(story.call(1, waiting(FAILED, 3600.0))) == ["RetryAt"]
    assert story.route.takes_calls(story.now)
    assert story.call(2, waiting(FAILED, 40.0)) == [PauseRoute(40.0, ""), RetryAt(2, story.now + 40.0, "http_500")]


def test_rows_that_are_judged_alone_obey_a_wait_that_two_of_them_named() -> None:
    """Nothing tells whether it is chance. Each went again after its own wait, while the others asked for longer."""
    story = Story()
    asks = [waiting(FAILED, 30.0), waiting(FAILED, 60.0)]
    for row in (1, 2):
        story.call(row, FAILED)
    story.wait(10.0)
    for record in story.route.evidence.records.values():
        record.held = True
    assert kinds(story.route.judge_alone(story.now, 2)) == ["RetryAt", "RetryAt"]

    decisions = [kinds(story.call(row, outcome)) for row, outcome in enumerate(asks, 1)]

    assert decisions == [["RetryAt"], ["PauseRoute", "RetryAt"]]
    assert story.route.throttle.not_before == story.now + 30.0


def test_waits_of_failures_between_good_answers_are_the_rows_own() -> None:
    """What a later call passes was not meant for the route."""
    story = Story()

    for row in range(1, 10):
        assert kinds(story.call(row, waiting(FAILED, 3600.0)))[0] == "RetryAt"
        story.call(row + 100, GOOD)

    assert story.route.takes_calls(story.now)


def test_a_wait_is_told_once() -> None:
    """Another call that names the same is no news; its row waits too."""
    story = Story()
    first, second, third, fourth = (story.send(row) for row in range(1, 5))
    story.come(fourth, waiting(THROTTLED, 8.0))
    assert PauseRoute(8.0, "http_429") in story.come(third, waiting(THROTTLED, 8.0))

    decisions = [story.come(second, waiting(THROTTLED, 8.0)), story.come(first, waiting(THROTTLED, 8.0))]

    assert decisions == [[RetryAt(2, story.now + 8.0, "http_429")], [RetryAt(1, story.now + 8.0, "http_429")]]


def test_the_least_wait_of_an_answer_is_kept() -> None:
    """Where the provider named less."""
    story = Story()

    assert story.call(1, replace(waiting(THROTTLED, 1.0), min_backoff=5.0))[0] == PauseRoute(
        5.0, "http_429", is_named=False
    )


def test_a_wait_of_no_time_pauses_nothing() -> None:
    """``Retry-After: 0``."""
    story = Story()

    assert story.call(1, waiting(THROTTLED, 0.0)) == [RetryAt(1, story.now, "http_429")]
    assert story.route.takes_calls(story.now)


def test_a_throttled_check_pauses_the_route() -> None:
    """No row is concerned."""
    assert kinds(Story().call(0, waiting(THROTTLED, 5.0), "ping")) == ["PauseRoute"]


def test_a_throttled_call_of_before_an_opening_is_parked() -> None:
    """Alone or with the route."""
    story = Story()
    first, second = story.send(101), story.send(102)
    late = story.send(103)
    story.open()

    assert story.come(first, THROTTLED) == [ParkUntil(101)]
    assert story.come(late, THROTTLED)[-1] == ParkUntil(103)
    assert story.come(second, THROTTLED)[-1] == ParkUntil(102)


def test_a_throttled_probe_holds_the_circuit_as_long_as_it_named() -> None:
    """Its row is parked, and nothing counts against it."""
    story = Story()
    story.open()

    decisions = story.probe(100, waiting(THROTTLED, 90.0))

    assert decisions == [CircuitMoved("half_open", "open"), PauseRoute(90.0, "http_429"), ParkUntil(100)]
    assert 100 not in story.route.evidence.records
    assert story.route.circuit.until == story.now + 90.0


def test_a_route_that_is_throttled_for_too_long_is_given_up() -> None:
    """Beyond the longest wait of the run; it takes nothing any more."""
    story = Story(max_throttled=100.0)
    story.call(1, waiting(THROTTLED, 60.0))
    assert [story.route.throttle.given_up] == [False]
    story.wait(60.0)
    story.call(1, waiting(THROTTLED, 39.9))
    assert [story.route.throttle.given_up] == [False]
    story.wait(39.9)

    story.call(1, waiting(THROTTLED, 0.1))

    assert story.route.throttle.given_up
    assert not story.route.takes_calls(story.now + 1000.0)
    assert story.route.next_change(story.now) is None
    assert not story.route.is_idle(story.now + 1000.0)


def test_a_wait_that_a_failure_named_never_gives_a_route_up() -> None:
    """Only throttling does, since it began."""
    story = Story(max_throttled=10.0)
    story.call(1, waiting(FAILED, 500.0))
    story.call(2, waiting(FAILED, 500.0))

    assert story.route.throttle.not_before == story.now + 500.0
    assert not story.route.throttle.given_up


def test_a_check_after_a_wait_is_the_first_call_of_the_ramp() -> None:
    """It counted as carried already: four calls went at once when it passed."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    story.route.throttle.pause(story.now + 1.0)
    story.wait(1.0)

    check = story.send(0, "ping")
    assert story.route.room(story.now) == 1
    story.come(check, GOOD)

    assert story.route.room(story.now) == 3


def test_a_wait_that_a_later_call_has_disproved_already_is_its_row_s() -> None:
    """The answer came late: with one more it paused the route as if two calls had named it."""
    story = Story()
    early = [story.send(row) for row in (1, 2)]
    story.call(3, GOOD)
    late = [story.send(row) for row in (4, 5)]

    story.come(early[0], waiting(THROTTLED, 60.0))
    story.come(early[1], waiting(THROTTLED, 60.0))

    assert story.route.throttle.not_before < story.now
    assert story.route.throttle.since is None
    for call in late:
        assert kinds(story.come(call, GOOD)) == ["Succeed"]


def throttled_alone(*, others: int = 0) -> Story:
    """A tenant whose last row has been throttled for three minutes."""
    story = Story()
    for number in range(others):
        story.history.throttled[100 + number] = "another tenant"
    story.call(1, THROTTLED)
    story.wait(180.0)
    return story


def test_a_row_that_is_throttled_alone_is_judged_by_its_own_attempts() -> None:
    """Nothing but throttling came for three minutes, and no other request can be asked."""
    story = throttled_alone()

    assert kinds(story.route.judge_throttled(story.now, 1)) == ["RetryAt"]

    for _ in range(30):
        story.wait(120.0)
        decisions = story.call(1, THROTTLED)
        if kinds(decisions) == ["Fail"]:
            break
    assert kinds(decisions) == ["Fail"]
    assert not story.history.throttled


def test_a_row_in_flight_is_neither_resent_nor_ended_where_rows_are_judged_alone() -> None:
    """Its answer decides: that it was throttled for three minutes counts, and so may be its last failure."""
    story = throttled_alone()
    again = story.send(1)

    assert story.route.judge_throttled(story.now, 1) == []
    assert kinds(story.come(again, THROTTLED)) == ["RetryAt"]
    assert story.route.evidence.records[1].sent_alone


def test_rows_that_are_throttled_are_not_judged_while_they_may_be_the_route_s() -> None:
    """Too soon, beside other rows, or as many as open a circuit over all tenants."""
    story = throttled_alone()
    assert story.route.judge_throttled(story.now - 1.0, 1) == []
    assert story.route.judge_throttled(story.now, 2) == []

    crowd = throttled_alone(others=4)
    assert crowd.route.judge_throttled(crowd.now, 1) == []


def test_a_route_that_is_not_throttled_has_no_row_that_is_throttled_alone() -> None:
    story = Story()
    story.call(1, FAILED)

    assert story.route.judge_throttled(story.now, 1) == []


def test_a_success_of_its_tenant_shows_that_no_row_is_throttled_alone() -> None:
    """Another tenant's rows stay counted."""
    story = throttled_alone(others=1)

    story.call(2, GOOD)

    assert list(story.history.throttled) == [100]


def test_throttling_that_is_no_answer_is_given_up_where_nothing_was_ever_answered() -> None:
    """A function's exception, judged so. Of a long wait one minute counts, however many calls name it."""
    story = Story(ever=False)
    own = replace(THROTTLED, status=None)
    calls = [story.send(row) for row in range(1, 6)]
    for call in calls:
        story.come(call, waiting(own, 3600.0))

    assert story.route.recent.error == "slow down"
    assert story.route.lost_at == story.now + 600.0 + 3540.0

    story.now += 3600.0
    story.call(1, own)
    assert story.route.lost_at == story.now + 540.0

    story.call(2, THROTTLED)
    assert story.route.lost_at == math.inf


def test_a_quick_refusal_does_not_stop_the_others_before_one_more_call_is_sent() -> None:
    """Providers refuse within milliseconds, before the next call is sent: each large row stopped all for 8 s."""
    story = Story(can_check=True)
    story.send(1)
    story.send(2)

    assert story.call(3, waiting(THROTTLED, 8.0)) == [HoldForEvidence(3)]
    assert story.route.takes_calls(story.now)

    assert PauseRoute(8.0, "http_429") in story.call(4, waiting(THROTTLED, 8.0)), "the next one is refused too"


def test_a_quick_refusal_stops_the_route_where_no_new_row_is_in_flight() -> None:
    """What has failed before may be too large as well: its answer would tell nothing."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    story.call(2, GOOD)
    story.send(1)

    assert PauseRoute(8.0, "http_429") in story.call(3, waiting(THROTTLED, 8.0))


def test_refusals_beside_calls_sent_before_them_stop_the_route_as_soon_as_others() -> None:
    """Forty answers that are on their way say nothing about a limit that was reached just now."""
    story = Story(can_check=True, concurrency=50)
    for row in range(1, 41):
        story.send(row)

    story.call(41, waiting(THROTTLED, 8.0))

    assert PauseRoute(8.0, "http_429") in story.call(42, waiting(THROTTLED, 8.0))


def test_a_row_that_is_refused_beside_more_than_the_route_takes_is_sent_again_and_nothing_else() -> None:
    """A first refusal has shown that the route takes two at once; that a third is refused again says nothing new."""
    story = bound_to_two()
    row = 10
    for _ in range(100):
        story.wait(1.0)
        for call in [story.send(row), story.send(row + 1)]:
            story.come(call, GOOD)
        row += 2
        if story.route.limit.value > 2:
            break
    story.call(3, GOOD)  # it was refused before, which is over
    before = repr(story.route.throttle)

    beside = [story.send(row), story.send(row + 1)]
    decisions = story.come(story.send(row + 2), THROTTLED)

    assert decisions == [RetryAt(row + 2, story.now + 1.0, "http_429")]
    assert story.route.evidence.records == {}
    assert repr(story.route.throttle) == before
    assert story.route.limit.value == 2
    assert [kinds(story.come(call, GOOD)) for call in beside] == [["Succeed"], ["Succeed"]]


def test_waits_that_two_refused_trials_name_are_the_route_s_all_the_same() -> None:
    """With no success in between: the provider says when to come again."""
    story = bound_to_two()
    beside = [story.send(row) for row in (10, 11, 12, 13)]

    assert story.come(beside[2], waiting(THROTTLED, 8.0)) == [RetryAt(12, story.now + 8.0, "http_429")]
    assert PauseRoute(8.0, "http_429") in story.come(beside[3], waiting(THROTTLED, 8.0))
