"""Limits that a provider reports: how long requests wait to stay within them, and which reports are not believed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmbatch.core.calls import RateLimit
from llmbatch.pace.budget_wait import NO_WAIT
from llmbatch.pace.learned import LearnedLimits

ONE = (1.0, 100.0, 50.0, 50.0)


def heard(*reported: RateLimit, at: float = 0.0) -> LearnedLimits:
    """Limits as known from the answer to the only request, sent at *at*."""
    limits = LearnedLimits()
    limits.hear(reported, limits.send(ONE, at), at)
    return limits


def test_nothing_is_waited_for_before_anything_is_known() -> None:
    """The first requests go at once."""
    assert LearnedLimits().wait(ONE, 0.0) == NO_WAIT


def test_what_remains_may_be_sent_at_once_and_the_rest_at_the_rate_of_the_limit() -> None:
    """60 requests, of which 57 were used: the reset proves that they are a minute's."""
    limits = heard(RateLimit("requests", 60, 3, 57.0))

    for _ in range(3):
        assert limits.wait(ONE, 0.0).seconds == 0.0
        limits.send(ONE, 0.0)
    wait = limits.wait(ONE, 0.0)
    assert wait.seconds == pytest.approx(1.0)
    assert str(wait) == "the provider's limit of 60 requests a minute"
    assert not wait.is_quota
    assert limits.wait(ONE, 1.0).seconds == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "window"),
    [
        (10000, 9999, 8.64, "a day"),
        (14400, 14370, 179.56, "a day"),
        (600, 300, 30.0, "a minute"),
        (10, 9, 0.1, "a second"),
    ],
)
def test_a_reset_proves_the_period(limit: float, remaining: float, reset: float, window: str) -> None:
    """OpenAI's and Groq's requests may be the day's, whatever people think."""
    limits = heard(RateLimit("requests", limit, remaining, reset))
    for _ in range(int(remaining)):
        limits.send(ONE, 0.0)

    assert limits.wait(ONE, 0.0).limit == f"{limit:,.0f} requests {window}"


def test_without_a_proven_period_nothing_comes_back_before_the_reset() -> None:
    """40 used and back in 17 seconds fits no period."""
    limits = heard(RateLimit("requests", 60, 0, 17.0), at=100.0)

    assert limits.wait(ONE, 105.0).seconds == pytest.approx(12.0)
    assert limits.wait(ONE, 117.0).seconds == 0.0


def test_a_limit_without_period_and_reset_holds_nobody_up() -> None:
    """Fireworks tells neither: nobody knows when anything comes back."""
    assert heard(RateLimit("input_tokens", 60000, 0)).wait(ONE, 0.0) == NO_WAIT


def test_requests_sent_since_are_subtracted_and_older_answers_ignored() -> None:
    """Answers come back in any order: the newest call's counts, less what was sent after it."""
    limits = LearnedLimits()
    first, second = limits.send(ONE, 0.0), limits.send(ONE, 0.0)
    limits.send(ONE, 0.0)
    limits.hear([RateLimit("requests", 60, 2, 58.0)], second, 0.0)
    limits.hear([RateLimit("requests", 60, 59, 1.0)], first, 0.0)

    assert limits.wait(ONE, 0.0).seconds == 0.0
    limits.send(ONE, 0.0)
    assert limits.wait(ONE, 0.0).seconds == pytest.approx(1.0)


def test_what_comes_back_while_an_answer_is_written_counts() -> None:
    """The provider counted when the request came, ten seconds ago."""
    limits = heard(RateLimit("requests", 60, 0, 60.0), at=0.0)

    assert limits.wait(ONE, 10.0).seconds == 0.0


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        (RateLimit("requests", 0, 0, 60.0), "an answer was given all the same"),
        (RateLimit("requests", 60, 61, 1.0), "61 remain"),
        (RateLimit("tokens", 60000, 0, 1e12), "days ahead"),
    ],
)
def test_a_lie_is_told_once_and_ignored(reported: RateLimit, words: str) -> None:
    """It never stops a run."""
    limits = LearnedLimits()

    _, faults = limits.hear([reported], limits.send(ONE, 0.0), 0.0)
    again = limits.hear([reported], limits.send(ONE, 1.0), 1.0)

    assert len(faults) == 1
    assert words in faults[0]
    assert again == ([], [])
    assert limits.wait(ONE, 1.0).seconds == 0.0


@pytest.mark.parametrize("odd", [RateLimit("requests", -1, -1, 0.0), RateLimit("requests", 1e12, 1e12, -5.0)])
def test_unknown_and_endless_limits_hold_nobody_up(odd: RateLimit) -> None:
    """-1 means unknown; a reset in the past means full."""
    limits = heard(odd)
    for _ in range(1000):
        limits.send(ONE, 0.0)

    assert limits.wait(ONE, 0.0).seconds == 0.0


def test_anthropic_may_round_tokens_above_the_limit() -> None:
    """To thousands."""
    limits = LearnedLimits()

    assert limits.hear([RateLimit("tokens", 49500, 50000, 0.0)], limits.send(ONE, 0.0), 0.0)[1] == []


def test_a_limit_that_is_always_exhausted_though_answers_come_is_stale() -> None:
    """Nothing was sent until each reset, and still nothing remains: three times is enough."""
    limits = LearnedLimits()
    now, faults = 0.0, []
    for _ in range(4):
        faults += limits.hear([RateLimit("requests", 60, 0, 5.0)], limits.send(ONE, now), now)[1]
        now += limits.wait(ONE, now).seconds

    assert faults == ["a limit of 60 requests, of which nothing remains though nothing was sent until its reset"]
    assert limits.wait(ONE, now).seconds == 0.0


