"""Limits that only refusals state: kept, told once, and tried again."""

from __future__ import annotations

import pytest

from llmbatch.core.calls import RateLimit
from llmbatch.pace.budget_wait import NO_WAIT
from llmbatch.pace.stated import TRIED_AFTER, TRIED_AFTER_REQUESTS, StatedLimits

ONE = (1.0, 100.0, 50.0, 50.0)
NOTHING = (0.0, 0.0, 0.0, 0.0)
SIXTY = RateLimit("requests", 60.0, 0.0, None, 60.0)


def stated(limit: RateLimit = SIXTY, *, at: float = 0.0) -> StatedLimits:
    """Limits after the first request, sent *at*, was refused."""
    limits = StatedLimits()
    limits.refused(ONE, 1.0, NOTHING, at, at, [limit])
    return limits


def test_nothing_is_waited_for_before_a_refusal() -> None:
    """Also after one that states nothing."""
    limits = StatedLimits()
    limits.refused(ONE, 1.0, NOTHING, 0.0, 0.0, [])

    assert not limits
    assert limits.wait(ONE, 0.0) == NO_WAIT


def test_a_stated_limit_is_kept_at_its_rate() -> None:
    """Nothing remained at the refusal: one request per second."""
    limits, now = stated(), 0.0
    for _ in range(10):
        now += limits.wait(ONE, now).seconds
        limits.send(ONE, now)

    assert now == pytest.approx(10.0)
    assert str(limits.wait(ONE, now)) == "the provider's limit of 60 requests a minute"


def test_requests_sent_after_the_refused_one_count_until_they_are_refused_too() -> None:
    """Two were in flight."""
    limits = StatedLimits()
    limits.refused(ONE, 1.0, (2.0, 200.0, 100.0, 100.0), 0.0, 0.0, [SIXTY])
    assert limits.wait(ONE, 0.0).seconds == pytest.approx(3.0)

    limits.refused(ONE, 2.0, (1.0, 100.0, 50.0, 50.0), 0.0, 0.0, [SIXTY])
    limits.refused(ONE, 3.0, NOTHING, 0.0, 0.0, [])

    assert limits.wait(ONE, 0.0).seconds == pytest.approx(1.0)


def test_a_limit_is_tried_at_twice_the_rate_after_a_while() -> None:
    """It may have been raised; another refusal sets it right."""
    limits = stated()
    now = TRIED_AFTER
    for _ in range(TRIED_AFTER_REQUESTS):
        limits.send(NOTHING, 1.0)
    limits.send((60.0, 0.0, 0.0, 0.0), now)
    before = limits.wait((60.0, 0.0, 0.0, 0.0), now).seconds
    limits.refused(ONE, 2.0, NOTHING, now, now, [SIXTY])

    assert before < 60.0
    assert limits.wait(ONE, now).seconds == pytest.approx(1.0)


def test_a_low_limit_is_tried_once_in_a_hundred_requests() -> None:
    """A try costs a refusal: one in 25 s would be 4 % of the calls where 60 a minute are allowed."""
    limits, now, refused = stated(), 0.0, 0
    left = 0.0  # of the provider's bucket, which gets one a second
    for number in range(2, 602):
        wait = limits.wait(ONE, now).seconds
        now, left = now + wait, left + wait
        limits.send(ONE, now)
        if left < 0.99:
            refused += 1
            limits.refused(ONE, float(number), NOTHING, now, now, [SIXTY])
        else:
            left -= 1.0

    assert 1 <= refused <= 600 / TRIED_AFTER_REQUESTS
    assert now > 550.0


def test_a_limit_is_told_when_it_is_new_and_when_it_changes() -> None:
    """By five percent or more."""
    limits = StatedLimits()
    told = [
        limits.refused(ONE, float(call), NOTHING, 0.0, 0.0, [RateLimit("requests", limit, 0.0, None, 60.0)])
        for call, limit in enumerate((60.0, 60.0, 61.0, 30.0), 1)
    ]

    assert [[one.limit for one in changed] for changed in told] == [[60.0], [], [], [30.0]]


def test_a_request_larger_than_the_limit_is_sent_when_all_of_it_is_free() -> None:
    """It would wait for ever else."""
    limits = stated(RateLimit("tokens", 50.0, 0.0, None, 60.0))

    assert limits.wait(ONE, 0.0).seconds == pytest.approx(60.0)
    assert limits.wait(ONE, 60.0).seconds == 0.0
