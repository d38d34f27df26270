"""Everyday mess in virtual time: bad rows, partial outages, throttled, slow and dead neighbors, each with its budget.

The real engine runs against a provider that answers as each cell says (``mess_cells.py``); hours take seconds of CPU,
and a seed replays exactly. A line per cell: virtual time, the ideal and the ratio, good rows that failed, bad rows that
did not, outages reported, calls, their ideal and the ratio, and seconds of CPU; then each bound that is not kept.
Exit code 1 if one is not.

    python benchmarks/mess.py --quick                        a subset, under a minute
    python benchmarks/mess.py --cell 'bad/http/*' --cell 50% all over HTTP, and whatever has 50% in its name
    python benchmarks/mess.py --rows 1000000 --cell chance   a million good rows at each rate of errors
    python benchmarks/mess.py --real                         a small set over real HTTP on loopback, in real time

Bias: calls cost no time of this machine, so that what the runner itself needs is not seen; latencies are even (within a
tenth), those of providers are not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase

from mess_cells import Cell, Finding, Setup, all_cells
from mess_real import real_cells
from mess_run import explain_error
from rich.console import Console
from rich.text import Text

HEAD = (
    f"{'cell':<44} {'time':>9} {'ideal':>8} {'÷':>6} {'wrong':>5} {'kept':>5} {'out':>4} "
    f"{'calls':>8} {'ideal':>8} {'÷':>5} {'CPU':>6}"
)


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 600 else f"{value / 60:.0f} min" if value < 36_000 else f"{value / 3600:.1f} h"


def line(cell: Cell, found: Finding) -> str:
    time = ("" if found.ended else "> ") + seconds(found.seconds)
    return (
        f"{cell.name:<44} {time:>9} {seconds(found.ideal):>8} {found.seconds / found.ideal:>6.2f} {found.wrong:>5} "
        f"{found.kept:>5} {found.outages:>4} {found.calls:>8,} {found.ideal_calls:>8,.0f} "
        f"{found.calls / found.ideal_calls:>5.2f} {found.cpu:>5.1f}s"
    )


def as_json(cell: Cell, found: Finding) -> str:
    checks = [
        {
            "name": check.name,
            "value": check.value if math.isfinite(check.value) else None,
            "most": check.most if math.isfinite(check.most) else None,
            "least": check.least if math.isfinite(check.least) else None,
            "holds": check.holds,
        }
        for check in found.checks
    ]
    return json.dumps({"cell": cell.name, "passed": found.passed} | asdict(found) | {"checks": checks})


def chosen(arguments: argparse.Namespace) -> list[Cell]:
    cells = list(real_cells()) if arguments.real else all_cells()
    if arguments.cell:
        return [
            cell
            for cell in cells
            if any(pattern in cell.name or fnmatchcase(cell.name, pattern) for pattern in arguments.cell)
        ]
    return [cell for cell in cells if cell.quick or not arguments.quick]


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a subset, under a minute of CPU")
    parser.add_argument("--real", action="store_true", help="over real HTTP against the simulated provider instead")
    parser.add_argument("--cell", action="append", help="part of a name, or a pattern; repeatable")
    parser.add_argument("--rows", type=int, default=100_000, help="good rows of each chance/ cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beyond", type=float, default=10.0, help="budgets after which a run is cut off")
    parser.add_argument("--list", action="store_true", help="only name the cells")
    parser.add_argument("--failed", action="store_true", help="show only cells that break a bound")
    parser.add_argument("--json", action="store_true", help="one JSON object per cell")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    arguments = parsed(words)
    cells = chosen(arguments)
    if not cells or arguments.list:
        print("\n".join(cell.name for cell in (cells if arguments.list else all_cells())))
        return 0 if cells else 2
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=True)
    setup = Setup(rows=arguments.rows, seed=arguments.seed, beyond=arguments.beyond)
    if not arguments.json:
        console.print(HEAD, style="bold")
    passed, cpu = 0, 0.0
    for cell in cells:
        try:
            found = cell.measure(setup)
        except Exception as error:  # noqa: BLE001 - one broken cell must not hide the others
            print(json.dumps({"cell": cell.name, "passed": False, "error": explain_error(error)})) if (
                arguments.json
            ) else console.print(Text(f"{cell.name:<44} error: {explain_error(error)}", style="red"))
            continue
        passed += found.passed
        cpu += found.cpu
        if arguments.json:
            print(as_json(cell, found), flush=True)
        elif not (arguments.failed and found.passed):
            console.print(Text(line(cell, found), style="" if found.passed else "red"))
            for check in found.checks:
                if not check.holds:
                    console.print(Text(f"    ✗ {check}"))
            if found.note:
                console.print(Text(f"    {found.note.strip()}", style="dim"))
    if not arguments.json:
        console.print(f"{passed} of {len(cells)} cells within their bounds, {cpu:.0f} s of CPU", style="bold")
    return 0 if passed == len(cells) else 1


if __name__ == "__main__":
    sys.exit(main())
