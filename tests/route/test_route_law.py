"""How often a row has to fail before it ends, and how a route's own rate of errors is measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.route.law import ErrorRate, attempts_needed, backoff_steps


@pytest.mark.parametrize(
    ("rate", "attempts"),
    [(0.0, 3), (0.01, 3), (0.02, 3), (0.05, 4), (0.09, 5), (0.25, 9), (0.5, 17), (0.8, 52), (0.9, 110), (0.99, 110)],
)
def test_a_row_ends_once_chance_would_do_it_less_than_once_in_100_000(rate: float, attempts: int) -> None:
    """``rate ** k < 1e-5``; below 1 % and above 90 % the rate is taken for just that."""
    assert attempts_needed(rate, 1) == attempts


def test_a_row_has_the_attempts_that_the_options_promise() -> None:
    """``--max-attempts`` is the least, whatever the rate allows."""
    assert attempts_needed(0.01, 6) == 6
    assert attempts_needed(0.5, 6) == 17


@given(rate=st.floats(0.01, 0.9), least=st.integers(1, 10))
def test_no_fewer_attempts_would_do(rate: float, least: int) -> None:
    """The number is the smallest that keeps the promise."""
    needed = attempts_needed(rate, least)

    assert needed >= least
    assert rate**needed <= 1e-5 * (1 + 1e-9)
    assert needed == least or rate ** (needed - 1) > 1e-5 * (1 - 1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.02])
def test_each_failure_doubles_the_wait_where_failures_are_rare(rate: float) -> None:
    """As in any exponential backoff."""
    assert [backoff_steps(failures, rate) for failures in range(5)] == [1.0, 1.0, 2.0, 3.0, 4.0]


def test_waits_grow_slowly_where_half_of_all_attempts_fail() -> None:
    """Three doublings for as many failures as end a row: the evidence is what grows them."""
    steps = [backoff_steps(failures, 0.5) for failures in (1, 2, 17)]

    weight = 3 * math.log(0.5) / math.log(1e-5)
    assert steps == pytest.approx([1.0, 1.0 + weight, 1.0 + 16 * weight])
    assert steps[2] < 4.0


def test_the_rate_is_bounded_for_waits_too() -> None:
    """From 1 % to 90 %."""
    assert backoff_steps(5, 1.0) == backoff_steps(5, 0.9)
    assert backoff_steps(5, 0.0) == backoff_steps(5, 0.01)


def test_a_new_rate_knows_nothing_and_is_cautious() -> None:
    """Nothing measured is 0 %, judged as 1 %, and feared to be one in four."""
    rate = ErrorRate()

    assert rate.value == 0.0
    assert rate.since(0) == 0.01
    assert rate.cautious == 0.25
    assert repr(rate) == "<ErrorRate 0.00% of 0 attempts>"


def test_failures_of_rows_that_succeeded_are_the_rate() -> None:
    """A row with two failures before its answer made three attempts."""
    rate = ErrorRate()

    rate.add(2, 0)
    rate.add(0, 0)

    assert rate.value == 0.5
    assert repr(rate) == "<ErrorRate 50.00% of 4 attempts>"


def test_the_cautious_rate_comes_down_to_what_was_measured() -> None:
    """From one in four, as though 20 attempts had been made at that rate; never below 1 %."""
    rate = ErrorRate()

    rate.add(1, 0)
    assert rate.cautious == (1 + 5) / (2 + 20)

    for _ in range(3000):
        rate.add(0, 0)
    assert rate.cautious == 0.01


def test_a_row_is_judged_on_the_safe_side_of_what_was_measured() -> None:
    """10 % of 1,000 attempts, with a margin of some standard errors."""
    rate = ErrorRate()

    for _ in range(100):
        for failures in (1, *[0] * 8):
            rate.add(failures, rate.epoch)

    usual = (100 + 0.01 * 10 + (0.25 + 0.2 / 1.01) * 10) / 1010
    assert rate.value == 0.1
    assert rate.since(rate.epoch) == pytest.approx(usual, rel=1e-3)


def test_old_attempts_fade() -> None:
    """They are halved in weight beyond 4,000, so that the rate looks back on 2,000 at least."""
    rate = ErrorRate()
    for _ in range(2000):
        rate.add(1, rate.epoch)
    assert repr(rate) == "<ErrorRate 50.00% of 4000 attempts>"

    rate.add(0, rate.epoch)
    assert repr(rate) == "<ErrorRate 49.99% of 2000 attempts>"

    for _ in range(20_000):
        rate.add(0, rate.epoch)
    assert rate.value < 0.001


def test_epochs_pass_with_every_forty_rows() -> None:
    """Rows that succeeded, not attempts."""
    rate = ErrorRate()

    for _ in range(39):
        rate.add(3, 0)
    assert rate.epoch == 0

    rate.add(3, 0)
    assert rate.epoch == 1

    for _ in range(40):
        rate.add(0, 1)
    assert rate.epoch == 2


def test_an_hour_of_errors_that_has_only_begun_raises_the_rate_of_its_rows() -> None:
    """Rows that began to fail in it are judged by what others met since, older ones by the long average too."""
    rate = ErrorRate()
    for _ in range(4000):
        rate.add(0, rate.epoch)
    began = rate.epoch

    for _ in range(20):
        rate.add(1, began)

    assert rate.since(began) == pytest.approx((20 + math.sqrt(20)) / (40 + 10))
    assert rate.since(began) > 0.4
    assert rate.since(0) < 0.05


@pytest.mark.parametrize(("usual", "enough"), [(0, 2), (1, 3)])
def test_a_few_failures_of_late_raise_it_as_soon_as_chance_does_not_explain_them(usual: int, enough: int) -> None:
    """Above two standard deviations and one: two where nothing failed before, three where 5 % of all attempts did."""
    rate = ErrorRate()
    for _ in range(200):
        for failures in (usual, *[0] * 18):
            rate.add(failures, rate.epoch)
    began = rate.epoch

    raised = []
    for _ in range(4):
        rate.add(1, began)
        raised.append(rate.since(began) > 0.2)

    assert raised == [count >= enough for count in (1, 2, 3, 4)]


def test_the_average_stands_where_the_latest_rows_met_no_more_than_chance_explains() -> None:
    """Two failures of late are no reason to judge by them."""
    rate = ErrorRate()
    for _ in range(4000):
        rate.add(0, rate.epoch)
    before = rate.since(rate.epoch)

    rate.add(1, rate.epoch)
    after = rate.since(rate.epoch)

    assert after == pytest.approx(before, abs=5e-4)
    assert after < 0.01


def test_a_row_that_began_before_all_kept_epochs_is_judged_by_those_that_are_kept() -> None:
    """64 epochs; what is older says nothing of lately, and is not mistaken for a younger one's."""
    rate = ErrorRate()
    for _ in range(40 * 64):
        rate.add(1, rate.epoch)
    for _ in range(40 * 64):
        rate.add(0, rate.epoch)
    quiet = rate.since(rate.epoch)

    rate.add(50, 0)

    assert rate.since(0) == pytest.approx(rate.since(rate.epoch))
    assert rate.since(rate.epoch) < quiet + 0.05


