"""One connection: sends a request, parses its answer with httptools, and ends the exchange at its deadline."""

from __future__ import annotations

import asyncio
import itertools
import math
import selectors
import zlib
from collections.abc import Sequence
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llmbatch.core.calls import Reply
from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.http.body import AnswerMemory, Decompressor, decompressor
from llmbatch.http.connect_errors import STOPPED_SECONDS, lost_fault, not_running, not_sent

__all__ = ["Connection", "ends_with_connection", "joined_headers", "lenient_parser"]

_numbers = itertools.count(1)
_names: dict[bytes, str] = {}
"""Names of fields as they came, to those in lower case."""
_MOST_NAMES, _LONGEST_NAME = 1024, 100

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # those that need no file handle

_MAX_FIELD_BYTES = 8190
_MAX_FIELDS = 128
_MAX_OVERHEAD_BYTES = 1024 * 1024
"""Maximum bytes without a byte of body: bounds an endless head, chunk size or trailer."""

_PIECE_BYTES = 64 * 1024
"""Larger requests are written in pieces of this size: TLS reports as unsent only what it was not yet given."""

_TURN_BYTES = 1024 * 1024
"""Bytes that a connection decompresses in one turn of the event loop."""

_GRACE_SECONDS = 0.25
"""Extra seconds for a call whose answer is waiting in the socket at its deadline."""

_TICK_SECONDS = 0.001
"""Seconds by which an event loop may fire a timer too early."""


