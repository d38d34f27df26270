"""The transport over TLS, over connections that wait or die between requests, and under many requests at once."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import resource
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from e2e_sick import GOOD_BODY, whole
from http_authority import Authority, trust
from http_raw_server import Handler, RawServer, answering, raw_server, stop_reading
from test_http_client import fault_of, open_sockets, request_to, until

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.http import HttpTransport
from llmbatch.http.body import AnswerMemory
from llmbatch.http.client import KEEPALIVE_SECONDS
from llmbatch.http.dial import Dialer

ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])
"""For tests whose transport runs in a process of its own, where the loop of the test does not matter."""


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(max_body_bytes=100_000)
    yield transport
    await transport.aclose()


def echoing(state: RawServer) -> Handler:
    """Answer every request with its own body."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(whole(await state.read_request(reader)))
            await writer.drain()

    return handle


# TLS.


def tls_url(server: RawServer) -> str:
    return server.url.replace("http:", "https:")


@ONE_LOOP
@pytest.mark.slow
async def test_authority_from_the_environment_is_trusted(authority: Authority, tmp_path: Path) -> None:
    """With SSL_CERT_FILE the answers of a server whose certificate a local authority signed come back.

    Slow for a process of its own, as the variable is read when the client is loaded.
    """
    context = authority.context("IP:127.0.0.1")

    async with raw_server(echoing, ssl=context) as server:
        said = await in_process(
            tmp_path,
            """
            for number in range(3):
                reply = await transport.post(request(b"%d" % number), timeout=5)
                print(reply.status, reply.body.decode())
            """,
            url=tls_url(server),
            environment={"SSL_CERT_FILE": str(authority.certificate)},
        )

    assert said == ["200 0", "200 1", "200 2"]
    assert server.accepted == 1


async def test_tls_connections_are_reused(transport: HttpTransport, trusted: ssl.SSLContext) -> None:
    """A handshake serves many requests."""
    async with raw_server(echoing, ssl=trusted) as server:
        bodies = [(await transport.post(request_to(tls_url(server), body=b"%d" % i), timeout=5)).body for i in range(5)]

    assert bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert server.accepted == 1


BAD_CERTIFICATES = [
    pytest.param("DNS:other.example", 2, "not valid for", id="other-name"),
    pytest.param("IP:127.0.0.1", -1, "expired", id="expired"),
]


@pytest.mark.parametrize(("name", "days", "words"), BAD_CERTIFICATES)
async def test_trusted_authority_does_not_make_a_wrong_certificate_right(
    transport: HttpTransport, authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str, days: int, words: str
) -> None:
    """A certificate for another host, or of yesterday, is the operator's matter, and nothing is sent."""
    trust(authority, monkeypatch)

    async with raw_server(answering(whole()), ssl=authority.context(name, days=days)) as server:
        error = await fault_of(transport, tls_url(server))

    assert (error.fault, error.sent) == ("tls", False)
    assert words in str(error)
    assert server.requests == []


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_time_out_over_tls_closes_its_connection_at_once(
    transport: HttpTransport, trusted: ssl.SSLContext
) -> None:
    """Nobody waits for the farewell of a server that hangs."""
    async with raw_server(hanging, ssl=trusted) as server:
        error = await fault_of(transport, tls_url(server), timeout=2)
        await until(lambda: not sockets_to(server))

        assert (error.fault, error.sent) == ("timeout", True)
        assert sockets_to(server) == []


@pytest.mark.parametrize("stage", ["handshake", "answer"])
async def test_cancellation_over_tls_closes_the_connection_at_once(
    transport: HttpTransport, trusted: ssl.SSLContext, stage: str
) -> None:
    """Also in the middle of the handshake."""
    options = {"ssl": trusted} if stage == "answer" else {}
    async with raw_server(hanging, **options) as server:
        task = asyncio.create_task(transport.post(request_to(tls_url(server)), timeout=60))
        await until(lambda: server.open == 1)
        await asyncio.sleep(0.02)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not sockets_to(server))

        assert sockets_to(server) == []


