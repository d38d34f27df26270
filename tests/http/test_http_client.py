"""The transport against servers that answer everything but properly."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from socket import gaierror
from typing import NoReturn

import pytest
from e2e_sick import GOOD_BODY, hard_reset, whole
from http_raw_server import Handler, RawServer, answering, never_answering, raw_server, stop_reading

from llmbatch.core.calls import Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.http import HttpTransport
from llmbatch.http.connect_errors import connect_fault

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(max_body_bytes=100_000)
    yield transport
    await transport.aclose()


def request_to(url: str, *, body: bytes = b'{"a":1}') -> Request:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "Authorization": f"Bearer {KEY}"}
    return Request(Route("openai/m", "a"), f"{url}/chat/completions", headers, body, "chat", 1)


async def fault_of(transport: HttpTransport, url: str, *, timeout: float = 5.0, body: bytes = b"{}") -> TransportError:
    with pytest.raises(TransportError) as caught:
        await transport.post(request_to(url, body=body), timeout=timeout)
    return caught.value


async def test_good_answer_comes_back_whole_and_the_request_went_out_as_given(transport: HttpTransport) -> None:
    """Status, lower-case headers and body arrive; the body was sent byte for byte, with the given headers."""
    async with raw_server(answering(whole(headers=b"X-Request-Id: r1\r\n"))) as server:
        reply = await transport.post(request_to(server.url, body=b'{ "n": 1.10 }'), timeout=5)

    assert (reply.status, reply.body) == (200, GOOD_BODY)
    assert reply.headers["x-request-id"] == "r1"
    head, body = server.requests[0]
    assert body == b'{ "n": 1.10 }'
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    for line in (
        b"Content-Type: application/json",
        b"Accept-Encoding: identity",
        b"Authorization: Bearer " + KEY.encode(),
    ):
        assert head.count(line + b"\r\n") == 1


async def test_connections_are_reused(transport: HttpTransport) -> None:
    """Two requests in turn share one connection."""
    async with raw_server(answering(whole(), whole())) as server:
        await transport.post(request_to(server.url), timeout=5)
        await transport.post(request_to(server.url), timeout=5)

    assert (server.accepted, len(server.requests)) == (1, 2)


async def test_nothing_but_the_given_headers_is_sent(transport: HttpTransport) -> None:
    """They go out as they are written, between the host and the length: no agent, no type of the client's own."""
    headers = {"content-TYPE": 'application/json; charset="UTF-8"', "x-api-key": KEY, "X-Empty": ""}
    async with raw_server(answering(whole())) as server:
        request = request_to(server.url, body=b"12345")
        await transport.post(replace(request, headers=headers), timeout=5)

    assert server.requests[0][0].decode().split("\r\n") == [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        'content-TYPE: application/json; charset="UTF-8"',
        f"x-api-key: {KEY}",
        "X-Empty: ",
        "Content-Length: 5",
        "",
        "",
    ]


