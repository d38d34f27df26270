"""The official SDKs with circuits beneath them, through an outage of the simulated provider, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmbatch import CircuitOpenError
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.httpx2 import AsyncCircuitTransport, CircuitTransport
from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.server import SimServer, start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

KEY = "sk-test-0123456789abcdef"
MODEL = "gpt-5-mini"

Call = Callable[[], Awaitable[None]]


def ask(text: str) -> Any:
    """Messages of one question."""
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Switched(Scenario):
    """Behaves as it was told last, whatever the time: a busy machine cannot miss the outage."""

    told: list[Behavior] = field(default_factory=lambda: ["fine"])

    def at(self, seconds: float) -> Phase:
        return Phase(math.inf, self.told[-1])


def always(behavior: Behavior, **options: Any) -> Scenario:
    return Scenario("own", (Phase(math.inf, behavior, **options),), "")


def openai_call(client: openai.AsyncOpenAI, *, stream: bool) -> Call:
    """One chat completion, read to its end."""

    async def call() -> None:
        if stream:
            async with await client.chat.completions.create(model=MODEL, messages=ask("hi"), stream=True) as chunks:
                async for _ in chunks:
                    pass
        else:
            await client.chat.completions.create(model=MODEL, messages=ask("hi"))

    return call


def anthropic_call(client: anthropic.AsyncAnthropic, *, stream: bool) -> Call:
    """One message, read to its end."""

    async def call() -> None:
        if stream:
            async with client.messages.stream(model=MODEL, max_tokens=100, messages=ask("hi")) as chunks:
                async for _ in chunks.text_stream:
                    pass
        else:
            await client.messages.create(model=MODEL, max_tokens=100, messages=ask("hi"))

    return call


@dataclass
class Sdk:
    """One of the SDKs, alike for a test."""

    client: openai.AsyncOpenAI | anthropic.AsyncAnthropic
    error: type[Exception]
    connection_error: type[Exception]

    def call(self, *, stream: bool) -> Call:
        """One call, read to its end."""
        if isinstance(self.client, openai.AsyncOpenAI):
            return openai_call(self.client, stream=stream)
        return anthropic_call(self.client, stream=stream)


def open_sdk(name: str, server: SimServer, **options: Any) -> Sdk:
    if name == "openai":
        client = open_openai(server, **options).with_options(max_retries=0)
        return Sdk(client, openai.OpenAIError, openai.APIConnectionError)
    return Sdk(open_anthropic(server, **options), anthropic.AnthropicError, anthropic.APIConnectionError)


def open_openai(server: SimServer, **options: Any) -> openai.AsyncOpenAI:
    transport = AsyncCircuitTransport(**options)
    return openai.AsyncOpenAI(
        base_url=server.url, api_key=KEY, http_client=openai.DefaultAsyncHttpxClient(transport=transport)
    )


def open_anthropic(server: SimServer, **options: Any) -> anthropic.AsyncAnthropic:
    transport = AsyncCircuitTransport(**options)
    return anthropic.AsyncAnthropic(
        base_url=server.root_url,
        api_key=KEY,
        http_client=anthropic.DefaultAsyncHttpxClient(transport=transport),
        max_retries=0,
    )


@pytest.mark.slow  # hundreds of calls by real SDKs, which take some 10 ms each
@pytest.mark.parametrize(
    ("behavior", "stream"),
    [("down", False), pytest.param("down", True, marks=pytest.mark.long), ("cut", True), ("refuse", False)],
    ids=str,
)
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_forty_tasks_go_through_an_outage(
    sdk: str, stream: bool, behavior: Behavior, caplog: pytest.LogCaptureFixture
) -> None:
    """Few calls reach the provider while it is down; refusals are the SDK's connection error; then all goes well."""
    caplog.set_level(logging.DEBUG, logger="llmbatch")
    circuits = ModelCircuits(recovery_timeout=0.2)
    scenario = Switched("switched", (Phase(math.inf),), "")
    async with await start(latency=0.01, scenario=scenario) as server:
        opened = open_sdk(sdk, server, circuits=circuits)
        call = opened.call(stream=stream)
        breaker = circuits[Endpoint(server.root_url, MODEL)]
        good = refusals = 0

        async def work() -> None:
            nonlocal good, refusals
            while good < 80 or breaker.state != "closed":
                try:
                    await call()
                    good += 1
                except opened.connection_error as failure:
                    if isinstance(failure, CircuitOpenError):
                        refusals += 1
                        await asyncio.sleep(min(0.2, failure.retry_after))
                except (opened.error, httpx2.HTTPError):
                    pass  # the outage itself; the SDKs do not wrap a stream that is cut
                if good >= 40 and scenario.told == ["fine"]:
                    scenario.told.append(behavior)
                if refusals >= 40 and scenario.told[-1] == behavior:
                    scenario.told.append("fine")

        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(40))), 300)
        await opened.client.close()

    said = [record.getMessage() for record in caplog.records if record.name == "llmbatch"]
    probes = sum("the probe failed" in line for line in said)
    # A task has one call in flight, and few have a second one before five in a row have failed.
    assert server.stats.calls_while_down <= 80 + probes + 1
    assert refusals >= 40
    assert breaker.state == "closed"
    assert sum(" opened: " in line for line in said) == sum(" closed after " in line for line in said) >= 1
    assert "calls in a row failed, the last with failure: " in said[0]
    assert "the next probe is due in 0.2 s, at " in said[0]
    assert KEY not in caplog.text