class Connection(asyncio.Protocol):
    """One HTTP connection: one exchange at a time over one transport; belongs to one event loop.

    ``heard`` is whether a byte was received since the exchange began (or since the one before ended), ``is_sent``
    whether the request was written. ``is_open`` is False once this connection cannot carry another request; at ``due``
    the exchange ends, or the idle connection is closed. ``is_reused`` is for the pool. ``number`` is unique to this
    connection.
    """

    def __init__(self, memory: AnswerMemory) -> None:
        self.is_open = True
        self.is_reused = self.heard = self.is_sent = False
        self.number = next(_numbers)
        self.place, self.due = "", math.inf
        self.transport: asyncio.Transport
        self._memory = memory
        self._parser = lenient_parser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._new_message()

    def _new_message(self) -> None:
        self._reply: Reply | None = None
        self._decompressor: Decompressor | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = self._overhead = 0

    @property
    def _is_tunnel(self) -> bool:
        return self.due == math.inf

    # One exchange: begin, send, wait, finish.

    def begin(
        self, waiter: asyncio.Future[Reply], place: str, due: float = math.inf, timeout: float = 0.0
    ) -> asyncio.Future[Reply]:
        """Begin an exchange with *place* (HOST:PORT), which ends at *due*, *timeout* seconds after its call began.

        *waiter* gets the answer, or a :class:`~llmbatch.core.errors.TransportError`, and is returned. Without a time,
        the request is a CONNECT, whose answer ends with its head.
        """
        self.place, self._timeout = place, timeout
        self.is_sent = self._is_complete = False
        self.due = due
        if self._timer is None or due < self._timer.when():
            self._set_timer(due)
        self._waiter = waiter
        return waiter

    def send(self, data: bytes) -> None:
        """Write the request, unless its exchange has ended, its time has passed, or the connection is closing."""
        if self._waiter is None or self._waiter.done():
            return
        late = self._waiter.get_loop().time() - self.due
        if late > _GRACE_SECONDS:
            # The process was stopped in between: the answer would be paid for, but nobody would wait for it.
            self.fail(not_running(late, sent=False))
        elif self.heard:  # not HTTP, or a second answer to the request before
            self.fail(self._fault("garbage", f"{self.place} sent data before any request"))
        elif self.transport.is_closing():
            self.fail(not_sent(self.place))
        else:
            self.is_sent = True
            self.transport.write(data if len(data) <= _PIECE_BYTES else data[:_PIECE_BYTES])
            for start in range(_PIECE_BYTES, len(data), _PIECE_BYTES):
                self.transport.write(data[start : start + _PIECE_BYTES])

    def finish(self, now: float, *, keep_seconds: float) -> bool:
        """End the exchange *now* and drop its answer; whether the connection can carry another one. Aborts it if not.

        It is closed after *keep_seconds* without another one; 0: at once.
        """
        if self._memory.held_bytes:
            self._memory.release(self)
        self._waiter = None
        self._new_message()
        # If the answer arrived before the whole request was sent, the rest of it is still being sent.
        if keep_seconds and self.is_open and now < self.due and not self.transport.get_write_buffer_size():
            self.heard = False
            self.due = due = now + keep_seconds
            if self._timer is None or due < self._timer.when():
                self._set_timer(due)
            return True
        self.abort()
        return False

    def fail(self, error: TransportError) -> None:
        """Abort the connection, and end the exchange with *error* unless it has ended."""
        self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def abort(self) -> None:
        """Close the connection at once, without sending what is still buffered."""
        self.is_open = False
        self._parts, self._decompressor = [], None  # counted no more, though this object may be kept for a while
        if self._timer is not None:
            self._timer.cancel()
        self.transport.abort()

    # asyncio.Protocol: called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep *transport*."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; bytes outside an exchange make the connection unusable."""
        self.heard = True
        if self._waiter is None or self._waiter.done() or not (self.is_sent or self._is_tunnel):
            self.fail(self._fault("garbage", f"{self.place} sent data before any request"))
            return
        size = self._size
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            # Also after a complete answer: then its length was too short.
            cause = error.__context__
            words = f"the answer of {self.place} is not HTTP"
            self.fail(cause if isinstance(cause, TransportError) else self._fault("garbage", words))
            return
        if self._decompressor is not None and not self._inflate():
            return
        if self._is_complete:
            self._answer()
        elif self._size > size:
            self._overhead = 0
            self._memory.grow(self, self._size)
        else:
            self._overhead += len(data)
            if self._overhead > _MAX_OVERHEAD_BYTES:
                self.fail(self._fault("garbage", f"{self.place} sent a head or a chunk size without an end"))

    def eof_received(self) -> None:
        """End the exchange as :meth:`connection_lost` does, without waiting until a large request is written."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the current exchange: complete if only this ends the body, and it was not a reset."""
        self.is_open = False
        if self._decompressor is not None and not self._inflate(math.inf):
            return
        if self._waiter is None or self._waiter.done():
            self.abort()
        elif self._is_complete or (exc is None and self._reply is not None and ends_with_connection(self._reply)):
            # Many servers close TLS without close_notify; the JSON parser detects a truncated body.
            self._answer()
        else:
            self.fail(lost_fault(exc, self.place, sent=self.is_sent, is_begun=self._reply is not None))

    # Callbacks of the parser. What they raise ends the exchange.

    def on_message_begin(self) -> None:
        """Note a second answer after the answer."""
        self.is_open = self.is_open and not self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head, or of a trailer (never read). Raises for too many or too long ones."""
        if len(value) > _MAX_FIELD_BYTES or len(self._fields) >= _MAX_FIELDS:
            words = f"{self.place} sent a header of more than {_MAX_FIELD_BYTES} bytes, or more than {_MAX_FIELDS}"
            raise self._fault("garbage", words)
        if b"\0" in value:
            raise ValueError(name)
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Handle the complete head of a final answer. Of a repeated field the first counts."""
        status = self._parser.get_status_code()
        if self._is_complete or status < 200:
            return
        headers = joined_headers(self._fields)
        self._reply = Reply(status, headers, b"")
        self._is_complete = self.due == math.inf  # the answer to a CONNECT
        if "transfer-encoding" in headers and "content-length" in headers:
            self.is_open = False  # the chunks count (RFC 9112, section 6.3), but who sends both may be mistaken

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body, up to the limits; a compressed one is decompressed after this read."""
        if self._reply is None or self.transport.is_closing():
            return
        if self._is_complete:
            if self._is_tunnel and self._reply.status < 300:
                raise self._fault("garbage", f"{self.place} sent data after accepting the tunnel")
            return
        if self._decompressor is None and "content-encoding" in self._reply.headers:
            try:
                self._decompressor = decompressor(self._reply.headers["content-encoding"], data[0])
            except ValueError as error:
                raise self._fault("garbage", f"the answer of {self.place} has {error}") from None
        if self._decompressor is not None:
            self._decompressor.add(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._memory.max_body_bytes:
            self._memory.grow(self, self._size)

    def on_message_complete(self) -> None:
        """Handle the complete answer, if it is a final one."""
        if self._reply is None:
            if self._parser.get_status_code() == 101:
                # An unrequested switch of protocols would break the next request on this connection.
                raise self._fault("garbage", f"{self.place} answered 101")
            self._new_message()
        elif not self._is_complete:
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._is_complete = True

    def _inflate(self, most: float = _TURN_BYTES) -> bool:
        """Decompress what has come, about *most* bytes in this turn of the loop; whether that was all.

        A read of 64 KB may hold 64 MB: were all connections to decompress theirs at once, no timer would ring.
        """
        assert self._decompressor is not None  # noqa: S101 - see on_body
        size = 0
        try:
            for part in self._decompressor.parts():
                self._parts.append(part)
                self._size += len(part)
                size += len(part)
                self._memory.grow(self, self._size)
                if self.transport.is_closing():  # cut off
                    return False
                if size >= most:
                    self.transport.pause_reading()
                    asyncio.get_running_loop().call_soon(self._inflate_on)
                    return False
        except zlib.error:
            self.fail(self._fault("truncated", f"the answer of {self.place} cannot be decompressed"))
            return False
        return True

    def _inflate_on(self) -> None:
        """Go on in the next turn of the loop, unless the exchange has ended."""
        if self._decompressor is None or self._waiter is None or self._waiter.done():
            return
        if self._inflate():
            self.transport.resume_reading()
            if self._is_complete:
                self._answer()

    def _answer(self) -> None:
        """End the exchange with the answer, whose end has come."""
        if self._waiter is None or self._waiter.done() or self._reply is None:
            return
        if self._decompressor is not None and not self._decompressor.stream.eof:
            self.fail(self._fault("truncated", f"the answer of {self.place} cannot be decompressed"))
            return
        self._reply.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._waiter.set_result(self._reply)

    # The timer, which is set anew only if it would ring too late.

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due == math.inf else asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        """Close an idle connection, or end the exchange unless its answer is waiting in the socket.

        That answer gets a moment to be read: after a process was stopped (Ctrl-Z, a frozen container) or its event loop
        was blocked, deadlines have passed and answers are waiting in the sockets.
        """
        loop = asyncio.get_running_loop()
        self._timer = None
        late = loop.time() - self.due
        error = self._fault("timeout", f"no complete answer from {self.place} within {self._timeout:g} s")
        if late < -_TICK_SECONDS:  # the exchange for which it was set has ended
            self._set_timer(self.due)
        elif self.is_sent and _has_input(self.transport):
            self._timer = loop.call_later(_GRACE_SECONDS, self.fail, error)
        else:
            self.fail(error if late < STOPPED_SECONDS else not_running(late, sent=self.is_sent))

    def _fault(self, fault: TransportFault, words: str) -> TransportError:
        return TransportError(fault, words, sent=self.is_sent)


def lenient_parser(protocol: object) -> HttpResponseParser:
    """A parser that tells *protocol* what it finds."""
    parser = HttpResponseParser(protocol)
    # Unambiguous deviations of servers: bare line feeds, folded fields, padded chunk sizes, a length beside chunks.
    parser.set_dangerous_leniencies(
        lenient_headers=True,
        lenient_chunked_length=True,
        lenient_optional_cr_before_lf=True,
        lenient_spaces_after_chunk_size=True,
    )
    return parser


def joined_headers(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The *fields* of a head by their names in lower case; of a repeated one the first counts."""
    headers: dict[str, str] = {}
    for name, value in fields:
        lower = _names.get(name) or _lower(name)
        if lower not in headers:
            headers[lower] = value.rstrip(b" \t").decode("utf-8", "surrogateescape")
    return headers


def _lower(name: bytes) -> str:
    """The *name* of a field in lower case; short ones are remembered, as servers send them again and again."""
    lower = name.lower().decode("latin-1")
    if len(name) <= _LONGEST_NAME:
        if len(_names) >= _MOST_NAMES:
            _names.clear()
        _names[name] = lower
    return lower


def ends_with_connection(reply: Reply) -> bool:
    """Whether only the end of the connection ends the body of *reply*."""
    coding = reply.headers.get("transfer-encoding")
    # The parser takes a length that overflows for "until the end", and would accept a truncated body.
    return "content-length" not in reply.headers if coding is None else not coding.lower().endswith("chunked")


def _has_input(transport: asyncio.Transport) -> bool:
    """Whether the socket has unread bytes, or has ended."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