async def test_answer_before_the_whole_request_drops_the_tls_connection_too(
    transport: HttpTransport, trusted: ssl.SSLContext
) -> None:
    """Megabytes that wait behind the encryption would come before the next request."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            stop_reading(writer)
            writer.write(whole(b"{}", status="413 Too Large"))
            await asyncio.Event().wait()

        return handle

    async with raw_server(make, ssl=trusted) as server:
        reply = await transport.post(request_to(tls_url(server), body=b"x" * 20_000_000), timeout=5)
        await until(lambda: not sockets_to(server))

        assert reply.status == 413
        assert sockets_to(server) == []


async def test_announced_close_is_done_from_this_side(transport: HttpTransport, trusted: ssl.SSLContext) -> None:
    """A server that says it closes, and does not, holds no connection of ours."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            stop_reading(writer)
            writer.write(whole(headers=b"Connection: close\r\n"))
            await asyncio.Event().wait()

        return handle

    async with raw_server(make, ssl=trusted) as server:
        reply = await transport.post(request_to(tls_url(server)), timeout=5)
        await until(lambda: not sockets_to(server))

        assert reply.status == 200
        assert sockets_to(server) == []


@pytest.mark.parametrize("notify", [True, False])
async def test_body_that_ends_with_its_tls_connection_is_taken(
    transport: HttpTransport, trusted: ssl.SSLContext, notify: bool
) -> None:
    """Also without close_notify, which many servers leave out."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD_BODY)
            await writer.drain()
            await asyncio.sleep(0.02)
            if notify:
                writer.close()
                await writer.wait_closed()

        return handle

    async with raw_server(make, ssl=trusted) as server:
        reply = await transport.post(request_to(tls_url(server)), timeout=5)

    assert reply.body == GOOD_BODY


@pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_body_that_is_cut_with_its_tls_connection_is_truncated(
    transport: HttpTransport, trusted: ssl.SSLContext, head: bytes
) -> None:
    """A length or chunks say what the connection's end does not."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n%s\r\n\r\nd3\r\n%s\r\n" % (head, GOOD_BODY))
            await writer.drain()
            await asyncio.sleep(0.02)

        return handle

    async with raw_server(make, ssl=trusted) as server:
        error = await fault_of(transport, tls_url(server))

    assert (error.fault, error.sent) == ("truncated", True)


async def test_server_that_speaks_first_is_met_once(transport: HttpTransport, trusted: ssl.SSLContext) -> None:
    """A mail server's greeting, there with the end of the handshake, is no reason to connect again and again."""
    trusted.maximum_version = ssl.TLSVersion.TLSv1_2  # in which the server has the last word of the handshake

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await reader.read()

        return handle

    async with raw_server(make, ssl=trusted) as server, asyncio.timeout(30):
        error = await fault_of(transport, tls_url(server), timeout=5)

    assert error.fault == "garbage"
    assert server.accepted == 1


async def test_tls_connection_that_was_closed_in_peace_is_replaced(
    transport: HttpTransport, trusted: ssl.SSLContext
) -> None:
    """A farewell in the idle time costs nothing."""
    async with raw_server(answering(whole()), ssl=trusted) as server:
        await transport.post(request_to(tls_url(server)), timeout=5)
        await until(lambda: server.open == 0)
        await asyncio.sleep(0.02)
        reply = await transport.post(request_to(tls_url(server)), timeout=5)

    assert (reply.status, server.accepted) == (200, 2)


# Connections between requests.


SECOND_ANSWERS = [
    pytest.param(whole(b"stale"), id="answer"),
    pytest.param(whole(b"", status="408 Request Timeout", headers=b"Connection: close\r\n"), id="408"),
    pytest.param(whole(b"stale")[:20], id="half-a-head"),
    pytest.param(whole(b"stale")[:-3], id="half-a-body"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="100"),
    pytest.param(b"\r\n", id="line-break"),
    pytest.param(b"\0garbage", id="garbage"),
]


