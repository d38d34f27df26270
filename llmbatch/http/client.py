"""HTTP transport: sends each request once over an idle or new connection and reads the complete response.

Every request is one POST to the origin of its URL: no redirects, no cookies, no proxies or ``.netrc`` from the
environment; a proxy is used only if one is given. A response must be complete: of the announced length, with complete
compression, and not too large. Every failure is a :class:`~llmbatch.core.errors.TransportError` that says whether the
request left this machine. The only request that is sent a second time, over a new connection, is one whose reused
connection turned out to be closed before the first byte of the response.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.http.connection import DEFAULT_ANSWER_MEMORY, AnswerMemory, Connection
from llmbatch.http.deadlines import GRACE_SECONDS, Deadlines, not_running
from llmbatch.http.decompress import CODINGS, CorruptBodyError, OversizeBodyError, decompress
from llmbatch.http.dial import Dialer
from llmbatch.http.pool import Origin
from llmbatch.http.target import Address, Target

__all__ = ["KEEPALIVE_SECONDS", "HttpTransport"]

KEEPALIVE_SECONDS = 4.0
"""Seconds that an idle connection is kept. Less than the 5 s after which uvicorn, and so vLLM, closes it: a POST sent
on a closing connection has to be sent twice."""

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
        self.memory = AnswerMemory(max_answer_memory)
        self._proxy = proxy
        self._before_sending = before_sending
        self._warn = warn
        self._max_body_bytes = max_body_bytes
        self._dialer: Dialer | None = None
        self._targets: dict[tuple[str, int], Target] = {}
        self._origins: dict[Address, Origin] = {}
        self._sweeping: asyncio.TimerHandle | None = None
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
        dialer = self._dialer or self._open()
        target = self._targets.get((request.url, id(request.headers))) or self._prepare(request)
        deadline = (began := self._loop.time()) + timeout
        self._in_flight += 1
        try:
            connection = target.origin.take(began)
            if connection is None:
                connection = await dialer.dial(target, timeout)
                return await self._exchange(connection, target, request.body, deadline, timeout)
            try:
                reply = await self._exchange(connection, target, request.body, deadline, timeout, is_reused=True)
            except TransportError as error:
                now = self._loop.time()
                if now >= deadline or not _is_stale(error, connection, seconds=now - began):
                    raise
                target.origin.met_stale(now)
                lost = error
            else:
                target.origin.reused()
                return reply
            return await self._resend(dialer, target, request.body, deadline, timeout, lost)
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
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._drop_idle(math.inf)
        if self._dialer is not None:
            self._deadlines.close()
            self._dialer.close()
            self._dialer = None
            await asyncio.sleep(0)  # lets the event loop close the sockets

    # Targets and origins.

    def _open(self) -> Dialer:
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        self._dialer = dialer = Dialer(lambda: Connection(self.memory, self._max_body_bytes))
        return dialer

    def _prepare(self, request: Request) -> Target:
        if len(self._targets) >= _MOST_PREPARED:
            self._targets.clear()
        made = Target(request.url, request.headers, proxy=self._proxy)
        made.origin = self._origins.setdefault(made.address, made.origin)
        # It holds the headers, so no other object can have their address (the key) while it lives.
        self._targets[request.url, id(request.headers)] = made
        return made

    # One request.

    async def _exchange(
        self,
        connection: Connection,
        target: Target,
        body: bytes,
        deadline: float,
        seconds: float,
        *,
        is_reused: bool = False,
    ) -> Reply:
        is_done = False
        waiter = connection.begin(target.place)
        try:
            self._deadlines.add(connection, deadline, seconds=seconds)
            self._hand_over(connection, b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
            await waiter
            if connection.error is not None:
                raise connection.error
            reply = Reply(connection.status, connection.headers, self._body(connection, target.place))
            if target.origin.is_copy(connection, reply, is_reused=is_reused):
                raise self._copied(target.place)
            is_done = True
            return reply
        finally:
            self._deadlines.remove(connection)
            if self.memory:
                self.memory.release(connection)
            if connection.finish(keep=is_done):
                self._keep(target.origin, connection)

    async def _resend(
        self, dialer: Dialer, target: Target, body: bytes, deadline: float, seconds: float, lost: TransportError
    ) -> Reply:
        """Send a request once more, over a new connection, because its connection was stale (*lost*)."""
        if not await target.origin.may_resend(deadline):
            raise lost
        is_answered = False
        try:
            connection = await dialer.dial(target, max(0.001, deadline - self._loop.time()))
            reply = await self._exchange(connection, target, body, deadline, seconds)
            is_answered = True
            return reply
        except TransportError as error:
            error.sent = error.sent or lost.sent
            raise
        finally:
            target.origin.resent(is_answered=is_answered)

    def _body(self, connection: Connection, place: str) -> bytes:
        """The answer's body, decompressed."""
        body = connection.body()
        coding = connection.headers.get("content-encoding", "identity").strip().lower()
        if not body or coding in ("identity", ""):
            return body
        if coding not in CODINGS:
            raise TransportError("garbage", f"the answer of {place} has an encoding that was not requested", sent=True)

        def grow(size: int) -> None:
            self.memory.grow(connection, size)
            if connection.error is not None:
                raise connection.error

        try:
            return decompress(body, coding, max_bytes=self._max_body_bytes, grow=grow)
        except CorruptBodyError as error:
            raise TransportError("truncated", f"the answer of {place} cannot be decompressed", sent=True) from error
        except OversizeBodyError as error:
            words = f"the answer of {place} is larger than {self._max_body_bytes} bytes"
            raise TransportError("too_large", words, sent=True) from error

    def _copied(self, place: str) -> TransportError:
        if not self._warned_of_copies:
            self._warned_of_copies = True
            self._warn(f"{place} sent an answer twice over one connection; the copy was ignored")
        return TransportError("duplicate", f"{place} sent the previous answer again", sent=True)

    # Connections between two requests.

    def _keep(self, origin: Origin, connection: Connection) -> None:
        is_kept = origin.keep(connection, now=self._loop.time(), seconds=KEEPALIVE_SECONDS)
        if is_kept and self._sweeping is None:
            self._sweeping = self._loop.call_later(KEEPALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._drop_idle(self._loop.time())
        self._sweeping = None
        if any(map(len, self._origins.values())):
            self._sweeping = self._loop.call_later(KEEPALIVE_SECONDS / 4, self._sweep)

    def _drop_idle(self, now: float) -> None:
        for origin in self._origins.values():
            origin.drop(now)

    # Sending, a few requests together.

    def _hand_over(self, connection: Connection, data: bytes) -> None:
        self._outbox.append((connection, data))
        if not self._group:
            self._group = 1
            self._loop.call_soon(self._end_turn)
        if len(self._outbox) >= self._group:
            self._group = min(2 * self._group, _MOST_TOGETHER)
            self._send()

    def _end_turn(self) -> None:
        self._group = 0
        if self._outbox:
            self._send()

    def _send(self) -> None:
        self._before_sending()
        batch, self._outbox = self._outbox, []
        now = self._loop.time()
        for connection, data in batch:
            late = self._deadlines.lateness(connection, now)
            if late > GRACE_SECONDS:
                # The process was stopped in between: the answer would be paid for, but nobody would wait for it.
                connection.fail(not_running(late, sent=False))
            else:
                connection.send(data)


def _is_stale(error: TransportError, connection: Connection, *, seconds: float) -> bool:
    """Whether a reused connection was closed because it was idle, so that its request may be sent over a new one.

    Either the request was not sent, or the connection ended without a byte, as soon as it does if the server had closed
    it before: after a round trip. RFC 9112, 9.3.1 leaves a client to guess; browsers do the same.
    """
    if not error.sent:
        return error.fault in ("connect", "garbage")
    return error.fault == "reset" and not connection.heard and seconds < _STALE_SECONDS
