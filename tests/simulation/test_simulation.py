"""The whole runner under drawn faults: hundreds of days of virtual time, and what docs/guarantees.md claims holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hunt import command, tell
from simulation_story import Story

HERE = Path(__file__).parent
SEEDS = 2400
AT_ONCE = 100


@pytest.mark.slow  # a hundred stories of some 13 ms each
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_no_story_breaks_a_guarantee(first: int) -> None:
    """Outages, kills, power cuts, full disks, pauses: every row ends with its one line, and all else holds."""
    broken = tell(first, first + AT_ONCE).broken

    assert not broken, "".join(f"\n{words}\n  replay: {command(seed)}" for seed, words in broken)


@pytest.mark.slow  # starts two interpreters
def test_a_seed_replays_exactly_in_another_process() -> None:
    """Whatever the hash seed: otherwise a seed that fails once could not be looked into."""
    code = "from simulation_story import Story\nfor seed in range(7, 17):\n s = Story(seed); s.tell(); print(s.digest)"

    told = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=HERE,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(told) == 1


def test_the_stories_meet_every_kind_of_fault() -> None:
    """A simulation that draws no power cut proves nothing about one."""
    tally = tell(0, 150)

    assert {"kill", "kill in a disk call", "power cut", "cancel", "stop", "stop now", "pause", "disk full"} <= set(
        tally.fates
    )
    assert {"write error", "sync error", "read error"} <= set(tally.fates)
    assert tally.lives > 300


@pytest.mark.slow  # starts an interpreter
def test_a_seed_is_told_in_full_by_one_command() -> None:
    """The command that a failing seed prints shows the plan, what happened, and how it ended."""
    told = subprocess.run(
        [sys.executable, *command(3).split()[1:]], cwd=HERE.parent.parent, capture_output=True, text=True, check=False
    )

    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith("seed 3: ")
    assert f"all held; digest {_digest(3)}" in told.stdout


def _digest(seed: int) -> str:
    story = Story(seed)
    story.tell()
    return story.digest
