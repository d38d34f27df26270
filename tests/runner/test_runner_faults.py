"""Any plan of faults, by seed: no row lost, none twice, none failed but by its own fault."""

from __future__ import annotations

from random import Random

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.events import CallSent
from llmbatch.sim.scenario import Behavior, Phase

SEEDS = range(160)
SICKNESSES: list[Behavior] = ["down", "refuse", "hang", "throttle", "errors", "unauthorized", "bad_request", "fine"]


def plan(chance: Random) -> list[Phase]:
    """A healthy start, then up to four sick phases, each long enough to be an outage rather than a hiccup."""
    phases = [Phase(2.0, "fine")]
    for _ in range(chance.randint(0, 4)):
        behavior = chance.choice(SICKNESSES)
        phases.append(
            Phase(
                chance.choice([20.0, 100.0, 1000.0]),
                behavior,
                share=chance.choice([0.02, 0.1, 0.3]) if behavior == "errors" else 1.0,
                retry_after=chance.choice([None, None, 0.5, 7.0, 200.0]),
            )
        )
    return phases


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("block", [pytest.param(n, marks=[pytest.mark.long] * (n > 1)) for n in range(8)])
def test_any_fault_plan_ends_with_one_line_a_row(simulate: Simulate, prompts: Prompts, block: int) -> None:
    """Slow (some 0.5 s of CPU): twenty seeds each; poison rows fail, all others succeed, calls stay bounded."""
    for seed in SEEDS[block::8]:
        chance = Random(f"plan:{seed}")
        count = chance.choice([60, 200, 500])
        bad = sorted(chance.sample(range(1, count + 1), chance.choice([0, 0, 1, 2, 5])))
        options = {
            "concurrency": chance.choice([5, 40, 200]),
            "timeout": chance.choice([10.0, 30.0, 120.0]),
            "failure_threshold": chance.choice([2, 5]),
            "recovery_timeout": chance.choice([5.0, 60.0]),
            "success_threshold": chance.choice([1, 1, 2]),
            "max_attempts": chance.choice([3, 5]),
        }

        story = simulate(
            prompts(count, poison=bad, status=chance.choice([500, 400, 422])),
            *plan(chance),
            seed=seed,
            latency=chance.choice([0.05, 0.4]),
            limit=1e6,
            answered_before=True,
            **options,
        )

        assert story.ending.exit_code == 0, seed
        assert len(story.results) == count, seed
        assert sorted(story.failed) == bad, seed
        sent: dict[int, int] = {}
        for event in story.of(CallSent):
            sent[event.row] = sent.get(event.row, 0) + (not event.probe)
        throttled = sum(1 for _, status in story.log if status == 429)
        assert max(calls for row, calls in sent.items() if row) <= 10 * options["max_attempts"] + 10 + throttled, seed
