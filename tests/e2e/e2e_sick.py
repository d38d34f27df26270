"""A server on loopback that answers with anything but a proper answer, byte for byte, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

__all__ = ["GOOD_BODY", "Script", "SickServer", "endless", "hang", "hard_reset", "whole"]

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]
"""What is done with a connection once a request was read; it is closed afterwards, but where True comes back."""

GOOD_BODY = (
    b'{"id":"a","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"pong"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


def whole(body: bytes = GOOD_BODY, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """A proper answer around *body*; each of *headers* ends in a line break."""
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (
        status.encode(),
        headers,
        len(body),
        body,
    )


def hard_reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def hang(start: bytes = b"") -> Script:
    """Send *start*, then nothing until the other side has gone."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await reader.read()

    return script


def endless(start: bytes, piece: bytes, *, pause: float = 0.0) -> Script:
    """Send *start*, then *piece* again and again, until the other side has gone."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.transport.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


class SickServer:
    """Serves on loopback within ``async with``; belongs to one event loop.

    A request whose body holds ``sick`` meets *script*, and so do the first *sick_calls* ones, whatever they hold;
    every other one gets a proper answer. With *unread* the script runs on a new connection before anything was read.
    """

    def __init__(self, script: Script | bytes, *, sick_calls: int = 0, unread: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self.sick = 0
        self.port = 0
        self._script = _saying(script) if isinstance(script, bytes) else script
        self._sick_calls = sick_calls
        self._unread = unread
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> SickServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer_all(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._unread and self.sick < self._sick_calls:
            self.sick += 1
            await self._script(reader, writer)
            return
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            self.heads.append(head)
            self.bodies.append(body)
            if b"sick" in body or (not self._unread and self.sick < self._sick_calls):
                self.sick += 1
                if not await self._script(reader, writer):
                    return
                continue
            await asyncio.sleep(0.01)
            writer.write(whole())
            await writer.drain()


def _saying(answer: bytes) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return script
