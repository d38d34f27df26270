"""Policies: how they are written, swept, and recommended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.drill.policies import Policy, read_policy, read_range, recommend, sweep
from llmbatch.drill.score import Score
from llmbatch.runner.options import RunOptions

GOOD = Score(
    scenario="s",
    policy="",
    rows=100,
    succeeded=100,
    failed=0,
    waiting=0,
    exit_code=0,
    reason="finished",
    seconds=105.0,
    oracle=100.0,
    calls=120,
    probes=5,
    calls_down=20,
    downtimes=1,
    allowed_down=50,
    openings=1,
    open_seconds=30.0,
    load=0.0,
    recoveries=(),
    wasted_tokens=0,
    cpu_seconds=0.0,
    slices=(),
)


def test_a_policy_changes_what_it_names() -> None:
    """Commas or spaces; names as the flags have them; the rest stays."""
    base = RunOptions(concurrency=7)

    told = read_policy("failure-threshold=3, recovery_timeout=20.5", base)

    assert told == Policy(
        "failure-threshold=3 recovery-timeout=20.5", replace(base, failure_threshold=3, recovery_timeout=20.5)
    )


def test_a_range_has_both_ends_and_steps_of_one_factor() -> None:
    """Whole numbers where the option takes those; a list is taken as it stands."""
    assert read_range("failure-threshold=3..20") == ("failure_threshold", [3, 5, 8, 12, 20])
    assert read_range("recovery-timeout=5..80") == ("recovery_timeout", [5, 10, 20, 40, 80])
    assert read_range("success-threshold=1..2") == ("success_threshold", [1, 2])
    assert read_range("timeout=30,10") == ("timeout", [30.0, 10.0])


def test_a_sweep_is_every_combination() -> None:
    """Names tell them apart."""
    found = sweep({"failure_threshold": [3, 5], "timeout": [10.0, 20.0]}, RunOptions())

    assert [policy.name for policy in found] == [
        "failure-threshold=3 timeout=10",
        "failure-threshold=3 timeout=20",
        "failure-threshold=5 timeout=10",
        "failure-threshold=5 timeout=20",
    ]


@pytest.mark.parametrize("text", ["", "nothing", "on-outage=fail", "timeout", "timeout=x", "failure-threshold=1.5"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    """With the names that there are."""
    with pytest.raises(UsageError):
        read_policy(text, RunOptions())


def test_losing_no_row_comes_first() -> None:
    """Then the time; what loses a row is never taken for its speed."""
    advice = recommend({"quick": [replace(GOOD, failed=1, seconds=100.0)], "safe": [replace(GOOD, seconds=180.0)]})

    assert advice.policy == "safe"
    assert "as with 1 of 2 policies" in advice.reason


def test_of_equal_times_the_fewest_calls_to_a_sick_provider_win() -> None:
    """Two per cent are no difference."""
    advice = recommend(
        {
            "loud": [replace(GOOD, calls_down=80)],
            "quiet": [replace(GOOD, seconds=106.0, calls_down=10)],
            "slow": [replace(GOOD, seconds=120.0, calls_down=1)],
        }
    )

    assert advice.policy == "quiet"
    assert "1.060 times the oracle's time, the quickest takes 1.050" in advice.reason
    assert "10 calls to a provider that was down (up to 80 elsewhere)" in advice.reason


def test_the_worst_scenario_counts_and_the_told_policy_wins_a_tie() -> None:
    """A policy that is good on the whole and bad once is bad."""
    uneven = [GOOD, replace(GOOD, seconds=200.0)]

    assert recommend({"uneven": uneven, "even": [replace(GOOD, seconds=110.0)] * 2}).policy == "even"
    assert recommend({"a": [GOOD], "told": [GOOD]}, "told").policy == "told"
