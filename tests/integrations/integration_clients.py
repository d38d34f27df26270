"""The clients that have an integration, alike for a test: one POST of a JSON body, of which some part is read."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from llmbatch.integrations.circuits import ModelCircuits

__all__ = ["CLIENTS", "Client", "Read", "open_client"]

Read = Literal["all", "some", "none", "forget"]
"""The whole answer; one chunk, then the answer is closed; closed at once; one chunk, then the answer is forgotten."""

CLIENTS = ("httpx", "httpx async", "httpx2", "httpx2 async", "aiohttp", "requests")


@dataclass
class Client:
    """A client with circuits around it. Sync ones send in another thread, as the server is in this one's loop."""

    post: Callable[[str, bytes, Read], Awaitable[tuple[int, bytes]]]
    """Send a body to a URL; gives the status and what was read."""
    aclose: Callable[[], Awaitable[None]]
    refusal: type[Exception]
    connection_error: type[Exception]
    error: type[Exception]
    """The base of the client's errors."""


async def open_client(kind: str, circuits: ModelCircuits, *, timeout: float = 5.0) -> Client:
    """A client of *kind*; skips the test if its package is not installed. *timeout*: seconds for each read."""
    package, _, is_async = kind.partition(" ")
    pytest.importorskip(package)
    ours = importlib.import_module(f"llmbatch.integrations.{package}")
    if package == "aiohttp":
        return _aiohttp(ours, circuits, timeout)
    if package == "requests":
        return _requests(ours, circuits, timeout)
    theirs = importlib.import_module(package)
    make = _httpx_async if is_async else _httpx
    return make(theirs, ours, circuits, timeout)


HEADERS = {"content-type": "application/json"}


def _httpx(httpx: Any, ours: Any, circuits: ModelCircuits, timeout: float) -> Client:
    client = httpx.Client(transport=ours.CircuitTransport(circuits=circuits), timeout=timeout)

    def send(url: str, body: bytes, read: Read) -> tuple[int, bytes]:
        if read == "all":
            answer = client.post(url, content=body, headers=HEADERS)
            return answer.status_code, answer.content
        request = client.build_request("POST", url, content=body, headers=HEADERS)
        answer = client.send(request, stream=True)
        chunk = b"" if read == "none" else next(answer.iter_bytes())
        if read != "forget":
            answer.close()
        return answer.status_code, chunk

    async def post(url: str, body: bytes, read: Read = "all") -> tuple[int, bytes]:
        return await asyncio.to_thread(send, url, body, read)

    async def aclose() -> None:
        client.close()

    return Client(post, aclose, ours.CircuitConnectError, httpx.ConnectError, httpx.HTTPError)


def _httpx_async(httpx: Any, ours: Any, circuits: ModelCircuits, timeout: float) -> Client:
    client = httpx.AsyncClient(transport=ours.AsyncCircuitTransport(circuits=circuits), timeout=timeout)

    async def post(url: str, body: bytes, read: Read = "all") -> tuple[int, bytes]:
        if read == "all":
            answer = await client.post(url, content=body, headers=HEADERS)
            return answer.status_code, answer.content
        request = client.build_request("POST", url, content=body, headers=HEADERS)
        answer = await client.send(request, stream=True)
        chunk = b"" if read == "none" else await anext(aiter(answer.aiter_bytes()))
        if read != "forget":
            await answer.aclose()
        return answer.status_code, chunk

    return Client(post, client.aclose, ours.CircuitConnectError, httpx.ConnectError, httpx.HTTPError)


def _aiohttp(ours: Any, circuits: ModelCircuits, timeout: float) -> Client:
    import aiohttp

    # The server closes each connection, and aiohttp would send on it before it notices.
    session = aiohttp.ClientSession(
        middlewares=(ours.CircuitMiddleware(circuits),),
        timeout=aiohttp.ClientTimeout(sock_read=timeout),
        connector=aiohttp.TCPConnector(force_close=True),
    )

    async def post(url: str, body: bytes, read: Read = "all") -> tuple[int, bytes]:
        answer = await session.post(url, data=body, headers=HEADERS)
        if read == "all":
            async with answer:
                return answer.status, await answer.read()
        chunk = b"" if read == "none" else await answer.content.readany()
        if read != "forget":
            answer.close()
        return answer.status, chunk

    return Client(post, session.close, ours.CircuitConnectionError, aiohttp.ClientConnectionError, aiohttp.ClientError)


def _requests(ours: Any, circuits: ModelCircuits, timeout: float) -> Client:
    import requests

    session = requests.Session()
    session.mount("http://", ours.CircuitAdapter(circuits))

    def send(url: str, body: bytes, read: Read) -> tuple[int, bytes]:
        answer = session.post(url, data=body, headers=HEADERS, stream=read != "all", timeout=timeout)
        if read == "all":
            return answer.status_code, answer.content
        chunk = b"" if read == "none" else next(answer.iter_content(None))
        if read != "forget":
            answer.close()
        return answer.status_code, chunk

    async def post(url: str, body: bytes, read: Read = "all") -> tuple[int, bytes]:
        return await asyncio.to_thread(send, url, body, read)

    async def aclose() -> None:
        session.close()

    return Client(post, aclose, ours.CircuitConnectionError, requests.ConnectionError, requests.RequestException)