def test_a_changed_limit_is_told_and_followed() -> None:
    """Halved in mid-run; a change of less than a twentieth is not worth a word."""
    limits = LearnedLimits()
    told = [
        [(one.limit, window) for one, window in limits.hear([reported], limits.send(ONE, at), at)[0]]
        for at, reported in enumerate(
            [
                RateLimit("requests", 600, 599, 0.1),
                RateLimit("requests", 599, 590, 0.9),
                RateLimit("requests", 300, 200, 20.0),
            ]
        )
    ]

    assert told == [[(600, 60.0)], [], [(300, 60.0)]]


def test_what_the_provider_counts_for_a_request_is_learned() -> None:
    """It takes twice the tokens that we estimate: we send half as many."""
    limits = LearnedLimits()
    remaining, now = 60000.0, 0.0
    for _ in range(200):
        sent = limits.send(ONE, now)
        remaining -= 200.0
        limits.hear([RateLimit("tokens", 60000, remaining, None, 60.0)], sent, now)
        now += 0.1
        remaining = min(60000.0, remaining + 100.0)

    limits.hear([RateLimit("tokens", 60000, 0, None, 60.0)], limits.send(ONE, now), now)

    assert limits.wait(ONE, now).seconds == pytest.approx(0.2, rel=0.15)


def test_refused_requests_do_not_make_the_others_look_cheap() -> None:
    """Nothing was taken for them. Counted as taken, they would seem to cost half, and more would be refused."""
    limits, left = LearnedLimits(), 30_000.0
    for second in range(60):
        now = second * 0.1
        good, refused = limits.send(ONE, now), limits.send(ONE, now)
        left -= 100.0
        limits.refused(ONE, refused, now, now)
        limits.hear([RateLimit("tokens", 60_000, left, None, 3600.0)], good, now)

    at_once = 0
    while limits.wait(ONE, now).seconds == 0.0:
        limits.send(ONE, now)
        at_once += 1
    assert at_once == pytest.approx(left / 100, abs=5)


def test_what_was_refused_since_is_not_subtracted() -> None:
    """The second request was refused: one of the two that remained is left."""
    limits = LearnedLimits()
    first, second, _ = limits.send(ONE, 0.0), limits.send(ONE, 0.0), limits.send(ONE, 0.0)

    limits.refused(ONE, second, 0.0, 0.1)
    limits.hear([RateLimit("requests", 60, 2, 58.0)], first, 0.0)

    assert limits.wait(ONE, 0.0).seconds == 0.0
    limits.send(ONE, 0.0)
    assert limits.wait(ONE, 0.0).seconds == pytest.approx(1.0)


def test_a_refusal_beside_much_that_remains_shortens_bursts_and_not_the_rate() -> None:
    """Azure takes ten seconds of the limit at once and does not say so: 15, 7.5 and so on are tried, not below one."""
    limits = heard(RateLimit("requests", 60, 59, 1.0))
    now, sent = 0.0, []
    for refused_at in (1.0, 30.0):
        limits.refused(ONE, limits.send(ONE, refused_at - 0.1), refused_at - 0.1, refused_at)
    for _ in range(100):
        now = max(now, refused_at)
        now += limits.wait(ONE, now).seconds
        limits.send(ONE, now)
        sent.append(now)

    assert sent[-1] - sent[0] == pytest.approx(99.0, abs=0.1)
    later = 1000.0
    at_once = 0
    while limits.wait(ONE, later).seconds == 0.0:
        limits.send(ONE, later)
        at_once += 1
    assert at_once == 7


def test_a_refusal_where_little_remains_is_no_sign_of_another_limit() -> None:
    """The estimate was a little off: all that remains may still be sent at once later."""
    limits = heard(RateLimit("requests", 60, 2, 58.0))
    limits.refused(ONE, limits.send(ONE, 0.5), 0.5, 1.0)

    later, at_once = 1000.0, 0
    while limits.wait(ONE, later).seconds == 0.0:
        limits.send(ONE, later)
        at_once += 1

    assert at_once == 60


@pytest.mark.slow  # many calls in virtual time
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e13),
            st.floats(-10, 1e13),
            st.one_of(st.none(), st.floats(-1e6, 1e13)),
            st.sampled_from([None, 1.0, 60.0, 86400.0]),
            st.floats(0, 100),
        ),
        max_size=30,
    )
)
@example([(0.0, 0.0, None, None, 0.0)] * 2 + [(1e-133, 0.0, None, 1.0, 0.0), (0.0, 0.0, None, None, 0.0)])
def test_whatever_is_reported_a_wait_is_finite_and_ends(
    story: list[tuple[float, float, float | None, float | None, float]],
) -> None:
    """And after it the request may go, unless more was reported."""
    limits, now = LearnedLimits(), 0.0
    for limit, remaining, reset, window, passes in story:
        limits.hear([RateLimit("requests", limit, remaining, reset, window)], limits.send(ONE, now), now)
        now += passes
        wait = limits.wait(ONE, now).seconds
        assert 0.0 <= wait <= 32 * 86400.0 + 1.0
        assert limits.wait(ONE, now + wait * 1.000001 + 1e-6).seconds <= 1e-3
        now += wait
