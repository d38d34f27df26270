"""Hosts of several addresses: all are tried, a silent one holds nobody up, and a name is looked up once for many."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from e2e_sick import GOOD_BODY, whole
from http_raw_server import answering, raw_server
from test_http_client import fault_of, open_sockets, request_to
from test_http_load import echoing

from llmbatch.http import HttpTransport
from llmbatch.http.dial import Target

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""As ``getaddrinfo`` gives it."""

NAME = "http://api.example/v1"


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.aclose()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> list[str]:
    """Let every name have an address of loopback for each of *ports*; gives the names that were asked for."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def look_up(host: str, port: int, **options: Any) -> Sequence[Address]:
        if host == "127.0.0.1":  # uvloop asks for every address it connects to
            return await real(host, port, **options)
        asked.append(host)
        await asyncio.sleep(0.01)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    return asked


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue is full, so that the system drops greetings."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_next_address_is_tried_where_one_refuses(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits, and the host that was asked for is the one that is named."""
    async with raw_server(answering(whole())) as server:
        resolve_to(monkeypatch, closed_port(), closed_port(), server.port)
        reply = await transport.post(request_to(NAME), timeout=5)

    assert reply.body == GOOD_BODY
    assert b"\r\nHost: api.example\r\n" in server.requests[0][0]


async def test_next_address_is_tried_where_one_is_silent(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a quarter of a second, and the attempt that is left over is closed."""
    with silent_port() as silent:
        async with raw_server(answering(whole())) as server:
            resolve_to(monkeypatch, closed_port(), silent, server.port)
            reply = await transport.post(request_to(NAME), timeout=5)
            await asyncio.sleep(0.01)

            assert reply.body == GOOD_BODY
            assert [sock for sock in open_sockets() if sock[1] == silent and sock[0] == "02"][4:] == []


async def test_host_none_of_whose_addresses_answers_is_a_connect_fault(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not sent, and told by the name."""
    resolve_to(monkeypatch, closed_port(), closed_port())

    error = await fault_of(transport, NAME)

    assert (error.fault, error.sent) == ("connect", False)
    assert str(error) == "connection refused by api.example:80"


async def test_name_is_looked_up_once_for_many_connections(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty requests at once share a look-up, and so do those of the next half minute."""
    async with raw_server(echoing) as server:
        asked = resolve_to(monkeypatch, server.port)
        await asyncio.gather(*(transport.post(request_to(NAME), timeout=5) for _ in range(40)))
        await asyncio.gather(*(transport.post(request_to(NAME), timeout=5) for _ in range(60)))

    assert server.accepted == 60
    assert asked == ["api.example"]


async def test_look_up_that_failed_is_not_kept(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request asks again; one that was cancelled meanwhile takes the look-up from nobody."""
    asked = 0

    async def look_up(host: str, port: int, **options: Any) -> Sequence[Address]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.02)
        raise socket.gaierror(socket.EAI_AGAIN, "x")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    cancelled = asyncio.create_task(transport.post(request_to(NAME), timeout=5))
    other = asyncio.create_task(fault_of(transport, NAME))
    await asyncio.sleep(0)
    await asyncio.sleep(0.005)
    cancelled.cancel()

    assert (await other).fault == "no_network"
    assert cancelled.cancelled()
    assert (await fault_of(transport, NAME)).fault == "no_network"
    assert asked == 2


TARGETS = [
    ("http://h/v1", None, "POST /v1 HTTP/1.1", "h", "h:80"),
    ("http://h:80/v1?a=b%20c", None, "POST /v1?a=b%20c HTTP/1.1", "h", "h:80"),
    ("https://H.Example:8443", None, "POST / HTTP/1.1", "h.example:8443", "h.example:8443"),
    ("http://[::1]:8000/v1", None, "POST /v1 HTTP/1.1", "[::1]:8000", "[::1]:8000"),
    ("https://[::1]/v1", None, "POST /v1 HTTP/1.1", "[::1]", "[::1]:443"),
    ("https://host.example./v1", None, "POST /v1 HTTP/1.1", "host.example", "host.example:443"),
    (
        "https://b\u00fccher.example/gr\u00fc\u00dfe",
        None,
        "POST /gr%C3%BC%C3%9Fe HTTP/1.1",
        "xn--bcher-kva.example",
        "",
    ),
    ("http://h/v1", "http://p:3128", "POST http://h/v1 HTTP/1.1", "h", "h:80"),
    ("https://h/v1", "http://p:3128", "POST /v1 HTTP/1.1", "h", "h:443"),
]


@pytest.mark.parametrize(("url", "proxy", "first", "host", "place"), TARGETS)
def test_request_line_and_host_of_a_url(url: str, proxy: str | None, first: str, host: str, place: str) -> None:
    """As RFC 9112 writes them; names that are not ASCII as name servers know them."""
    made = Target(url, {}, proxy=proxy)

    assert made.head.decode().split("\r\n")[:2] == [first, f"Host: {host}"]
    assert not place or made.place == place


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
def test_header_that_would_end_the_line_is_refused(value: str) -> None:
    """Nothing is smuggled by a header or a URL."""
    with pytest.raises(ValueError, match="control characters"):
        Target("http://h/v1", {"X-A": value}, proxy=None)
