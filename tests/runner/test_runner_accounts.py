"""A mixed file: models of several accounts, one of which runs out of money while the others fail in turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner
from llmbatch.core.calls import Reply, Request
from llmbatch.core.events import CallEnded, CallSent, Event, Notice
from llmbatch.core.ports import Transport
from llmbatch.report.summary import Summary
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

MODELS = ["openai/a", "openai/b", "together/c", "mistral/d"]
KEYS = {"OPENAI_API_KEY": "k1", "TOGETHER_API_KEY": "k2", "MISTRAL_API_KEY": "k3"}
NO_MONEY = b'{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}'
BAD_KEY = b'{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}'


class Mixed:
    """OpenAI's account refuses from *since* on; the models of the others are down in turn, for a minute each."""

    def __init__(self, transport: Transport, since: float, refusal: tuple[int, bytes]) -> None:
        self.transport = transport
        self.since = since
        self.refusal = refusal

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time()
        if "api.openai.com" in request.url and now >= self.since:
            await asyncio.sleep(0.1)
            return Reply(self.refusal[0], {}, self.refusal[1])
        down = {0: "together", 1: "mistral", 2: "together", 3: "mistral"}.get(int(now // 60))
        if down is not None and down in request.url:
            await asyncio.sleep(0.1)
            return Reply(503, {}, b'{"error":{"message":"down"}}')
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


class Notes:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)


def run(
    folder: Path, models: Sequence[str], *, since: float, refusal: tuple[int, bytes], **options: Any
) -> tuple[Summary, list[Event]]:
    rows = [{"prompt": f"row {number}", "model": model} for number in range(150) for model in models]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()

    async def main() -> Summary:
        simulated = SimulatedProvider(Scenario("test", (Phase(1e9),), "for a test"), seed=1, latency=1.0)
        runner = BatchRunner(
            environ=KEYS,
            transport=Mixed(VirtualTransport(simulated), since, refusal),
            observers=[notes],
            concurrency=10,
            seed=1,
            **options,
        )
        return await runner.run(folder / "in.jsonl", folder / "out.jsonl")

    return run_virtual(main, limit=10_000.0), notes.events


@pytest.mark.parametrize(("since", "refusal"), [(0.0, (429, NO_MONEY)), (30.0, (429, NO_MONEY)), (0.0, (401, BAD_KEY))])
def test_an_account_that_refuses_does_not_stop_those_of_other_providers(
    tmp_path: Path, since: float, refusal: tuple[int, bytes]
) -> None:
    """Their rows are all done though their models fail in turn; those of the account wait, and the run ends with 3."""
    summary, events = run(tmp_path, MODELS, since=since, refusal=refusal)
    label = "openai/a refuses the account" if refusal[0] == 429 else "openai/a refused the first rows"
    done = {route.label: route.success for route in summary.routes}

    assert (summary.exit_code, summary.failed) == (3, 0)
    assert {name: done[name] for name in ("together/c", "mistral/d")} == {"together/c": 150, "mistral/d": 150}
    assert summary.stopped_reason is not None
    assert since > 0.0 or summary.stopped_reason.startswith(label)
    refused = [event for event in events if isinstance(event, CallEnded) and event.status == refusal[0]]
    assert len(refused) <= 30
    assert len([event for event in events if isinstance(event, Notice) and event.level == "error"]) <= 2


def test_an_account_that_is_the_only_one_stops_the_run_at_once(tmp_path: Path) -> None:
    """Two models of it: nothing else could be done."""
    summary, events = run(tmp_path, MODELS[:2], since=0.0, refusal=(429, NO_MONEY))

    assert summary.exit_code == 3
    assert len([event for event in events if isinstance(event, CallSent)]) <= 20


class OneRefused:
    """The model ``dead`` is refused with *refusal*; the other ones of the same account answer."""

    def __init__(self, transport: Transport, refusal: tuple[int, bytes]) -> None:
        self.transport = transport
        self.refusal = refusal

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if json.loads(request.body)["model"] == "dead":
            await asyncio.sleep(1.0)
            return Reply(self.refusal[0], {}, self.refusal[1])
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


NOT_THIS_MODEL = b"""{"error":{"message":"key not allowed to access model. This key can only access models=['live']",
"type":"key_model_access_denied","param":"model","code":"401"}}"""
NO_SUCH_PARAMETER = b"""{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model.",
"type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"""


NO_MODEL = b'{"error":{"message":"The model does not exist","code":"model_not_found"}}'
NO_CREDIT = b'{"error":{"message":"Insufficient credits","code":402}}'


def run_one_refused(
    folder: Path, models: Sequence[str], refusal: tuple[int, bytes], **options: Any
) -> tuple[Summary, Notes]:
    """A row for each of *models*, of which the one called ``dead`` is refused."""
    (folder / "in.jsonl").write_text("".join(f'{{"prompt":"hi","model":"{model}"}}\n' for model in models))
    notes = Notes()

    async def main() -> Summary:
        simulated = SimulatedProvider(Scenario("test", (Phase(1e9),), "for a test"), seed=1, latency=0.5)
        transport = OneRefused(VirtualTransport(simulated), refusal)
        runner = BatchRunner(environ=KEYS, transport=transport, observers=[notes], concurrency=10, seed=1, **options)
        return await runner.run(folder / "in.jsonl", folder / "out.jsonl")

    return run_virtual(main, limit=10_000.0), notes


@pytest.mark.parametrize("other", ["openai/live", "mistral/live"])
@pytest.mark.parametrize(
    "refusal", [(401, NOT_THIS_MODEL), (403, b'{"error":"denied"}'), (400, NO_SUCH_PARAMETER), (402, NO_CREDIT)]
)
def test_rows_that_come_after_those_of_a_refused_model_are_done(
    tmp_path: Path, refusal: tuple[int, bytes], other: str
) -> None:
    """A sorted file: the run stopped at the first model, and each further one did, before it had read the others."""
    summary, notes = run_one_refused(tmp_path, ["openai/dead"] * 100 + [other] * 100, refusal)

    assert (summary.exit_code, summary.success, summary.failed, summary.deferred) == (3, 100, 0, 100)
    assert summary.stopped_reason is not None
    assert summary.stopped_reason.startswith("openai/dead refuse")
    assert len([event for event in notes.events if isinstance(event, CallEnded) and event.status != 200]) <= 12


@pytest.mark.parametrize("refusal", [(401, NOT_THIS_MODEL), (403, b'{"error":"denied"}'), (402, NO_CREDIT)])
def test_a_fallback_of_the_account_that_is_refused_for_one_model_takes_its_rows(
    tmp_path: Path, refusal: tuple[int, bytes]
) -> None:
    """It had answered dozens of rows when the run stopped."""
    summary, notes = run_one_refused(
        tmp_path, ["openai/dead"] * 100, refusal, model="openai/dead", fallback=["openai/live"]
    )

    assert (summary.exit_code, summary.success) == (0, 100)
    told = [event.message for event in notes.events if isinstance(event, Notice) and event.level == "warning"]
    assert any("its rows go to openai/live" in message for message in told)


@pytest.mark.parametrize(("refusal", "most"), [((401, BAD_KEY), 60), ((404, NO_MODEL), 400)], ids=["key", "model"])
def test_what_is_refused_to_many_tenants_stops_the_run(tmp_path: Path, refusal: tuple[int, bytes], most: int) -> None:
    """Some call of another tenant was always in flight, which might have disproved it: thousands were sent."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": number % 200}} for number in range(1000)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()

    async def main() -> Summary:
        simulated = SimulatedProvider(Scenario("test", (Phase(1e9),), "for a test"), seed=1, latency=0.5)
        transport = OneRefused(VirtualTransport(simulated), refusal)
        runner = BatchRunner(
            "openai/dead",
            environ=KEYS,
            transport=transport,
            observers=[notes],
            concurrency=20,
            seed=1,
            circuit_key="metadata.tenant",
        )
        return await runner.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    summary = run_virtual(main, limit=10_000.0)

    assert (summary.exit_code, summary.success, summary.failed) == (3, 0, 0)
    assert len([event for event in notes.events if isinstance(event, CallSent)]) <= most


def test_a_fallback_whose_account_is_refused_too_stops_the_run(tmp_path: Path) -> None:
    """After as many calls as it takes to know it of each."""
    summary, notes = run_one_refused(
        tmp_path, ["openai/dead"] * 100, (401, NOT_THIS_MODEL), model="openai/dead", fallback=["mistral/dead"]
    )

    assert (summary.exit_code, summary.success, summary.failed) == (3, 0, 0)
    assert len([event for event in notes.events if isinstance(event, CallSent)]) <= 40


@pytest.mark.parametrize("refusal", [(401, NOT_THIS_MODEL), (403, b'{"error":"denied"}'), (400, NO_SUCH_PARAMETER)])
def test_a_model_that_is_refused_alone_does_not_stop_those_that_the_same_key_reaches(
    tmp_path: Path, refusal: tuple[int, bytes]
) -> None:
    """As a gateway refuses a key for one model, and a model a parameter; the others' rows are all done."""
    summary, notes = run_one_refused(tmp_path, ["openai/live"] * 20 + ["openai/live", "openai/dead"] * 100, refusal)

    assert (summary.exit_code, summary.success, summary.failed, summary.deferred) == (3, 120, 0, 100)
    assert summary.stopped_reason is not None
    assert summary.stopped_reason.startswith("openai/dead refused the first rows")
    told = [event.message for event in notes.events if isinstance(event, Notice) and event.level == "error"]
    assert len(told) == 1
