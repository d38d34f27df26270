"""Runs stories, many or for long, and prints the command that replays each one that breaks a guarantee.

    python tests/simulation/hunt.py --seed 123            one story, told in full
    python tests/simulation/hunt.py --seeds 0 2000        a range
    python tests/simulation/hunt.py --minutes 60          as many as time allows, from a new place each time

With --routes they are stories of fallbacks, pools, tiers, tenants and a cache.

Exit code 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent))

from simulation_route_story import RouteStory
from simulation_story import Story

BATCH = 50


@dataclass
class RunStats:
    """What a number of stories came to."""

    seeds: int = 0
    lives: int = 0
    calls: int = 0
    seconds: float = 0.0
    """Virtual ones."""
    good_rows: int = 0
    by_chance: int = 0
    """Good rows that failed by chance, as the law allows for one in 100,000."""
    unlucky: int = 0
    """Of several routes: the same, where what other rows met meanwhile asks for more attempts."""
    fates: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: RunStats) -> None:
        self.seeds += other.seeds
        self.lives += other.lives
        self.calls += other.calls
        self.seconds += other.seconds
        self.good_rows += other.good_rows
        self.by_chance += other.by_chance
        self.unlucky += other.unlucky
        self.fates += other.fates
        self.broken += other.broken

    @property
    def is_lawful(self) -> bool:
        """Whether not more rows were unlucky than one in 100,000 explains, but for one hunt in 10,000 (Poisson)."""
        mean = self.good_rows / 100_000
        fewer = sum(math.exp(-mean) * mean**count / math.factorial(count) for count in range(self.unlucky))
        return fewer < 1 - 1e-4

    def __str__(self) -> str:
        days = self.seconds / 86400
        fates = ", ".join(f"{count} {kind}" for kind, count in self.fates.most_common())
        return (
            f"{self.seeds} stories, {self.lives} lives, {self.calls} calls, {days:.0f} days of virtual time, "
            f"{self.by_chance} + {self.unlucky} of {self.good_rows} good rows failed by chance"
            f"{'' if self.is_lawful else ' (MORE THAN THE LAW ALLOWS)'}, "
            f"{len(self.broken)} broken; met: {fates}"
        )


def command(seed: int, *, routes: bool = False) -> str:
    return f"python tests/simulation/hunt.py{' --routes' * routes} --seed {seed}"


def tell_routes(first: int, last: int) -> RunStats:
    """The same of stories with several routes."""
    return tell(first, last, RouteStory)


def tell(first: int, last: int, kind: type[Story] | type[RouteStory] = Story) -> RunStats:
    """The stories of the seeds from *first* up to *last*, which is left out."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # coroutines of a life that was killed are never awaited
    stats = RunStats()
    for seed in range(first, last):
        stats.seeds += 1
        story = kind(seed)
        try:
            story.tell()
        except Exception as error:
            words = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            stats.broken.append((seed, words))
        stats.lives += len(story.lives)
        stats.calls += story.calls
        stats.seconds += story.world
        stats.good_rows += story.watch.good_rows
        stats.by_chance += story.watch.by_chance
        stats.unlucky += getattr(story.watch, "unlucky", 0)
        stats.fates.update(story.met)
    return stats


def _tell_one(seed: int, kind: type[Story] | type[RouteStory]) -> int:
    story = kind(seed)
    print(story.plan, end="\n\n")
    try:
        story.tell()
    except Exception as error:
        print("\n".join(story.log))
        print("".join(traceback.format_exception(error)))
        return 1
    print("\n".join(story.log))
    print(f"\nall held; digest {story.digest}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--seed", type=int)
    how.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"))
    how.add_argument("--minutes", type=float)
    parser.add_argument("--routes", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.seed is not None:
        return _tell_one(given.seed, RouteStory if given.routes else Story)

    first, last = given.seeds or (random.SystemRandom().randrange(10**6, 2 * 10**9), 10**12)
    print(f"from seed {first} on", flush=True)
    until = time.monotonic() + (given.minutes or 10**6) * 60
    stats = RunStats()
    # A process that told thousands of stories holds what their dead lives never cleaned up.
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), max_tasks_per_child=40) as pool:
        waiting: list[Future[RunStats]] = []
        at = first
        while (at < last and time.monotonic() < until) or waiting:
            while len(waiting) < 2 * given.jobs and at < last and time.monotonic() < until:
                waiting.append(pool.submit(tell_routes if given.routes else tell, at, min(at + BATCH, last)))
                at += BATCH
            done = waiting.pop(0).result()
            stats.add(done)
            for seed, words in done.broken:
                print(f"\n{words}\n  replay: {command(seed, routes=given.routes)}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{stats.seeds} stories, {len(stats.broken)} broken ", end="", file=sys.stderr, flush=True)
    print(stats)
    return 1 if stats.broken or not stats.is_lawful else 0


if __name__ == "__main__":
    raise SystemExit(main())
