"""Rows that wait in an outage and cannot be read again by their offset: a whole run over CSV, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmbatch.core.calls import Request
from llmbatch.core.events import Event
from llmbatch.core.rows import Result
from llmbatch.inputs.format_names import format_by_name
from llmbatch.inputs.formats import make_format
from llmbatch.inputs.shape import RowShape
from llmbatch.inputs.source import FileSource, open_source
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

LONG = "words " * 2000


class Story:
    """The results of a run, and which prompts were answered."""

    congested = False

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.most_bytes = 0
        self.engine: Engine

    def put(self, result: Result) -> None:
        self.results.append(result)

    async def drained(self) -> None:
        pass

    def observe(self, event: Event) -> None:
        self.most_bytes = max(self.most_bytes, self.engine._scheduler.reading.bodies.bytes)


class Recording(VirtualTransport):
    """Keeps the last request of each row."""

    sent: dict[str, Any]

    async def post(self, request: Request, *, timeout: float) -> Any:
        body = json.loads(request.body)
        text = body["messages"][-1]["content"]
        self.sent[text.split()[0]] = body
        return await super().post(request, timeout=timeout)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
@pytest.mark.parametrize("name", ["in.csv", "in.json"])
def test_long_rows_that_wait_in_an_outage_are_read_back_as_they_were(tmp_path: Path, name: str) -> None:
    """Hundreds of them, of which none is in memory: they are in a file beside the output, until the run ends."""
    prompts = [f"p{number} {LONG}" for number in range(600)]
    if name == "in.csv":
        (tmp_path / name).write_text("prompt\n" + "".join(f'"{prompt}"\n' for prompt in prompts))
    else:
        (tmp_path / name).write_text(json.dumps([{"prompt": prompt} for prompt in prompts]))
    story = Story()
    transport = Recording(SimulatedProvider(Scenario("t", (Phase(3.0), Phase(300.0, "down")), "for a test"), seed=1))
    transport.sent = {}

    async def main() -> FileSource:
        source = open_source(tmp_path / name, make_format(format_by_name(name), RowShape()), spool=tmp_path / "o.spool")
        assert isinstance(source, FileSource)
        settings = ProviderSettings(model="openai/m", environ={"OPENAI_API_KEY": "k"})
        provider = HttpProvider(settings, transport)
        story.engine = Engine(provider, source, story, RunOptions(seed=1, concurrency=20), observers=[story])
        await story.engine.run()
        await provider.aclose()
        await source.aclose()
        return source

    source = run_virtual(main, limit=100_000.0)
    transport.sent.pop("ping", None)

    assert sorted(result.number for result in story.results) == list(range(1, 601))
    assert {result.status for result in story.results} == {"success"}
    assert {key: body["messages"][-1]["content"] for key, body in transport.sent.items()} == {
        prompt.split()[0]: prompt for prompt in prompts
    }
    assert source._spool.get().size_bytes > 100 * len(LONG)
    assert story.most_bytes == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