def rate_in_epoch_100(failures: int, epoch: int) -> ErrorRate:
    """Four thousand good answers at once, and one after *failures* of a row that began to fail in *epoch*."""
    rate = ErrorRate()
    for _ in range(4000):
        rate.add(0, rate.epoch)
    assert rate.epoch == 100
    rate.add(failures, epoch)
    return rate


def test_the_oldest_epoch_that_is_kept_counts() -> None:
    """Epoch 37 is the 64th back from 100: what began in it is told to all who began no later."""
    rate = rate_in_epoch_100(100, 37)

    assert rate.since(37) == pytest.approx((100 + 10) / (64 * 40 + 101 - 40 + 10), rel=0.02)
    assert rate.since(0) == rate.since(37)
    assert rate.since(38) < 0.75 * rate.since(37)


def test_an_epoch_that_is_no_longer_kept_does_not_count() -> None:
    """Epoch 36 shares its place with the present one, and adds nothing to it; the long average knows all."""
    rate = rate_in_epoch_100(100, 36)

    assert rate.since(0) == rate.since(100) == rate_in_epoch_100(100, 37).since(38)


def test_the_judged_rate_is_on_the_safe_side_once_something_is_known() -> None:
    """At any number of rows and any share: above the measured one, by no more than a few standard errors."""
    for failures in (1, 2, 4):
        rate = ErrorRate()
        for rows in range(1, 1000):
            rate.add(failures, rate.epoch)
            if rows > 50:
                assert rate.value < rate.since(rate.epoch) < rate.value * 1.5
