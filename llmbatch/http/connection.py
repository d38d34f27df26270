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
"""What all answers in flight may hold together, in bytes."""

_MAX_FIELD_BYTES = 8190
_MAX_FIELDS = 128
_MAX_OVERHEAD_BYTES = 1024 * 1024
"""Bytes that may come without a byte of body: of an endless head, chunk size or trailer."""

_PIECE_BYTES = 64 * 1024
"""Larger requests are written in pieces of this size: TLS counts as unsent only what it was not yet given."""


class Connection(asyncio.Protocol):
    """One exchange at a time over one transport; belongs to one event loop.

    ``error`` is why the exchange ended without an answer, ``heard`` whether a byte came in it, ``status``, ``headers``
    (names in lower case) and :meth:`body` the answer. ``is_open`` is False from the moment on when this connection
    cannot carry another request. ``number`` is this connection's alone.
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
        """Begin an exchange with *place* (HOST:PORT); the future is done when it is over, be it by ``error``.

        *tunnel*: the answer to a CONNECT, which ends with its head.
        """
        self.place, self._is_tunnel, self.heard, self.is_sent = place, tunnel, False, False
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._new_message()
        return waiter

    def send(self, data: bytes) -> None:
        """Write the request, unless its exchange is over already or the connection is closing."""
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
        """Whether the exchange is over, though whoever waits for it may not know yet."""
        return self._waiter is None or self._waiter.done()

    def body(self) -> bytes:
        """The body as it was sent."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def finish(self, *, keep: bool = True) -> bool:
        """End the exchange and forget its answer; whether the connection can carry another one. Aborts it if not."""
        if self._is_tunnel:  # whose answer has no end that the parser knows
            self._parser = self._new_parser()
        is_answered, self._waiter, self.error = self.is_answered and self.error is None, None, None
        self._parts, self.headers = [], {}
        # An answer that came before the request was out leaves the rest of that on the way.
        if keep and is_answered and self.is_open and not self.transport.get_write_buffer_size():
            return True
        self.abort()
        return False

    def fail(self, error: TransportError) -> None:
        """End the exchange by *error* and drop the connection. The first error counts."""
        if self.error is None:
            self.error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Drop the connection at once, whatever is still to be written."""
        self.is_open = False
        self.transport.abort()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep *transport*; called again with the encrypted one behind a proxy's tunnel."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; nobody's bytes spoil the connection."""
        if self._waiter is None or self._waiter.done():
            self.heard = True
            self.abort()
            return
        self.heard = True
        if not self.is_sent:
            self._refuse("garbage", f"{self.place} spoke before it was asked")
            return
        size = self._size
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # Also behind a whole answer: then its length was too short.
            self._refuse("garbage", f"what {self.place} answered is not HTTP")
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
        """End the exchange that is under way: whole where only this ends the body, and it was no reset."""
        self.is_open = False
        if self.is_answered:
            return
        if exc is None and self._has_head and self._ends_with_connection():
            # Many servers close TLS without close_notify; a document that was cut is found by its parser.
            self._wake()
        else:
            self.fail(lost_fault(exc, self.place, sent=self.is_sent, is_begun=self._has_head))

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Note an answer behind the answer."""
        if self._is_last:
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head, or of a trailer, which nobody reads. Raises for too many or too long ones."""
        if len(value) > _MAX_FIELD_BYTES or len(self._fields) >= _MAX_FIELDS or b"\0" in value:
            raise ValueError(name)
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole. Of a repeated field the first counts."""
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
        """Keep a piece of the body, up to the cap."""
        if self.is_answered:
            if self._is_tunnel:
                self._refuse("garbage", f"{self.place} said more than that there is a connection")
            self.is_open = False
            return
        self._size += len(data)
        if self._size > self._max_body_bytes:
            self._refuse("too_large", f"the answer of {self.place} is larger than {self._max_body_bytes} bytes")
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, if it is a final one."""
        if self.is_answered:
            return
        if self.status == 101:
            # A switch of protocols nobody asked for would poison the pool for the next request.
            self._refuse("garbage", f"{self.place} answered 101")
        elif self.status < 200:
            self._new_message()
        else:
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._wake()

    def _new_parser(self) -> HttpResponseParser:
        parser = HttpResponseParser(self)
        # What servers do and no reader can misunderstand: bare line feeds, folded fields, padded chunk sizes.
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
        # The parser takes a length that overflows for "until the end", and would call a cut body whole.
        return "content-length" not in self.headers if coding is None else not coding.lower().endswith("chunked")

    def _refuse(self, fault: TransportFault, words: str) -> None:
        self.fail(TransportError(fault, words, sent=self.is_sent))

    def _wake(self) -> None:
        self._is_last = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AnswerMemory:
    """How many bytes the answers in flight hold together: where they pass *limit_bytes*, the largest is cut.

    Counted are bodies of more than one piece as they arrive, and bodies as they inflate. The answer that is cut is
    never the one that happens to ask for the last byte. Belongs to one event loop.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit = limit_bytes
        self._held: dict[Connection, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grow(self, connection: Connection, size: int) -> None:
        """Count *size* more bytes for the answer over *connection*; sets ``error`` of each connection that is cut.

        O(answers in flight) for each that is cut.
        """
        self._held[connection] = self._held.get(connection, 0) + size
        self.held_bytes += size
        while self.held_bytes > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            held = self._held[largest]
            self.release(largest)
            words = f"the answer was the largest in flight, {held} bytes, when all together passed {self._limit} bytes"
            hint = "raise --max-answer-memory, or lower --concurrency"
            largest.fail(TransportError("too_large", words, sent=True, hint=hint))

    def release(self, connection: Connection) -> None:
        """Count the answer over *connection* no longer."""
        if connection in self._held:
            self.held_bytes -= self._held.pop(connection)
