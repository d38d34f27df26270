"""HTTP transport: sends each request once over an idle or new connection and reads the complete response.

Every request is one POST to the origin of its URL: no redirects, no cookies, no proxies or ``.netrc`` from the
environment; a proxy is used only if one is given. A response must be complete: of the announced length, with complete
compression, and not too large. Every failure is a :class:`~llmbatch.core.errors.TransportError` that says whether the
request left this machine. The only request that is sent a second time, over a new connection, is one whose reused
connection turned out to be closed before the first byte of the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.http.body import DEFAULT_ANSWER_MEMORY, AnswerMemory
from llmbatch.http.connection import Connection
from llmbatch.http.dial import Dialer
from llmbatch.http.pool import Origin
from llmbatch.http.target import Address, Target

__all__ = ["HttpTransport"]

_MOST_PREPARED = 1024
"""Targets in the cache."""

_MOST_TOGETHER = 32
"""Requests posted in one turn of the event loop are sent in groups of 1, 2, 4, up to this many. Each group needs one
write of output lines; but the first of a group waits for the last to be built, while a slot of the provider is idle, so
groups start small."""

_STALE_SECONDS = 1.0
"""Seconds: a reused connection that is lost sooner, before the first byte, was closed while the request was on its way.
One that is lost later had received the request."""


class HttpTransport:
    """Implements :class:`llmbatch.core.ports.Transport`.

    Belongs to the event loop of its first request. A canceled or failed :meth:`post` aborts its connection. All answers
    in flight share *max_answer_memory* bytes.

    Requests that are posted in one turn of the loop are sent in groups, and *before_sending* is called before each
    group: it writes the lines of finished rows, so that a kill repeats no more rows than there are requests in flight.
    *warn* is called once with each message for the user.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
        max_body_bytes: int = 256 * 1024 * 1024,
        max_answer_memory: int = DEFAULT_ANSWER_MEMORY,
    ) -> None:
        self.memory = AnswerMemory(max_answer_memory, max_body_bytes=max_body_bytes)
        self._proxy = proxy
        self._before_sending = before_sending
        self._warn = warn
        self._dialer = Dialer(lambda: Connection(self.memory))
        self._targets: dict[tuple[str, int], tuple[Target, Origin]] = {}
        self._origins: dict[Address, Origin] = {}
        self._outbox: list[tuple[Connection, bytes]] = []
        self._group = 0
        """Size of the next group, 0 before the first of a turn."""
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._warned_of_copies = False
        self._closed = False

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        """Send once and read the whole answer within *timeout* seconds.

        Raises:
            TransportError: no whole HTTP answer came.
        """
        if self._closed:
            raise TransportError("local", "the transport is closed", sent=False)
        target, origin = self._targets.get((request.url, id(request.headers))) or self._prepare(request)
        loop = asyncio.get_running_loop()
        deadline = (began := loop.time()) + timeout
        lost: TransportError | None = None
        self._in_flight += 1
        try:
            if (connection := origin.take()) is not None:
                try:
                    return await self._exchange(connection, target, origin, request.body, deadline, timeout)
                except TransportError as error:
                    now = loop.time()
                    if now >= deadline or not _is_stale(error, connection, seconds=now - began):
                        raise
                    origin.met_stale()
                    lost = error
            async with nullcontext() if lost is None else origin.resending(lost, deadline):
                connection = await self._dialer.dial(target, deadline)
                return await self._exchange(connection, target, origin, request.body, deadline, timeout)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def aclose(self) -> None:
        """Wait for the requests in flight, then close all connections; idempotent.

        To avoid the wait, cancel them first. They are awaited because a connection closed by this side would look like
        a failure of the provider.
        """
        self._closed = True
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
        for origin in self._origins.values():
            origin.close()
        self._dialer.close()
        await asyncio.sleep(0)  # lets the event loop close the sockets

    def _prepare(self, request: Request) -> tuple[Target, Origin]:
        if len(self._targets) >= _MOST_PREPARED:
            self._targets.clear()
        target = Target(request.url, request.headers, proxy=self._proxy)
        # The target holds the headers, so no other object can have their address (the key) while it lives.
        made = self._targets[request.url, id(request.headers)] = (
            target,
            self._origins.setdefault(target.address, Origin()),
        )
        return made

    async def _exchange(
        self, connection: Connection, target: Target, origin: Origin, body: bytes, deadline: float, seconds: float
    ) -> Reply:
        is_answered = False
        try:
            waiter = connection.begin(target.place, deadline, seconds)
            self._hand_over(connection, b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
            reply = await waiter
            is_answered = not origin.is_copy(reply, connection)
        finally:
            origin.give_back(connection, is_answered=is_answered)
        if is_answered:
            return reply
        if not self._warned_of_copies:
            self._warned_of_copies = True
            self._warn(f"{target.place} sent an answer twice over one connection; the copy was ignored")
        raise TransportError("duplicate", f"{target.place} sent the previous answer again", sent=True)

    # Sending, a few requests together.

    def _hand_over(self, connection: Connection, data: bytes) -> None:
        self._outbox.append((connection, data))
        if not self._group:
            self._group = 1
            asyncio.get_running_loop().call_soon(self._send, 0)
        if len(self._outbox) >= self._group:
            self._send(min(2 * self._group, _MOST_TOGETHER))

    def _send(self, next_group: int) -> None:
        self._group = next_group
        if self._outbox:
            self._before_sending()
            batch, self._outbox = self._outbox, []
            for connection, data in batch:
                connection.send(data)


def _is_stale(error: TransportError, connection: Connection, *, seconds: float) -> bool:
    """Whether a reused connection was closed because it was idle, so that its request may be sent over a new one.

    Either the request was not sent, or the connection ended without a byte, as soon as it does if the server had closed
    it before: after a round trip. RFC 9112, 9.3.1 leaves a client to guess; browsers do the same.
    """
    if not error.sent:
        return error.fault in ("connect", "garbage")
    return error.fault == "reset" and not connection.heard and seconds < _STALE_SECONDS
