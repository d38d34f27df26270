"""HTTP exchanges of any method whose bodies are streamed in both directions, one connection each.

For the control calls of batch APIs: uploads and downloads of hundreds of megabytes in constant memory. No connection is
reused, so nothing is ever sent twice; no redirects are followed.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from httptools import HttpParserError, HttpParserUpgrade

from llmbatch.core.errors import TransportError
from llmbatch.core.exchange import HttpCall, Upload
from llmbatch.http.body import CODINGS, AnswerMemory, Decompressor
from llmbatch.http.connect_errors import lost_fault
from llmbatch.http.connection import Connection, ends_with_connection
from llmbatch.http.dial import Dialer, Target

__all__ = ["HttpExchanger"]

_MOST_BUFFERED = 1024 * 1024
"""Bytes of an answer that wait to be read; then the socket is not read any more."""

_RESUME_BELOW = 256 * 1024

_PIECE_BYTES = 256 * 1024
_LENGTH = b"Content-Length: "


class HttpExchanger:
    """Implements :class:`llmbatch.core.exchange.Exchanger`. Belongs to one event loop.

    A canceled exchange aborts its connection.
    """

    def __init__(self, *, proxy: str | None = None) -> None:
        self._proxy = proxy
        memory = AnswerMemory(_MOST_BUFFERED, max_body_bytes=_MOST_BUFFERED)
        self._dialer = Dialer(lambda: _StreamConnection(memory))

    @asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[_StreamedReply]:  # noqa: ASYNC109
        """Send *call* once; *timeout*: the longest silence in seconds.

        Raises:
            TransportError: no HTTP response, or an incomplete one while it is read.
        """
        target = Target(call.url, call.headers, proxy=self._proxy, method=call.method)
        connection = await self._dialer.dial(target, asyncio.get_running_loop().time() + timeout)
        assert isinstance(connection, _StreamConnection)  # noqa: S101 - the dialer makes no others
        try:
            stream = connection.open_stream(target.place, timeout)
            await _send(connection, target, call.body)
            yield await stream
        finally:
            connection.abort()

    def wall(self) -> float:
        """Unix time of this machine."""
        return time.time()

    async def aclose(self) -> None:
        """Cancel name lookups; connections end with their exchanges."""
        self._dialer.close()
        await asyncio.sleep(0)


async def _send(connection: _StreamConnection, target: Target, body: bytes | Upload) -> None:
    if isinstance(body, bytes):
        head = b"%b%d\r\n\r\n" % (target.head, len(body)) if body else target.head.removesuffix(_LENGTH) + b"\r\n"
        await connection.write(head + body)
        return
    await connection.write(b"%b%d\r\n\r\n" % (target.head, body.size_bytes))
    sent = 0
    async for block in body.blocks():
        sent += len(block)
        if not await connection.write(block):
            return  # answered early: a refusal
    if sent != body.size_bytes:
        raise TransportError("local", f"{sent} bytes of a body of {body.size_bytes} were produced", sent=True)


class _StreamedReply:
    """Status, headers, and the body as it arrives."""

    def __init__(self, connection: _StreamConnection, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            TransportError: it is not complete, or nothing arrived in time.
        """
        while (block := await self._connection.next_block()) is not None:
            yield block


