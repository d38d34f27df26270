"""``llmbatch sim``: the simulated provider as a server, and the scenarios it can play.

The simulation itself is in :mod:`llmbatch.sim`.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

from llmbatch.cli.signals import handle_signals
from llmbatch.cli.terminal import print_note, print_out
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario

__all__ = ["SimSettings", "list_scenarios", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """What ``llmbatch sim serve`` was told; checked by the server. ``latency`` is in seconds."""

    host: str
    port: int
    scenario: str
    seed: int
    latency: float | None
    speed: float
    require_key: str | None
    capacity: int | None
    rate: float


def list_scenarios() -> int:
    """Print each scenario and what happens in it; gives the exit code."""
    scenarios = built_in_scenarios()
    width = max(map(len, scenarios))
    print_out("\n".join(f"{name:<{width}}  {scenario.description}" for name, scenario in scenarios.items()))
    return 0


def serve(settings: SimSettings) -> int:
    """Serve until a signal comes; gives the exit code, 0, as ending it is what people want.

    The base URL is the one line on standard output, for scripts; how to use it is told on standard error.

    Raises:
        UsageError: a value is out of range, or the port is taken.
    """
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: SimSettings) -> None:
    from llmbatch.sim.server import start

    ended = asyncio.Event()
    with handle_signals((signal.SIGINT, signal.SIGTERM), lambda _: ended.set()):
        server = await start(
            host=settings.host,
            port=settings.port,
            scenario=settings.scenario,
            seed=settings.seed,
            latency=settings.latency,
            speed=settings.speed,
            require_key=settings.require_key,
            capacity=settings.capacity,
            rate=settings.rate,
        )
        async with server:
            print_out(server.url)
            for line in _how_to_use(server.url, server.root_url, settings):
                print_note(line)
            await ended.wait()


def _how_to_use(url: str, root_url: str, settings: SimSettings) -> list[str]:
    key = "…" if settings.require_key else "any"
    return [
        f"simulated provider, scenario {settings.scenario}: {_description(settings.scenario)}",
        f"  llmbatch run prompts.jsonl --base-url {url} -m any-model",
        f"  export OPENAI_BASE_URL={url} OPENAI_API_KEY={key}",
        f"  export ANTHROPIC_BASE_URL={root_url} ANTHROPIC_API_KEY={key}",
        f"  curl {root_url}/sim/stats",
        f"other scenarios: {', '.join(name for name in built_in_scenarios() if name != settings.scenario)}",
        "Ctrl-C ends it",
    ]


def _description(name: str) -> str:
    return find_scenario(name).description
