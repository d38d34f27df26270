"""One connection: sends a request, parses its answer with httptools, and says whether it can be used again."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.http.connect_errors import lost_fault, not_sent

__all__ = ["DEFAULT_ANSWER_MEMORY", "AnswerMemory", "Connection"]

_numbers = itertools.count(1)

DEFAULT_ANSWER_MEMORY = 512_000_000
"""Default limit of bytes that all answers in flight share."""

_MAX_FIELD_BYTES = 8190
_MAX_FIELDS = 128
_MAX_OVERHEAD_BYTES = 1024 * 1024
"""Maximum bytes without a byte of body: bounds an endless head, chunk size or trailer."""

_PIECE_BYTES = 64 * 1024
"""Larger requests are written in pieces of this size: TLS reports as unsent only what it was not yet given."""


class Connection(asyncio.Protocol):
    """One HTTP connection: one exchange at a time over one transport; belongs to one event loop.

    ``error`` is why the exchange ended without a response, ``heard`` whether a byte was received in it; ``status``,
    ``headers`` (names in lower case) and :meth:`body` are the response. ``is_open`` is False once this connection
    cannot carry another request. ``number`` is unique to this connection.
    """

    def __init__(self, memory: AnswerMemory, max_body_bytes: int) -> None:
        self.is_open = True
        self.heard = self.is_sent = False
        self.place = ""
        self.error: TransportError | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.number = next(_numbers)
        self.transport: asyncio.Transport
        self._memory, self._max_body_bytes = memory, max_body_bytes
        self._waiter: asyncio.Future[None] | None = None
        self._parser = self._new_parser()
        self._is_tunnel = False
        self._has_head = False
        self._is_last = False
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = self._overhead = 0

    # One exchange: begin, send, wait, finish.

    def begin(self, place: str, *, tunnel: bool = False) -> asyncio.Future[None]:
        """Begin an exchange with *place* (HOST:PORT); the future is done when it ends, also by ``error``.

        *tunnel*: the request is a CONNECT, whose response ends with its head.
        """
        self.place, self._is_tunnel, self.heard, self.is_sent = place, tunnel, False, False
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._new_message()
        return waiter

    def send(self, data: bytes) -> None:
        """Write the request, unless its exchange has ended or the connection is closing."""
        if self.is_answered:
            return
        write = self.transport.write
        if self.transport.is_closing():
            self.fail(not_sent(self.place))
            return
        self.is_sent = True
        if len(data) <= _PIECE_BYTES:
            write(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _PIECE_BYTES):
            write(view[start : start + _PIECE_BYTES])

    @property
    def is_answered(self) -> bool:
        """Whether the exchange has ended, even if its waiter has not resumed yet."""
        return self._waiter is None or self._waiter.done()

    def body(self) -> bytes:
        """The body as it was received."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def finish(self, *, keep: bool = True) -> bool:
        """End the exchange and drop its response; whether the connection can carry another one. Aborts it if not."""
        if self._is_tunnel:  # whose response ends with its head, unknown to the parser
            self._parser = self._new_parser()
        is_answered, self._waiter, self.error = self.is_answered and self.error is None, None, None
        self._parts, self.headers = [], {}
        # If the response arrived before the whole request was sent, the rest of it is still being sent.
        if keep and is_answered and self.is_open and not self.transport.get_write_buffer_size():
            return True
        self.abort()
        return False

    def fail(self, error: TransportError) -> None:
        """End the exchange with *error* and abort the connection. The first error counts."""
        if self.error is None:
            self.error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close the connection at once, without sending what is still buffered."""
        self.is_open = False
        self.transport.abort()

    # asyncio.Protocol: called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep *transport*; called again with the encrypted one behind a proxy's tunnel."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; bytes outside an exchange make the connection unusable."""
        if self._waiter is None or self._waiter.done():
            self.heard = True
            self.abort()
            return
        self.heard = True
        if not self.is_sent:
            self._refuse("garbage", f"{self.place} sent data before any request")
            return
        size = self._size
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # Also after a complete response: then its length was too short.
            self._refuse("garbage", f"the answer of {self.place} is not HTTP")
            return
        if self._waiter.done():
            return
        if grown := self._size - size:
            self._overhead = 0
            self._memory.grow(self, grown)
        else:
            self._overhead += len(data)
            if self._overhead > _MAX_OVERHEAD_BYTES:
                self._refuse("garbage", f"{self.place} sent a head or a chunk size without an end")

    def eof_received(self) -> None:
        """End the exchange as :meth:`connection_lost` does, without waiting until a large request is written."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the current exchange: complete if only this ends the body, and it was not a reset."""
        self.is_open = False
        if self.is_answered:
            return
        if exc is None and self._has_head and self._ends_with_connection():
            # Many servers close TLS without close_notify; the JSON parser detects a truncated body.
            self._wake()
        else:
            self.fail(lost_fault(exc, self.place, sent=self.is_sent, is_begun=self._has_head))

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Note a second response after the response."""
        if self._is_last:
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head, or of a trailer (never read). Raises for too many or too long ones."""
        if len(value) > _MAX_FIELD_BYTES or len(self._fields) >= _MAX_FIELDS or b"\0" in value:
            raise ValueError(name)
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Handle the complete head. Of a repeated field the first counts."""
        if self._is_last:
            return
        self.status = self._parser.get_status_code()
        self.headers = {
            name.lower().decode("latin-1"): value.rstrip(b" \t").decode("utf-8", "surrogateescape")
            for name, value in reversed(self._fields)
        }
        self._has_head = self.status >= 200
        if self._is_tunnel and self._has_head:
            self._wake()

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body, up to the limit."""
        if self.is_answered:
            if self._is_tunnel:
                self._refuse("garbage", f"{self.place} sent data after accepting the tunnel")
            self.is_open = False
            return
        self._size += len(data)
        if self._size > self._max_body_bytes:
            self._refuse("too_large", f"the answer of {self.place} is larger than {self._max_body_bytes} bytes")
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Handle the complete response, if it is a final one."""
        if self.is_answered:
            return
        if self.status == 101:
            # An unrequested switch of protocols would break the next request on this connection.
            self._refuse("garbage", f"{self.place} answered 101")
        elif self.status < 200:
            self._new_message()
        else:
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._wake()

    def _new_parser(self) -> HttpResponseParser:
        parser = HttpResponseParser(self)
        # Unambiguous deviations of servers: bare line feeds, folded fields, padded chunk sizes.
        parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        return parser

    def _new_message(self) -> None:
        self._has_head = self._is_last = False
        self._fields, self._parts = [], []
        self._size = self._overhead = 0

    def _ends_with_connection(self) -> bool:
        coding = self.headers.get("transfer-encoding")
        # The parser takes a length that overflows for "until the end", and would accept a truncated body.
        return "content-length" not in self.headers if coding is None else not coding.lower().endswith("chunked")

    def _refuse(self, fault: TransportFault, words: str) -> None:
        self.fail(TransportError(fault, words, sent=self.is_sent))

    def _wake(self) -> None:
        self._is_last = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AnswerMemory:
    """Memory shared by all answers in flight: above *limit_bytes*, the largest answer is cut off.

    It counts bodies of more than one piece as they arrive, and bodies as they are decompressed. The answer that is cut
    off is the largest, not the one that needs the last byte. Belongs to one event loop.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit = limit_bytes
        self._held: dict[Connection, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grow(self, connection: Connection, size: int) -> None:
        """Count *size* more bytes for the answer over *connection*; sets ``error`` of each connection that is cut off.

        O(answers in flight) for each that is cut off.
        """
        self._held[connection] = self._held.get(connection, 0) + size
        self.held_bytes += size
        while self.held_bytes > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            held = self._held[largest]
            self.release(largest)
            words = f"the answer was the largest in flight ({held} bytes) when all exceeded {self._limit} bytes"
            hint = "raise --max-answer-memory, or lower --concurrency"
            largest.fail(TransportError("too_large", words, sent=True, hint=hint))

    def release(self, connection: Connection) -> None:
        """Stop counting the answer over *connection*."""
        if connection in self._held:
            self.held_bytes -= self._held.pop(connection)
