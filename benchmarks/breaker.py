"""The circuit breaker beside its peers, in one run: twenty situations that it must survive, and what a call costs.

The situations (breaker_situations.py) are run by code through each library's own public calls: threads on its
synchronous side, tasks on its asynchronous one; a cell passes where both pass, and says in a word what happened where
not. `-`: the library has no such call. The costs (breaker_cost.py) are nanoseconds a call, libraries in turn, round
after round: medians, and half the distance between the quartiles. Streams (breaker_streams.py) have no peer; their cost
is nanoseconds a chunk over the bare loop.

Bias and limits: the situations were collected by the authors of llmbatch, whose breaker was made for them. A timeout
inside the call ends a hung probe in every library, and is not used. llmbatch and interlock-cb take a fake clock, the
others really wait. The call measured is the quickest that a library documents and that refuses: for purgatory a with
block whose breaker is kept, its decorator is slower. interlock-cb always keeps a failure-rate window: compare it with
the row `llmbatch, rate window`. Nothing is random, so there is no seed. No network; whole processes, many cores,
Python without its lock and a load beside the benchmark are not measured. Nanoseconds hold for one machine and day:
only the ratios travel.

    python benchmarks/breaker.py [--only conformance|cost|streams] [--rounds 15] [--calls 20000] [--json FILE]
                                 [--markdown]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import breaker_cost as cost
from breaker_findings import Finding
from breaker_goals import Goal, goals, leaders
from breaker_peers import OURS, PEERS, WINDOWED, Library
from breaker_situations import SITUATIONS, observe
from breaker_streams import CHUNKS, STREAMS, Streams, measure_streams, stream_rows
from rich import box
from rich.console import Console
from rich.table import Table

HINT = "pip install -e '.[peers]'"
Findings = dict[str, dict[str, Finding]]
Rows = list[list[str]]


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {library.name: library.version for library in (OURS, *PEERS)},
        "load_before": os.getloadavg()[0],
    }


def head(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items() if number)
    load = f"load {facts['load_before']:.1f} before" + (f", {facts['load_after']:.1f} after" * ("load_after" in facts))
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}, {facts['python']}; {load}.\n{versions}."


def run_situations(libraries: Iterable[Library], tell: Any) -> Findings:
    found: Findings = {}
    for library in libraries:
        tell(f"conformance: {library.name}")
        found[library.name] = {situation: observe(library, situation) for situation in SITUATIONS}
    return found


# Tables: a head and rows of plain text, for both ways of printing.


def situation_rows(found: Findings) -> Rows:
    rows = [["", *found]]
    for number, situation in enumerate(SITUATIONS, 1):
        rows.append([f"{number} {situation}", *(findings[situation].word for findings in found.values())])
    passed = (sum(finding.passed is True for finding in findings.values()) for findings in found.values())
    rows.append(["passed", *map(str, passed)])
    return rows


def situation_note() -> str:
    missing = [peer.name for peer in PEERS if not peer.version]
    absent = f" Not installed: {', '.join(missing)} ({HINT})." if missing else ""
    return f"-: the library has no such call.{absent}"


def cost_rows(figures: cost.Figures) -> Rows:
    rows = [["ns a call", *(f"{cell}{' +' if cell.closed else ''}" for cell in cost.CELLS)]]
    for name in (cost.BARE, cost.RAISE, OURS.name, WINDOWED.name, *(peer.name for peer in PEERS)):
        cells = [cost.added(figures, cell, name) for cell in cost.CELLS]
        texts = [f"{cost.median(cell):,.0f} ±{cost.spread(cell):,.0f}" if cell else "-" for cell in cells]
        if any(cells):
            rows.append([name, *texts])
        else:
            rows.append([name, "not installed", *[""] * (len(texts) - 1)])
    return rows


def cost_note(rounds: int, calls: int) -> str:
    paths = "; ".join(
        f"{library.name}: {', '.join(dict.fromkeys(library.paths.values()))}" for library in (OURS, *PEERS)
    )
    return (
        f"+: added over the bare call of the same round. Open: the whole refusal, raise and except included. "
        f"{rounds} rounds of {calls:,} calls, {cost.THREADS} threads for {calls * cost.THREADS_S_A_CALL:.2f} s each; "
        f"median ± half the distance between the quartiles. Called through {paths}. interlock-cb always keeps a "
        f"failure-rate window."
    )


def goal_rows(reached: list[Goal]) -> Rows:
    rows = [["", "this run", "goal", ""]]
    rows += [[goal.what, goal.shown, goal.target, goal.verdict] for goal in reached]
    return rows


def print_table(console: Console, title: str, rows: Rows) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def markdown(rows: Rows) -> str:
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("conformance", "cost", "streams"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20_000, help="in a round and cell, of one thread")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figure and every observation")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.calls < 1:
        parser.error("--rounds and --calls must be at least 1")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    installed = [library for library in PEERS if library.version]
    facts = machine()
    started = time.monotonic()

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    for peer in PEERS:
        if peer not in installed:
            tell(f"{peer.name} is not installed: {HINT}")
    found = run_situations([OURS, *installed], tell) if options.only in (None, "conformance") else {}
    figures: cost.Figures = {}
    streams: Streams = {}
    if options.only in (None, "streams"):
        tell("streams")
        streams = measure_streams(rounds=options.rounds)
    if options.only in (None, "cost"):
        figures = cost.measure_all(
            [OURS, WINDOWED, *installed], rounds=options.rounds, calls=options.calls, progress=tell
        )
    facts["load_after"] = os.getloadavg()[0]
    facts["seconds"] = time.monotonic() - started
    reached = goals(figures, found) if figures else []

    tables: list[tuple[str, Rows, str]] = []
    if found:
        tables.append(("Situations", situation_rows(found), situation_note()))
    if figures:
        tables.append(("Cost", cost_rows(figures), cost_note(options.rounds, options.calls)))
        tables.append(("Goals", goal_rows(reached), leaders(found)))
    if streams:
        note = f"{options.rounds} rounds of {STREAMS} streams of {CHUNKS:,} chunks; CPU time, medians."
        tables.append(("Streams", stream_rows(streams), note))
    if options.markdown:
        for title, rows, note in tables:
            print(f"**{title}**\n\n{markdown(rows)}\n" + (f"\n{note}\n" if note else ""))
        print(head(facts))
    else:
        width = 120 if not sys.stdout.isatty() else None
        console = Console(width=width, highlight=False, markup=False)
        console.print(head(facts) + "\n")
        for title, rows, note in tables:
            print_table(console, title, rows)
            if note:
                console.print(note + "\n")
        console.print("\n".join(textwrap.wrap(__doc__.split("\n\n")[2].replace("\n", " "), console.width)))
    if options.json:
        raw = {
            "machine": facts,
            "argv": sys.argv[1:] if argv is None else argv,
            "conformance": {
                name: {situation: asdict(finding) for situation, finding in cells.items()}
                for name, cells in found.items()
            },
            "cost_ns_a_call": figures,
            "cost_ns_a_chunk": streams,
            "goals": [asdict(goal) for goal in reached],
        }
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