async def test_proxies_of_the_environment_and_cookies_are_ignored(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy from the environment is asked nor a cookie given back."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with raw_server(answering(whole(headers=b"Set-Cookie: a=b\r\n"), whole())) as server:
        await transport.post(request_to(server.url), timeout=5)
        await transport.post(request_to(server.url), timeout=5)

    assert all(b"cookie" not in head.lower() for head, _ in server.requests)


async def test_credentials_of_a_netrc_file_are_not_sent(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What lies in the user's home for this host is not the provider's."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with raw_server(answering(whole())) as server:
        await transport.post(replace(request_to(server.url), headers={}), timeout=5)

    assert b"authorization" not in server.requests[0][0].lower()


async def test_refused_connection_was_not_sent(transport: HttpTransport) -> None:
    """A closed port is a connect fault, said in our own words."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    error = await fault_of(transport, f"http://127.0.0.1:{port}/v1")

    assert (error.fault, error.sent) == ("connect", False)
    assert str(error) == f"connection refused by 127.0.0.1:{port}"


@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("hard", [False, True])
async def test_connection_lost_without_an_answer_is_a_reset(
    transport: HttpTransport, read_first: bool, hard: bool
) -> None:
    """Closed or reset, before or after the request was read: it may have been taken."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await (state.read_request(reader) if read_first else reader.readexactly(1))
            if hard:
                hard_reset(writer)

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("reset", True)


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_hang_is_a_timeout_of_a_sent_request_and_closes_its_connection(transport: HttpTransport) -> None:
    """No byte of an answer: the total timeout ends it, and the server sees the connection go."""
    async with raw_server(answering(b"", then_close=False)) as server:
        error = await fault_of(transport, server.url, timeout=1)
        await until(lambda: server.open == 0)

    assert (error.fault, error.sent) == ("timeout", True)


DRIBBLES = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ", id="length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunked"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD_BODY, b" ", id="until-close"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X-Wait: a\r\n", id="headers"),
    pytest.param(b"", b"HTTP/1.1 102 Processing\r\n\r\n", id="102"),
]


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
@pytest.mark.parametrize(("start", "drop"), DRIBBLES)
async def test_dribble_does_not_outlive_the_timeout(transport: HttpTransport, start: bytes, drop: bytes) -> None:
    """A byte now and then resets no clock, and what had come by then is no short answer; nothing stays open."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(start)
            while True:
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.01)

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url, timeout=1)
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == ("timeout", True)
        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_request_that_the_server_does_not_take_is_a_timeout(transport: HttpTransport) -> None:
    """Megabytes that stay on this side are given up with their connection."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            stop_reading(writer)
            await asyncio.Event().wait()

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url, timeout=1, body=b"x" * 20_000_000)
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == ("timeout", True)
        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_every_request_ends_at_its_own_time(transport: HttpTransport) -> None:
    """The time-outs of requests in flight do not mix: a shorter one set later rings first, and none too early."""
    seconds = [1.5, 60.0, 1.0, 0.5, 2.0]
    ended: list[float] = []

    async def end(timeout: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        error = await fault_of(transport, server.url, timeout=timeout)
        assert (error.fault, error.sent) == ("timeout", True)
        assert loop.time() - start > timeout - 0.005
        ended.append(timeout)

    async with raw_server(answering(b"", then_close=False)) as server:
        tasks = [asyncio.create_task(end(timeout)) for timeout in seconds]
        await until(lambda: len(ended) == 4)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert ended == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_answered_requests_do_not_keep_the_clock_of_others(transport: HttpTransport) -> None:
    """When the time of one that was answered long ago is over, those in flight go on, and end at their own."""
    async with raw_server(answering(whole(), b"", then_close=False)) as server:
        await transport.post(request_to(server.url), timeout=0.5)
        start = asyncio.get_running_loop().time()
        error = await fault_of(transport, server.url, timeout=1.2)
        seconds = asyncio.get_running_loop().time() - start

    assert (error.fault, error.sent) == ("timeout", True)
    assert seconds > 1.15
    assert server.accepted == 1


async def test_handshake_that_hangs_is_a_connect_timeout_and_was_not_sent(transport: HttpTransport) -> None:
    """A server that takes the connection but never speaks TLS has got nothing, and keeps no socket."""
    async with raw_server(never_answering) as server:
        error = await fault_of(transport, server.url.replace("http:", "https:"), timeout=0.1)
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == ("connect_timeout", False)
        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


async def test_connection_has_less_time_than_a_long_request(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a model may think for minutes, a connection still has its own few seconds."""
    monkeypatch.setattr("llmbatch.http.dial.CONNECT_SECONDS", 0.1)
    async with raw_server(never_answering) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url.replace("http:", "https:"), timeout=600)

    assert (error.fault, error.sent) == ("connect_timeout", False)


async def test_port_that_answers_no_greeting_is_a_connect_timeout_and_was_not_sent(transport: HttpTransport) -> None:
    """A host that is down, or drops what comes, has got nothing."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # from then on the system drops greetings
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        error = await fault_of(transport, f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=0.1)

    assert (error.fault, error.sent) == ("connect_timeout", False)


@pytest.mark.parametrize(("number", "fault"), [(socket.EAI_NONAME, "unknown_host"), (socket.EAI_AGAIN, "no_network")])
async def test_name_that_does_not_resolve_was_not_sent(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, number: int, fault: str
) -> None:
    """That there is no such name is the provider's matter; that no name server answers is this machine's."""

    async def look_up(*_: object, **options: object) -> NoReturn:
        raise socket.gaierror(number, "x")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)

    error = await fault_of(transport, "http://api.example/v1")

    assert (error.fault, error.sent) == (fault, False)
    assert "api.example:80" in str(error)


async def test_plain_server_behind_https_is_a_tls_fault(transport: HttpTransport) -> None:
    """A wrong scheme in the base URL is the operator's matter."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            await reader.read()

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url.replace("http:", "https:"))

    assert (error.fault, error.sent) == ("tls", False)


async def test_handshake_that_breaks_off_is_a_connect_fault(transport: HttpTransport) -> None:
    """A load balancer that falls over during the handshake is an outage, not a wrong certificate."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            hard_reset(writer)

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url.replace("http:", "https:"))

    assert (error.fault, error.sent) == ("connect", False)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_certificate_that_does_not_verify_is_a_tls_fault(transport: HttpTransport, tmp_path: Path) -> None:
    """A self-signed certificate is refused before anything is sent."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async with raw_server(answering(whole()), ssl=context) as server:
        error = await fault_of(transport, server.url.replace("http:", "https:"))

    assert (error.fault, error.sent) == ("tls", False)
    assert "certificate" in str(error)
    assert server.requests == []


CUT = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD_BODY, id="length-short"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n" + GOOD_BODY, id="length-2**64-1"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + GOOD_BODY, id="chunk-cut"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD_BODY), GOOD_BODY),
        id="last-chunk-missing",
    ),
    pytest.param(whole(gzip.compress(GOOD_BODY)[:-9], headers=b"Content-Encoding: gzip\r\n"), id="gzip-cut"),
    pytest.param(whole(gzip.compress(GOOD_BODY)[:-1], headers=b"Content-Encoding: gzip\r\n"), id="gzip-sum-cut"),
    pytest.param(whole(zlib.compress(GOOD_BODY)[:-5], headers=b"Content-Encoding: deflate\r\n"), id="deflate-cut"),
    pytest.param(whole(b"not gzip at all", headers=b"Content-Encoding: gzip\r\n"), id="gzip-false"),
]


@pytest.mark.parametrize("answer", CUT)
async def test_incomplete_body_is_truncated_never_a_short_success(transport: HttpTransport, answer: bytes) -> None:
    """What ends early, or not as its encoding says, is no answer."""
    async with raw_server(answering(answer)) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("truncated", True)


BEGUN = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD_BODY, id="length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD_BODY), GOOD_BODY), id="chunked"
    ),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD_BODY, id="until-close"),
]


@pytest.mark.parametrize("answer", BEGUN)
async def test_reset_in_the_body_is_truncated_never_a_short_success(transport: HttpTransport, answer: bytes) -> None:
    """A connection that breaks ends no answer, not even one that ends with its connection."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(answer)
            await asyncio.sleep(0.01)
            hard_reset(writer)

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("truncated", True)