async def test_openai_is_refused_at_once_and_without_retries(caplog: pytest.LogCaptureFixture) -> None:
    """The refusal is openai's own error, which it raises as it is. With retries it would sleep, twice."""
    caplog.set_level(logging.INFO, logger="openai")
    async with await start(latency=0, scenario=always("down")) as server:
        client = open_openai(server, failure_threshold=1)
        with pytest.raises(openai.InternalServerError):
            await openai_call(client.with_options(max_retries=0), stream=False)()

        with pytest.raises(CircuitOpenError) as caught:
            await openai_call(client, stream=False)()

        assert isinstance(caught.value, openai.APIConnectionError)
        assert isinstance(caught.value, httpx2.ConnectError)
        assert 59 < caught.value.retry_after <= 60
        assert caught.value.request.url.path == "/v1/chat/completions"
        assert caught.value.message == str(caught.value)
        assert "Retrying" not in caplog.text
        assert server.stats.calls == 1
        await client.close()


async def test_anthropic_raises_the_refusal_itself(caplog: pytest.LogCaptureFixture) -> None:
    """It is anthropic's own error too, so that it comes unwrapped."""
    async with await start(latency=0, scenario=always("down")) as server:
        client = open_anthropic(server, failure_threshold=1)
        with pytest.raises(anthropic.APIStatusError):
            await anthropic_call(client, stream=False)()

        with pytest.raises(anthropic.APIConnectionError) as caught:
            await anthropic_call(client, stream=True)()

        assert isinstance(caught.value, CircuitOpenError)
        assert 59 < caught.value.retry_after <= 60
        await client.close()


async def test_openai_takes_a_client_of_httpx_too() -> None:
    """The older package, beneath the newer SDK."""
    httpx = pytest.importorskip("httpx")
    from llmbatch.integrations.httpx import AsyncCircuitTransport as Transport

    async with await start(latency=0, scenario=always("down")) as server:
        transport = Transport(failure_threshold=1)
        http_client = httpx.AsyncClient(transport=transport)
        client = openai.AsyncOpenAI(base_url=server.url, api_key=KEY, http_client=http_client, max_retries=0)
        with pytest.raises(openai.InternalServerError):
            await openai_call(client, stream=True)()
        with pytest.raises(openai.APIConnectionError) as caught:
            await openai_call(client, stream=True)()
        assert isinstance(caught.value, CircuitOpenError)
        await client.close()


async def test_a_rate_limit_is_left_to_the_sdk() -> None:
    """429 with Retry-After: the SDK waits and retries as ever, and the circuit stays closed."""
    async with await start(latency=0, scenario=always("throttle", retry_after=0.02)) as server:
        client = open_openai(server, failure_threshold=1)
        for _ in range(3):
            with pytest.raises(openai.RateLimitError):
                await openai_call(client, stream=False)()
        assert server.stats.calls == 9
        await client.close()


async def test_a_refused_key_of_one_caller_opens_only_after_several() -> None:
    """401 counts as one failure."""
    circuits = ModelCircuits(3)
    async with await start(latency=0, scenario=always("unauthorized")) as server:
        client = open_openai(server, circuits=circuits)
        for _ in range(3):
            with pytest.raises(openai.AuthenticationError):
                await openai_call(client, stream=False)()
        with pytest.raises(CircuitOpenError):
            await openai_call(client, stream=False)()
        await client.close()


async def test_models_share_a_client_and_not_a_circuit() -> None:
    """A dead model does not stop the others."""
    async with await start(latency=0) as server:
        client = open_openai(server, failure_threshold=1)
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=0).chat.completions.create(model="dead", messages=ask("[sim:500]"))
        with pytest.raises(CircuitOpenError):
            await client.chat.completions.create(model="dead", messages=ask("hi"))
        await client.chat.completions.create(model="alive", messages=ask("hi"))
        await client.models.list()
        await client.close()


@pytest.mark.slow  # a server in a thread, and eight clients' threads
def test_threads_share_the_circuits_of_a_sync_client() -> None:
    """One sync client, eight threads: no more than the threshold and those in flight reach the provider."""
    circuits = ModelCircuits(recovery_timeout=60)
    with running(always("down")) as server:
        client = openai.OpenAI(
            base_url=server.url,
            api_key=KEY,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(transport=CircuitTransport(circuits=circuits)),
        )
        refused = threading.Semaphore(0)

        def work() -> None:
            for _ in range(10):
                try:
                    client.chat.completions.create(model=MODEL, messages=ask("hi"))
                except CircuitOpenError:
                    refused.release()
                except openai.InternalServerError:
                    pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 5 <= server.stats.calls <= 5 + 7
        assert refused._value == 80 - server.stats.calls
        client.close()


@pytest.mark.slow  # a server in a thread, and two event loops after it
def test_event_loops_share_circuits() -> None:
    """What one loop has seen, the next one knows."""
    circuits = ModelCircuits(2)
    with running(always("down")) as server:

        async def failing() -> None:
            client = open_openai(server, circuits=circuits).with_options(max_retries=0)
            with pytest.raises(openai.InternalServerError):
                await openai_call(client, stream=False)()
            await client.close()

        async def refused() -> None:
            client = open_openai(server, circuits=circuits)
            with pytest.raises(CircuitOpenError):
                await openai_call(client, stream=False)()
            await client.close()

        asyncio.run(failing())
        asyncio.run(failing())
        asyncio.run(refused())
        assert server.stats.calls == 2


class running:  # noqa: N801 - used as a function
    """A simulated provider in a thread of its own."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> SimServer:
        self._thread.start()
        made = asyncio.run_coroutine_threadsafe(start(latency=0, scenario=self._scenario), self._loop)
        self._server = made.result(20)
        return self._server

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.aclose(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
