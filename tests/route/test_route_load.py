"""What a route's limit learns from its calls: how long answers take, time-outs and overload, and calls of before."""

from __future__ import annotations

import pytest
from route_states import FAILED, GOOD, OVERLOADED, THROTTLED, TIMEOUT, Story

from llmbatch.core.calls import Outcome
from llmbatch.route.calls import Call, CallKind

FIRST = 8
"""Requests in flight with which a search begins."""


def searching() -> Story:
    """A route whose limit is searched for, up to 64."""
    return Story(concurrency=64, is_auto=True)


def round_trip(story: Story, seconds: float = 2.0) -> None:
    """As many rows as the limit allows are sent together, and come back together."""
    calls = [story.send(1000 + number) for number in range(story.route.limit.value)]
    story.wait(seconds)
    for call in calls:
        story.come(call, GOOD)


def learned(story: Story) -> Story:
    """Answers take as long whatever the load: the limit has gone up to the highest."""
    for _ in range(60):
        round_trip(story)
    assert story.route.limit.value == 64
    return story


def ramped(story: Story) -> int:
    """The limit up to which a ramp goes, by answers that take no time."""
    for number in range(200):
        story.call(2000 + number, GOOD)
    return story.route.limit.value


def late_calls(story: Story) -> list[Call]:
    """Many, sent together, that take long."""
    return [story.send(3000 + number) for number in range(100)]


def open_beside(story: Story) -> None:
    """So many rows fail that the circuit opens, though a hundred others are in flight."""
    for row in range(1, 40):
        if story.route.is_closed:
            story.call(row, FAILED)
    assert not story.route.is_closed


def test_the_limit_goes_up_while_answers_take_no_longer() -> None:
    learned(searching())


def test_the_limit_stays_where_more_requests_only_wait_longer() -> None:
    """Twice as many take twice as long."""
    story = searching()
    for _ in range(60):
        round_trip(story, seconds=story.route.limit.value / 8)

    assert story.route.limit.value < 16


@pytest.mark.parametrize(("silence", "limit"), [(0.0, 18), (1000.0, 16)])
def test_what_was_measured_over_a_long_silence_does_not_raise_the_limit(silence: float, limit: int) -> None:
    """The load was not steady: as many answers raise it without one."""
    story = searching()
    for _ in range(6):
        round_trip(story)
    story.wait(silence)
    for _ in range(3):
        round_trip(story)

    assert story.route.limit.value == limit


def test_calls_that_were_sent_at_a_lower_limit_do_not_raise_it_twice() -> None:
    """They tell nothing about the higher one, however long they take."""
    story = searching()
    calls = late_calls(story)
    for first in (0, 40, 80):
        story.wait(5.0)
        for call in calls[first : first + 40]:
            story.come(call, GOOD)

    assert story.route.limit.value == 2 * FIRST


@pytest.mark.parametrize(
    ("is_auto", "outcome", "kind", "limit"),
    [
        (True, FAILED, "row", 7),
        (True, TIMEOUT, "row", 6),
        (True, TIMEOUT, "ping", 7),
        (True, OVERLOADED, "row", 6),
        (True, OVERLOADED, "ping", 6),
        (False, FAILED, "row", 7),
        (False, TIMEOUT, "row", 7),
        (False, OVERLOADED, "row", 6),
    ],
)
def test_overload_lowers_the_limit_further_once_calls_are_throttled(
    is_auto: bool, outcome: Outcome, kind: CallKind, limit: int
) -> None:
    """A row that takes too long counts as overload while the limit is searched for. Other failures say nothing."""
    story = Story(concurrency=8, is_auto=is_auto)
    for _ in range(4):
        story.call(1 if kind == "row" else 0, outcome, kind)

    story.call(2, THROTTLED)

    assert story.route.limit.value == limit


@pytest.mark.parametrize("outcome", [OVERLOADED, TIMEOUT])
def test_failed_probes_are_no_overload(outcome: Outcome) -> None:
    """Nothing else was in flight."""
    story = Story(concurrency=16)
    story.open()
    for row in range(100, 104):
        story.probe(row, outcome)
    story.probe(200, GOOD)
    before = story.route.limit.value

    story.call(2, THROTTLED)

    assert story.route.limit.value == int(0.9 * before)