WHOLE = [
    pytest.param(whole(), id="length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD_BODY), GOOD_BODY),
        id="chunked",
    ),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD_BODY, id="until-close"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + whole(), id="after-100"),
    pytest.param(whole(gzip.compress(GOOD_BODY), headers=b"Content-Encoding: gzip\r\n"), id="gzip"),
    pytest.param(
        whole(gzip.compress(GOOD_BODY[:50]) + gzip.compress(GOOD_BODY[50:]), headers=b"Content-Encoding: gzip\r\n"),
        id="gzip-two-members",
    ),
    pytest.param(whole(zlib.compress(GOOD_BODY), headers=b"Content-Encoding: deflate\r\n"), id="deflate"),
    pytest.param(whole(zlib.compress(GOOD_BODY)[2:-4], headers=b"Content-Encoding: deflate\r\n"), id="deflate-bare"),
    pytest.param(whole(headers=b"Content-Encoding: identity\r\n"), id="identity"),
    pytest.param(whole(headers=b"Content-Encoding: UTF-8\r\n"), id="no-encoding"),
    pytest.param(
        whole(headers=b"".join(b"X-Long-%d: %s\r\n" % (i, b"x" * 1000) for i in range(40))), id="40-kB-in-40-headers"
    ),
    pytest.param(whole(headers=b"X-Long: %s\r\n" % (b"x" * 8_000)), id="8-kB-header"),
    pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + whole(), id="after-103"),
]


