"""Control calls over real sockets: any method, bodies streamed both ways, and every way in which they end."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from llmbatch.core.errors import TransportError
from llmbatch.core.exchange import HttpCall
from llmbatch.http.exchange import HttpExchanger

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Zeros:
    """An upload of *size* zero bytes, a megabyte at a time."""

    def __init__(self, size: int) -> None:
        self.size_bytes = size
        self.produced = 0

    async def blocks(self) -> AsyncIterator[bytes]:
        while self.produced < self.size_bytes:
            block = bytes(min(1 << 20, self.size_bytes - self.produced))
            self.produced += len(block)
            yield block


async def talk(serve: Serve, call: Callable[[str], HttpCall], *, timeout: float = 10.0) -> tuple[int, bytes]:
    """Status and body of the answer that *serve* gives."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    exchanger = HttpExchanger()
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with exchanger.exchange(call(url), timeout=timeout) as reply:
            return reply.status, b"".join([block async for block in reply.blocks()])
    finally:
        await exchanger.aclose()
        server.close()


def answer(head: str, body: bytes = b"") -> Serve:
    """A server that reads the head of a request, and answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    return serve


def test_the_method_and_an_empty_body_go_out_as_they_are() -> None:
    """A GET has no Content-Length, a POST with a body has one."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    assert asyncio.run(talk(serve, lambda url: HttpCall("GET", f"{url}/a?b=c", {"X-Y": "z"}))) == (200, b"ok")
    assert asyncio.run(talk(serve, lambda url: HttpCall("DELETE", f"{url}/a", {}))) == (200, b"ok")
    assert asyncio.run(talk(serve, lambda url: HttpCall("POST", f"{url}/a", {}, b"12345"))) == (200, b"ok")

    assert heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert b"X-Y: z" in heads[0]
    assert b"Content-Length" not in heads[0]
    assert heads[1].startswith(b"DELETE /a ")
    assert b"Content-Length: 5" in heads[2]


def test_an_upload_waits_for_a_slow_reader() -> None:
    """Its blocks are produced as they are taken: no more than a few are ahead of the server."""
    upload = Zeros(64 << 20)
    ahead: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < upload.size_bytes:
            received += len(await reader.read(1 << 18))
            ahead.append(upload.produced - received)
            await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    assert asyncio.run(talk(serve, lambda url: HttpCall("POST", url, {}, upload))) == (200, b"")
    assert upload.produced == upload.size_bytes
    assert max(ahead) < 16 << 20  # what the kernel buffers


def test_a_refusal_ends_an_upload_early() -> None:
    """The answer is given although most of the body was not sent."""
    upload = Zeros(256 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    assert asyncio.run(talk(serve, lambda url: HttpCall("POST", url, {}, upload))) == (413, b"large")
    assert upload.produced < upload.size_bytes


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("200 OK\r\nContent-Length: 11", b"hello\nworld"),
        ("200 OK\r\nTransfer-Encoding: chunked", b"6\r\nhello\n\r\n5\r\nworld\r\n0\r\n\r\n"),
        ("200 OK", b"hello\nworld"),
        ("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"hello\nworld")),
        ("200 OK\r\nContent-Encoding: none", b"hello\nworld"),
    ],
    ids=["length", "chunked", "until the end", "gzip", "no encoding"],
)
def test_a_download_is_given_as_it_was_meant(head: str, body: bytes) -> None:
    """Whatever frames or compresses it."""
    assert asyncio.run(talk(answer(head, body), lambda url: HttpCall("GET", url, {}))) == (200, b"hello\nworld")


@pytest.mark.parametrize(
    ("head", "body", "fault", "message"),
    [
        ("200 OK\r\nContent-Length: 20", b"hello", "truncated", ""),
        ("200 OK\r\nTransfer-Encoding: chunked", b"6\r\nhello\n\r\n5\r\nwo", "truncated", ""),
        ("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"hello" * 100)[:20], "truncated", "decompressed"),
        ("nonsense", b"", "garbage", ""),
        ("200 OK\r\nContent-Encoding: br", b"\x0b\x02\x80", "garbage", "encoding that was not requested (br)"),
        ("200 OK\r\nContent-Encoding: sk-secret-key", b"x", "garbage", "encoding that was not requested"),
    ],
    ids=["short", "chunk cut", "gzip cut", "not HTTP", "foreign", "unknown"],
)
def test_a_torn_download_is_never_taken_for_a_whole_one(head: str, body: bytes, fault: str, message: str) -> None:
    """What was received is given, then the error is raised."""
    with pytest.raises(TransportError) as caught:
        asyncio.run(talk(answer(head, body), lambda url: HttpCall("GET", url, {})))

    assert caught.value.fault == fault
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.slow  # real time-outs
@pytest.mark.traced
def test_silence_ends_an_exchange() -> None:
    """Before the answer, or in the middle of it."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        await reader.read()

    for serve in (mute, stalls):
        with pytest.raises(TransportError) as caught:
            asyncio.run(talk(serve, lambda url: HttpCall("GET", url, {}), timeout=1))
        assert caught.value.fault == "timeout"
        assert caught.value.sent


def test_a_slow_reader_of_a_download_holds_up_the_server() -> None:
    """A megabyte waits at most, whatever the length of the body."""

    async def main() -> tuple[int, int]:
        written = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {64 << 20}\r\n\r\n".encode())
            for _ in range(256):
                writer.write(bytes(1 << 18))
                await writer.drain()
                written += 1 << 18
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        exchanger = HttpExchanger()
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with exchanger.exchange(HttpCall("GET", url, {}), timeout=10) as reply:
            blocks = reply.blocks()
            size = len(await anext(blocks))
            for _ in range(200):
                await asyncio.sleep(0.001)
            held_up_at = written
            async for block in blocks:
                size += len(block)
        server.close()
        await exchanger.aclose()
        return held_up_at, size

    held_up_at, size = asyncio.run(main())

    assert size == 64 << 20
    assert held_up_at < 32 << 20
