"""Proxies over raw sockets: plain requests, tunnels, proxies that speak TLS themselves, and how each of them fails."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress

import pytest
from e2e_sick import hard_reset, whole
from http_authority import Authority, trust
from http_raw_server import Handler, RawServer, answering, never_answering, raw_server
from test_http_client import fault_of, open_sockets, request_to, until
from test_http_load import echoing

from llmbatch.http import HttpTransport


def tunneling(state: RawServer) -> Handler:
    """Open a tunnel for a CONNECT, and answer any other request with its own body, as an echoing provider would."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, asked, _ = head.split(b" ", 2)
        if method != b"CONNECT":
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            state.requests.append((head, await reader.readexactly(length)))
            writer.write(whole(state.requests[-1][1]))
            await reader.read()
            return
        state.requests.append((head, b""))
        host, _, port = asked.decode().rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))
        finally:
            far_writer.transport.abort()

    return handle


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def https(server: RawServer) -> str:
    return server.url.replace("http:", "https:")


def proxy_url(server: RawServer, *, scheme: str = "http", user: str = "") -> str:
    return f"{scheme}://{user}127.0.0.1:{server.port}"


@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_requests_go_through_a_proxy_of_either_scheme(
    trusted: ssl.SSLContext, scheme: str, proxy_scheme: str
) -> None:
    """Plain, through a tunnel, over TLS to the proxy, and over TLS within that; tunnels are reused."""
    options = {"ssl": trusted} if scheme == "https" else {}
    proxy_options = {"ssl": trusted} if proxy_scheme == "https" else {}

    async with raw_server(echoing, **options) as server, raw_server(tunneling, **proxy_options) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy, scheme=proxy_scheme, user="me:p%40ss@"))
        url = https(server) if scheme == "https" else server.url
        count = 3 if scheme == "https" else 1
        bodies = [(await transport.post(request_to(url, body=b"%d" % i), timeout=5)).body for i in range(count)]
        await transport.aclose()

    assert bodies == [b"%d" % i for i in range(count)]
    [(head, _)] = proxy.requests
    lines = head.decode().split("\r\n")
    told = f"Proxy-Authorization: Basic {b64encode(b'me:p@ss').decode()}"
    assert lines.count(told) == 1
    if scheme == "https":
        assert lines[0] == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
        assert server.accepted == 1
        assert all(b"proxy-authorization" not in head.lower() for head, _ in server.requests)
        assert b"authorization: bearer" not in head.lower()
    else:
        assert lines[0] == f"POST {server.url}/chat/completions HTTP/1.1"
        assert server.accepted == 0


async def test_large_bodies_pass_through_tls_within_tls(trusted: ssl.SSLContext) -> None:
    """Megabytes both ways, many at once."""
    async with raw_server(echoing, ssl=trusted) as server, raw_server(tunneling, ssl=trusted) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy, scheme="https"))
        bodies = [bytes([65 + i]) * 1_000_000 for i in range(5)]
        replies = await asyncio.gather(
            *(transport.post(request_to(https(server), body=body), timeout=20) for body in bodies)
        )
        await transport.aclose()

    assert [reply.body for reply in replies] == bodies


@pytest.mark.parametrize("page", [b"", b"<html>who are you?</html>"], ids=["no-page", "page"])
async def test_tunnel_that_is_refused_names_the_proxy_and_was_not_sent(page: bytes) -> None:
    """With its status, also if a page comes with it."""
    answer = whole(page, status="407 Proxy Authentication Required")

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await reader.read()

        return handle

    async with raw_server(make) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy))
        error = await fault_of(transport, "https://provider.invalid/v1")
        await until(lambda: proxy.open == 0)
        await transport.aclose()

    assert (error.fault, error.sent) == ("connect", False)
    assert str(error) == "the proxy refused a connection to provider.invalid:443 (status 407)"


BROKEN_TUNNELS = [
    pytest.param(b"", False, "connect", id="closes"),
    pytest.param(b"", True, "connect", id="resets"),
    pytest.param(b"HTTP/1.1 200", False, "connect", id="half-a-head"),
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", False, "garbage", id="other-protocol"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n220 mail.example ESMTP\r\n", False, "garbage", id="speaks-first"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", False, "connect", id="tunnel-to-nowhere"),
]


@pytest.mark.parametrize(("answer", "hard", "fault"), BROKEN_TUNNELS)
async def test_tunnel_that_breaks_was_not_sent(answer: bytes, hard: bool, fault: str) -> None:
    """Whatever it breaks by, nothing of the request left, and no socket stays."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hard:
                hard_reset(writer)

        return handle

    async with raw_server(make) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy))
        error = await fault_of(transport, "https://provider.invalid/v1")
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == (fault, False)
        assert [sock for sock in open_sockets() if sock[1] == proxy.port] == []
        await transport.aclose()


async def test_tunnel_that_hangs_is_a_connect_timeout() -> None:
    """A proxy that takes the question and says nothing."""
    async with raw_server(never_answering) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy))
        error = await fault_of(transport, "https://provider.invalid/v1", timeout=0.1)
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == ("connect_timeout", False)
        assert [sock for sock in open_sockets() if sock[1] == proxy.port] == []
        await transport.aclose()


@pytest.mark.parametrize("stage", ["tunnel", "handshake", "answer"])
async def test_cancellation_in_a_tunnel_closes_the_connection(trusted: ssl.SSLContext, stage: str) -> None:
    """Whether the proxy, the handshake or the answer is waited for."""

    def silent_after(answer: bytes) -> Callable[[RawServer], Handler]:
        def make(state: RawServer) -> Handler:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await reader.read()

            return handle

        return make

    made = {"tunnel": silent_after(b""), "handshake": silent_after(b"HTTP/1.1 200 OK\r\n\r\n"), "answer": tunneling}
    async with raw_server(silent_after(b""), ssl=trusted) as server, raw_server(made[stage], ssl=trusted) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy, scheme="https"))
        task = asyncio.create_task(transport.post(request_to(https(server)), timeout=60))
        await until(lambda: (server if stage == "answer" else proxy).open == 1)
        await asyncio.sleep(0.05)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)

        assert [sock for sock in open_sockets() if sock[1] == proxy.port] == []
        await transport.aclose()


async def test_certificates_behind_a_proxy_are_verified(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the proxy for the proxy's name, that of the provider for the provider's."""
    trust(authority, monkeypatch)
    other = authority.context("DNS:other.example")
    errors = []

    async with raw_server(answering(whole()), ssl=other) as server, raw_server(tunneling) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy))
        errors.append(await fault_of(transport, https(server)))
        await transport.aclose()
    async with raw_server(tunneling, ssl=other) as proxy:
        transport = HttpTransport(proxy=proxy_url(proxy, scheme="https"))
        errors.append(await fault_of(transport, "https://provider.invalid/v1"))
        await transport.aclose()

    assert [(error.fault, error.sent) for error in errors] == [("tls", False)] * 2
    assert f"the certificate of 127.0.0.1:{server.port} was rejected" in str(errors[0])
    assert f"the certificate of the proxy 127.0.0.1:{proxy.port} was rejected" in str(errors[1])
    assert server.requests == []