@pytest.mark.parametrize("answer", WHOLE)
async def test_complete_body_is_taken_however_it_is_framed(transport: HttpTransport, answer: bytes) -> None:
    """Framing and compression are the server's choice as long as the end is there."""
    async with raw_server(answering(answer)) as server:
        reply = await transport.post(request_to(server.url), timeout=5)

    assert (reply.status, reply.body) == (200, GOOD_BODY)


async def test_no_content_with_a_length_is_no_truncation(transport: HttpTransport) -> None:
    """A 204 has no body whatever its headers say."""
    async with raw_server(answering(b"HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n")) as server:
        reply = await transport.post(request_to(server.url), timeout=5)

    assert (reply.status, reply.body) == (204, b"")


async def test_html_error_page_is_an_answer(transport: HttpTransport) -> None:
    """What a gateway says is judged, not thrown away."""
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>bad gateway</html>"
    async with raw_server(answering(page)) as server:
        reply = await transport.post(request_to(server.url), timeout=5)

    assert (reply.status, reply.body) == (502, b"<html>bad gateway</html>")


async def test_the_chunks_of_an_answer_count_more_than_its_length(transport: HttpTransport) -> None:
    """As RFC 9112 says of a server that sends both; but its connection is not trusted with another request."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD_BODY), GOOD_BODY)
    async with raw_server(answering(answer, then_close=False)) as server:
        replies = [await transport.post(request_to(server.url), timeout=5) for _ in range(2)]

    assert [(reply.status, reply.body) for reply in replies] == [(200, GOOD_BODY)] * 2
    assert server.accepted == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (whole(headers=b"X-Long: %s\r\n" % (b"x" * 8_200)), "sent a header of more than 8190 bytes"),
        (whole(b"\x0b\x02\x80", headers=b"Content-Encoding: br\r\n"), "encoding that was not requested (br)"),
    ],
)
async def test_what_is_wrong_with_an_answer_is_named(transport: HttpTransport, answer: bytes, words: str) -> None:
    """That it is not HTTP would mislead."""
    async with raw_server(answering(answer, then_close=False)) as server:
        error = await fault_of(transport, server.url)

    assert words in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_handed_back_and_never_followed(transport: HttpTransport, status: int) -> None:
    """Another origin would get the key and the prompt: it gets nothing."""
    async with raw_server(answering(whole())) as elsewhere:
        answer = whole(b"", status=f"{status} Moved", headers=b"Location: %s\r\n" % elsewhere.url.encode())
        async with raw_server(answering(answer)) as server:
            reply = await transport.post(request_to(server.url), timeout=5)

    assert reply.status == status
    assert (elsewhere.accepted, elsewhere.requests) == (0, [])


GARBAGE = [
    pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="other-protocol"),
    pytest.param(b"HTTP/1.1 2oo OK\r\n\r\n", id="status-line"),
    pytest.param(whole(headers=b"X-Long: %s\r\n" % (b"x" * 8_200)), id="over-8-kB-header"),
    pytest.param(whole(headers=b"X-Long: %s\r\n" % (b"x" * 40_000)), id="40-kB-header"),
    pytest.param(whole(headers=b"".join(b"X-%d: a\r\n" % i for i in range(2000))), id="2000-headers"),
    pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", id="101"),
    pytest.param(whole() + b'}"more"', id="longer-than-its-length"),
    pytest.param(whole(b"\x0b\x02\x80hello\x03", headers=b"Content-Encoding: br\r\n"), id="unasked-encoding"),
]


@pytest.mark.parametrize("answer", GARBAGE)
async def test_what_is_not_http_is_garbage_and_no_status(transport: HttpTransport, answer: bytes) -> None:
    """The client calls it status 400; it is nobody's refusal. The next request gets a new connection."""
    async with raw_server(answering(answer, then_close=False)) as server:
        error = await fault_of(transport, server.url)
        if b"br\r\n" not in answer:
            await until(lambda: server.open == 0)

    assert (error.fault, error.sent) == ("garbage", True)


