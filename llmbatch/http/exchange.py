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

from llmbatch.core.calls import Reply
from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.core.exchange import HttpCall, Upload
from llmbatch.http.body import AnswerMemory, Decompressor, decompressor
from llmbatch.http.connect_errors import lost_fault, not_sent
from llmbatch.http.connection import Connection, ends_with_connection, joined_headers, lenient_parser
from llmbatch.http.dial import Dialer, Target

__all__ = ["HttpExchanger"]

_MOST_BUFFERED = 1024 * 1024
"""Bytes of an answer that wait to be read; then the socket is not read any more."""

_RESUME_BELOW = 256 * 1024

_PIECE_BYTES = 256 * 1024
_LENGTH = b"Content-Length: "
_MOST_FIELD_BYTES = 16_384
_MOST_FIELDS = 128


class HttpExchanger:
    """Implements :class:`llmbatch.core.exchange.Exchanger`. Belongs to one event loop.

    A canceled exchange aborts its connection.
    """

    def __init__(self, *, proxy: str | None = None) -> None:
        self._proxy = proxy
        memory = AnswerMemory(_MOST_BUFFERED, max_body_bytes=_MOST_BUFFERED)  # of the answers of proxies alone
        self._dialer = Dialer(lambda: Connection(memory))

    @asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[_StreamedReply]:  # noqa: ASYNC109
        """Send *call* once; *timeout*: the longest silence in seconds.

        Raises:
            TransportError: no HTTP response, or an incomplete one while it is read.
        """
        target = Target(call.url, call.headers, proxy=self._proxy, method=call.method)
        connection = await self._dialer.dial(target, asyncio.get_running_loop().time() + timeout)
        exchange = _Exchange(connection.transport, target.place, timeout)
        try:
            if connection.transport.is_closing():
                raise not_sent(target.place)
            connection.transport.set_protocol(exchange)
            await _send(exchange, target, call.body)
            yield await exchange.head
        finally:
            exchange.abort()

    def wall(self) -> float:
        """Unix time of this machine."""
        return time.time()

    async def aclose(self) -> None:
        """Cancel name lookups; connections end with their exchanges."""
        self._dialer.close()
        await asyncio.sleep(0)


async def _send(exchange: _Exchange, target: Target, body: bytes | Upload) -> None:
    if isinstance(body, bytes):
        head = b"%b%d\r\n\r\n" % (target.head, len(body)) if body else target.head.removesuffix(_LENGTH) + b"\r\n"
        await exchange.write(head + body)
        return
    await exchange.write(b"%b%d\r\n\r\n" % (target.head, body.size_bytes))
    sent = 0
    async for block in body.blocks():
        sent += len(block)
        if not await exchange.write(block):
            return  # answered early: a refusal
    if sent != body.size_bytes:
        raise TransportError("local", f"{sent} bytes of a body of {body.size_bytes} were produced", sent=True)


