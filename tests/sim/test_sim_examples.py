"""The example inputs: answered by the simulated provider, without a key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmbatch.core.calls import Request, Route
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario_file import built_in_scenarios
from llmbatch.sim.virtual import VirtualTransport, run_virtual

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = [json.loads(line) for line in (EXAMPLES / "prompts.jsonl").read_bytes().splitlines()]
OUTAGE = [json.loads(line) for line in (EXAMPLES / "outage.jsonl").read_bytes().splitlines()]


def name_of(row: dict[str, object]) -> object:
    return next(row[key] for key in ("id", "custom_id", "key", "row_id") if key in row)


def wire_form(row: dict[str, Any]) -> tuple[str, dict[str, object]]:
    """The path and body that a row becomes, as the documentation of rows has it."""
    if "body" in row:
        return str(row["url"]), row["body"]
    if "params" in row:
        return "/v1/messages", row["params"]
    body = {key: value for key, value in row.items() if key not in ("id", "key", "metadata")}
    if "prompt" in body:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if "messages" in body:
        return "/v1/chat/completions", body
    return ("/v1/embeddings" if "embed" in str(body["model"]) else "/v1/responses"), body


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(name_of(row)))
def test_every_example_row_succeeds(row: Any) -> None:
    """Each row names a model of the steady scenario and is answered with 200."""
    path, body = wire_form(row)

    plan = SimulatedProvider().answer("POST", path, {}, json.dumps(body).encode(), 0)

    assert str(body["model"]).startswith("sim/")
    assert str(body["model"]).removeprefix("sim/") not in built_in_scenarios().keys() - {"steady"}
    assert plan.status == 200
    assert not body.get("stream")


def test_examples_have_unique_names() -> None:
    """No two rows share a name."""
    assert len({name_of(row) for row in ROWS}) == len(ROWS) >= 55
    assert len({name_of(row) for row in OUTAGE}) == len(OUTAGE) == 600


def test_the_outage_hits_in_the_middle_of_its_example() -> None:
    """At 40 in flight over a third of the rows go before the outage begins, and over a third are left when it does.

    Sent as fast as answers come, 600 rows at about 0.46 s each take 7 s; the outage begins after 3 s.
    """
    transport = VirtualTransport(SimulatedProvider(), keep_log=True)
    waiting = list(OUTAGE)

    async def work() -> None:
        while waiting:
            path, body = wire_form(waiting.pop(0))
            request = Request(
                Route("sim/outage", "sim"), f"http://127.0.0.1{path}", {}, json.dumps(body).encode(), "chat", 9
            )
            await transport.post(request, timeout=60)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(40)))

    run_virtual(main)
    before = sum(at < 3 for at, _ in transport.log)

    assert 200 < before < 400
