"""The timeline of each strategy of ``outage_sim.py``, above each other: calls, good answers, outage and circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbatch.sim.scenario import Scenario

if TYPE_CHECKING:
    from outage_sim import Measured

COLOURS = {"open": "#c0392b", "half_open": "#e5a50a", "closed": "#2d8659"}


def draw(scenario: Scenario, runs: Mapping[str, Measured], path: Path) -> None:
    """Write the picture; the suffix of *path* says which kind."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    mpl.rcParams["svg.hashsalt"] = "outage"
    from matplotlib import pyplot

    end = max(run.timeline[-1][0] for run in runs.values() if run.timeline) + 1.0
    size = (9, 1.7 * len(runs) + 0.6)
    rows: Any
    figure, rows = pyplot.subplots(len(runs), 1, sharex=True, sharey=True, figsize=size, squeeze=False)
    for axis, (name, run) in zip(rows[:, 0], runs.items(), strict=True):
        for began, ended in down(scenario, end):
            axis.axvspan(began, ended, color="#f3d6d3", lw=0)
        seconds = range(math.ceil(end))
        axis.step(seconds, by_second(run, 1, end), where="post", color="#8a8a8a", lw=1.0, label="calls a second")
        good = by_second(run, 2, end)
        axis.fill_between(seconds, good, step="post", color="#5b8def", alpha=0.7, lw=0, label="answered well")
        title = f"{name}: {run.failed:,} rows failed, {run.calls_down:,} calls while it was down"
        axis.set_title(title, fontsize=9, loc="left")
        states = [(0.0, "closed"), *((at, state) for at, state in run.circuit), (end, "closed")] if run.circuit else []
        for (at, state), (until, _) in pairwise(states):
            axis.plot([at, until], [0, 0], color=COLOURS[state], lw=4, solid_capstyle="butt", clip_on=False)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    rows[0, 0].legend(fontsize=8, loc="upper right", frameon=False)
    rows[-1, 0].set_xlabel("seconds since the first call; shaded: the provider is down; line at the foot: the circuit")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def by_second(run: Measured, kind: int, end: float) -> list[float]:
    """Calls (1) or good answers (2) of each second."""
    sums = [0.0] * math.ceil(end)
    for entry in run.timeline:
        if 0 <= entry[0] < end:
            sums[int(entry[0])] += entry[kind]
    return sums


def down(scenario: Scenario, until: float) -> list[tuple[float, float]]:
    """The spells in which no request could succeed."""
    spells: list[tuple[float, float]] = []
    at = 0.0
    for phase in scenario.phases:
        if phase.is_down:
            spells.append((at, min(until, at + phase.seconds)))
        at += phase.seconds
    return spells
