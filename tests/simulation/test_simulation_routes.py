"""Runs with fallbacks, pools, tiers, tenants and a cache under drawn faults, and the bugs that such stories find."""

from __future__ import annotations

import pytest
from hunt import command, tell_routes
from simulation_route_bugs import ROUTE_BUGS
from simulation_route_story import RouteStory

SEEDS = 120

FIRST = (51, 511, 17, 3, 27, 12, 2, 6, 42121450, 42121122)
"""The stories that show the planted bugs, short ones first.

Two of them are found in none of the first thousands: all are told too."""
FOUND = (
    *(525825326, 525831926, 295859372, 833016616, 744608359, 744634143, 744597392, 744611700, 12441452, 886346562),
    979489879,
)
"""Stories that have broken a guarantee.

A row waits at a refused fallback for the end of its first route's wait; rows failed on all but dead routes; rows are
parked at a route as it is given up; rows that wait for an equal one's answer take turns of a pool; rows
that were queued at a fallback while the first route was throttled are sent there though it takes them again; rows that
a route was to hold for minutes could not probe another one, with --on-outage defer; each tenant finds out for itself
that a route answers nobody, and the run ends with a row there that another route takes."""
FATES = {"kill", "power", "stop", "stop now", "cancel", "locked cache", "deleted cache"}


@pytest.mark.slow  # some dozens of stories of 70 ms each
@pytest.mark.no_cover
@pytest.mark.parametrize("seeds", [SEEDS // 2, pytest.param(SEEDS, marks=pytest.mark.long)])
def test_no_story_of_several_routes_breaks_a_guarantee(seeds: int) -> None:
    """Outages of one, several or all routes, refused keys, kills: each row has one line, from what really answered."""
    stats = tell_routes(0, seeds)
    for seed in (*FIRST, *FOUND):
        if seed >= seeds:
            stats.add(tell_routes(seed, seed + 1))

    assert not stats.broken, "".join(
        f"\n{words}\n  replay: {command(seed, routes=True)}" for seed, words in stats.broken
    )
    assert stats.by_chance <= 1, "good rows fail by chance more often than what others met allows"
    assert stats.is_lawful, "good rows fail by chance more often than one in 100,000"
    assert set(stats.fates) >= FATES
    assert stats.lives > 2 * seeds


@pytest.mark.slow  # up to some seconds of stories
@pytest.mark.no_cover
@pytest.mark.parametrize("words", ROUTE_BUGS)
def test_a_planted_bug_of_routes_is_found(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hunt that finds nothing says something only if it finds what is there."""
    ROUTE_BUGS[words](monkeypatch)

    broken = next(
        (found for seed in dict.fromkeys((*FIRST, *range(SEEDS))) if (found := tell_routes(seed, seed + 1).broken)), []
    )

    assert broken, f"{SEEDS} stories do not notice: {words}"


@pytest.mark.slow  # tells stories twice
def test_a_story_of_several_routes_replays_exactly() -> None:
    """Otherwise a seed that fails once could not be looked into."""

    def digests() -> list[str]:
        stories = [RouteStory(seed) for seed in range(6)]
        for story in stories:
            story.tell()
        return [story.digest for story in stories]

    assert digests() == digests()
