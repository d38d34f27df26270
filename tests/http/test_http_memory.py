"""The memory that answers in flight share."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from e2e_sick import whole
from http_raw_server import Handler, RawServer, raw_server
from test_http_client import fault_of, request_to

from llmbatch.http import HttpTransport
from llmbatch.http.body import Decompressor
from llmbatch.http.connection import Connection

LIMIT = 4_000_000


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(max_answer_memory=LIMIT)
    yield transport
    assert (transport.memory.held_bytes, len(transport.memory)) == (0, 0)
    await transport.aclose()


def sized(state: RawServer) -> Handler:
    """Send an answer of as many bytes as the request says in two halves; a pause for each waiting request between."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            size = int(await state.read_request(reader))
            answer = whole(b"x" * size)
            writer.write(answer[: -size // 2])
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write(answer[-size // 2 :])
            await writer.drain()

    return handle


async def test_largest_answer_is_cut_when_all_together_are_too_large(transport: HttpTransport) -> None:
    """Ten small answers and one that is larger than all: the small ones come back, the large one is too large."""
    async with raw_server(sized) as server:
        large = asyncio.create_task(fault_of(transport, server.url, body=b"8000000"))
        sizes = [200_000 + number for number in range(10)]
        replies = await asyncio.gather(
            *(transport.post(request_to(server.url, body=b"%d" % size), timeout=5) for size in sizes)
        )
        error = await large

    assert [len(reply.body) for reply in replies] == sizes
    assert (error.fault, error.sent) == ("too_large", True)
    assert "largest" in str(error)
    assert "--max-answer-memory" in error.hint


async def test_answer_that_fits_is_not_cut(transport: HttpTransport) -> None:
    """One answer may have all the room."""
    async with raw_server(sized) as server:
        reply = await transport.post(request_to(server.url, body=b"3900000"), timeout=5)

    assert len(reply.body) == 3_900_000


async def test_endless_answers_at_once_stay_under_the_limit(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty slots of them never hold more, and each ends."""
    most = 0
    grow = transport.memory.grow

    def watched(connection: Connection, size: int) -> None:
        nonlocal most
        grow(connection, size)
        most = max(most, transport.memory.held_bytes)

    monkeypatch.setattr(transport.memory, "grow", watched)

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 60_000)
                await writer.drain()

        return handle

    async with raw_server(make) as server, asyncio.timeout(120):
        errors = await asyncio.gather(*(fault_of(transport, server.url, timeout=10) for _ in range(40)))

    assert {error.fault for error in errors} <= {"too_large", "timeout"}
    assert LIMIT / 2 < most <= LIMIT


async def test_bomb_counts_as_what_it_inflates_to(transport: HttpTransport) -> None:
    """8 MB in 8 kB are too large for a limit of 4 MB."""
    bomb = whole(gzip.compress(b"\0" * 8_000_000), headers=b"Content-Encoding: gzip\r\n")

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(bomb)
            await reader.read()

        return handle

    async with raw_server(make) as server:
        error = await fault_of(transport, server.url)

    assert (error.fault, error.sent) == ("too_large", True)


TEXT = b"hello " * 200
CODED = [
    pytest.param("gzip", gzip.compress(TEXT), id="gzip"),
    pytest.param("x-gzip", gzip.compress(TEXT[:50]) + gzip.compress(b"") + gzip.compress(TEXT[50:]), id="members"),
    pytest.param("deflate", zlib.compress(TEXT), id="deflate"),
    pytest.param("deflate", zlib.compress(TEXT)[2:-4], id="deflate-bare"),
    pytest.param("deflate", zlib.compress(TEXT, 0)[2:-4], id="deflate-bare-stored"),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("coding", "body"), CODED)
def test_compressed_body_is_whole_in_any_pieces_and_no_sooner(coding: str, body: bytes, size: int) -> None:
    """A byte less is incomplete; a byte more is no part of it."""
    decompressor = Decompressor(coding, body[0])
    parts: list[bytes] = []
    for start in range(0, len(body), size):
        assert start == 0 or coding == "x-gzip" or not decompressor.stream.eof
        parts += decompressor.feed(body[start : start + size])

    assert b"".join(parts) == TEXT
    assert decompressor.stream.eof
    with pytest.raises(zlib.error):
        [*decompressor.feed(b"not compressed")]


def test_bomb_is_decompressed_a_megabyte_at_a_time() -> None:
    """So that whoever counts the pieces can stop; what fills its last step exactly is whole too."""
    bomb = gzip.compress(b"\0" * (8 << 20))
    decompressor = Decompressor("gzip", bomb[0])
    sizes = [len(part) for part in decompressor.feed(bomb)]

    assert max(sizes) <= 1 << 20
    assert (sum(sizes), decompressor.stream.eof) == (8 << 20, True)
