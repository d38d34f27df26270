"""``llmbatch sim drill --fleet N``: what a fleet of processes would do in an outage, in virtual time."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from llmbatch.cli.terminal import print_note, print_out
from llmbatch.core.errors import UsageError
from llmbatch.drill.fleet import FleetPlan, FleetScore, run_fleet
from llmbatch.runner.options import RunOptions

__all__ = ["MOST_WORKERS", "drill_fleet"]

MOST_WORKERS = 2000
"""Largest fleet: each thousand takes ten seconds and half a gigabyte."""


def drill_fleet(workers: int, options: RunOptions, *, as_json: bool) -> int:
    """Simulate a fleet with a shared circuit and one without, and print what each did; give the exit code.

    Raises:
        UsageError: *workers* is out of range.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--fleet is {workers}, must be 1 to {MOST_WORKERS:,}")
    plan = FleetPlan(
        workers,
        slots=options.concurrency,
        recovery_timeout=options.recovery_timeout,
        failure_threshold=options.failure_threshold,
        seed=options.seed or 0,
    )
    scores = {"shared": run_fleet(plan), "each alone": run_fleet(replace(plan, shared=False))}
    if as_json:
        print_out(json.dumps({"simulation": True, "scores": {name: _json(score) for name, score in scores.items()}}))
        return 0
    print_note(
        f"a simulation of {workers:,} processes with {plan.slots} slots each, the provider down for {plan.outage:g} s;"
        f" {plan.lost_news:.0%} of the news are lost, {plan.dead_probers:.0%} of the probers die,"
        " and the store forgets all once"
    )
    print_out(f"{'':38}{''.join(f'{name:>14}' for name in scores)}")
    for title, values in _rows(list(scores.values())):
        print_out(f"{title:38}{''.join(f'{value:>14}' for value in values)}")
    return 0


def _rows(scores: list[FleetScore]) -> list[tuple[str, list[str]]]:
    return [
        ("calls that met the outage", [f"{score.calls_down:,}" for score in scores]),
        ("probes", [f"{score.probes:,}" for score in scores]),
        ("most probes at once", [f"{score.probes_at_once:,}" for score in scores]),
        ("probers that died", [f"{score.deaths:,}" for score in scores]),
        ("all stopped, after the first opening", [_seconds(score.all_open_after) for score in scores]),
        ("first good answer, after the outage", [_seconds(score.first_good_after) for score in scores]),
        ("all at work again, after the outage", [_seconds(score.all_closed_after) for score in scores]),
    ]


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f} s"


def _json(score: FleetScore) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(score).items()
    }