@pytest.mark.parametrize(("seconds", "limit"), [(40.0, 4), (1.0, 8)])
def test_time_outs_lower_a_chosen_limit_where_good_answers_take_long_too(seconds: float, limit: int) -> None:
    """A server whose line is too long answers late; where answers come at once, some rows take too long."""
    story = Story(concurrency=8)
    first = story.send(2)
    story.wait(seconds)
    story.come(first, GOOD)
    calls = [story.send(1) for _ in range(60)]

    for call in calls[:40]:
        story.come(call, TIMEOUT)

    assert story.route.limit.value == limit


def test_time_outs_try_a_lower_limit_by_the_calls_that_are_sent_at_it() -> None:
    """Half as many after twenty time-outs; those that were sent before do not count any more."""
    story = Story(concurrency=8, is_auto=True)
    calls = [story.send(1) for _ in range(60)]
    for call in calls[:20]:
        story.come(call, TIMEOUT)
    assert story.route.limit.value == 4

    for call in calls[20:40]:
        story.come(call, TIMEOUT)
    for call in calls[40:]:
        story.come(call, GOOD)
    assert story.route.limit.value == 4


@pytest.mark.parametrize("kind", ["ping", "good"])
def test_a_check_that_passes_tells_whether_a_lower_limit_helps(kind: CallKind) -> None:
    """Twenty answers at it are enough: then it grows again."""
    story = Story(concurrency=8, can_check=True)
    for _ in range(20):
        story.call(1, OVERLOADED)

    limits = []
    for _ in range(25):
        limits.append(story.route.limit.value)
        story.call(0, GOOD, kind)

    assert limits == [4] * 24 + [5]


def test_calls_of_before_a_higher_ceiling_tell_nothing_about_the_load_below_it() -> None:
    """They were sent at another load: a hundred of them do not raise the limit."""
    story = Story(concurrency=16, is_auto=True)
    for _ in range(60):
        round_trip(story)
    assert story.route.limit.value == 16
    late = late_calls(story)
    story.wait(2.0)
    story.route.change_concurrency(64)

    for call in late:
        story.come(call, GOOD)

    assert story.route.limit.value == 16
    for _ in range(60):
        round_trip(story)
    assert story.route.limit.value == 64


# After an opening.


def recover(story: Story, *, is_elsewhere: bool) -> None:
    """A probe passes, here or in another process."""
    if is_elsewhere:
        story.route.recovered_elsewhere(story.now)
    else:
        story.probe(100, GOOD)
    assert story.route.is_closed


@pytest.mark.parametrize("is_elsewhere", [True, False])
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_an_opening_by_failures_leaves_what_was_learned_of_the_load(is_confirmed: bool, is_elsewhere: bool) -> None:
    story = learned(searching())
    open_beside(story)
    if is_confirmed:
        story.confirm()

    recover(story, is_elsewhere=is_elsewhere)

    assert story.route.limit.value < 64
    assert ramped(story) == 64


def test_an_outage_by_time_outs_asks_anew_how_many_requests_the_route_takes() -> None:
    """The server may be another one; the search begins again."""
    story = learned(searching())
    story.open(TIMEOUT)
    for row in range(100, 112):
        story.probe(row, TIMEOUT)
    assert story.route.is_confirmed

    story.probe(200, GOOD)

    assert ramped(story) == FIRST


def test_an_opening_by_time_outs_that_was_a_mistake_leaves_what_was_learned() -> None:
    story = learned(searching())
    story.open(TIMEOUT)

    story.probe(200, GOOD)

    assert ramped(story) == 64


@pytest.mark.parametrize("is_elsewhere", [True, False])
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_calls_of_before_an_opening_tell_nothing_about_the_load_after_it(
    is_confirmed: bool, is_elsewhere: bool
) -> None:
    """They were sent at another load: a hundred of them do not raise the limit."""
    story = searching()
    late = late_calls(story)
    open_beside(story)
    if is_confirmed:
        story.confirm()
    recover(story, is_elsewhere=is_elsewhere)
    assert ramped(story) == FIRST
    story.wait(2.0)

    for call in late:
        story.come(call, GOOD)

    assert story.route.limit.value == FIRST


def test_calls_of_before_parked_rows_are_judged_tell_nothing_about_the_load_after_it() -> None:
    """The circuit closes without a probe that has passed; the search begins again."""
    story = searching()
    late = late_calls(story)
    open_beside(story)
    story.wait(200.0)
    story.route.judge_parked(story.now)
    assert story.route.is_closed
    assert ramped(story) == FIRST

    for call in late:
        story.come(call, GOOD)

    assert story.route.limit.value == FIRST
