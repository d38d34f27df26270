"""The one HTTP transport: aiohttp's connections and parser, without what its client does for browsers.

Every request is one POST, sent once, to the origin that it names: no redirects, no cookies, no proxies or ``.netrc``
from the environment; a proxy is used where one is given. An answer counts when it is whole: its length as announced,
its compression ended, its size under a cap. Every failure is a :class:`~llmbatch.errors.TransportError` that says
whether the request left this machine.

``aiohttp.ClientSession`` is left out, as it costs four times what a request costs without it (docs/performance.md).

It does not judge answers, retry, or bound how many requests run at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EofStream, StreamReader

from llmbatch.errors import TransportError
from llmbatch.providers.faults import connect_fault, lost_fault
from llmbatch.providers.inflate import CODINGS, CorruptBodyError, OversizeBodyError, inflate
from llmbatch.providers.wire import CONNECT_SECONDS, KEEPALIVE_SECONDS, Destination, SteppedConnector
from llmbatch.records import Reply, Request

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
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

_TICK_SECONDS = 0.001
"""Event loops may fire a timer so much too early."""


class HttpTransport:
    """Implements :class:`llmbatch.records.Transport`.

    Belongs to the event loop of its first request. A cancelled :meth:`post` has aborted its connection, and so has one
    that failed: nothing of it lingers. One timer for all requests in flight ends those whose time is over.

    Requests that are handed over in one turn of the loop leave a few together, and *before_sending* is called before
    each such group: whoever keeps results can write down those that made room for it, so that a process that is killed
    has no more rows without a line to pay again than there are requests in flight.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        before_sending: Callable[[], None] = lambda: None,
        max_body_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self._proxy = proxy
        self._before_sending = before_sending
        self._max_body_bytes = max_body_bytes
        self._connector: SteppedConnector | None = None
        self._destinations: dict[tuple[str, int], Destination] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._kept: dict[ConnectionKey, deque[tuple[float, Connection]]] = {}
        """Connections without a request, the latest used last, each with when it is closed unless it is used before."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._deadlines: dict[ResponseHandler, float] = {}
        """When the requests that are out, by their connections, are given up. What is not here was."""
        self._outbox: list[tuple[ResponseHandler, bytes]] = []
        self._unsent: set[ResponseHandler] = set()
        """Requests in flight, by their connections, that were kept back."""
        self._group = 0
        """How many requests leave together next, 0 before the first of a turn."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._in_flight = 0
        self._idle = asyncio.Event()
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
        now = self._loop.time()
        self._in_flight += 1
        try:
            connection = self._take_kept(destination.kept, now) or await self._connect(connector, destination, timeout)
            return await self._exchange(connection, destination, request.body, now + timeout, timeout)
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
        for timer in (self._alarm, self._sweeping):
            if timer is not None:
                timer.cancel()
        self._drop_kept(math.inf)
        if self._connector is not None:
            connector, self._connector = self._connector, None
            await connector.close()

    # What is made once.

    def _open(self) -> SteppedConnector:
        self._loop = asyncio.get_running_loop()
        self._connector = connector = SteppedConnector()
        return connector

    def _prepare(self, request: Request) -> Destination:
        if len(self._destinations) >= _MOST_PREPARED:
            self._destinations.clear()
        made = Destination(request.url, request.headers, proxy=self._proxy)
        made.kept = self._kept.setdefault(made.template.connection_key, made.kept)
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
        self, connection: Connection, destination: Destination, body: bytes, deadline: float, seconds: float
    ) -> Reply:
        place, protocol = destination.place, connection.protocol
        assert protocol is not None  # noqa: S101 - _connect has looked
        self._deadlines[protocol] = deadline
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        is_done = False
        try:
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
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
            answer = content.read_nowait() if content.is_eof() else await self._read(content)
            if len(answer) > self._max_body_bytes:
                raise _too_large(place, self._max_body_bytes)
            if protocol not in self._deadlines:
                raise _out_of_time(place, seconds)
            headers = message.headers
            if message.should_close and answer and not message.chunked and "content-length" not in headers:
                _require_proper_end(protocol)
            answer = self._whole(message.code, headers, answer, place)
            # An answer that came before the request was out leaves the rest of that on the way. And who announces to
            # close may not do it, for which a TLS connection that is closed in peace would wait.
            is_done = not (message.should_close or transport.get_write_buffer_size())
            return Reply(message.code, headers, answer)
        except (aiohttp.ClientError, HttpProcessingError, EofStream, OSError) as error:
            if protocol not in self._deadlines:
                raise _out_of_time(place, seconds) from None
            raise lost_fault(error, place, sent=protocol not in self._unsent) from error
        finally:
            self._deadlines.pop(protocol, None)
            self._unsent.discard(protocol)
            if is_done:
                protocol._parser = None  # or half an answer that comes from now on would not be seen
                self._keep(destination.kept, connection)
            else:
                # Closing alone would first wait until a server that reads nothing had taken the rest.
                protocol.abort()
                connection.close()

    async def _read(self, content: StreamReader) -> bytes:
        """The body as it comes, to its end or to just above the cap."""
        parts: list[bytes] = []
        size = 0
        while size <= self._max_body_bytes and not content.at_eof():
            part = await content.readany()
            size += len(part)
            parts.append(part)
        return b"".join(parts)

    def _whole(self, status: int, headers: Mapping[str, str], answer: bytes, place: str) -> bytes:
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
        try:
            return inflate(answer, coding, max_bytes=self._max_body_bytes)
        except CorruptBodyError as error:
            raise TransportError("truncated", f"the answer of {place} does not inflate", sent=True) from error
        except OversizeBodyError as error:
            raise _too_large(place, self._max_body_bytes) from error

    # Connections between two requests. Here and not in the connector, whose book-keeping costs a fifth of a request.

    @staticmethod
    def _take_kept(kept: deque[tuple[float, Connection]], now: float) -> Connection | None:
        while kept:
            until, connection = kept.pop()
            protocol = connection.protocol
            # Something may have come over it meanwhile, be it the end: whose answer would be the next one?
            if protocol is not None and now < until and protocol.is_connected() and not protocol.should_close:
                return connection
            connection.close()
        return None

    def _keep(self, kept: deque[tuple[float, Connection]], connection: Connection) -> None:
        kept.append((self._loop.time() + KEEPALIVE_SECONDS, connection))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(KEEPALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._drop_kept(self._loop.time())
        self._sweeping = None
        if any(self._kept.values()):
            self._sweeping = self._loop.call_later(KEEPALIVE_SECONDS / 4, self._sweep)

    def _drop_kept(self, now: float) -> None:
        for kept in self._kept.values():
            while kept and kept[0][0] <= now:
                kept.popleft()[1].close()

    # Sending, a few requests together.

    def _hand_over(self, protocol: ResponseHandler, data: bytes) -> None:
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
        for protocol, data in batch:
            transport, reader = protocol.transport, protocol._waiter
            is_cancelled = reader is not None and reader.done()
            if transport is None or transport.is_closing() or protocol._buffer or is_cancelled:
                self._keep_back(protocol)
            elif len(data) <= _PIECE_BYTES:
                transport.write(data)
            else:
                # TLS passes on what it is given, whatever its size, and counts only what it did not as unsent.
                view = memoryview(data)
                for start in range(0, len(data), _PIECE_BYTES):
                    transport.write(view[start : start + _PIECE_BYTES])

    def _keep_back(self, protocol: ResponseHandler) -> None:
        """Not send a request that was given up, or over whose connection something came, be it the end."""
        if protocol in self._deadlines:
            self._unsent.add(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    # The one timer.

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Give up what is due. O(requests in flight), once each time that the next of them is due."""
        due = self._loop.time() + _TICK_SECONDS
        for protocol in [protocol for protocol, deadline in self._deadlines.items() if deadline <= due]:
            del self._deadlines[protocol]
            # Not protocol.abort(), after which nobody tells whoever reads the body.
            if protocol.transport is not None:
                protocol.transport.abort()
        self._alarm, self._alarm_at = None, math.inf
        if self._deadlines:
            self._set_alarm(min(self._deadlines.values()))


def _require_proper_end(protocol: ResponseHandler) -> None:
    """Raise where the connection, whose end was that of the answer, was reset rather than closed."""
    if isinstance(protocol.exception(), OSError):
        raise aiohttp.ClientPayloadError


def _out_of_time(place: str, seconds: float) -> TransportError:
    return TransportError("timeout", f"no whole answer of {place} within {seconds:g} s", sent=True)


def _not_sent(place: str) -> TransportError:
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def _too_large(place: str, cap: int) -> TransportError:
    return TransportError("too_large", f"the answer of {place} is larger than {cap} bytes", sent=True)
