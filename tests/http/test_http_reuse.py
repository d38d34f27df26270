"""Reused connections: those that were closed while idle, copies of answers that come late, and TCP's own probes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from e2e_sick import hard_reset, whole
from http_raw_server import Handler, RawServer, raw_server
from test_http_client import fault_of, request_to

from llmbatch.core.errors import TransportError
from llmbatch.http import HttpTransport


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.aclose()


def closing_silently(*, after: int = 1, hard: bool = True, pause: float = 0.0) -> Callable[[RawServer], Handler]:
    """Answer so many requests of a connection with their bodies, take one byte more, and close without a word."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(after):
                writer.write(whole(await state.read_request(reader)))
                await writer.drain()
            await reader.readexactly(1)
            state.spoiled += 1
            await asyncio.sleep(pause)
            if hard:
                hard_reset(writer)

        return handle

    return make


@pytest.mark.parametrize("hard", [True, False], ids=["reset", "close"])
async def test_request_on_a_stale_connection_goes_over_a_new_one(transport: HttpTransport, hard: bool) -> None:
    """A reused connection that is lost before a byte of the answer came is no fault of the request."""
    async with raw_server(closing_silently(hard=hard)) as server:
        bodies = [(await transport.post(request_to(server.url, body=body), timeout=5)).body for body in (b"1", b"2")]

    assert bodies == [b"1", b"2"]
    assert (server.accepted, len(server.requests)) == (2, 2)


async def test_request_is_sent_again_only_once(transport: HttpTransport) -> None:
    """A server that closes the new connection too has failed; that is a fault of a request that was sent."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if state.accepted == 1:
                writer.write(whole(await state.read_request(reader)))
            await state.read_request(reader)
            hard_reset(writer)

        return handle

    async with raw_server(make) as server:
        await transport.post(request_to(server.url), timeout=5)
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("reset", True)
    assert (server.accepted, len(server.requests)) == (2, 3)


async def test_connection_that_is_lost_after_a_while_had_the_request(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a loss within a round trip is that of an idle connection; later the server was at work on the request."""
    monkeypatch.setattr("llmbatch.http.client._STALE_SECONDS", 0.05)
    async with raw_server(closing_silently(pause=0.1)) as server:
        await transport.post(request_to(server.url), timeout=5)
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent, server.accepted) == ("reset", True, 1)


async def test_connection_that_is_lost_in_the_answer_had_the_request(transport: HttpTransport) -> None:
    """A byte of an answer, and the request is not sent again."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole(await state.read_request(reader)))
            await state.read_request(reader)
            writer.write(b"H")
            await writer.drain()

        return handle

    async with raw_server(make) as server:
        await transport.post(request_to(server.url), timeout=5)
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent, server.accepted) == ("reset", True, 1)


async def test_server_that_closes_after_each_answer_soon_gets_new_connections_only(transport: HttpTransport) -> None:
    """After three stale connections none is reused: of 200 requests a handful goes over two connections."""
    async with raw_server(closing_silently()) as server:
        for number in range(200):
            reply = await transport.post(request_to(server.url, body=b"%d" % number), timeout=5)
            assert reply.body == b"%d" % number

    assert len(server.requests) == 200
    assert server.accepted == 200  # a stale one served one request before
    assert server.spoiled == 3


async def test_reuse_is_tried_again_after_a_minute(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """An origin that was distrusted for its time keeps its connections again."""
    monkeypatch.setattr("llmbatch.http.client._DISTRUST_SECONDS", 0.1)

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(whole(await state.read_request(reader)))
                await writer.drain()
                if state.accepted <= 3:
                    await reader.readexactly(1)
                    hard_reset(writer)
                    return

        return handle

    async with raw_server(make) as server:
        for _ in range(5):
            await transport.post(request_to(server.url), timeout=5)
        distrusted = server.accepted
        await asyncio.sleep(0.12)
        for _ in range(10):
            await transport.post(request_to(server.url), timeout=5)

    assert distrusted == 5
    assert server.accepted == 6


async def test_a_rare_stale_connection_does_not_stop_reuse(transport: HttpTransport) -> None:
    """One in fifty costs a round trip, and the others are reused."""
    async with raw_server(closing_silently(after=50)) as server:
        for _ in range(500):
            await transport.post(request_to(server.url), timeout=5)

    assert server.accepted == 10


def copying(*, request_id: str = "", pause: float = 0.0) -> Callable[[RawServer], Handler]:
    """Answer each connection's first request once more, in place of the second."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = 0
            while True:
                body = await state.read_request(reader)
                number += 1
                name = request_id or f"req-{state.accepted}-{number}"
                answer = whole(body, headers=b"X-Request-Id: %s\r\n" % name.encode())
                if number == 1:
                    first = answer
                writer.write(first if number == 2 and not request_id else answer)
                await writer.drain()

        return handle

    return make


