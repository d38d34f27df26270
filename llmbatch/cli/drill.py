"""``llmbatch sim drill``: what a policy would do in an outage, in virtual time.

The trials and their scores are in :mod:`llmbatch.drill`.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

from llmbatch.cli.fleet import drill_fleet
from llmbatch.cli.settings import Settings
from llmbatch.cli.terminal import print_note, print_out
from llmbatch.core.errors import UsageError
from llmbatch.drill.policies import Policy, Recommendation, read_policy, read_range, recommend, sweep
from llmbatch.drill.score import Score, Slice
from llmbatch.drill.trial import TrialPlan, plan_trial, run_trial
from llmbatch.runner.options import RunOptions
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["DrillSettings", "drill"]

_WIDTH = 132
"""Columns of a table that no terminal shows."""

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """What ``llmbatch sim drill`` was told. ``latency`` is the median of a good answer in seconds."""

    scenarios: Sequence[str]
    rows: int | None
    latency: float | None
    compare: Sequence[str]
    sweep: Sequence[str]
    as_json: bool
    fleet: int | None = None
    """Processes that share a circuit, instead of policies in scenarios."""


def drill(told: DrillSettings, settings: Settings) -> int:
    """Run every policy through every scenario; gives the exit code: 1 where the first policy loses a row.

    Raises:
        UsageError: a scenario or policy is unknown, impossible, or there are too many.
    """
    base = RunOptions(**settings.run_options())  # type: ignore[arg-type]  # it converts "auto"
    base = replace(base, seed=base.seed or 0)
    if told.fleet is not None:
        if told.compare or told.sweep:
            raise UsageError("--fleet compares a shared circuit with none", hint="leave out --compare and --sweep")
        return drill_fleet(told.fleet, base, as_json=told.as_json)
    policies = _policies(told, base)
    scenarios = _scenarios(told.scenarios)
    plans = [
        plan_trial(scenario, base, rows=told.rows, latency=told.latency, seed=base.seed or 0) for scenario in scenarios
    ]
    trials = [(policy, plan) for policy in policies for plan in plans]
    scores = list(_run_all(trials))
    by_policy = {policy.name: [score for score in scores if score.policy == policy.name] for policy in policies}
    recommendation = recommend(by_policy, policies[0].name) if len(policies) > 1 else None
    if told.as_json:
        print_out(json.dumps(_json(scores, plans, recommendation)))
    else:
        _show(scores, plans, policies, recommendation)
    return 1 if any(score.failed for score in by_policy[policies[0].name]) else 0


def _policies(told: DrillSettings, base: RunOptions) -> list[Policy]:
    if told.sweep and told.compare:
        raise UsageError("--sweep and --compare contradict each other", hint="give one of them")
    if told.sweep:
        ranges = dict(map(read_range, told.sweep))
        if len(ranges) < len(told.sweep):
            raise UsageError("--sweep names an option twice", hint="give all its values at once, such as 3,5,8")
        return sweep(ranges, base)
    found = [Policy("as told", base), *(read_policy(text, base) for text in told.compare)]
    if len({policy.name for policy in found}) < len(found):
        raise UsageError("--compare names a policy twice")
    return found


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    if list(names) == ["all"]:
        return [scenario for scenario in built_in_scenarios().values() if scenario.source]
    return [find_scenario(name) for name in dict.fromkeys(names)]


def _run_all(trials: Sequence[tuple[Policy, TrialPlan]]) -> Iterator[Score]:
    if len(trials) == 1:
        yield _run(trials[0])
        return
    workers = min(len(trials), os.cpu_count() or 1)
    # Processes of their own: a trial keeps a core busy. Started afresh, as this one may have threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, score in enumerate(pool.map(_run, trials), 1):
            if sys.stderr is not None and sys.stderr.isatty():
                sys.stderr.write(f"\r{done}/{len(trials)} trials" + ("\n" if done == len(trials) else ""))
                sys.stderr.flush()
            yield score


def _run(trial: tuple[Policy, TrialPlan]) -> Score:
    policy, plan = trial
    return run_trial(policy.options, plan, policy=policy.name)


def _json(
    scores: Sequence[Score], plans: Sequence[TrialPlan], recommendation: Recommendation | None
) -> dict[str, object]:
    """Everything, with None for what is infinite or was not measured."""

    def finite(value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value

    told = [asdict(score) | {"slowdown": score.slowdown, "worst_recovery": score.worst_recovery} for score in scores]
    planned = [{"scenario": plan.scenario.name, "rows": plan.rows, "latency": plan.latency} for plan in plans]
    return {
        "plans": planned,
        "scores": finite(told),
        "recommendation": None if recommendation is None else asdict(recommendation),
    }


def _show(
    scores: Sequence[Score],
    plans: Sequence[TrialPlan],
    policies: Sequence[Policy],
    recommendation: Recommendation | None,
) -> None:
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if is_terminal else _WIDTH)
    for plan in plans:
        scenario = plan.scenario
        print_note(f"{scenario.name}: {scenario.description}{f' ({scenario.source})' if scenario.source else ''}")
        print_note(f"  {plan.rows:,} rows, median answer {plan.latency:.3g} s")
    if len(scores) == 1:
        console.print(_column(scores[0]))
        for line in _strips(scores[0]):
            console.print(line, markup=False)
    else:
        console.print(_table(scores, several=len(policies) > 1))
    if recommendation is not None:
        console.print(f"take: {recommendation.policy}\n  {recommendation.reason}", markup=False)


_HEADS = {
    "failed": "good rows failed",
    "waiting": "rows left for another run",
    "time": "time of the run",
    "÷ oracle": "over that of an oracle who knows the outage",
    "calls": "calls",
    "down": "calls that reached a provider that was down",
    "may": "as many may: concurrency and threshold for each spell, and every probe",
    "opened": "openings of a circuit",
    "90 % after": "time from recovery to 90 % of goodput, the longest",
    "load": "offered load over capacity while that was short, the worst minute",
}


def _cells(score: Score) -> list[str]:
    recovery = score.worst_recovery
    return [
        f"[red]{score.failed:,}[/]" if score.failed else "0",
        f"{score.waiting:,}",
        _span(score.seconds),
        f"{score.slowdown:.3f}" if math.isfinite(score.oracle) else "–",
        f"{score.calls:,}",
        f"{score.calls_down:,}",
        f"{score.allowed_down:,}",
        f"{score.openings:,}",
        "–" if recovery is None else _span(recovery),
        f"{score.load:.2f}" if score.load else "–",
    ]


def _column(score: Score) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for cell, meaning in zip(_cells(score), _HEADS.values(), strict=True):
        table.add_row(cell, meaning)
    table.add_row(f"{score.exit_code}", f"exit code: {score.reason}")
    return table


def _table(scores: Sequence[Score], *, several: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, is_shown in (("policy", several), ("scenario", True)):
        if is_shown:
            table.add_column(name, overflow="fold")
    for name in _HEADS:
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(*([score.policy] if several else []), score.scenario, *_cells(score))
    return table


def _strips(score: Score) -> list[str]:
    def drawn(values: Sequence[float]) -> str:
        return "".join(_BLOCKS[round(min(1.0, value) * (len(_BLOCKS) - 1))] for value in values)

    def marked(values: Sequence[float], mark: str) -> str:
        return "".join(mark if value >= 0.5 else "·" if value > 0 else " " for value in values)

    strip: Sequence[Slice] = score.slices
    return [
        f"goodput   {drawn([moment.goodput for moment in strip])}",
        f"down      {marked([moment.down for moment in strip], '×')}",
        f"circuit   {marked([moment.open for moment in strip], 'o')}",
        f"          0 {_span(score.seconds):>{len(strip) - 2}}",
    ]


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
