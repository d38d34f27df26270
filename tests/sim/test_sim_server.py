"""The simulated provider over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import io
import logging
import math
import time
from typing import Any

import aiohttp
import pytest

from llmbatch.core.errors import UsageError
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.server import start

CHAT = {"model": "sim/small", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


def always(behavior: Behavior, **params: Any) -> Scenario:
    return Scenario("always", (Phase(math.inf, behavior, **params),), "always")


async def test_numbers_are_served_and_reset() -> None:
    """``/sim/stats`` counts calls, ``/sim/reset`` starts afresh."""
    async with await start(latency=0) as server, aiohttp.ClientSession() as session:
        for _ in range(3):
            await (await session.post(f"{server.url}/chat/completions", json=CHAT)).read()
        stats = await (await session.get(f"{server.root_url}/sim/stats")).json()
        await (await session.post(f"{server.root_url}/sim/reset")).read()
        after = await (await session.get(f"{server.root_url}/sim/stats")).json()

    assert (stats["calls"], stats["by_status"], stats["in_flight"]) == (3, {"200": 3}, 0)
    assert after["calls"] == 0


async def test_limits_of_a_scenario_are_kept_and_reported_over_http() -> None:
    """A client reads the provider's headers, and each key has its own limit or no money."""
    scenario = Scenario("limited", (), "limited", limits=RateLimits("openai", rpm=1), spent_keys=("key-c",))

    async with await start(scenario=scenario, latency=0) as server, aiohttp.ClientSession() as session:

        async def post(key: str) -> tuple[int, str | None, str | None]:
            headers = {"Authorization": f"Bearer {key}"}
            response = await session.post(f"{server.url}/chat/completions", json=CHAT, headers=headers)
            body = await response.json()
            left = response.headers.get("x-ratelimit-remaining-requests")
            return response.status, left, body.get("error", {}).get("code")

        first, second, other, spent = [await post(key) for key in ("key-a", "key-a", "key-b", "key-c")]

    assert first == other == (200, "0", None)
    assert second == (429, "0", "rate_limit_exceeded")
    assert (spent[0], spent[2]) == (429, "insufficient_quota")


async def test_bad_json_is_refused_in_the_providers_shape() -> None:
    """A body that is no JSON gets 400 with an error object, an unknown path 404."""
    async with await start(latency=0) as server, aiohttp.ClientSession() as session:
        bad = await session.post(f"{server.url}/chat/completions", data=b"{")
        body = await bad.json()
        missing = await session.get(f"{server.url}/nothing")

    assert bad.status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert missing.status == 404


@pytest.mark.slow
async def test_a_body_beyond_the_cap_is_refused() -> None:
    """64 MiB and more is 413. Slow: the bytes have to travel."""
    async with await start(latency=0) as server, aiohttp.ClientSession() as session:
        response = await session.post(f"{server.root_url}/v1/messages", data=io.BytesIO(bytes(64 * 1024 * 1024 + 1)))
        body = await response.json()

    assert response.status == 413
    assert body["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("behavior", ["hang", "refuse"])
async def test_closing_is_quick_and_quiet_with_requests_under_way(
    behavior: Behavior, caplog: pytest.LogCaptureFixture
) -> None:
    """A server with hanging requests closes at once, without a warning, and closing again does nothing."""
    caplog.set_level(logging.INFO)
    server = await start(scenario=always(behavior), latency=1)
    async with aiohttp.ClientSession() as session:
        waiting = [asyncio.create_task(session.post(f"{server.url}/chat/completions", json=CHAT)) for _ in range(5)]
        while server.stats.calls < 5:
            await asyncio.sleep(0.01)

        started = time.perf_counter()
        await server.aclose()
        took = time.perf_counter() - started

        ended = await asyncio.gather(*waiting, return_exceptions=True)
    await server.aclose()

    assert took < 60  # the requests hang for ever
    assert all(isinstance(error, aiohttp.ClientConnectionError) for error in ended)
    assert server.stats.in_flight == 0
    assert not caplog.records


async def test_refused_requests_lose_their_connection() -> None:
    """``refuse`` closes the connection without a byte."""
    async with await start(scenario=always("refuse"), latency=0) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(f"{server.url}/chat/completions", json=CHAT)

    assert server.stats.by_status == {"closed": 1}


async def test_a_client_that_gives_up_is_no_longer_in_flight() -> None:
    """A client's timeout ends the request on the server too."""
    async with await start(scenario=always("hang")) as server, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await session.post(f"{server.url}/chat/completions", json=CHAT, timeout=aiohttp.ClientTimeout(total=0.05))
        async with asyncio.timeout(60):
            while server.stats.in_flight:
                await asyncio.sleep(0.01)

    assert server.stats.max_in_flight == 1


async def test_a_client_may_leave_in_the_middle_of_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    """Closing a stream early is quiet, and its place is given back."""
    caplog.set_level(logging.INFO)
    body = CHAT | {"stream": True}
    async with await start(latency=0.1) as server, aiohttp.ClientSession() as session:
        response = await session.post(f"{server.url}/chat/completions", json=body)
        await response.content.readline()
        response.close()
        async with asyncio.timeout(60):
            while server.stats.in_flight:
                await asyncio.sleep(0.01)

    assert not caplog.records


async def test_an_outage_passes_on_the_servers_clock() -> None:
    """A compressed outage over HTTP: good, 503, good again."""
    seen: list[int] = []
    async with await start(scenario="outage", speed=100, latency=0) as server, aiohttp.ClientSession() as session:
        async with asyncio.timeout(60):
            while seen != [200, 503, 200]:
                response = await session.post(f"{server.url}/chat/completions", json=CHAT)
                await response.read()
                if response.status not in seen[-1:]:
                    seen.append(response.status)
                await asyncio.sleep(0.01)

    assert server.stats.calls_while_down == server.stats.by_status["503"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])
async def test_only_loopback_is_served(host: str) -> None:
    """Any address that others could reach is refused."""
    with pytest.raises(UsageError, match="loopback"):
        await start(host=host)


async def test_a_port_in_use_is_told_with_a_hint() -> None:
    """The second server on a port raises a usage error that says what to do."""
    async with await start() as server:
        port = int(server.root_url.rpartition(":")[2])
        with pytest.raises(UsageError, match="in use") as caught:
            await start(port=port)

    assert "another port" in caught.value.hint


async def test_an_impossible_port_is_refused() -> None:
    """Ports end at 65535."""
    with pytest.raises(UsageError, match="65535"):
        await start(port=70_000)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_is_the_half_of_one(stream: bool) -> None:
    """The status and the first half arrive, then the connection is gone."""
    async with await start(latency=0, scenario=always("cut")) as server, aiohttp.ClientSession() as session:
        response = await session.post(f"{server.url}/chat/completions", json=CHAT | {"stream": stream})
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    assert response.status == 200
    assert server.stats.by_status == {"cut": 1}
