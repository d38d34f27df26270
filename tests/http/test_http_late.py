"""Answers that break after their head has arrived, on every loop: the call ends at once, and never after its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from e2e_sick import GOOD_BODY, hard_reset
from http_raw_server import Handler, RawServer, raw_server
from test_http_client import BEGUN, CUT, GARBAGE, fault_of, open_sockets

from llmbatch.http import HttpTransport

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(GOOD_BODY), GOOD_BODY)
ERROR_PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry"

BROKEN_FRAMES = [
    pytest.param(b"", b"<html>bad gateway</html>", id="error-page"),
    pytest.param(CHUNK, ERROR_PAGE, id="second-answer-in-the-first"),
    pytest.param(CHUNK[:40], ERROR_PAGE * 20, id="second-answer-in-a-chunk"),
    pytest.param(CHUNK, b"many\r\n", id="size-of-words"),
    pytest.param(CHUNK, b"-5\r\nhello\r\n", id="negative-size"),
    pytest.param(CHUNK, b"ffffffffffffffffff\r\n", id="size-over-64-bits"),
    pytest.param(CHUNK, b"5\r\nhelloworld\r\n", id="size-too-small"),
    pytest.param(CHUNK, b"\r\n\r\n", id="empty-size"),
    pytest.param(CHUNK, b"\0\0\0\0", id="binary"),
    pytest.param(CHUNK, b"0\r\nbad trailer\r\n\r\n", id="trailer"),
    pytest.param(CHUNK[:-2], b"xx5\r\nhello\r\n", id="no-line-break-behind-a-chunk"),
]


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(max_body_bytes=100_000)
    yield transport
    await transport.aclose()


def pausing(*pieces: bytes, close: bool = False, reset: bool = False) -> Callable[[RawServer], Handler]:
    """Answer one request in *pieces* with a pause of 20 ms between them; then hang, close, or reset."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            if reset:
                hard_reset(writer)
            elif not close:
                await reader.read()

        return handle

    return make


def late(answer: bytes) -> tuple[bytes, bytes]:
    """*answer* as its head and the rest; where it has no head, as its halves."""
    end = answer.find(b"\r\n\r\n") + 4
    if end < 4 or end == len(answer):
        end = len(answer) // 2
    return answer[:end], answer[end:]


@pytest.mark.parametrize("close", [False, True], ids=["hangs", "closes"])
@pytest.mark.parametrize(("begun", "broken"), BROKEN_FRAMES)
async def test_framing_that_breaks_after_the_head_has_arrived_ends_the_call(
    transport: HttpTransport, begun: bytes, broken: bytes, close: bool
) -> None:
    """The parser's error reaches whoever waits for the body: no call waits for its deadline, and none for ever."""
    async with raw_server(pausing(CHUNKED, begun, broken, close=close)) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=60)
        await asyncio.sleep(0.01)

        assert (error.fault, error.sent) == ("garbage", True)
        assert [sock for sock in open_sockets() if sock[1] == server.port] == []


@pytest.mark.parametrize("answer", CUT)
async def test_body_that_is_cut_after_a_pause_is_truncated(transport: HttpTransport, answer: bytes) -> None:
    """As one that comes in one piece."""
    async with raw_server(pausing(*late(answer), close=True)) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=60)

    assert (error.fault, error.sent) == ("truncated", True)


@pytest.mark.parametrize("answer", BEGUN)
async def test_reset_after_a_pause_in_the_body_is_truncated(transport: HttpTransport, answer: bytes) -> None:
    """As one that comes in one piece."""
    async with raw_server(pausing(*late(answer), reset=True)) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=60)

    assert (error.fault, error.sent) == ("truncated", True)


@pytest.mark.parametrize("answer", GARBAGE)
async def test_garbage_that_ends_after_a_pause_is_garbage(transport: HttpTransport, answer: bytes) -> None:
    """As garbage that comes in one piece."""
    async with raw_server(pausing(*late(answer), close=True)) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=60)

    assert (error.fault, error.sent) == ("garbage", True)


@pytest.mark.parametrize("pieces", [4, 40])
@pytest.mark.parametrize(("begun", "broken"), BROKEN_FRAMES)
async def test_framing_that_breaks_in_any_piece_ends_the_call_in_time(
    transport: HttpTransport, begun: bytes, broken: bytes, pieces: int
) -> None:
    """Wherever the answer is torn, the call ends by its deadline at the latest."""
    answer = CHUNKED + begun + broken
    step = max(1, len(answer) // pieces)
    torn = [answer[at : at + step] for at in range(0, len(answer), step)]

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            for piece in torn:
                writer.write(piece)
                await asyncio.sleep(0)
            await reader.read()

        return handle

    async with raw_server(make) as server, asyncio.timeout(30):
        error = await fault_of(transport, server.url, timeout=1)

    assert error.fault in ("garbage", "timeout")