@pytest.mark.parametrize("second", SECOND_ANSWERS)
async def test_second_answer_is_never_that_of_the_next_request(transport: HttpTransport, second: bytes) -> None:
    """What comes over an idle connection ends it: the next request goes over a new one, and none over the old one."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole(await state.read_request(reader)))
            await asyncio.sleep(0.01)
            writer.write(second)
            await reader.read()  # until the other side has closed
            is_dropped.set()

        return handle

    is_dropped = asyncio.Event()

    async with raw_server(make) as server:
        first = await transport.post(request_to(server.url, body=b"one"), timeout=5)
        await asyncio.wait_for(is_dropped.wait(), 20)
        next_one = await transport.post(request_to(server.url, body=b"two"), timeout=20)

    assert (first.body, next_one.body) == (b"one", b"two")
    assert server.accepted == 2


async def test_two_answers_at_once_are_one_and_the_connection_is_dropped(transport: HttpTransport) -> None:
    """A second answer right behind the first is nobody's."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole(await state.read_request(reader)) + whole(b"stale"))
            await reader.read()

        return handle

    async with raw_server(make) as server:
        bodies = [(await transport.post(request_to(server.url, body=body), timeout=20)).body for body in (b"1", b"2")]

    assert bodies == [b"1", b"2"]
    assert server.accepted == 2


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
@pytest.mark.parametrize("second", [whole(b"stale"), b""], ids=["answer", "end"])
async def test_request_whose_connection_is_spent_before_it_left_was_not_sent(
    transport: HttpTransport, second: bytes
) -> None:
    """What comes over a connection before its request has left is no answer to it, and keeps it from being sent.

    The second of two requests of one turn waits for the end of the turn.
    """
    async with kept_connections(transport, count=2) as (peers, request):
        peers[1].send(second)
        peers[1].shutdown(socket.SHUT_WR)
        tasks = [asyncio.create_task(transport.post(request, timeout=1)) for _ in peers]
        await until(lambda: peek(peers[0]))
        peers[0].send(whole())
        reply, error = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(reply, Reply)
        assert reply.body == GOOD_BODY
        # Where the loop reads sooner the request has gone over a new connection, which nobody serves here.
        assert isinstance(error, TransportError)
        assert (error.fault, error.sent) in {("connect", False), ("timeout", True)}
        assert peek(peers[1]) == b""


async def test_request_that_is_cancelled_before_it_left_is_never_sent(transport: HttpTransport) -> None:
    """The second of two requests of one turn waits for the end of the turn; cancelled before, no byte of it leaves."""
    async with kept_connections(transport, count=2) as (peers, request):
        tasks = [asyncio.create_task(transport.post(request, timeout=5)) for _ in peers]
        asyncio.get_running_loop().call_soon(tasks[1].cancel)  # both are handed over by then
        await until(lambda: peek(peers[0]))
        peers[0].send(whole())
        first, second = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(first, Reply)
        assert first.body == GOOD_BODY
        assert isinstance(second, asyncio.CancelledError)
        assert peek(peers[1]) == b""


async def test_lines_are_written_before_the_requests_behind_them_leave() -> None:
    """Of requests that are handed over in one turn none leaves but after a call made since; and a call serves many."""
    lines: list[int] = []
    written: list[int] = []
    peers: list[socket.socket] = []
    were_in_time: list[bool] = []

    def write_lines() -> None:
        were_in_time.append(sum(bool(peek(peer)) for peer in peers) <= len(written))
        written[:] = lines

    async def line_and_request(number: int) -> Reply:
        lines.append(number)
        return await transport.post(request, timeout=5)

    transport = HttpTransport(before_sending=write_lines)
    async with kept_connections(transport, count=20) as (kept, request):
        peers.extend(kept)
        were_in_time.clear()
        tasks = [asyncio.create_task(line_and_request(number)) for number in range(20)]
        await until(lambda: all(map(peek, peers)))
        for peer in peers:
            peer.send(whole())
        await asyncio.gather(*tasks)

    assert written == list(range(20))
    assert all(were_in_time)
    assert 1 <= len(were_in_time) <= 10
    await transport.aclose()


