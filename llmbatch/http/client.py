"""HTTP transport: sends each request once over an idle or new connection and reads the complete response.

Every request is one POST to the origin of its URL: no redirects, no cookies, no proxies or ``.netrc`` from the
environment; a proxy is used only if one is given. A response must be complete: of the announced length, with complete
compression, and not too large. Every failure is a :class:`~llmbatch.core.errors.TransportError` that says whether the
request left this machine. The only request that is sent a second time, over a new connection, is one whose reused
connection turned out to be closed before the first byte of the response.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.http.body import DEFAULT_ANSWER_MEMORY, AnswerMemory
from llmbatch.http.connection import Connection
from llmbatch.http.dial import Address, Dialer, Target

__all__ = ["KEEPALIVE_SECONDS", "HttpTransport"]

KEEPALIVE_SECONDS = 4.0
"""Seconds that an idle connection is kept. Less than the 5 s after which uvicorn, and so vLLM, closes it: a POST sent
on a closing connection has to be sent twice."""

_TRUST = 2.0
"""Stale connections before connections are no longer reused."""

_TRUST_BY_REUSE = 0.05
"""What one good reuse adds to this: an origin may have one stale connection in twenty."""

_DISTRUST_SECONDS = 60.0
"""Seconds for which connections are not reused then; after that a single stale one is enough."""

_DOUBT_SECONDS = 1.0
"""Seconds for which no request is resent after a resent one failed on a new connection too: that is an outage."""

_MOST_IDS = 4096
"""Answer ids kept per origin: the answers of the last seconds, even of fast servers. About 100 bytes each."""

_TRUSTED_FROM = 8
"""Different ids in bodies before a repeated one means anything: test servers give all answers the same id."""

_BODY_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{6,200})"')
_SEARCHED_BYTES = 400
"""Part of a body in which its id is found; further on, an id may be part of the model's text."""

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
        loop = origin.loop
        deadline = (began := loop.time()) + timeout
        lost: TransportError | None = None
        self._in_flight += 1
        try:
            if (connection := origin.take(began)) is not None:
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
        origin = self._origins.setdefault(target.address, Origin())
        self._targets[request.url, id(request.headers)] = target, origin
        return target, origin

    async def _exchange(
        self, connection: Connection, target: Target, origin: Origin, body: bytes, deadline: float, seconds: float
    ) -> Reply:
        is_answered = False
        try:
            waiter = connection.begin(origin.loop.create_future(), target.place, deadline, seconds)
            self._hand_over(connection, b"%b%d\r\n\r\n%b" % (target.head, len(body), body), origin.loop)
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

    def _hand_over(self, connection: Connection, data: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox.append((connection, data))
        if not self._group:
            self._group = 1
            loop.call_soon(self._send, 0)
        if len(self._outbox) >= self._group:
            self._send(min(2 * self._group, _MOST_TOGETHER))

    def _send(self, next_group: int) -> None:
        self._group = next_group
        if self._outbox:
            self._before_sending()
            batch, self._outbox = self._outbox, []
            for connection, data in batch:
                connection.send(data)


class Origin:
    """Idle connections to one origin, most recently used last, and the ids of its latest answers.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._trust = _TRUST
        self._fresh_until = self._doubted_until = 0.0
        self._resending: asyncio.Future[None] | None = None
        """Done when the latest resent request has ended."""
        self._ids: dict[tuple[str | bytes, int, int], int] | None = {}
        """Id, status and length of answers, with the number of the connection that delivered them.

        None once several answers have the same id, so that a repeated one means nothing.
        """

    def take(self, now: float) -> Connection | None:
        """Take an idle connection on which nothing was received meanwhile, or None."""
        while self._idle:
            connection = self._idle.pop()
            # Bytes, or the end, may have arrived meanwhile and would be taken for the next response.
            if connection.is_open and now < connection.due:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection, *, is_answered: bool) -> None:
        """End the exchange on *connection*, and keep the connection for the next request if possible."""
        if is_answered and connection.is_reused and self._trust < _TRUST:
            self._trust += _TRUST_BY_REUSE
        now = self.loop.time()
        is_wanted = is_answered and now >= self._fresh_until
        if connection.finish(now, keep_seconds=KEEPALIVE_SECONDS if is_wanted else 0.0):
            connection.is_reused = True
            self._idle.append(connection)
        while self._idle and not self._idle[0].is_open:
            self._idle.popleft()

    def met_stale(self) -> None:
        """Note that a reused connection was lost before the first byte; too many stop reuse for a minute."""
        self._trust -= 1.0
        if self._trust < 0.0:
            self._trust = 0.0
            self._fresh_until = self.loop.time() + _DISTRUST_SECONDS
            self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()

    @asynccontextmanager
    async def resending(self, lost: TransportError, deadline: float) -> AsyncIterator[None]:
        """Surround the resending of a request whose connection was stale, as *lost* says.

        One is resent first, and others wait for its answer, at most until their *deadline*: if all connections are lost
        at once, it may be an outage, in which not every request should be sent twice.

        Raises:
            TransportError: *lost*, if the request should not be resent; or what is raised inside, sent if *lost* was.
        """
        loop = self.loop
        if (first := self._resending) is not None:
            await asyncio.wait([first], timeout=deadline - loop.time())
            if not first.done():
                raise lost
        if loop.time() < self._doubted_until:
            raise lost
        self._resending = ended = loop.create_future()
        try:
            yield
        except BaseException as error:
            self._doubted_until = loop.time() + _DOUBT_SECONDS
            if isinstance(error, TransportError):
                error.sent = error.sent or lost.sent
            raise
        finally:
            ended.set_result(None)
            if self._resending is ended:
                self._resending = None

    def is_copy(self, reply: Reply, connection: Connection) -> bool:
        """Whether *connection* has delivered this answer before: same id, status and length.

        The id is the request id in the headers, else, in a success, that of the body. One that is repeated over another
        connection is not a copy: from then on, ids of this origin are ignored. Copies of a server that gives no ids
        cannot be detected. O(1).
        """
        if self._ids is None:
            return False
        name: str | bytes | None = reply.headers.get("x-request-id") or reply.headers.get("request-id")
        if not name and reply.status == 200 and (found := _BODY_ID.search(reply.body, 0, _SEARCHED_BYTES)):
            name = found[1]
        if not name:
            return False
        answer = (name, reply.status, len(reply.body))
        known = self._ids.get(answer)
        if known is None:
            self._ids[answer] = connection.number
            if len(self._ids) > _MOST_IDS:
                del self._ids[next(iter(self._ids))]
            return False
        is_certain = isinstance(name, str) or len(self._ids) >= _TRUSTED_FROM
        if known == connection.number and connection.is_reused and is_certain:
            return True
        self._ids = None
        return False


def _is_stale(error: TransportError, connection: Connection, *, seconds: float) -> bool:
    """Whether a reused connection was closed because it was idle, so that its request may be sent over a new one.

    Either the request was not sent, or the connection ended without a byte, as soon as it does if the server had closed
    it before: after a round trip. RFC 9112, 9.3.1 leaves a client to guess; browsers do the same.
    """
    if not error.sent:
        return error.fault in ("connect", "garbage")
    return error.fault == "reset" and not connection.heard and seconds < _STALE_SECONDS