class _StreamedReply:
    """Status, headers, and the body as it arrives."""

    def __init__(self, exchange: _Exchange, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._exchange = exchange

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            TransportError: it is not complete, or nothing arrived in time.
        """
        while (block := await self._exchange.next_block()) is not None:
            yield block


class _Exchange(asyncio.Protocol):
    """One exchange over *transport*, whose protocol it becomes. *silence*: the longest, in seconds.

    ``head`` gives the head of the answer, or raises a TransportError.
    """

    def __init__(self, transport: asyncio.Transport, place: str, silence: float) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[_StreamedReply] = loop.create_future()
        self._transport = transport
        self._place = place
        self._silence = silence
        self._moved_at = loop.time()
        """When bytes were last sent or received."""
        self._watch: asyncio.TimerHandle | None = loop.call_later(silence, self._look)
        self._parser = lenient_parser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._reply: Reply | None = None
        self._decompressor: Decompressor | None = None
        self._blocks: deque[bytes] = deque()
        self._buffered = 0
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: TransportError | None = None
        self._is_sent = self._is_complete = False

    async def write(self, data: bytes) -> bool:
        """Write *data* when the socket takes it; False if the answer has arrived already.

        Raises:
            TransportError: the connection was lost, or the server takes nothing in time.
        """
        for start in range(0, len(data), _PIECE_BYTES):
            await self._writable.wait()
            if self._error is not None:
                raise self._error
            if self.head.done():
                return False
            self._move()
            self._is_sent = True
            self._transport.write(data[start : start + _PIECE_BYTES])
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
        if self._buffered < _RESUME_BELOW and not self._transport.is_closing():
            self._move()
            self._transport.resume_reading()
        return block

    def abort(self) -> None:
        """Close the connection at once."""
        if self._watch is not None:
            self._watch.cancel()
        if self.head.done() and not self.head.cancelled():
            self.head.exception()  # retrieved: a writer may have raised it first
        self._transport.abort()

    def _fail(self, error: TransportError) -> None:
        if self._error is None and not self._is_complete:
            self._error = error
            if not self.head.done():
                self.head.set_exception(error)
        self._changed.set()
        self._writable.set()
        self.abort()

    # asyncio.Protocol: called by the event loop.

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._move()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        self._move()
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            cause = error.__context__
            words = f"the answer of {self._place} is not HTTP"
            self._fail(cause if isinstance(cause, TransportError) else self._fault("garbage", words))
        if self._buffered > _MOST_BUFFERED and not self._transport.is_closing():
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        """End the exchange as :meth:`connection_lost` does."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: complete if only this ends the body."""
        if self._is_complete or self._error is not None:
            self.abort()
        elif exc is None and self._reply is not None and ends_with_connection(self._reply):
            self._end_body()
        else:
            self._fail(lost_fault(exc, self._place, sent=self._is_sent, is_begun=self._reply is not None))

    # Callbacks of the parser. What they raise ends the exchange.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head. Raises for too many, or too long ones."""
        if len(value) > _MOST_FIELD_BYTES or len(self._fields) >= _MOST_FIELDS:
            raise ValueError(name)
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Give the head of a final answer to whoever waits for it."""
        status = self._parser.get_status_code()
        if status < 200:
            self._fields = []
            return
        headers = joined_headers(self._fields)
        self._reply = Reply(status, headers, b"")
        if not self.head.done():
            self.head.set_result(_StreamedReply(self, status, headers))
        self._writable.set()

    def on_body(self, data: bytes) -> None:
        """Keep a block of the body until it is read."""
        if self._reply is None or self._is_complete:
            return
        if self._decompressor is None and "content-encoding" in self._reply.headers:
            try:
                self._decompressor = decompressor(self._reply.headers["content-encoding"], data[0])
            except ValueError as error:
                raise self._fault("garbage", f"the answer of {self._place} has {error}") from None
        try:
            for part in (data,) if self._decompressor is None else self._decompressor.feed(data):
                if part:
                    self._blocks.append(part)
                    self._buffered += len(part)
        except zlib.error as error:
            raise self._fault("truncated", f"the answer of {self._place} cannot be decompressed") from error

    def on_message_complete(self) -> None:
        """The body has ended."""
        if self._reply is not None:
            self._end_body()

    def _end_body(self) -> None:
        if self._decompressor is not None and not self._decompressor.stream.eof:
            self._fail(self._fault("truncated", f"the answer of {self._place} cannot be decompressed"))
            return
        self._is_complete = True
        self._changed.set()

    def _move(self) -> None:
        self._moved_at = asyncio.get_running_loop().time()

    def _look(self) -> None:
        """End the exchange once nothing has moved for the longest silence, unless the reader of the body is slow."""
        loop = asyncio.get_running_loop()
        due = self._moved_at + self._silence
        if self._buffered > _MOST_BUFFERED:
            due = loop.time() + self._silence
        if loop.time() < due:
            self._watch = loop.call_at(due, self._look)
        elif not self._is_complete:
            self._fail(self._fault("timeout", f"nothing from {self._place} within {self._silence:g} s"))

    def _fault(self, fault: TransportFault, words: str) -> TransportError:
        return TransportError(fault, words, sent=self._is_sent)
