"""Streams that break in the middle: error events and pauses, as the official clients see them."""

from __future__ import annotations

import json
import math
from typing import Any

import anthropic
import openai
import pytest

from llmbatch.drill.oracle import Workload
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.response_plan import ResponsePlan
from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.server import start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

ASK: Any = [{"role": "user", "content": "Explain how lighthouses guided ships before radar."}]
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]


def always(behavior: Behavior, **params: Any) -> Scenario:
    return Scenario("always", (Phase(math.inf, behavior, **params),), "always")


def planned(behavior: Behavior, path: str, *, stream: bool, **params: Any) -> ResponsePlan:
    provider = SimulatedProvider(always(behavior, **params), seed=4, latency=0)
    content: dict[str, object] = {
        "/v1/completions": {"prompt": "Explain lighthouses."},
        "/v1/responses": {"input": "Explain lighthouses."},
    }.get(path, {"messages": ASK})
    body = json.dumps({"model": "m", "max_tokens": 50, "stream": stream} | content).encode()
    plan = provider.answer("POST", path, {}, body, 0.0)
    provider.finish(plan)
    return plan


@pytest.mark.parametrize("path", PATHS)
def test_an_error_event_ends_a_stream_in_the_middle(path: str) -> None:
    """Half of the good stream, then the error of the API, with status 200; it is no good answer."""
    good, broken = planned("fine", path, stream=True), planned("stream_error", path, stream=True)

    half = len(good.chunks) // 2
    assert broken.chunks[:half] == good.chunks[:half]
    assert len(broken.chunks) == half + 1
    assert b"error" in broken.chunks[-1][1]
    assert (broken.kind, broken.status, broken.good, broken.down) == ("answer", 200, False, True)


@pytest.mark.parametrize("path", PATHS)
def test_a_pause_comes_in_the_middle_of_a_stream(path: str) -> None:
    """Everything comes, once and in order."""
    good, paused = planned("fine", path, stream=True), planned("stream_pause", path, stream=True, stall=20.0)

    half = len(good.chunks) // 2
    assert [chunk for _, chunk in paused.chunks] == [chunk for _, chunk in good.chunks]
    assert [gap for gap, _ in paused.chunks] == [20.0 * (number == half) for number in range(len(good.chunks))]
    assert (paused.delay, paused.good, paused.down) == (0.0, True, False)


def test_an_answer_in_one_piece_is_an_error_or_late() -> None:
    """So that a phase is as good or bad for those who do not stream."""
    broken, paused = (planned(behavior, PATHS[0], stream=False) for behavior in ("stream_error", "stream_pause"))

    assert (broken.status, broken.good, broken.down) == (500, False, True)
    assert (paused.status, paused.good, paused.delay) == (200, True, 30.0)


def test_the_oracle_knows_both() -> None:
    """A pause delays a row as a slow answer does; a broken stream is no answer."""
    workload = Workload(concurrency=10, latency=1.0, timeout=60.0)
    phases = [Phase(math.inf, behavior) for behavior in ("slow", "stream_pause", "stream_error")]

    slow, paused, broken = (workload.goodput(phase) for phase in phases)

    assert slow == paused > 0 == broken


async def test_clients_raise_what_users_of_streams_know() -> None:
    """Chunks, then the client's own error; openai's client hands the error events of ``responses`` on as chunks."""
    async with await start(scenario=always("stream_error"), latency=0, seed=4) as server:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
            ours: list[object] = []
            chunks = await client.chat.completions.create(model="m", messages=ASK, stream=True)
            with pytest.raises(openai.APIError, match="The server had an error"):
                await gather(chunks, ours)
            events = await client.responses.create(model="m", input="Explain.", stream=True)
            kinds = [event.type async for event in events]
        async with anthropic.AsyncAnthropic(base_url=server.root_url, api_key="any", max_retries=0) as claude:
            theirs: list[object] = []
            messages = await claude.messages.create(model="m", max_tokens=50, messages=ASK, stream=True)
            with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
                await gather(messages, theirs)

    assert kinds[0] == "response.created"
    assert kinds[-1] == "error"
    assert ours
    assert theirs


async def gather(stream: Any, into: list[object]) -> None:
    async for event in stream:
        into.append(event)