async def test_connection_after_a_101_is_not_used_again(transport: HttpTransport) -> None:
    """A switch of protocols that nobody asked for ends with its request; the next has a connection and an answer."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(switch if state.accepted == 1 else whole())
            await reader.read()

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url)
        reply = await transport.post(request_to(server.url), timeout=5)

    assert (error.fault, error.sent) == ("garbage", True)
    assert (reply.status, server.accepted) == (200, 2)


async def test_body_over_the_cap_is_dropped_and_its_connection_closed(transport: HttpTransport) -> None:
    """An endless answer costs no more memory than the cap, and no more time."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()

        return handle

    async with raw_server(make) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=60)
        await until(lambda: server.open == 0)

    assert (error.fault, error.sent) == ("too_large", True)


async def test_gzip_bomb_is_dropped_at_the_cap(transport: HttpTransport) -> None:
    """10 MB in 10 kB pass a cap of 100 kB on the way in, not on the way out."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    assert len(bomb) < 100_000
    async with raw_server(answering(whole(bomb, headers=b"Content-Encoding: gzip\r\n"))) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("too_large", True)


async def test_kept_connection_that_was_closed_in_peace_is_replaced(transport: HttpTransport) -> None:
    """A connection that the server closed while it was idle costs nothing."""
    async with raw_server(answering(whole())) as server:
        await transport.post(request_to(server.url), timeout=5)
        await until(lambda: server.open == 0)
        await asyncio.sleep(0.02)
        reply = await transport.post(request_to(server.url), timeout=5)

    assert (reply.status, server.accepted) == (200, 2)


async def test_answer_before_the_whole_request_is_taken_and_its_connection_dropped(transport: HttpTransport) -> None:
    """A 413 for a body that the server will not read is the answer, and nothing hangs on the rest of the body."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(whole(b"{}", status="413 Too Large"))
            await writer.drain()
            await writer.wait_closed()

        return handle

    async with raw_server(make) as server:
        reply = await transport.post(request_to(server.url, body=b"x" * 20_000_000), timeout=5)
        await asyncio.sleep(0.01)

        assert reply.status == 413
        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_cancellation_closes_the_connection(transport: HttpTransport, size: int) -> None:
    """Also when the server reads nothing and most of the request is still here."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            stop_reading(writer)
            await writer.wait_closed()

        return handle

    async with raw_server(make) as server:
        task = asyncio.create_task(transport.post(request_to(server.url, body=b"x" * size), timeout=60))
        await until(lambda: server.open == 1)
        await asyncio.sleep(0.05)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)

        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


async def test_first_connections_open_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 requests at once no more than a hundred are connecting at any time, and all get through."""
    connecting = most = 0

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(whole())
            await writer.drain()
            await reader.read()

        return handle

    transport = HttpTransport()
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def counted(sock: socket.socket, address: tuple[str, int]) -> None:
        nonlocal connecting, most
        connecting += 1
        most = max(most, connecting)
        try:
            await asyncio.sleep(0.005)
            await connect(sock, address)
        finally:
            connecting -= 1

    monkeypatch.setattr(loop, "sock_connect", counted)
    async with raw_server(make) as server:
        replies = await asyncio.gather(*[transport.post(request_to(server.url), timeout=5) for _ in range(300)])
        await transport.aclose()

    assert {reply.status for reply in replies} == {200}
    assert most == 100


