"""The commands of the simulated provider, as typer takes them."""

from __future__ import annotations

from typing import Annotated

import typer

from llmbatch.cli.numbers import PORT, number_option
from llmbatch.runner.quantities import Duration, Number, Whole

__all__ = ["sim_serve"]

SEED = Whole(-(2**63))


def sim_serve(
    port: Annotated[
        int,
        number_option("sim serve", "--port", PORT, "0 takes any free port. Default: 8399."),
    ] = 8399,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="A loopback address. Default: 127.0.0.1.")] = "127.0.0.1",
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="See llmbatch sim scenarios; or a .toml file. Default: steady.")
    ] = "steady",
    seed: Annotated[
        int,
        number_option("sim serve", "--seed", SEED, "Seed of what is random in the answers. Default: 0."),
    ] = 0,
    latency: Annotated[
        float | None,
        number_option(
            "sim serve", "--latency", Duration(), "Median of a good answer. Default: the scenario's.", zero=True
        ),
    ] = None,
    speed: Annotated[
        float,
        number_option("sim serve", "--speed", Number("times"), "How much faster the scenario passes. Default: 1."),
    ] = 1.0,
    require_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Refuse every other key with 401. Default: any key will do.")
    ] = None,
    capacity: Annotated[
        int | None,
        number_option(
            "sim serve", "--capacity", Whole(1), "Requests at once before it answers 429. Default: no bound."
        ),
    ] = None,
    rate: Annotated[
        float,
        number_option(
            "sim serve",
            "--rate",
            Number("requests per second"),
            "Requests per second of full load; a scenario's capacity is a part of it. Default: 100.",
        ),
    ] = 100.0,
) -> int:
    """Serve the simulated provider on loopback, for llmbatch and for the OpenAI and Anthropic clients."""
    from llmbatch.cli.sim import SimSettings, serve

    return serve(
        SimSettings(
            host=host,
            port=port,
            scenario=scenario,
            seed=seed,
            latency=latency,
            speed=speed,
            require_key=require_key,
            capacity=capacity,
            rate=rate,
        )
    )
