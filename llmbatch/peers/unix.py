"""The board on a Unix socket: a server for the parent of several processes, and the carrier of its children.

Messages are lines of JSON: ``[number, verb, arguments]`` there, ``[number, answer]`` back, and ``["news", text]`` at
any time. The socket lies in a folder that only its owner may enter, and the server takes connections of that user only.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from llmbatch.peers.carrier import CarrierError
from llmbatch.peers.local import Hub
from llmbatch.peers.member import Message
from llmbatch.peers.messages import CircuitNews, parse_news

__all__ = ["BoardServer", "UnixCarrier"]

_LIMIT = 1 << 20
"""Longest line, in bytes; the longest answer tells of 512 circuits."""

_BACKLOG = 1 << 20
"""Bytes that a client may leave unread before it is cut off."""


class BoardServer:
    """Serves a board on a Unix socket, as ``async with BoardServer() as server:``; :attr:`url` is for the children."""

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub or Hub()
        self._folder = ""
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._remove: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """What a child is given as ``--shared``."""
        return f"unix:{self._folder}/board"

    async def __aenter__(self) -> Self:
        if sys.platform == "win32":
            raise CarrierError("no Unix sockets on this system")
        self._folder = tempfile.mkdtemp(prefix="llmbatch-")  # readable, writable and searchable only by this user
        path = f"{self._folder}/board"
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LIMIT)
        os.chmod(path, 0o600)  # noqa: PTH101 - one call on a socket, which blocks nothing
        self._remove = self.hub.listen(self._tell)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._remove()
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, news: CircuitNews) -> None:
        line = json.dumps(["news", news.encode()]).encode() + b"\n"
        for client in list(self._clients):
            self._write(client, line)

    @staticmethod
    def _write(client: asyncio.StreamWriter, line: bytes) -> None:
        if client.transport.get_write_buffer_size() > _BACKLOG:
            client.transport.abort()
        elif not client.is_closing():
            client.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sys.platform != "win32" and _peer_of(writer) not in (None, os.getuid()):
            writer.close()
            return
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                number, verb, args = json.loads(line)
                answer = self.hub.answer(verb, tuple(args))
                self._write(writer, json.dumps([number, answer]).encode() + b"\n")
        except (ValueError, TypeError, CarrierError, ConnectionError, asyncio.CancelledError):
            return  # it says nothing that means anything, or it has gone
        finally:
            self._clients.discard(writer)
            writer.close()


def _peer_of(writer: asyncio.StreamWriter) -> int | None:
    """The user of the process at the other end; None if the system does not say."""
    connection = writer.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


class UnixCarrier:
    """Carries messages to the board on a Unix socket at *path*."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news: asyncio.Queue[CircuitNews | None] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    @property
    def address(self) -> str:
        """Where the board is."""
        return f"unix:{self._path}"

    async def connect(self) -> None:
        """Connect anew.

        Raises:
            CarrierError: nobody listens there.
        """
        await self.aclose()
        if sys.platform == "win32":
            raise CarrierError("no such sockets on this system")
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_LIMIT)
        except OSError as error:
            raise CarrierError(f"{error.strerror or error}") from None
        self._news = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(reader, self._news))

    async def _read(self, reader: asyncio.StreamReader, news: asyncio.Queue[CircuitNews | None]) -> None:
        try:
            while line := await reader.readline():
                number, answer = json.loads(line)
                if number == "news":
                    news.put_nowait(parse_news(answer))
                elif (waiting := self._answers.pop(number, None)) is not None and not waiting.done():
                    waiting.set_result(answer)
        except (ValueError, TypeError, OSError):
            pass
        finally:
            news.put_nowait(None)
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_exception(CarrierError("the connection has ended"))
            self._answers.clear()

    async def describe(self) -> str:
        """What serves the board."""
        return "a process of this machine"

    async def call(self, message: Message) -> Any:
        """Send one message and return the answer.

        Raises:
            CarrierError: the connection has ended.
        """
        if self._writer is None or self._reading is None or self._reading.done():
            raise CarrierError("not connected")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._writer.write(json.dumps([number, message.verb, message.args]).encode() + b"\n")
            return await answer
        finally:
            self._answers.pop(number, None)

    async def news(self) -> AsyncIterator[CircuitNews]:
        """Yield news until the connection ends."""
        while (news := await self._news.get()) is not None:
            yield news

    async def aclose(self) -> None:
        """Close the connection; idempotent."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._writer is not None:
            self._writer.close()
        self._reading = self._writer = None
