"""A server of raw bytes on loopback, so that tests can send what no proper server would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """What the server saw: requests as (head, body), and the connections that are open."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.accepted = 0
        self.open = 0
        self.spoiled = 0
        """Connections that were given a request that they do not answer, where a handler counts them."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        self.requests.append((head, body))
        return body


@asynccontextmanager
async def raw_server(handler: Callable[[RawServer], Handler], **options: Any) -> AsyncIterator[RawServer]:
    """Serve every connection with what *handler* makes; all connections are gone at the end."""
    state = RawServer()
    handle = handler(state)
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        state.accepted += 1
        state.open += 1
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            state.open -= 1
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20, backlog=4096, **options)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def answering(*answers: bytes, then_close: bool = True) -> Callable[[RawServer], Handler]:
    """Read one request for each of *answers* and send it, byte for byte."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                await state.read_request(reader)
                writer.write(answer)
                await writer.drain()
            if not then_close:
                await reader.read()

        return handle

    return make


def never_answering(_: RawServer) -> Handler:
    """Read until the other side closes, and say nothing."""

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    return handle


def stop_reading(writer: asyncio.StreamWriter) -> None:
    """Take nothing more from the connection of *writer*."""
    cast("asyncio.Transport", writer.transport).pause_reading()