@pytest.mark.slow
async def test_server_that_closes_idle_connections_loses_no_request_and_gets_none_twice() -> None:
    """Each request has its own answer, or a fault that says whether it was sent; the server sees none twice.

    The pauses between them are around the 20 ms after which the server closes; slow for these.
    """

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                try:
                    async with asyncio.timeout(0.02):
                        body = await state.read_request(reader)
                except TimeoutError:
                    return
                writer.write(whole(body))

        return handle

    dice = random.Random(6)
    pauses = [0.005, 0.03, *(dice.uniform(0.016, 0.022) for _ in range(22))]
    replies: dict[bytes, Reply] = {}
    faults: dict[bytes, TransportError] = {}

    async def send(number: int) -> None:
        body = b"%d" % number
        try:
            replies[body] = await transport.post(replace(request, body=body), timeout=5)
        except TransportError as error:
            faults[body] = error

    transport = HttpTransport()
    async with raw_server(make) as server:
        request = request_to(server.url)
        for turn, pause in enumerate(pauses):
            await asyncio.gather(*[send(10 * turn + place) for place in range(10)])
            await asyncio.sleep(pause)
        await transport.aclose()

    seen = Counter(body for _, body in server.requests)
    assert len(replies) + len(faults) == 240
    assert all(reply.body == body and seen[body] == 1 for body, reply in replies.items())
    assert all(seen[body] <= error.sent for body, error in faults.items())
    assert {error.fault for error in faults.values()} <= {"reset", "connect"}
    assert len(replies) > 120
    assert server.accepted > 20


@pytest.mark.parametrize(("idle_seconds", "connections"), [(0.05, 1), (0.25, 2)])
async def test_connections_idle_for_longer_than_servers_keep_theirs_are_not_used(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, idle_seconds: float, connections: int
) -> None:
    """As a POST that meets the closing may not be sent again; it comes after 5 s at uvicorn, and here sooner."""
    assert KEEPALIVE_SECONDS < 5
    monkeypatch.setattr("llmbatch.http.client.KEEPALIVE_SECONDS", 0.2)
    async with raw_server(echoing) as server:
        await transport.post(request_to(server.url), timeout=5)
        await asyncio.sleep(idle_seconds)
        await transport.post(request_to(server.url), timeout=5)

    assert server.accepted == connections


