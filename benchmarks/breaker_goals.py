"""The goals for the breaker's cost, computed from one run: ratios to peers, and whether each goal was reached.

A peer is *correct* if it fails none of the situations in ``CORE`` in the same run. It measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from breaker_cost import CELLS, Cell, Figures, added, each, median
from breaker_findings import Finding
from breaker_peers import OURS, PEERS, WINDOWED
from breaker_situations import CORE, SITUATIONS

SYNC_CLOSED, SYNC_OPEN, ASYNC_CLOSED, ASYNC_OPEN, THREADS_CLOSED, THREADS_OPEN = CELLS
CORE_NUMBERS = ", ".join(str(list(SITUATIONS).index(name) + 1) for name in CORE)


@dataclass(frozen=True, slots=True)
class Goal:
    """One line: what was measured, what was wanted. ``reached`` None: it is only told."""

    what: str
    value: float | None
    shown: str
    target: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "missed", None: ""}[self.reached]


def failures(findings: dict[str, Finding]) -> list[str]:
    """The core situations that a library fails; `-` fails none."""
    return [situation for situation in CORE if findings[situation].passed is False]


def rivals(found: dict[str, dict[str, Finding]]) -> list[str]:
    """The correct peers; if there is none, those that fail fewest of the core situations."""
    peers = {peer.name: len(failures(found[peer.name])) for peer in PEERS if peer.name in found}
    return [name for name, count in peers.items() if count == min(peers.values())]


def leaders(found: dict[str, dict[str, Finding]]) -> str:
    """Which peers the ratios to the best correct one are about."""
    names = rivals(found)
    if not names:
        return "No ratio to the best correct peer: that takes peers, and the situations of the same run."
    failed = {name: failures(found[name]) for name in names}
    if not any(failed.values()):
        return f"Correct (fails none of situations {CORE_NUMBERS}): {', '.join(names)}."
    told = "; ".join(f"{name} ({', '.join(words)})" for name, words in failed.items())
    return f"No peer is correct (fails none of situations {CORE_NUMBERS}); nearest, and so compared with: {told}."


def goals(figures: Figures, found: dict[str, dict[str, Finding]]) -> list[Goal]:
    """Every ratio that the run allows; without peers only the absolute ones."""
    peers = [peer.name for peer in PEERS]
    lines = []
    for cell, goal, stretch in ((SYNC_CLOSED, 150, 60), (ASYNC_CLOSED, 200, 100)):
        value = median(added(figures, cell, OURS.name))
        target = f"≤ {goal} ns (stretch {stretch})"
        lines.append(Goal(f"{cell}: added", value, f"{value:,.0f} ns", target, value <= goal))
    for cell in (SYNC_CLOSED, ASYNC_CLOSED):
        lines += to_best(figures, cell, peers, "÷ cheapest peer", 1.0, "< 1")
    for cell in (SYNC_OPEN, ASYNC_OPEN):
        lines += to_best(figures, cell, peers, "rejection ÷ cheapest peer", 0.6, "≤ .6 (stretch .45)")
    lines += to_best(figures, THREADS_CLOSED, peers, "÷ cheapest peer")
    lines += to_best(figures, THREADS_OPEN, peers, "rejection ÷ cheapest peer")
    for cell in (SYNC_CLOSED, ASYNC_CLOSED, THREADS_CLOSED):
        lines += to_best(figures, cell, rivals(found), "÷ best correct peer")
    for cell in (SYNC_CLOSED, ASYNC_CLOSED, THREADS_CLOSED):
        lines += to_best(figures, cell, ["interlock-cb"], "with a rate window ÷", row=WINDOWED.name)
    return lines


def to_best(
    figures: Figures,
    cell: Cell,
    names: list[str],
    what: str,
    goal: float | None = None,
    target: str = "",
    row: str = OURS.name,
) -> list[Goal]:
    """*row* over the cheapest of *names* in *cell*; no line where none of them has a figure."""
    own = median(added(figures, cell, row))
    others = sorted(each(figures, cell, names), key=lambda pair: pair[1])
    if not others:
        return []
    name, best = others[0]
    ratio = own / best
    reached = None if goal is None else (ratio < goal if goal == 1.0 else ratio <= goal)
    return [Goal(f"{cell}: {what}", ratio, f"{ratio:.2f} ({own:,.0f} ÷ {best:,.0f}, {name})", target, reached)]
