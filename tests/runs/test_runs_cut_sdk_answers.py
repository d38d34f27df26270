"""Functions that return the objects of the official SDKs, whose answers a real server over a socket has cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from llmbatch import BatchRunner
from llmbatch.sim.server import SimServer, start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

Ask = Callable[[int], Awaitable[object]]

ASK: Any = [{"role": "user", "content": "Explain how lighthouses guided ships before radar."}]


@pytest.fixture
async def server() -> AsyncIterator[SimServer]:
    async with await start(latency=0, seed=4) as running:
        yield running


@pytest.fixture
async def openai(server: SimServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def anthropic(server: SimServer) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server.root_url, api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture(params=["chat", "completions", "responses", "messages"])
def ask(request: pytest.FixtureRequest, openai: AsyncOpenAI, anthropic: AsyncAnthropic) -> Ask:
    """Asks for an answer of at most so many tokens, in one wire format."""

    async def chat(most: int) -> object:
        return await openai.chat.completions.create(model="sim/small", messages=ASK, max_tokens=most)

    async def completions(most: int) -> object:
        return await openai.completions.create(model="sim/small", prompt="lighthouses", max_tokens=most)

    async def responses(most: int) -> object:
        return await openai.responses.create(model="sim/small", input=ASK, max_output_tokens=most)

    async def messages(most: int) -> object:
        return await anthropic.messages.create(model="sim/small", messages=ASK, max_tokens=most)

    found: Ask = locals()[request.param]
    return found


async def test_an_sdk_object_with_a_cut_answer_was_a_plain_success(ask: Ask) -> None:
    """In each wire format it says so; with require_finish it fails once, with its body and usage."""
    cut, whole = await BatchRunner(ask).map([16, 5000])
    (refused,) = await BatchRunner(ask, require_finish=True).map([16])

    assert (cut.ok, cut.finish_reason, bool(cut.text)) == (True, "length", True)
    assert (whole.ok, whole.finish_reason, bool(whole.text)) == (True, None, True)
    assert (refused.ok, refused.error_code, refused.finish_reason) == (False, "truncated", "length")
    assert (refused.attempts, refused.text) == (1, cut.text)
    assert refused.usage is not None
    assert refused.usage.output_tokens == 16
    assert refused.body is not None
