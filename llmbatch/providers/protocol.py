"""One connection's protocol: aiohttp's, whose failures reach whoever waits, be it for the head or for the body.

aiohttp's own tells a parser's error only to who waits for the head. It does not decide what an error means, and keeps
no deadline.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from llmbatch.errors import TransportError

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

__all__ = ["AnswerProtocol"]

_numbers = itertools.count(1)
_parse = ResponseHandler.data_received


class AnswerProtocol(ResponseHandler):
    """Reads the answers that come over one connection, one exchange at a time; belongs to one event loop.

    ``heard`` is whether a byte came since the exchange began, ``ended_by`` why it was given up from this side, and
    ``number`` is that of the connection, which no other has.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.heard = False
        self.ended_by: TransportError | None = None
        self.number = next(_numbers)

    def begin(self) -> None:
        """Begin an exchange: nothing of an earlier one counts."""
        self.heard = False
        self._payload = None
        # A length or a coding is checked here, not by the parser, and so bodies come as they were sent.
        self.set_response_params(read_until_eof=True, auto_decompress=False)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self.heard = True
        _parse(self, data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Tell who waits for the head, and who waits for a body that is not whole, that there will be none."""
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        body: StreamReader | None = self._payload
        if body is None or body.is_eof():
            return
        if body.exception() is None:
            kept = isinstance(exc, (HttpProcessingError, TransportError))
            body.set_exception(exc if kept else aiohttp.ClientPayloadError())
        # A reader that was awake when the error came does not look for it again before it waits, but for an end.
        body.feed_eof()

    def give_up(self, error: TransportError) -> None:
        """End the exchange by *error*: wake whoever waits, and drop the connection. The first error counts."""
        if self.ended_by is not None:
            return
        self.ended_by = error
        self.set_exception(error)
        # Not self.abort(), after which nothing tells whoever begins to wait only now.
        if self.transport is not None:
            self.transport.abort()

    @property
    def is_answered(self) -> bool:
        """Whether a whole answer is here, though whoever waits for it may not know yet."""
        body: StreamReader | None = self._payload
        return body is not None and body.is_eof() and body.exception() is None

    @property
    def has_input(self) -> bool:
        """Whether bytes, or the end, wait in the socket. One system call."""
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        return sock is not None and _has_input(sock.fileno())


def _has_input(fd: int) -> bool:
    import select

    if fd < 0:
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