class _StreamConnection(Connection):
    """A connection for one exchange with streamed bodies; until :meth:`open_stream` it is an ordinary one."""

    def __init__(self, memory: AnswerMemory) -> None:
        super().__init__(memory)
        self._head: asyncio.Future[_StreamedReply] | None = None
        self._blocks: deque[bytes] = deque()
        self._buffered = 0
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: TransportError | None = None
        self._silence = self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def open_stream(self, place: str, silence: float) -> asyncio.Future[_StreamedReply]:
        """Begin the exchange; the future gives the head of the answer. *silence*: the longest, in seconds."""
        loop = asyncio.get_running_loop()
        self.place, self._silence = place, silence
        self._is_complete = False
        self._new_message()
        self._head = loop.create_future()
        self._heard_at = loop.time()
        self._watch = loop.call_later(silence, self._look)
        return self._head

    async def write(self, data: bytes) -> bool:
        """Write *data* when the socket takes it; False if the answer has arrived already.

        Raises:
            TransportError: the connection was lost, or the server takes nothing in time.
        """
        for start in range(0, len(data), _PIECE_BYTES):
            await self._writable.wait()
            if self._error is not None:
                raise self._error
            if self._head is not None and self._head.done():
                return False
            self._heard_at = asyncio.get_running_loop().time()
            self.is_sent = True
            self.transport.write(data[start : start + _PIECE_BYTES])
        return True

    async def next_block(self) -> bytes | None:
        """The next block of the body; None at its end.

        Raises:
            TransportError: the body is not complete, or nothing arrived in time.
        """
        while not self._blocks:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return None
            self._changed.clear()
            await self._changed.wait()
        block = self._blocks.popleft()
        self._buffered -= len(block)
        if self._buffered < _RESUME_BELOW and not self.transport.is_closing():
            self._heard_at = asyncio.get_running_loop().time()
            self.transport.resume_reading()
        return block

    def abort(self) -> None:
        """Close the connection at once."""
        if self._watch is not None:
            self._watch.cancel()
        super().abort()

    def fail(self, error: TransportError) -> None:
        """End the exchange with *error*."""
        if self._head is None:
            super().fail(error)
            return
        if self._error is None and not self._is_complete:
            self._error = error
            if not self._head.done():
                self._head.set_exception(error)
                self._head.exception()  # retrieved: a writer may raise it first
        self._changed.set()
        self._writable.set()
        self.abort()

    # asyncio.Protocol: called by the event loop.

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._heard_at = asyncio.get_running_loop().time()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._head is None:
            super().data_received(data)
            return
        self._heard_at = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            cause = error.__context__
            words = f"the answer of {self.place} is not HTTP"
            self.fail(cause if isinstance(cause, TransportError) else self._fault("garbage", words))
        if self._buffered > _MOST_BUFFERED and not self.transport.is_closing():
            self.transport.pause_reading()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: complete if only this ends the body."""
        if self._head is None:
            super().connection_lost(exc)
        elif self._is_complete or self._error is not None:
            self.abort()
        elif exc is None and self._reply is not None and ends_with_connection(self._reply):
            self._end_body()
        else:
            self.fail(lost_fault(exc, self.place, sent=self.is_sent, is_begun=self._reply is not None))

    # Callbacks of the parser.

    def on_headers_complete(self) -> None:
        """Give the head of a final answer to whoever waits for it."""
        super().on_headers_complete()
        self._is_complete = self._is_complete and self._head is None  # only a tunnel ends with its head
        if self._head is not None and self._reply is not None and not self._head.done():
            self._head.set_result(_StreamedReply(self, self._reply.status, self._reply.headers))
            self._writable.set()

    def on_body(self, data: bytes) -> None:
        """Keep a block of the body until it is read."""
        if self._head is None:
            super().on_body(data)
            return
        if self._reply is None or self._is_complete:
            return
        coding = self._reply.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity") and self._decompressor is None:
            if coding not in CODINGS:
                raise self._fault("garbage", f"the answer of {self.place} has an encoding that was not requested")
            self._decompressor = Decompressor(coding, data[0])
        try:
            for part in (data,) if self._decompressor is None else self._decompressor.feed(data):
                if part:
                    self._blocks.append(part)
                    self._buffered += len(part)
        except zlib.error as error:
            raise self._fault("truncated", f"the answer of {self.place} cannot be decompressed") from error

    def on_message_complete(self) -> None:
        """The body has ended."""
        if self._head is None or self._reply is None:
            super().on_message_complete()
        else:
            self._end_body()

    def _end_body(self) -> None:
        if self._decompressor is not None and not self._decompressor.stream.eof:
            self.fail(self._fault("truncated", f"the answer of {self.place} cannot be decompressed"))
            return
        self._is_complete = True
        self._changed.set()

    def _look(self) -> None:
        """End the exchange once nothing has moved for the longest silence, unless the reader of the body is slow."""
        loop = asyncio.get_running_loop()
        due = self._heard_at + self._silence
        if self._buffered > _MOST_BUFFERED:
            due = loop.time() + self._silence
        if loop.time() < due:
            self._watch = loop.call_at(due, self._look)
        elif not self._is_complete:
            self.fail(self._fault("timeout", f"nothing from {self.place} within {self._silence:g} s"))
