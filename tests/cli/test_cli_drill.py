"""``llmbatch sim drill``: the user's policy through an outage, in virtual time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run

SHORT = """
[[phase]]
seconds = 60

[[phase]]
minutes = 5
behavior = "down"
"""


@pytest.fixture
def outage(tmp_path: Path) -> str:
    (tmp_path / "short.toml").write_text(SHORT)
    return "short.toml"


def scores(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(done.stdout)["scores"]
    return told


@pytest.mark.slow  # a drill
@pytest.mark.traced
def test_a_drill_tells_what_the_policy_would_do(llmbatch_here: Run, outage: str) -> None:
    """Each number with its meaning, and a picture of goodput, outage and circuit."""
    done = llmbatch_here("sim", "drill", "--scenario", outage, "--rows", "600", "--latency", "4")

    assert done.returncode == 0, done.stderr
    assert "good rows failed" in done.stdout
    assert "×××" in done.stdout
    assert "ooo" in done.stdout
    assert "600 rows, median answer 4 s" in done.stderr


@pytest.mark.slow  # a drill
@pytest.mark.traced
def test_the_policy_is_what_run_would_use(llmbatch_here: Run, outage: str, tmp_path: Path) -> None:
    """Flag, variable and file: of three thresholds the flag's decides, and each changes what is allowed."""
    (tmp_path / "llmbatch.toml").write_text("recovery-timeout = 10\nfailure-threshold = 9\n")
    words = ("sim", "drill", "--scenario", outage, "--rows", "600", "--latency", "4", "--json")

    [told] = scores(llmbatch_here(*words, "--failure-threshold", "7", LLMBATCH_CONCURRENCY="20"))

    assert told["allowed_down"] == 20 + 7 + told["probes"]
    assert told["probes"] > 20, "every 10 s for 5 minutes"


@pytest.mark.slow  # two policies through an outage, some seconds of virtual time
@pytest.mark.traced
def test_policies_are_compared_and_one_is_recommended(llmbatch_here: Run, outage: str) -> None:
    """What was told comes first; the advice says why."""
    words = ("sim", "drill", "--scenario", outage, "--rows", "600", "--latency", "4")

    done = llmbatch_here(*words, "--compare", "recovery-timeout=5", "--compare", "on=1")
    assert done.returncode == 2
    assert "names: concurrency" in done.stderr

    done = llmbatch_here(*words, "--compare", "recovery-timeout=5", "--compare", "concurrency=auto:60")
    assert done.returncode == 0, done.stderr
    assert "as told" in done.stdout
    assert "concurrency=auto:60" in done.stdout
    assert "take: " in done.stdout
    assert "no row fails or waits" in done.stdout


@pytest.mark.slow
def test_a_sweep_tries_every_combination(llmbatch: Run, outage: str) -> None:
    """Ranges follow each other, as they are typed. Slow: processes of their own."""
    words = ("sim", "drill", "--scenario", outage, "--rows", "400", "--latency", "4", "--json")

    done = llmbatch(*words, "--sweep", "failure-threshold=3..20", "recovery-timeout=5,60")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["scores"]) == 10
    assert {score["policy"] for score in told["scores"]} >= {"failure-threshold=3 recovery-timeout=60"}
    assert told["recommendation"]["policy"].startswith("failure-threshold=")
    assert "oracle" in told["recommendation"]["reason"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scenario", "none"), "scenario 'none' is unknown"),
        (("--scenario", "none.toml"), "none.toml: cannot be read"),
        (("--rows", "0"), "rows is '0', must be"),
        (("--latency", "0"), "latency is '0', must be a duration above 0"),
        (("--failure-threshold", "0"), "--failure-threshold is '0', must be"),
        (("--sweep", "failure-threshold=9..3"), "failure-threshold goes from 9 to 3"),
        (("--sweep", "concurrency=auto..40"), "concurrency goes from auto to 40"),
        (("--sweep", "failure-threshold=many"), "failure-threshold is 'many', must be a whole number"),
        (("--sweep", "concurrency=1..9", "timeout=1..9", "rpm=1..9", "max-outage=1..9"), "the sweep has 625 policies"),
        (("--sweep", "timeout=5", "timeout=6"), "--sweep names an option twice"),
        (("--sweep", "timeout=5", "--compare", "timeout=6"), "contradict each other"),
        (("--compare", "timeout=-6"), "timeout is '-6', must be"),
        (("--compare", " "), "which sets nothing"),
        (("--compare", "timeout=5", "--compare", "timeout=5"), "--compare names a policy twice"),
    ],
)
def test_what_cannot_be_drilled_is_told(llmbatch_here: Run, words: tuple[str, ...], told: str) -> None:
    """Exit code 2, one line and a hint."""
    done = llmbatch_here("sim", "drill", *words)

    assert done.returncode == 2
    assert told in done.stderr
    assert "hint: " in done.stderr
    assert done.stdout == ""


@pytest.mark.slow  # a drill
@pytest.mark.traced
def test_a_policy_that_fails_rows_is_told_by_the_exit_code(llmbatch_here: Run, outage: str) -> None:
    """With ``--on-outage fail`` parked rows end as failed."""
    done = llmbatch_here(
        *("sim", "drill", "--scenario", outage, "--rows", "1200", "--latency", "4", "--on-outage", "fail", "--json")
    )

    [told] = scores(done)
    assert done.returncode == 1
    assert told["failed"] > 0