async def test_copy_of_an_answer_is_not_taken_for_the_next_one() -> None:
    """A copy that comes when the next request is out has the request id of the answer before: a fault, told once."""
    told: list[str] = []
    transport = HttpTransport(warn=told.append)
    async with raw_server(copying()) as server:
        first = await transport.post(request_to(server.url, body=b"a1"), timeout=5)
        errors = [await fault_of(transport, server.url, body=b"a2")]
        await transport.post(request_to(server.url, body=b"b1"), timeout=5)
        errors += [await fault_of(transport, server.url, body=b"b2")]
        await transport.aclose()

    assert first.body == b"a1"
    assert [(error.fault, error.sent) for error in errors] == [("duplicate", True)] * 2
    assert len(told) == 1
    assert "sent an answer twice" in told[0]


async def test_one_request_id_for_all_answers_tells_nothing(transport: HttpTransport) -> None:
    """A server that gives every answer the same id, and answers alike, costs one attempt at most."""
    async with raw_server(copying(request_id="always")) as server:
        requests = [replace(request_to(server.url), body=b"same") for _ in range(30)]
        ended = [
            await asyncio.gather(transport.post(request, timeout=5), return_exceptions=True) for request in requests
        ]

    assert sum(isinstance(reply, Exception) for (reply,) in ended) <= 1


def copying_later(*, head_ids: bool, after: int) -> Callable[[RawServer], Handler]:
    """Answer with the request's own text; from the connection's request number *after* on, three answers too late.

    That is what a copy that comes 50 ms late makes of a connection that is always busy.
    """

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers: list[bytes] = []
            while True:
                text = (await state.read_request(reader)).decode()
                name = f"req-{state.accepted}-{len(answers)}"
                body = b'{"id":"%s","text":"%s"}' % (b"same-for-all" if head_ids else name.encode(), text.encode())
                answers.append(whole(body, headers=b"X-Request-Id: %s\r\n" % name.encode() if head_ids else b""))
                writer.write(answers[-1] if len(answers) <= after else answers[-4])
                await writer.drain()

        return handle

    return make


@pytest.mark.parametrize("head_ids", [True, False], ids=["request ids", "body ids"])
async def test_copy_that_comes_some_answers_later_is_not_taken_for_the_next_one(
    transport: HttpTransport, head_ids: bool
) -> None:
    """A connection with a copy in it would give every later row the answer of another one."""
    wrong, duplicates = [], 0
    async with raw_server(copying_later(head_ids=head_ids, after=20)) as server:
        for number in range(100):
            request = replace(request_to(server.url), body=b"row %03d" % number)
            try:
                reply = await transport.post(request, timeout=5)
            except TransportError as error:
                duplicates += error.fault == "duplicate"
                continue
            if request.body not in reply.body:
                wrong.append(number)

    assert not wrong
    assert duplicates == 4


async def test_a_cache_that_repeats_the_ids_of_bodies_costs_one_attempt_at_most(transport: HttpTransport) -> None:
    """A proxy that answers equal rows from its cache gives them one id; its answers are good."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                body = await state.read_request(reader)
                writer.write(whole(b'{"id":"chatcmpl-%s"}' % body))
                await writer.drain()

        return handle

    faults = []
    async with raw_server(make) as server:
        for number in [*range(20), 7, 7, 7, 9, 9, *range(20)]:
            request = replace(request_to(server.url), body=b"%d" % number)
            try:
                await transport.post(request, timeout=5)
            except TransportError as error:
                faults.append(error.fault)
                await transport.post(request, timeout=5)

    assert faults == ["duplicate"]


async def test_idle_connections_are_probed_after_a_minute(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system finds out about a peer that vanished while a model thinks, and sends no probe before a minute."""
    made: list[object] = []
    monkeypatch.setattr("llmbatch.http.dial._probe_when_idle", recording(made))
    async with raw_server(closing_silently()) as server:
        await transport.post(request_to(server.url), timeout=5)

    assert made == [(1, 60)]


def recording(made: list[object]) -> Callable[[socket.socket], None]:
    from llmbatch.http import dial

    probe = dial._probe_when_idle

    def probed(sock: socket.socket) -> None:
        probe(sock)
        options = (socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        made.append(tuple(sock.getsockopt(*option) for option in options))

    return probed


@pytest.mark.parametrize("count", [40])
async def test_forty_at_once_lose_nothing_to_a_server_that_closes_silently(
    transport: HttpTransport, count: int
) -> None:
    """All 400 requests are answered, and within seconds."""

    async def send(worker: int) -> None:
        for number in range(10):
            body = b"%d/%d" % (worker, number)
            assert (await transport.post(request_to(server.url, body=body), timeout=5)).body == body

    start = time.monotonic()
    async with raw_server(closing_silently()) as server:
        await asyncio.gather(*map(send, range(count)))

    assert len(server.requests) == 400
    assert time.monotonic() - start < 60


async def test_outage_that_resets_all_connections_meets_few_requests_twice(transport: HttpTransport) -> None:
    """Of 40 reused connections that are lost at once one is replaced; as the new one is lost too, no other is."""
    is_down = False

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                body = await state.read_request(reader)
                if is_down:
                    hard_reset(writer)
                    return
                writer.write(whole(body))

        return handle

    async with raw_server(make) as server:
        await asyncio.gather(*(transport.post(request_to(server.url), timeout=5) for _ in range(40)))
        is_down = True
        errors = await asyncio.gather(*(fault_of(transport, server.url) for _ in range(40)))

    assert {(error.fault, error.sent) for error in errors} == {("reset", True)}
    assert len(server.requests) <= 82