async def test_close_waits_for_requests_in_flight_and_leaves_no_warning() -> None:
    """A request that is out when the transport closes gets its answer; nothing is reported as unclosed."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            await asyncio.sleep(0.05)
            writer.write(whole())
            await writer.drain()
            await reader.read()

        return handle

    gc.collect()  # other tests' leftovers are not this one's
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with raw_server(make) as server:
            transport = HttpTransport()
            task = asyncio.create_task(transport.post(request_to(server.url), timeout=5))
            await asyncio.sleep(0.01)
            await transport.aclose()
            await transport.aclose()
            assert task.done()
            assert (await task).status == 200
        del transport, task
        gc.collect()

    assert complaints == []
    assert [str(warning.message) for warning in caught] == []


async def test_closed_transport_sends_nothing() -> None:
    """After closing, a request fails here and now."""
    transport = HttpTransport()
    await transport.aclose()
    async with raw_server(answering(whole())) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent, server.accepted) == ("local", False, 0)


@pytest.mark.slow
def test_lack_of_file_handles_is_this_machines_fault(tmp_path: Path) -> None:
    """With no handle left a request is a local fault and was not sent; slow for a process of its own."""
    script = tmp_path / "starve.py"
    script.write_text(
        textwrap.dedent("""
            import asyncio, os, resource, socket
            from llmbatch.core.errors import TransportError
            from llmbatch.http import HttpTransport
            from llmbatch.core.calls import Request, Route

            async def main():
                server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
                port = server.sockets[0].getsockname()[1]
                transport = HttpTransport()
                loop = asyncio.get_running_loop()
                await loop.getaddrinfo("localhost", 80)
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                held = []
                try:
                    while True:
                        held.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    pass
                for host in ("127.0.0.1", "localhost"):
                    request = Request(Route("m", "a"), f"http://{host}:{port}/v1", {}, b"{}", "chat", 1)
                    try:
                        await transport.post(request, timeout=5)
                    except TransportError as error:
                        print(error.fault, error.sent, error)
                for handle in held:
                    os.close(handle)
                await transport.aclose()

            asyncio.run(main())
        """)
    )

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)

    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["local", "False"], ["local", "False"]], done.stdout + done.stderr


SYSTEM_FAULTS = [
    (OSError(errno.ECONNREFUSED, "x"), "connect"),
    (OSError(errno.EHOSTUNREACH, "x"), "connect"),
    (OSError(errno.ECONNRESET, "x"), "connect"),
    (OSError("several at once"), "connect"),
    (OSError(errno.ENETUNREACH, "x"), "no_network"),
    (OSError(errno.ENETDOWN, "x"), "no_network"),
    (OSError(errno.EMFILE, "x"), "local"),
    (OSError(errno.ENFILE, "x"), "local"),
    (OSError(errno.EADDRNOTAVAIL, "x"), "local"),
    (OSError(errno.ENOBUFS, "x"), "local"),
    (socket.gaierror(socket.EAI_AGAIN, "x"), "no_network"),
    (socket.gaierror(socket.EAI_NONAME, "x"), "unknown_host"),
    (socket.gaierror(socket.EAI_NODATA, "x"), "unknown_host"),
    (socket.gaierror(socket.EAI_MEMORY, "x"), "local"),
    (socket.gaierror(socket.EAI_FAIL, "x"), "dns"),
]


@pytest.mark.parametrize(("cause", "fault"), SYSTEM_FAULTS, ids=lambda value: str(value).replace(" ", "-"))
def test_system_errors_while_connecting_are_told_apart(cause: gaierror | Exception, fault: str) -> None:
    """This machine, its network, names and the other side each have their own fault; none was sent."""
    error = connect_fault(cause, "api.example:443")

    assert (error.fault, error.sent) == (fault, False)


async def test_key_appears_in_no_error(transport: HttpTransport) -> None:
    """Neither text, nor hint, nor repr of any fault holds the key."""
    said = []
    for answer in (*CUT, *GARBAGE):
        page = answer.values[0]
        assert isinstance(page, bytes)
        async with raw_server(answering(page)) as server:
            error = await fault_of(transport, server.url)
            said.append(f"{error} {error!r} {error.hint} {error.__cause__}")

    assert len(said) == len(CUT) + len(GARBAGE)
    assert not [text for text in said if KEY in text]


async def until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def open_sockets() -> list[tuple[str, int]]:
    """This process's TCP sockets that are connected or about to be, as (state, remote port)."""
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = "0A"
    return [(row[3], int(row[2].rpartition(":")[2], 16)) for row in rows if row[9] in inodes and row[3] != listening]
