"""What a seed decides of a story with several routes: places and their fates, rows, options, and how lives end."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from simulation_provider import Phase
from simulation_servers import DEAD, ENVIRON, SICK, Place

KEYS = {"openai": "OPENAI_API_KEY", "mistral": "MISTRAL_API_KEY", "groq": "GROQ_API_KEY"} | {
    "anthropic": "ANTHROPIC_API_KEY"
}
HAVE_FLEX = ("openai/", "groq/")
MANY_TENANTS = 80
"""More than the runner keeps idle routes for."""


@dataclass(frozen=True)
class RowSpec:
    """One row. Rows of one ``item`` are equal: their requests are the same bytes."""

    item: int
    kind: str
    bad: str
    tenant: int


@dataclass
class RoutePlan:
    """All that the seed decides."""

    seed: int
    arguments: dict[str, Any]
    """Of ``BatchRunner``: the model, fallbacks, pools and options."""
    places: list[Place]
    weather: dict[str, list[Phase]]
    rows: list[RowSpec]
    fates: list[str]
    """How each life ends: ``kill 120`` (in that turn of the loop), ``none``."""
    cache_fates: list[str]
    """What happens to the cache before each life: ``kept``, ``deleted``, ``locked``; empty: there is none."""
    latency: float
    gaps: list[float]

    @property
    def has_tenants(self) -> bool:
        return "circuit_key" in self.arguments

    def ways(self, row: RowSpec) -> list[Place]:
        """The places that can answer a row."""
        return [place for place in self.places if place.carries(row.kind)]

    def lines(self) -> list[bytes]:
        return [_line(number, row) for number, row in enumerate(self.rows, 1)]

    @property
    def clear_from(self) -> float:
        """From when on everything is fine, but for what is so for good."""
        ends = [phase.end for phases in self.weather.values() for phase in phases if phase.end < math.inf]
        return max(ends, default=0.0)

    def __str__(self) -> str:
        weather = [f"  {label}: {phase}" for label, phases in self.weather.items() for phase in phases]
        bad = {number: row.bad for number, row in enumerate(self.rows, 1) if row.bad}
        kinds = {number: row.kind for number, row in enumerate(self.rows, 1) if row.kind != "plain"}
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.rows)} rows of {len({row.item for row in self.rows})} items, bad {bad}, "
                f"of one format {kinds}, latency {self.latency:.2f} s",
                f"arguments {self.arguments}",
                *weather,
                f"lives {self.fates}, cache {self.cache_fates}",
            ]
        )


def draw_route_plan(seed: int) -> RoutePlan:
    rng = Random(f"routes:{seed}")
    arguments, places = _draw_places(rng)
    timeout = rng.choice([5.0, 10.0, 30.0, 60.0])
    arguments |= {
        "concurrency": rng.choice([1, 2, 5, 8, 20, 40, "auto"]),
        "timeout": timeout,
        "failure_threshold": rng.choice([2, 3, 5, 5, 8]),
        "recovery_timeout": rng.choice([5.0, 30.0, 60.0, 60.0]),
        "seed": seed,
    }
    if rng.random() < 0.2:
        arguments["on_outage"] = rng.choice(["defer", "defer", "fail"])
    tenants = rng.choice([0, 0, 0, 0, 0, 2, MANY_TENANTS]) if rng.random() < 0.6 else 0
    if tenants:
        arguments["circuit_key"] = "metadata.tenant"
    count = (
        2 * tenants
        if tenants > 2
        else rng.choice([rng.randint(2, 12), rng.randint(10, 40), rng.randint(30, 120), rng.randint(30, 240)])
    )
    rows = _draw_rows(rng, count, places, tenants, arguments["failure_threshold"])
    has_cache = rng.random() < 0.45
    weather = _draw_weather(rng, places, {row.kind for row in rows})
    fates = [_draw_fate(rng) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    return RoutePlan(
        seed=seed,
        arguments=arguments,
        places=places,
        weather=weather,
        rows=rows,
        fates=fates,
        cache_fates=[rng.choice(["kept", "kept", "kept", "deleted", "locked"]) for _ in range(6)] if has_cache else [],
        latency=rng.choice([0.05, 0.3, 1.0, 3.0]),
        gaps=[rng.choice([0.0, rng.uniform(0, 5), rng.uniform(0, 1000)]) for _ in range(20)],
    )


def _draw_places(rng: Random) -> tuple[dict[str, Any], list[Place]]:
    """The places in their order, and the arguments that name them."""
    arguments: dict[str, Any] = {"fallback": [], "pools": {}}
    tier = rng.choice(["standard", "standard", "standard", "flex,standard"])
    names = rng.sample([*KEYS], 4)
    if tier != "standard" and names[0] not in ("openai", "groq"):
        names.sort(key=lambda name: name not in ("openai", "groq"))
    places: list[Place] = []
    if rng.random() < 0.35:
        members = rng.sample(["KEY_A", "KEY_B", "KEY_C"], rng.choice([2, 3]))
        routes: list[dict[str, Any]] = []
        for key in members:
            weight = rng.choice([1, 1, 2, 3])
            routes.append({"model": f"{names[0]}/m", "api_key_env": key, "weight": weight})
            if rng.random() < 0.2:
                routes[-1]["rpm"] = rng.choice([60, 600])
            places += _tiers(f"{names[0]}/m", f" ({key})", ENVIRON[key], 0, float(weight), tier)
        arguments["pools"] = {"p": {"routes": routes}}
        arguments["model"] = "pool/p"
    else:
        arguments["model"] = f"{names[0]}/m"
        places += _tiers(f"{names[0]}/m", "", ENVIRON[KEYS[names[0]]], 0, 1.0, tier)
    backups = rng.choice([1, 1, 2, 3]) if len({place.key for place in places}) == 1 else rng.choice([0, 1, 2])
    for rank, name in enumerate(names[1 : 1 + backups], 1):
        arguments["fallback"].append(f"{name}/m")
        places += _tiers(f"{name}/m", "", ENVIRON[KEYS[name]], 2 * rank, 1.0, tier)
    if tier != "standard":
        arguments["tier"] = tier
    return arguments, places


def _tiers(model: str, suffix: str, key: str, rank: int, weight: float, tier: str) -> list[Place]:
    standard = Place(f"{model}{suffix}", model, key, rank + (tier != "standard"), weight)
    if tier == "standard" or not model.startswith(HAVE_FLEX):
        return [standard]
    return [Place(f"{model} (flex){suffix}", model, key, rank, weight, "flex"), standard]


def _draw_rows(rng: Random, count: int, places: list[Place], tenants: int, threshold: int) -> list[RowSpec]:
    items = rng.choice([count, count, max(1, count // 2), max(1, count // 10)])
    own = "anthropic" if places[0].is_anthropic else "openai"
    kinds = ["plain", own] if rng.random() < 0.3 and not tenants else ["plain"]
    kind_of = {item: rng.choice(kinds) for item in range(1, items + 1)}
    kind_of[1] = "plain"  # a fallback that can carry no row is refused
    bad: dict[int, str] = {}
    if items == count and not tenants:  # equal bad rows would be many
        for _ in range(min(rng.choice([0, 0, 0, 1, 2]), threshold - 1, count // 3)):
            bad[rng.randint(1, items)] = rng.choice(["400", "long", "500", "500"])
    numbers = list(range(1, items + 1)) + [rng.randint(1, items) for _ in range(count - items)]
    if items < count:
        rng.shuffle(numbers)
    return [
        RowSpec(item, kind_of[item], bad.get(item, ""), number % tenants if tenants else 0)
        for number, item in enumerate(numbers)
    ]


def _draw_weather(rng: Random, places: list[Place], kinds: set[str]) -> dict[str, list[Phase]]:
    """Outages of one, several or all places; every row has a place that gets well."""
    weather: dict[str, list[Phase]] = {place.label: [] for place in places}
    at = rng.choice([0.0, rng.uniform(0.2, 5), rng.uniform(1, 20)])
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        length = rng.choice([rng.uniform(3, 30), rng.uniform(30, 300), rng.uniform(300, 4000)])
        struck = rng.choice([places[:1], places[:1], rng.sample(places, rng.randint(1, len(places))), places])
        for place in struck:
            kind = rng.choice([*sorted(SICK), "down", "errors", "throttle", "throttle", *sorted(DEAD)])
            if place.tier == "flex":
                kind = rng.choice(["lack", "lack", "down", "throttle"])
            share = rng.uniform(0.2, 0.6) if kind == "throttle" else rng.uniform(0.02, 0.3)
            hint = rng.choice([None, None, rng.uniform(0.2, 20), rng.uniform(20, 400)])
            share = rng.choice([0.5, 1.0]) if kind == "lack" else share
            start = at + rng.choice([0.0, 0.0, rng.uniform(0, length / 2)])
            weather[place.label].append(Phase(kind, start, at + length, (), share, hint))
        at += length + rng.choice([0.0, rng.uniform(1, 30), rng.uniform(30, 600)])
    if rng.random() < 0.2:
        _end_for_good(rng, places, kinds, weather, at)
    return weather


def _end_for_good(
    rng: Random, places: list[Place], kinds: set[str], weather: dict[str, list[Phase]], at: float
) -> None:
    """Some places never come back; there is another for each kind of row, which no run leaves for good."""
    for place in rng.sample(places, rng.randint(1, len(places))):
        left = [other for other in places if other is not place and not _is_lost(other, places, weather)]
        if not all(any(other.carries(kind) for other in left) for kind in kinds):
            continue
        kind = "down" if place.tier == "flex" else rng.choice(["quota", "unauthorized", "down", "hang"])
        if kind in DEAD and not all(any(o.carries(k) for o in left if o.key != place.key) for k in kinds):
            kind = "down"  # what refuses its key refuses it at the other places too
        weather[place.label].append(Phase(kind, rng.choice([0.0, at, rng.uniform(0, at + 10)]), math.inf))
    if any(phase.end == math.inf for phases in weather.values() for phase in phases):
        for phases in weather.values():
            phases[:] = [replace(phase, kind="down") if _passes(phase) else phase for phase in phases]


def _is_lost(place: Place, places: list[Place], weather: dict[str, list[Phase]]) -> bool:
    """Whether it never comes back, or its key is refused for good at another place."""
    return any(
        phase.end == math.inf and (other is place or (other.key == place.key and phase.kind in DEAD))
        for other in places
        for phase in weather[other.label]
    )


def _passes(phase: Phase) -> bool:
    """Whether it passes, and yet a run may leave the place for good: it is refused, or has never been reached."""
    return phase.kind in DEAD | {"refuse", "reset", "hang", "disguised"} and phase.end < math.inf


def _draw_fate(rng: Random) -> str:
    kind = rng.choice(["kill", "kill", "kill", "stop", "stop now", "cancel", "power"])
    return f"{kind} {rng.choice([rng.randint(1, 30), rng.randint(10, 120), rng.randint(10, 800)])}"


def _line(number: int, row: RowSpec) -> bytes:
    text = f"item {row.item} please" + (f" [bad {row.bad}]" if row.bad else "")
    messages = [{"role": "user", "content": text}]
    if row.kind == "anthropic":
        value: dict[str, object] = {"custom_id": f"r{number}", "params": {"messages": messages, "max_tokens": 50}}
    elif row.kind == "openai":
        body = {"messages": messages}
        value = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    else:
        value = {"prompt": text, "id": f"r{number}", "metadata": {"tenant": f"t{row.tenant}"}}
    return json.dumps(value).encode()
