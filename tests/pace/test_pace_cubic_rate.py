"""The rate that looks for a limit: how it grows, and what a refusal tells it."""

from __future__ import annotations

import pytest

from llmbatch.pace.cubic_rate import FIRST, LOWERED, RAISED, SPAN_REQUESTS, STEP, CubicRate


def send(rate: CubicRate, first: int, count: int, now: float, *, grows: bool = True) -> float:
    """Send requests as soon as they may be; return when the last was sent."""
    for number in range(first, first + count):
        now += rate.wait(now)
        rate.send(number, now, grows=grows)
    return now


def test_requests_are_sent_evenly_a_little_below_the_limit() -> None:
    """No burst, also after a pause."""
    rate = CubicRate(2.0, 0, 0.0)
    each = 0.5 / (1.0 - FIRST)

    assert send(rate, 1, 10, 0.0, grows=False) == pytest.approx(10 * each)
    assert send(rate, 11, 3, 100.0, grows=False) == pytest.approx(100.0 + 2 * each)


def test_the_rate_is_back_at_the_limit_after_some_requests_and_then_looks_further() -> None:
    """As CUBIC: slowly around the limit, fast far from it."""
    rate = CubicRate(1.0, 0, 0.0)
    now = send(rate, 1, int(SPAN_REQUESTS), 0.0)
    assert rate.rate == pytest.approx(1.0)

    now = send(rate, 46, int(SPAN_REQUESTS), now)
    assert rate.rate == pytest.approx(1.0 + STEP)

    send(rate, 91, int(SPAN_REQUESTS), now)
    assert rate.rate == pytest.approx(1.0 + 8 * STEP)


def test_requests_that_did_not_wait_do_not_raise_the_rate() -> None:
    """A run that sends less learns nothing about it."""
    rate = CubicRate(1.0, 0, 0.0)
    for number in range(1, 200):
        rate.send(number, 5.0 * number, grows=True)

    assert rate.rate == pytest.approx(1.0 - FIRST)


def test_what_was_taken_between_two_refusals_is_the_limit() -> None:
    """Both times nothing was left; refused requests took nothing."""
    rate = CubicRate(1.0, 0, 0.0)
    send(rate, 1, 50, 0.0)
    rate.note_refused(50)
    rate.lower(50, 60.0, 60.5)

    assert rate.limit == pytest.approx(49 / 60.0)
    assert rate.rate == pytest.approx(49 / 60.0 * (1.0 - STEP))
    assert not rate.is_current(50)
    assert rate.is_current(51)


def test_a_limit_that_was_raised_meanwhile_is_not_measured() -> None:
    """What was taken is the mean of before and after; the next refusal measures it."""
    rate = CubicRate(1.0, 0, 0.0)
    now = send(rate, 1, 4 * int(SPAN_REQUESTS), 0.0)
    before = rate.rate
    assert before > RAISED

    rate.note_refused(180)
    rate.lower(180, now, now)

    assert rate.limit == pytest.approx(LOWERED * before, rel=1e-3)
    assert not rate.is_measured


@pytest.mark.parametrize("sent", [2, 20], ids=["too few", "with pauses"])
def test_a_refusal_that_tells_no_limit_lowers_the_rate_by_a_fifth(sent: int) -> None:
    """The limit as it is known stays, and the rate comes back to it."""
    rate = CubicRate(1.0, 0, 0.0)
    now = 0.0
    for number in range(1, sent + 1):
        now += 1.1 if sent < 3 else 10.0
        rate.send(number, now, grows=True)
    before = rate.rate
    rate.note_refused(sent)
    rate.lower(sent, now, now)

    assert rate.limit == 1.0
    assert rate.rate == pytest.approx(LOWERED * before)
