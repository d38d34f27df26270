"""The breaker's options: what they refuse, and how long an open time is."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.breaker import BreakerPolicy, CircuitBreaker

COUNTS = ("failure_threshold", "success_threshold", "minimum_calls", "neutral_probes")
DURATIONS = ("recovery_timeout", "first_recovery_timeout", "probe_lease")


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -3, 2.0, "5", True, math.nan])
def test_a_count_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        BreakerPolicy(**{name: value})

    assert repr(value) in str(caught.value)
    assert "a whole number of at least 1" in str(caught.value)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, "60", True])
def test_a_duration_is_a_finite_number_above_zero(name: str, value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        BreakerPolicy(**{name: value})

    assert repr(value) in str(caught.value)
    assert "a finite number of seconds above 0" in str(caught.value)


@pytest.mark.parametrize("name", ["recovery_timeout", "probe_lease"])
def test_only_the_first_open_time_may_be_none(name: str) -> None:
    """None means a constant open time there, and nothing elsewhere."""
    assert BreakerPolicy(first_recovery_timeout=None).first_recovery_timeout is None

    with pytest.raises(ValueError, match=f"^{name} is None"):
        BreakerPolicy(**{name: None})


def test_the_first_open_time_is_at_most_the_longest() -> None:
    """A first open time above ``recovery_timeout`` is refused; both are named."""
    with pytest.raises(ValueError, match=r"first_recovery_timeout is 61.*at most recovery_timeout \(60.0\)"):
        BreakerPolicy(first_recovery_timeout=61)

    assert BreakerPolicy(first_recovery_timeout=60).first_recovery_timeout == 60


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "0", None])
def test_the_stable_time_is_a_finite_number_of_at_least_zero(value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^stable_time is .*at least 0") as caught:
        BreakerPolicy(stable_time=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.1", None])
def test_jitter_runs_from_zero_to_one(value: object) -> None:
    """What is outside is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^jitter is .*from 0 to 1") as caught:
        BreakerPolicy(jitter=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, math.nan, math.inf, "0.5", True])
def test_a_failure_rate_is_above_zero_and_at_most_one(value: object) -> None:
    """What is outside is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^failure_rate is .*above 0 and at most 1") as caught:
        BreakerPolicy(failure_rate=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [19, 0, -1, 100.0, "100", None])
def test_a_rate_window_holds_at_least_the_minimum_of_calls(value: object) -> None:
    """A window that could never fill is refused, and the message shows the value and the bound."""
    with pytest.raises(ValueError, match=r"^rate_window is .*at least minimum_calls \(20\)") as caught:
        BreakerPolicy(rate_window=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


def test_the_least_options_are_taken() -> None:
    """Every lower bound that is allowed is allowed."""
    policy = BreakerPolicy(
        failure_threshold=1,
        recovery_timeout=0.001,
        success_threshold=1,
        jitter=0,
        failure_rate=1,
        rate_window=1,
        minimum_calls=1,
        probe_lease=0.001,
        stable_time=0,
        neutral_probes=1,
    )

    assert policy.failure_rate == 1


def test_a_policy_does_not_change() -> None:
    """It is frozen and takes keywords only."""
    policy = BreakerPolicy()

    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.jitter = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        BreakerPolicy(5)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_threshold": 0}, "failure_threshold is 0"),
        ({"recovery_timeout": 0}, "recovery_timeout is 0"),
        ({"recovery_timeout": math.inf}, "recovery_timeout is inf"),
        ({"success_threshold": -1}, "success_threshold is -1"),
    ],
)
def test_the_breaker_checks_what_it_is_given(arguments: dict[str, float], message: str) -> None:
    """A wrong argument is told under the name that the caller wrote."""
    with pytest.raises(ValueError, match=message):
        CircuitBreaker(**arguments)  # type: ignore[arg-type]


@given(level=st.integers(0, 10_000), chance=st.floats(0, 1), timeout=st.floats(0.001, 1e6))
def test_without_a_first_open_time_it_is_constant(level: int, chance: float, timeout: float) -> None:
    """Neither failed probes nor chance change it: "first open time: exactly 60 s"."""
    policy = BreakerPolicy(recovery_timeout=timeout, jitter=1.0)

    assert policy.open_time(level, chance) == timeout


def test_the_open_time_doubles_up_to_the_cap() -> None:
    """2, 4, 8 … and then ``recovery_timeout``."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=2)

    assert [policy.open_time(level, 0.7) for level in range(7)] == [2, 4, 8, 16, 32, 60, 60]


@given(
    level=st.integers(0, 10_000),
    chance=st.floats(0, 1),
    jitter=st.floats(0, 1),
    timeout=st.floats(0.01, 1e6),
    share=st.floats(0.01, 1),
)
def test_jitter_goes_upward_and_stays_below_the_cap(
    level: int, chance: float, jitter: float, timeout: float, share: float
) -> None:
    """Chance adds at most its share, and never passes ``recovery_timeout``; more failed probes never wait shorter."""
    policy = BreakerPolicy(recovery_timeout=timeout, first_recovery_timeout=timeout * share, jitter=jitter)

    least, drawn, most = (policy.open_time(level, draw) for draw in (0.0, chance, 1.0))

    assert 0 < least <= drawn <= most <= timeout * (1 + 1e-12)
    assert most <= least * (1 + jitter) * (1 + 1e-12)
    assert policy.open_time(level + 1, chance) >= drawn
