"""Random stories: a provider with several traps at once, and commands that are killed, stopped, and typed again.

Whatever happens each row ends with one line, and no row is paid for twice in batches, unless a notice says so.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from batch_world import World, prompt

from llmbatch.core.batch_events import BatchLost
from llmbatch.sim.batches.rules import BatchFault, BatchRules

SEEDS = 400
AT_ONCE = 50
BLOCKS = [pytest.param(first, marks=[pytest.mark.long] * (first > 0)) for first in range(0, SEEDS, AT_ONCE)]

_TRAPS: dict[str, dict[str, Any]] = {
    "create_lost": {},
    "create_refused": {"times": 2},
    "queue_full": {},
    "not_found": {"seconds": 100.0},
    "results_not_found": {"seconds": 200.0},
    "unlisted": {"seconds": 200.0},
    "expire": {"share": 0.37},
    "missing": {"share": 0.2},
    "duplicate": {"share": 0.2},
    "foreign": {"rows": 3},
    "torn": {"times": 2, "share": 0.4},
    "short": {"times": 2, "share": 0.4},
    "empty_error_id": {},
    "empty_error_file": {},
    "finalizing": {"seconds": 7200.0},
    "stuck": {"seconds": 7200.0},
    "slow_cancel": {"seconds": 300.0, "share": 0.3},
    "list_moves": {},
    "file_pending": {"seconds": 20.0},
}
_FIRST_ONLY = ("queue_full", "create_lost", "stuck")
_OF_CALLS = ("create_refused", "list_moves")


class Story:
    """What one seed draws, and what has happened so far."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = Random(f"batches:{seed}")
        endpoint = rng.choice(["chat", "chat", "messages"])
        # Where a full queue refuses the creation there is no first batch, and it stays full.
        left_out = {"queue_full"} if endpoint == "messages" else set()
        self.kinds = [kind for kind in rng.sample(list(_TRAPS), rng.randint(0, 3)) if kind not in left_out]
        faults = [self._fault(kind) for kind in self.kinds]
        if rng.random() < 0.3:
            self.kinds.append("control_errors")
            statuses = (500, 503, 429)[: rng.randint(1, 3)]
            start, end = rng.choice([0.0, 20.0]), rng.choice([60.0, 4000.0])
            faults.append(
                BatchFault(
                    "control_errors", rate=rng.choice([0.1, 0.3, 1.0]), statuses=statuses, from_s=start, to_s=end
                )
            )
        rules = BatchRules(faults=tuple(faults), rows_per_s=rng.choice([1000.0, 1.0, 0.01]))
        self.world = World(rng.choice([5, 60, 130]), seed=seed, endpoint=endpoint, rules=rules)
        self.options: dict[str, Any] = {"chunk_rows": rng.choice([None, 25, 40]), "concurrency": 1}
        if rng.random() < 0.2:
            self.options["deadline"] = rng.choice([600.0, 3600.0, 7200.0])
        self.cuts = 0
        """Lives that ended while a live call may have been in flight."""

    def _fault(self, kind: str) -> BatchFault:
        rng = self.rng
        batches: tuple[int, ...] = ()
        if kind not in _OF_CALLS:
            batches = (1,) if kind in _FIRST_ONLY or rng.random() < 0.5 else (1, 2, 3)
        return BatchFault(kind, rate=rng.choice([0.3, 0.6, 1.0]), batches=batches, **_TRAPS[kind])  # type: ignore[arg-type]

    def tell(self) -> None:
        """Some lives that end badly, then as many as it takes."""
        rng, world = self.rng, self.world
        for _ in range(rng.randint(0, 3)):
            fate: dict[str, Any] = {"stop_at": rng.choice([1.0, 20.0, 500.0]), "stop_now": rng.random() < 0.5}
            drawn = rng.random()
            if drawn < 0.4:
                fate = {"kill_call": rng.randint(1, 20), "when": rng.choice(["before", "after"])}
            elif drawn < 0.8:
                fate = {"die_at_disk_call": rng.randint(1, 150)}
            if rng.random() < 0.3:
                fate["detach"] = True
            world.live(**self.options, **fate)
            self.cuts += 1
            if rng.random() < 0.3:
                world.delete_journal()
            world.clock += rng.choice([1.0, 100.0, 5000.0])
        world.live_on(**self.options)

    def check(self) -> None:
        """One line a row, and no row paid for twice that need not be."""
        world = self.world
        world.check_whole()
        ledger = world.provider.ledger
        assert ledger is not None
        lost = world.of(BatchLost)
        in_batches = sum(max(0, ledger.paid_batch(prompt(number)) - 1) for number in range(1, world.rows + 1))
        twice = world.paid - world.rows - in_batches
        assert in_batches <= sum(event.rows for event in lost), "paid for twice in batches"
        assert twice <= self.cuts + sum(event.rows for event in lost), "paid for twice live"


@pytest.mark.slow  # fifty stories of some 100 ms each
@pytest.mark.no_cover
@pytest.mark.parametrize("first", BLOCKS)
def test_no_story_loses_a_row_or_pays_for_one_twice(first: int) -> None:
    """Each block tells fifty of them."""
    broken = []
    for seed in range(first, first + AT_ONCE):
        story = Story(seed)
        try:
            story.tell()
            story.check()
        except Exception as error:
            broken.append(f"seed {seed} ({', '.join(story.kinds)}; {story.options}): {error!r:.300}")

    assert not broken, "\n".join(broken)
