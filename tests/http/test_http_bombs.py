"""Small bodies that decompress to very much: they take neither the memory nor the time of other answers."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc

import pytest
from http_raw_server import answering, raw_server
from test_http_client import fault_of, request_to

from llmbatch.http import HttpTransport
from llmbatch.http.connection import Connection

BODY_BYTES = 30_000_000
BOMB = gzip.compress(b" " * BODY_BYTES)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB


@pytest.mark.slow  # decompresses hundreds of megabytes
async def test_answers_that_decompress_to_more_than_their_memory_are_cut_off_at_it() -> None:
    """What was cut off was counted no more, but kept until its connection was collected."""
    transport = HttpTransport(max_answer_memory=10_000_000)
    async with raw_server(answering(ANSWER)) as server:
        tracemalloc.start()
        try:
            errors = await asyncio.gather(*(fault_of(transport, server.url, timeout=60) for _ in range(20)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await transport.aclose()

    assert {error.fault for error in errors} == {"too_large"}
    assert peak < 10_000_000 + 20 * 2_000_000  # a step of each beside


async def test_other_work_of_the_loop_goes_on_while_an_answer_is_decompressed() -> None:
    """A megabyte a turn: a read of 64 KB held up all timers for as long as it took."""
    transport = HttpTransport()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with raw_server(answering(ANSWER)) as server:
        counting = asyncio.create_task(count())
        reply = await transport.post(request_to(server.url), timeout=60)
        counting.cancel()
        await transport.aclose()

    assert len(reply.body) == BODY_BYTES
    assert turns >= BODY_BYTES // 2**20


@pytest.mark.parametrize("then_close", [False, True])
async def test_an_answer_in_many_turns_is_whole_and_its_connection_is_used_again(then_close: bool) -> None:
    """Whether the server closes after it or not."""
    transport = HttpTransport()
    async with raw_server(answering(*[ANSWER] * (2 - then_close), then_close=then_close)) as server:
        replies = [await transport.post(request_to(server.url), timeout=60) for _ in range(2)]
        await transport.aclose()

    assert [len(reply.body) for reply in replies] == [BODY_BYTES] * 2
    assert server.accepted == 1 + then_close


async def test_a_damaged_end_of_an_answer_in_many_turns_is_told() -> None:
    """As of one that is decompressed at once."""
    transport = HttpTransport()
    damaged = ANSWER[:-6] + bytes(6)
    async with raw_server(answering(damaged)) as server:
        error = await fault_of(transport, server.url, timeout=60)
        await transport.aclose()

    assert (error.fault, error.sent) == ("truncated", True)


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
async def test_a_deadline_ends_an_answer_that_is_still_decompressed() -> None:
    """In the middle of it, with nothing left behind."""
    transport = HttpTransport(max_answer_memory=10**12)
    endless = gzip.compress(bytes(2_000_000_000 // 20)) * 20  # members, two gigabytes in all
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(endless) + endless
    async with raw_server(answering(answer)) as server:
        error = await fault_of(transport, server.url, timeout=0.5)
        await transport.aclose()

    assert error.fault in ("timeout", "too_large")


@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["end", "reset"])
async def test_a_whole_answer_is_kept_if_its_connection_ends_while_it_is_decompressed(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """It was taken for a lost one, which is paid for twice."""
    transport = HttpTransport()
    grow, is_lost = transport.memory.grow, False

    def losing(connection: Connection, size: int) -> None:
        nonlocal is_lost
        grow(connection, size)
        if not is_lost:
            is_lost = True
            asyncio.get_running_loop().call_soon(connection.connection_lost, error)

    monkeypatch.setattr(transport.memory, "grow", losing)
    async with raw_server(answering(ANSWER)) as server:
        reply = await transport.post(request_to(server.url), timeout=60)
        await transport.aclose()

    assert len(reply.body) == BODY_BYTES
