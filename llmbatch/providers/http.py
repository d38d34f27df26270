"""The one HTTP transport: aiohttp's connections and parser, without what its client does for browsers.

Every request is one POST to the origin that it names: no redirects, no cookies, no proxies or ``.netrc``
from the environment; a proxy is used where one is given. An answer counts when it is whole: its length as announced,
its compression ended, its size under a cap. Every failure is a :class:`~llmbatch.errors.TransportError` that says
whether the request left this machine. The only request that is sent a second time, over a new connection, is one whose
reused connection turned out to be closed before a byte of the answer came.

``aiohttp.ClientSession`` is left out, as it costs four times what a request costs without it (docs/performance.md).

It does not judge answers, retry, or bound how many requests run at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EofStream, StreamReader

from llmbatch.errors import TransportError
from llmbatch.providers.answer_memory import DEFAULT_LIMIT_BYTES, AnswerMemory
from llmbatch.providers.deadlines import GRACE_SECONDS, Deadlines, not_running
from llmbatch.providers.faults import connect_fault, lost_fault
from llmbatch.providers.inflate import CODINGS, CorruptBodyError, OversizeBodyError, inflate
from llmbatch.providers.origin import Origin
from llmbatch.providers.protocol import AnswerProtocol
from llmbatch.providers.wire import CONNECT_SECONDS, KEEPALIVE_SECONDS, Destination, SteppedConnector
from llmbatch.records import Reply, Request

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

__all__ = ["HttpTransport"]

_MOST_PREPARED = 1024
"""Destinations and time-outs that are kept; what is forgotten is made again."""

_MOST_TOGETHER = 32
"""Of the requests handed over in one turn the first leaves at once, then two together, four, and so many. One write of
lines serves a whole group; but the first of a group waits for the work of its last, and a place of the provider's is
idle meanwhile, so that a loop with little to do should not wait."""

_PIECE_BYTES = 64 * 1024
"""Larger requests are written in pieces of this size."""

_STALE_SECONDS = 1.0
"""A reused connection that is lost sooner than this, before a byte came, was closed while the request was on its way.
One that is lost later had the request."""


class HttpTransport:
    """Implements :class:`llmbatch.records.Transport`.

    Belongs to the event loop of its first request. A cancelled :meth:`post` has aborted its connection, and so has one
    that failed: nothing of it lingers. One timer for all requests in flight ends those whose time is over, and all
    answers in flight share *max_answer_memory* bytes.

    Requests that are handed over in one turn of the loop leave a few together, and *before_sending* is called before
    each such group: whoever keeps results can write down those that made room for it, so that a process that is killed
    has no more rows without a line to pay again than there are requests in flight. *warn* is called with what a user
    should know, once each.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
        max_body_bytes: int = 256 * 1024 * 1024,
        max_answer_memory: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        self._proxy = proxy
        self._before_sending = before_sending
        self._warn = warn
        self._max_body_bytes = max_body_bytes
        self._memory = AnswerMemory(max_answer_memory)
        self._connector: SteppedConnector | None = None
        self._destinations: dict[tuple[str, int], Destination] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._origins: dict[ConnectionKey, Origin] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._outbox: list[tuple[AnswerProtocol, bytes]] = []
        self._unsent: set[AnswerProtocol] = set()
        """Requests in flight, by their connections, that were kept back."""
        self._group = 0
        """How many requests leave together next, 0 before the first of a turn."""
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
        connector = self._connector or self._open()
        url, headers = request.url, request.headers
        destination = self._destinations.get((url, id(headers))) or self._prepare(request)
        origin = destination.origin
        deadline = (now := self._loop.time()) + timeout
        self._in_flight += 1
        try:
            connection = origin.take(now)
            if connection is None:
                connection = await self._connect(connector, destination, timeout)
                return await self._exchange(connection, destination, request.body, deadline, timeout)
            protocol = connection.protocol
            try:
                reply = await self._exchange(connection, destination, request.body, deadline, timeout, is_reused=True)
            except TransportError as error:
                now, began = self._loop.time(), now
                if now >= deadline or not _is_stale(error, protocol, seconds=now - began):
                    raise
                origin.met_stale(now)
                lost = error
            else:
                origin.reused()
                return reply
            if not await origin.may_resend(deadline):
                raise lost
            is_answered = False
            try:
                connection = await self._connect(connector, destination, max(0.001, deadline - self._loop.time()))
                reply = await self._exchange(connection, destination, request.body, deadline, timeout)
                is_answered = True
                return reply
            except TransportError as error:
                error.sent = error.sent or lost.sent
                raise
            finally:
                origin.resent(is_answered=is_answered)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def aclose(self) -> None:
        """Wait for the requests in flight, then close all connections; idempotent.

        Who does not want to wait cancels them first. They come first because connections that this side closed would
        look like the provider's doing.
        """
        self._closed = True
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._drop_idle(math.inf)
        if self._connector is not None:
            self._deadlines.close()
            connector, self._connector = self._connector, None
            await connector.close()

    # What is made once.

    def _open(self) -> SteppedConnector:
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        self._connector = connector = SteppedConnector()
        return connector

    def _prepare(self, request: Request) -> Destination:
        if len(self._destinations) >= _MOST_PREPARED:
            self._destinations.clear()
        made = Destination(request.url, request.headers, proxy=self._proxy)
        made.origin = self._origins.setdefault(made.template.connection_key, made.origin)
        # It holds the headers, whose address no other object can have as long as it lives.
        self._destinations[request.url, id(request.headers)] = made
        return made

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        if len(self._timeouts) >= _MOST_PREPARED:
            self._timeouts.clear()
        made = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        self._timeouts[seconds] = made
        return made

    # One request.

    async def _connect(self, connector: SteppedConnector, destination: Destination, seconds: float) -> Connection:
        timeout, place = self._timeouts.get(seconds) or self._timeout(seconds), destination.place
        try:
            return await connector.connect(destination.template, [], timeout)
        except aiohttp.ClientProxyConnectionError as error:
            raise connect_fault(error, f"the proxy {error.host}:{error.port}") from error
        except aiohttp.ClientHttpProxyError as error:
            words = f"the proxy refused a connection to {place} (status {error.status})"
            raise TransportError("connect", words, sent=False) from None
        except aiohttp.ClientConnectorError as error:
            raise connect_fault(error, place) from error
        except TimeoutError as error:
            raise TransportError("connect_timeout", f"no connection to {place} in time", sent=False) from error
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise lost_fault(error, place, sent=False) from error

    async def _exchange(
        self,
        connection: Connection,
        destination: Destination,
        body: bytes,
        deadline: float,
        seconds: float,
        *,
        is_reused: bool = False,
    ) -> Reply:
        place, protocol, is_done = destination.place, connection.protocol, False
        assert isinstance(protocol, AnswerProtocol)  # noqa: S101 - SteppedConnector makes no other
        try:
            self._deadlines.add(protocol, deadline, place=place, seconds=seconds)
            protocol.begin()
            transport = protocol.transport
            if transport is None or transport.is_closing():
                raise _not_sent(place)
            self._hand_over(protocol, b"%b%d\r\n\r\n%b" % (destination.head, len(body), body))
            message, content = await protocol.read()
            if protocol in self._unsent:
                raise _not_sent(place)
            while message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            if message.code == 101:
                # A switch of protocols nobody asked for would poison the pool for the next request.
                raise TransportError("garbage", f"{place} answered 101", sent=True)
            answer = content.read_nowait() if content.is_eof() else await self._read(protocol, content, place)
            if len(answer) > self._max_body_bytes:
                raise _too_large(place, self._max_body_bytes)
            headers = message.headers
            if message.should_close and answer and not message.chunked and "content-length" not in headers:
                _require_proper_end(protocol)
            reply = Reply(message.code, headers, self._whole(protocol, message.code, headers, answer, place))
            if protocol.ended_by is not None:
                raise protocol.ended_by
            if destination.origin.is_copy(protocol, reply, is_reused=is_reused):
                raise self._copied(place)
            # An answer that came before the request was out leaves the rest of that on the way. And who announces to
            # close may not do it, for which a TLS connection that is closed in peace would wait.
            is_done = not (message.should_close or transport.get_write_buffer_size())
            return reply
        except (aiohttp.ClientError, HttpProcessingError, EofStream, OSError) as error:
            if protocol.ended_by is not None:
                raise protocol.ended_by from None
            raise lost_fault(error, place, sent=protocol not in self._unsent) from error
        finally:
            self._deadlines.remove(protocol)
            if self._memory:
                self._memory.release(protocol)
            self._unsent.discard(protocol)
            protocol.ended_by = None  # which would hold, by its traceback, this frame
            if is_done:
                protocol._parser = None  # or half an answer that comes from now on would not be seen
                self._keep(destination.origin, connection)
            else:
                # Closing alone would first wait until a server that reads nothing had taken the rest.
                protocol.abort()
                connection.close()

    async def _read(self, protocol: AnswerProtocol, content: StreamReader, place: str) -> bytes:
        """The body as it comes, to its end."""
        parts: list[bytes] = []
        size = 0
        try:
            while not content.at_eof():
                part = await content.readany()
                size += len(part)
                if size > self._max_body_bytes:
                    raise _too_large(place, self._max_body_bytes)
                self._memory.grow(protocol, len(part))
                if protocol.ended_by is not None:
                    raise protocol.ended_by
                parts.append(part)
            if (error := content.exception()) is not None:
                raise error
            return b"".join(parts)
        finally:
            parts.clear()  # an error's traceback would hold them

    def _whole(
        self, protocol: AnswerProtocol, status: int, headers: Mapping[str, str], answer: bytes, place: str
    ) -> bytes:
        """The answer, inflated. Raises for one that is shorter than it says."""
        # The parser takes a length that overflows for "until the end", and would call a cut body whole.
        announced = headers.get("content-length")
        if announced is not None and "transfer-encoding" not in headers and status not in (204, 304):
            size = str(len(answer))
            if announced != size and announced.lstrip("0") != size.lstrip("0"):
                raise TransportError("truncated", f"{place} sent {size} of {announced[:24]} bytes", sent=True)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if not answer or coding in ("identity", ""):
            return answer
        if coding not in CODINGS:
            raise TransportError("garbage", f"the answer of {place} has an encoding that was not asked for", sent=True)

        def grow(size: int) -> None:
            self._memory.grow(protocol, size)
            if protocol.ended_by is not None:
                raise protocol.ended_by

        try:
            return inflate(answer, coding, max_bytes=self._max_body_bytes, grow=grow)
        except CorruptBodyError as error:
            raise TransportError("truncated", f"the answer of {place} does not inflate", sent=True) from error
        except OversizeBodyError as error:
            raise _too_large(place, self._max_body_bytes) from error

    def _copied(self, place: str) -> TransportError:
        if not self._warned_of_copies:
            self._warned_of_copies = True
            self._warn(f"{place} sent an answer twice over one connection; the copy is not taken for the next answer")
        return TransportError("duplicate", f"{place} sent the answer before once more", sent=True)

    # Connections between two requests. Here and not in the connector, whose book-keeping costs a fifth of a request.

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

    def _hand_over(self, protocol: AnswerProtocol, data: bytes) -> None:
        self._outbox.append((protocol, data))
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
        for protocol, data in batch:
            late = self._deadlines.lateness(protocol, now)
            if late > GRACE_SECONDS:  # stopped in between: nobody would wait for the answer, which is paid for
                protocol.give_up(not_running(late, sent=False))
                continue
            transport, reader = protocol.transport, protocol._waiter
            is_cancelled = reader is not None and reader.done()
            if transport is None or transport.is_closing() or protocol.heard or is_cancelled:
                self._keep_back(protocol)
            elif len(data) <= _PIECE_BYTES:
                transport.write(data)
            else:
                # TLS passes on what it is given, whatever its size, and counts only what it did not as unsent.
                view = memoryview(data)
                for start in range(0, len(data), _PIECE_BYTES):
                    transport.write(view[start : start + _PIECE_BYTES])

    def _keep_back(self, protocol: AnswerProtocol) -> None:
        """Not send a request that was given up, or over whose connection something came, be it the end."""
        if protocol in self._deadlines and protocol.ended_by is None:
            self._unsent.add(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()


def _is_stale(error: TransportError, protocol: object, *, seconds: float) -> bool:
    """Whether a reused connection was lost to its idle time and not to its request, which may go over a new one.

    Either the request was kept back, or no byte of an answer came and the end came as soon as it does where the
    server had closed before: after a round trip. RFC 9112, 9.3.1 leaves a client to guess; browsers do the same.
    """
    assert isinstance(protocol, AnswerProtocol)  # noqa: S101 - SteppedConnector makes no other
    if not error.sent:
        return error.fault == "connect"
    return error.fault == "reset" and not protocol.heard and seconds < _STALE_SECONDS


def _require_proper_end(protocol: AnswerProtocol) -> None:
    """Raise where the connection, whose end was that of the answer, was reset rather than closed."""
    if isinstance(protocol.exception(), OSError):
        raise aiohttp.ClientPayloadError


def _not_sent(place: str) -> TransportError:
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def _too_large(place: str, cap: int) -> TransportError:
    return TransportError("too_large", f"the answer of {place} is larger than {cap} bytes", sent=True)
