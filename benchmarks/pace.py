"""How near to what a provider allows a run comes: rate limits, a server's knee, a fallback, a pool. In virtual time.

Four parts, each with the goals it is measured against:

* ``limits``: requests or tokens per minute, as each provider keeps and reports them. *rate*: good answers (or their
  tokens) from the first minute on, as a share of what is allowed; *429*: share of all calls, and *429 later*: of those
  from the first minute on. With ``-c auto``, ``-c 40`` and, as a comparison, a naive script with 40 at a time and six
  attempts. ``azure 10 s``: also no more than ten seconds of the limit at once. ``halved``, ``doubled``: from 30 s after
  the limit changed.
* ``knee``: latency flat to K requests in flight and then linear. *throughput* is relative to the best, *in flight* to
  K, both after 20 round trips; *reached*: the round trip from which five in a row are within the goals.
* ``fallback``: a primary that is down from 30 to 90 s. *first call*: seconds from the opening; *to oracle*: total time
  relative to a client that always sends where an answer comes. Both servers have a knee at 40.
* ``pool``: three keys with the weights 2, 1, 1, the last without money. *by weight*: largest deviation of a share.

    python benchmarks/pace.py [--parts limits,knee,fallback,pool] [--rates 60,600] [--knees 8,64] [--json raw.json]

Bias: virtual time, one seed, one latency; this process costs nothing there, so that 6,000 requests a minute say
nothing about its speed. Simulated buckets are full at the start and fill smoothly.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent))

from pace_runs import Run, Sent, refused_share, run_llmbatch, run_naive

from llmbatch.core.events import CircuitChanged
from llmbatch.sim.rate_limits import LimitStyle, RateLimits
from llmbatch.sim.scenario import Phase, Scenario

PARTS = ("limits", "knee", "fallback", "pool")
RATES = (60, 600, 6000)
KNEES = (8, 64, 512)
CLIENTS = ("auto", "40", "naive")
LATENCY = 0.3
ROUND_TRIPS = 45
SEEDS = 8
TOKENS_PER_ROW = 105.0
"""Roughly what a row counts as; turns requests per minute into tokens per minute."""

FINE = Phase(math.inf)
Kind = tuple[LimitStyle, float]
STYLES: dict[str, Kind] = {
    "openai": ("openai", 60.0),
    "anthropic": ("anthropic", 60.0),
    "azure": ("azure", 60.0),
    "azure 10 s": ("azure", 10.0),
    "groq": ("groq", 60.0),
}


@dataclass(frozen=True)
class Figure:
    """One measured number and the goal it is held against: at least, or at most."""

    part: str
    case: str
    client: str
    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_reached(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def goal(self) -> str:
        if self.client == "naive":
            return ""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


def scenario(*phases: Phase, **more: Any) -> Scenario:
    return Scenario("bench", phases or (FINE,), "for a benchmark", **more)


def client_run(client: str, count: int, one: Scenario, **more: Any) -> Run:
    if client == "naive":
        return run_naive(count, one, latency=LATENCY)
    concurrency: Any = client if client == "auto" else int(client)
    return run_llmbatch(count, {"m": one}, latency=LATENCY, concurrency=concurrency, **more)


def used(calls: Iterable[Sent], kind: str) -> float:
    return sum(1.0 if kind == "rpm" else call.tokens for call in calls if call.status == 200)


def limits(rates: Iterable[int], styles: Iterable[str], clients: Iterable[str]) -> Iterator[Figure]:
    for style_name in styles:
        style, burst = STYLES[style_name]
        for kind in ("rpm", "tpm"):
            if kind == "tpm" and burst != 60.0:
                continue  # only requests have a shorter window
            for rate in rates:
                for headers in (True, False):
                    allowed = float(rate) if kind == "rpm" else rate * TOKENS_PER_ROW
                    one = scenario(limits=RateLimits(style, burst=burst, headers=headers, **{kind: allowed}))
                    case = f"{style_name}, {rate:,} {kind}" + ("" if headers else ", no headers")
                    case = case if kind == "rpm" else case.replace(f"{rate:,}", f"{allowed:,.0f}")
                    for client in clients:
                        run = client_run(client, 4 * rate + 40, one)
                        share = used(run.between(60.0, 170.0), kind) / (allowed * 110.0 / 60.0)
                        yield Figure("limits", case, client, "rate", share, at_least=0.95)
                        most = 0.01 if headers else 0.02
                        yield Figure("limits", case, client, "429", refused_share(run.calls), at_most=most)
                        later = refused_share(run.between(60.0, math.inf))
                        yield Figure("limits", case, client, "429 later", later, at_most=most)
                        yield Figure("limits", case, client, "failed rows", float(run.failed), at_most=0)


def changed_limits(rate: int, clients: Iterable[str]) -> Iterator[Figure]:
    phases = (Phase(120), Phase(120, limits=0.5), Phase(math.inf, limits=2.0))
    for headers in (True, False):
        one = scenario(*phases, limits=RateLimits("openai", rpm=rate, headers=headers))
        for client in clients:
            # More rows than the limits let pass until the end of the measurement.
            run = client_run(client, round(rate * (1 + 2 + 1 + 4)), one)
            for name, begin, end, factor in (("halved", 150.0, 235.0, 0.5), ("doubled", 270.0, 330.0, 2.0)):
                calls = run.between(begin, end)
                case = f"openai, {rate:,} rpm, {name}" + ("" if headers else ", no headers")
                share = used(calls, "rpm") / (rate * factor * (end - begin) / 60.0)
                yield Figure("limits", case, client, "rate", share, at_least=0.95)
                most = 0.01 if headers else 0.02
                yield Figure("limits", case, client, "429", refused_share(calls), at_most=most)


def knee(knees: Iterable[int]) -> Iterator[Figure]:
    """Means of several seeds: a run of so few round trips meets few of its latencies, and depends on chance."""
    for most in knees:
        case = f"K = {most}"
        found = [knee_once(most, seed) for seed in range(1, SEEDS + 1)]
        throughput, in_flight, reached = (statistics.mean(column) for column in zip(*found, strict=True))
        yield Figure("knee", case, "auto", "throughput", throughput, at_least=0.95)
        yield Figure("knee", case, "auto", "lowest throughput", min(row[0] for row in found))
        yield Figure("knee", case, "auto", "in flight", in_flight, at_most=1.3)
        yield Figure("knee", case, "auto", "reached", reached, at_most=20)


def knee_once(most: int, seed: int) -> tuple[float, float, float]:
    """Throughput and requests in flight after 20 round trips, and the round trip from which on both are right."""
    until = ROUND_TRIPS * LATENCY * 1.1
    one = scenario(Phase(math.inf, knee=float(most)))
    run = run_llmbatch(10**9, {"m": one}, latency=LATENCY, concurrency="auto", until=until, seed=seed)
    idle = sum(call.base for call in run.calls) / len(run.calls)
    best = most / idle

    def throughput(begin: float, end: float) -> float:
        return sum(call.status == 200 and begin <= call.ended < end for call in run.calls) / (end - begin) / best

    def in_flight(begin: float, end: float) -> float:
        busy = sum(max(0.0, min(end, call.ended) - max(begin, call.began)) for call in run.calls)
        return busy / (end - begin) / most

    def is_within(turn: int) -> bool:
        span = turn * idle, (turn + 5) * idle
        return throughput(*span) >= 0.95 and in_flight(*span) <= 1.3

    reached = next((turn for turn in range(int(until / idle) - 5) if is_within(turn)), ROUND_TRIPS)
    return throughput(20 * idle, until), in_flight(20 * idle, until), reached


def fallback(count: int) -> Iterator[Figure]:
    # Both servers have the same knee, so that the oracle has 40 in flight, whoever asks.
    down = scenario(Phase(30, knee=40.0), Phase(60, "down"), Phase(math.inf, knee=40.0))
    case = "down for 60 s"
    for client in ("auto", "40"):
        concurrency: Any = client if client == "auto" else int(client)
        run = run_llmbatch(
            *(count, {"m": down, "second": scenario(Phase(math.inf, knee=40.0))}),
            latency=LATENCY,
            fallback=("mistral/second",),
            concurrency=concurrency,
        )
        opened = [event.at for event in run.events if isinstance(event, CircuitChanged) and event.old == "closed"]
        first = [call.began for call in run.calls if call.place == "second"]
        late = min(first) - opened[0] if first and opened else math.inf
        oracle = sum(call.base for call in run.calls if call.status == 200) / 40
        yield Figure("fallback", case, client, "failed rows", float(run.failed), at_most=0)
        yield Figure("fallback", case, client, "first call", late, at_most=1)
        yield Figure("fallback", case, client, "to oracle", run.seconds / oracle, at_most=1.05)


def pool(count: int) -> Iterator[Figure]:
    weights = {"a": 2.0, "b": 1.0, "c": 1.0}
    members = [
        {"model": "openai/m", "api_key_env": f"KEY_{name.upper()}", "weight": weight}
        for name, weight in weights.items()
    ]
    places = {f"sk-{name}": scenario(spent_keys=("sk-c",)) for name in weights}
    run = run_llmbatch(
        *(count, places),
        latency=LATENCY,
        model="pool/three",
        pools={"three": {"routes": members}},
        environ={f"KEY_{name.upper()}": f"sk-{name}" for name in weights},
        concurrency=40,
    )
    good = {name: sum(call.status == 200 and call.place == f"sk-{name}" for call in run.calls) for name in "ab"}
    off = max(abs(good[name] / run.good / (weights[name] / 3.0) - 1.0) for name in good) if run.good else 1.0
    case = "one key of three without money"
    yield Figure("pool", case, "40", "failed rows", float(run.failed), at_most=0)
    yield Figure("pool", case, "40", "unfinished rows", float(count - run.good - run.failed), at_most=0)
    yield Figure("pool", case, "40", "by weight", off, at_most=0.05)


def table(figures: list[Figure]) -> str:
    """One line per case and client; what misses its goal is bold."""
    lines = ["| part | case | client | measured |", "|---|---|---|---|"]
    for (part, case, client), group in groupby(figures, key=lambda each: (each.part, each.case, each.client)):
        told = []
        for each in group:
            text = f"{each.name} {_short(each.value)}"
            missed = each.goal and not each.is_reached
            told.append(f"**{text}** (goal {each.goal})" if missed else text)
        lines.append(f"| {part} | {case} | {client} | {', '.join(told)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def numbers(allowed: tuple[int, ...]) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        chosen = tuple(int(word) for word in text.split(","))
        if not all(1 <= number <= max(allowed) for number in chosen):
            raise argparse.ArgumentTypeError(f"must be from 1 to {max(allowed)} each")
        return chosen

    return parse


def words(allowed: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    known = tuple(allowed)

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(word.strip() for word in text.split(","))
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"must be of {', '.join(known)}")
        return chosen

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", type=words(PARTS), default=PARTS)
    parser.add_argument("--rates", type=numbers(RATES), default=RATES)
    parser.add_argument("--knees", type=numbers(KNEES), default=KNEES)
    parser.add_argument("--styles", type=words(STYLES), default=tuple(STYLES))
    parser.add_argument("--clients", type=words(CLIENTS), default=CLIENTS)
    parser.add_argument("--rows", type=int, default=15_000, help="of the parts fallback and pool (15,000)")
    parser.add_argument("--json", type=Path, help="where all figures go")
    given = parser.parse_args()
    figures: list[Figure] = []

    def measure(part: Iterator[Figure]) -> None:
        for figure in part:
            figures.append(figure)
            print(f"{figure.case}, {figure.client}: {figure.name} {figure.value:.3f}", file=sys.stderr, flush=True)

    if "limits" in given.parts:
        measure(limits(given.rates, given.styles, given.clients))
        if "openai" in given.styles:
            measure(changed_limits(min(600, max(given.rates)), given.clients))
    if "knee" in given.parts:
        measure(knee(given.knees))
    if "fallback" in given.parts:
        measure(fallback(given.rows))
    if "pool" in given.parts:
        measure(pool(given.rows))
    print(table(figures))
    if given.json is not None:
        told = [asdict(figure) | {"reached": figure.is_reached} for figure in figures]
        given.json.write_text(json.dumps({"latency_s": LATENCY, "figures": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
