"""A fleet in virtual time keeps the rules of sharing while news are lost, probers die and the board forgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbatch.drill import fleet as fleet_module
from llmbatch.drill.fleet import BrokenFleetError, FleetPlan, run_fleet
from llmbatch.peers import board as board_module
from llmbatch.peers.board import Board
from llmbatch.peers.messages import Reply


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", range(4))
def test_a_fleet_of_sixty_probes_once_at_a_time_and_recovers_together(seed: int) -> None:
    score = run_fleet(FleetPlan(60, slots=10, seed=seed))

    assert score.probes_at_once == 1
    assert score.probes <= 42
    assert score.all_open_after < 1.5  # whoever missed the news heard of it by the next poll
    assert score.first_good_after < score.longest_wait + 3
    assert score.all_closed_after < score.longest_wait + 3 + 2.5


@pytest.mark.slow  # millions of events: half a minute
@pytest.mark.parametrize("processes", [250, pytest.param(1000, marks=pytest.mark.long)])
def test_a_fleet_of_a_thousand_probes_about_as_rarely_as_one_process(processes: int) -> None:
    """A simulation: one probe at a time, 15 in a minute; all closed after the longest wait and 3 s."""
    score = run_fleet(FleetPlan(processes))

    assert score.probes_at_once == 1
    assert score.probes <= 15
    assert score.all_closed_after < score.longest_wait + 3


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", range(2))
def test_a_large_fleet_probes_more_rarely_than_a_small_one(seed: int) -> None:
    """A recovery of many is a rush of calls; it is noticed within the longest wait all the same."""
    score = run_fleet(FleetPlan(64, slots=5, seed=seed))

    assert score.probes_at_once == 1
    assert score.probes <= 15
    assert score.all_closed_after < score.longest_wait + 3


def test_many_dead_probers_do_not_stop_recovery() -> None:
    score = run_fleet(FleetPlan(40, slots=5, dead_probers=0.5, lost_news=0.5, forgets=4))

    assert score.deaths > 0
    assert score.probes_at_once == 1


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_without_sharing_the_fleet_probes_far_more() -> None:
    shared, alone = run_fleet(FleetPlan(60, slots=10)), run_fleet(FleetPlan(60, slots=10, shared=False))

    assert alone.probes > 20 * shared.probes
    assert alone.calls_down > 2 * shared.calls_down


class RestartedFences(Board):
    def ask(self, *args: Any, now: int) -> Reply:
        reply = super().ask(*args, now=now)
        if reply.kind == "granted":
            self._rates["fence"] = self._circuits[args[0]].fence = self._rates.get("fence", 0) + 1
            return reply._replace(fence=self._rates["fence"])
        return reply


def test_a_board_that_gives_a_fence_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "Board", RestartedFences)

    with pytest.raises(BrokenFleetError, match="was given twice"):
        run_fleet(FleetPlan(20, slots=5))


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_a_board_that_hands_leases_on_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "SILENT", 0)

    assert run_fleet(FleetPlan(60, slots=10)).probes_at_once > 1


@pytest.mark.slow  # a start of Python
def test_the_command_says_that_it_is_a_simulation(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmbatch", "sim", "drill", "--fleet", "20", "-c", "5"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    shown, told, refused = run(), run("--json"), run("--fleet", "0")

    assert shown.returncode == 0, shown.stderr
    assert "a simulation of 20 processes with 5 slots each" in shown.stderr
    assert "most probes at once" in shown.stdout
    assert json.loads(told.stdout)["simulation"] is True
    assert json.loads(told.stdout)["scores"]["shared"]["probes_at_once"] == 1
    assert refused.returncode == 2
    assert "--fleet is '0', must be a whole number from 1 to 2,000" in refused.stderr