async def test_connections_that_nobody_uses_any_more_are_closed(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten are open after ten requests at once; those that stay idle go by themselves, the one in use stays."""
    monkeypatch.setattr("llmbatch.http.client.KEEPALIVE_SECONDS", 0.1)
    async with raw_server(echoing) as server:
        await asyncio.gather(*(transport.post(request_to(server.url), timeout=5) for _ in range(10)))
        opened = server.open
        async with asyncio.timeout(30):
            while server.open > 1:
                await transport.post(request_to(server.url), timeout=5)
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.25)

        assert (opened, server.accepted, server.open) == (10, 10, 0)


# Many at once.


@pytest.mark.slow
async def test_two_thousand_requests_are_in_flight_at_once_and_the_loop_goes_on() -> None:
    """All are out before the first is answered, a hundred connect at a time, and no turn takes 0.15 s of work.

    Slow for 4,000 sockets.
    """
    count = 2000
    all_are_here = asyncio.Event()

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            body = await state.read_request(reader)
            if len(state.requests) == count:
                all_are_here.set()
            await all_are_here.wait()
            writer.write(whole(body))
            await reader.read()

        return handle

    transport = HttpTransport()
    with handles_for(2 * count + 100), connects_counted() as connecting:
        async with raw_server(make) as server:
            request = request_to(server.url)
            posts = [transport.post(replace(request, body=b"%d" % i), timeout=15) for i in range(count)]
            all_replies = asyncio.gather(*posts)
            longest = await longest_turn(until_done=all_replies)
            await transport.aclose()

    assert [reply.body for reply in all_replies.result()] == [b"%d" % i for i in range(count)]
    assert server.accepted == count
    assert max(connecting) == 100
    assert longest < 0.15


async def test_many_over_few_connections_each_get_their_own_answer(transport: HttpTransport) -> None:
    """Fifty workers share fifty connections, and no answer is another's."""
    async with raw_server(echoing) as server:
        request = request_to(server.url)

        async def send(number: int) -> None:
            reply = await transport.post(replace(request, body=b"%d" % number), timeout=5)
            assert reply.body == b"%d" % number

        await asyncio.gather(*[in_turn(send, range(first, 500, 50)) for first in range(50)])

    assert (server.accepted, len(server.requests)) == (50, 500)


@pytest.mark.slow
async def test_thousands_of_cancellations_leave_nothing() -> None:
    """Cancelled at all stages they leave no socket, no task and nothing in the transport, which goes on to serve.

    The stages: before the first turn, while connecting, while they wait, and half-way through the answer. Slow for
    their number.
    """
    number, rounds = 250, 20
    transport = HttpTransport()
    tasks_before = asyncio.all_tasks()
    async with raw_server(half_answering) as server:
        request = request_to(server.url)
        for stage in range(rounds):
            tasks = [asyncio.create_task(transport.post(request, timeout=60)) for _ in range(number)]
            seen = len(server.requests)
            for turn, task in enumerate(tasks):
                if turn % (10 * (stage + 1)) == 0:
                    await asyncio.sleep(0)
                if turn == number // 2 and stage % 2:
                    await until(functools.partial(has_more, server.requests, seen))
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        await until(lambda: asyncio.all_tasks() == tasks_before)  # the server's own end with their connections

        assert sockets_to(server) == []
        assert max(sizes_in(transport).values()) <= 1
    async with raw_server(echoing) as server:
        replies = await asyncio.gather(*[transport.post(request_to(server.url), timeout=5) for _ in range(200)])

    assert {reply.status for reply in replies} == {200}
    await transport.aclose()


async def test_many_headers_and_time_outs_do_not_pile_up(transport: HttpTransport) -> None:
    """What is prepared for headers and time-outs is forgotten in time, though each of 1,500 requests has its own."""
    async with raw_server(echoing) as server:
        for number in range(1500):
            await transport.post(request_to(server.url), timeout=5 + number / 1000)

    assert 1 < max(sizes_in(transport).values()) <= 1024


# Memory.


GIGABYTE = 1_000_000_000


@ONE_LOOP
@pytest.mark.slow
async def test_bombs_and_endless_answers_cost_no_memory(tmp_path: Path) -> None:
    """A gigabyte in a megabyte of gzip and whatever has no end cost less than 40 MB each with a cap of 4 MB.

    Slow for a process of its own.
    """
    bomb = whole(gzip_bomb(GIGABYTE), headers=b"Content-Encoding: gzip\r\n")
    assert len(bomb) < 1_100_000
    start = b"HTTP/1.1 200 OK\r\n"
    endless = {
        "body": (start + b"\r\n", b"x" * 60_000),
        "chunks": (start + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n" % (60_000, b"x" * 60_000)),
        "field": (start + b"X-Long: ", b"x" * 60_000),
        "head": (start, b"X-Many: y\r\n" * 6_000),
        "size": (start + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 60_000),
    }

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            what = (await state.read_request(reader)).decode()
            writer.write(bomb if what == "bomb" else endless[what][0])
            while what in endless:
                writer.write(endless[what][1])
                await writer.drain()
            await reader.read()

        return handle

    async with raw_server(make) as server:
        said = await in_process(
            tmp_path,
            """
            def peak():
                lines = open("/proc/self/status").read().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

            for what in ("field", "bomb", "body", "chunks", "head", "size"):
                before = peak()
                try:
                    await transport.post(request(what.encode()), timeout=5)
                except TransportError as error:
                    print(what, error.fault, (peak() - before) // 1000 < 40)
            """,
            url=server.url,
        )

    assert said == [
        "field garbage True",
        "bomb too_large True",
        "body too_large True",
        "chunks too_large True",
        "head garbage True",
        "size garbage True",
    ]


def gzip_bomb(size: int) -> bytes:
    """*size* zeros and some more, in one member; nobody gets as far as its sum, which is wrong."""
    piece = 10_000_000
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = squeezer.compress(b"\0" * piece) + squeezer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08" + bytes(7) + block * (size // piece + 1) + squeezer.flush() + bytes(8)


# What the tests are made of.


def hanging(state: RawServer) -> Handler:
    """Read for ever, say nothing."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    return handle


def half_answering(state: RawServer) -> Handler:
    """Begin an answer and never end it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await state.read_request(reader)
        writer.write(whole()[:-10])
        await reader.read()

    return handle


@asynccontextmanager
async def kept_connections(
    transport: HttpTransport, *, count: int
) -> AsyncIterator[tuple[list[socket.socket], Request]]:
    """Connections that wait for requests, their other ends in the order in which they will be used, and a request."""
    loop = asyncio.get_running_loop()
    peers = []
    with socket.create_server(("127.0.0.1", 0), backlog=count) as listener, ExitStack() as stack:
        listener.setblocking(False)
        request = request_to(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        tasks = [asyncio.create_task(transport.post(request, timeout=5)) for _ in range(count)]
        for _ in tasks:
            peer, _ = await loop.sock_accept(listener)
            peers.append(stack.enter_context(peer))
            while not (await loop.sock_recv(peer, 65536)).endswith(request.body):
                pass
        for peer in reversed(peers):  # one by one, as what has waited shortest is used first
            peer.send(whole())
            before = {task for task in tasks if task.done()}
            await until(functools.partial(any_done, set(tasks) - before))
        yield peers, request


def peek(peer: socket.socket) -> bytes:
    """What has reached *peer* and was not read."""
    try:
        return peer.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def sockets_to(server: RawServer) -> list[tuple[str, int]]:
    return [sock for sock in open_sockets() if sock[1] == server.port]


def sizes_in(transport: HttpTransport) -> dict[str, int]:
    """How much each container of *transport* and of its parts holds."""
    parts = [value for value in vars(transport).values() if isinstance(value, Dialer | AnswerMemory)]
    members = {name: value for owner in (transport, *parts) for name, value in vars(owner).items()}
    return {name: len(value) for name, value in members.items() if isinstance(value, (dict, list, set, deque))}


def has_more(items: Sequence[object], count: int) -> bool:
    return len(items) > count


def any_done(tasks: Iterable[asyncio.Task[Any]]) -> bool:
    return any(task.done() for task in tasks)


async def in_turn(send: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    for number in numbers:
        await send(number)


async def longest_turn(*, until_done: asyncio.Future[Any]) -> float:
    """The most seconds of work that one turn of the loop was; what others do on this machine does not count."""
    longest, before = 0.0, time.thread_time()
    gc.disable()  # it would look at what all other tests have left
    try:
        while not until_done.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    finally:
        gc.enable()
    return longest


@contextmanager
def connects_counted() -> Iterator[list[int]]:
    """How many sockets were connecting whenever one began to."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    at_once: list[int] = []
    connecting = 0

    async def counted(sock: socket.socket, address: tuple[str, int]) -> None:
        nonlocal connecting
        connecting += 1
        at_once.append(connecting)
        try:
            await asyncio.sleep(0)
            await connect(sock, address)
        finally:
            connecting -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "sock_connect", counted)
        yield at_once


@contextmanager
def handles_for(count: int) -> Iterator[None]:
    """Room for *count* more open files, if the system gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count += len(list(Path("/proc/self/fd").iterdir()))
    if hard < count:
        pytest.skip(f"needs {count} open files, and the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def in_process(tmp_path: Path, steps: str, *, url: str, environment: Mapping[str, str] = {}) -> list[str]:
    """The lines that *steps* print in a process of their own, in which there are a ``transport`` and a ``request``."""
    script = tmp_path / "client.py"
    script.write_text(PROLOGUE.replace("URL", url) + textwrap.indent(textwrap.dedent(steps), "    ") + EPILOGUE)
    command = [sys.executable, str(script)]
    ran = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        timeout=15,
        env={**os.environ, **environment},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


PROLOGUE = """
import asyncio
from llmbatch.core.errors import TransportError
from llmbatch.http import HttpTransport
from llmbatch.core.calls import Request, Route

def request(body):
    return Request(Route("m", "a"), "URL", {}, body, "chat", 1)

async def main():
    transport = HttpTransport(max_body_bytes=4_000_000)
"""

EPILOGUE = """
    await transport.aclose()

asyncio.run(main())
"""
