"""The one HTTP transport: aiohttp, with what it gets wrong by default set right.

Every request is one POST, sent once, to the origin that it names: no redirects, no cookies, no proxies or ``.netrc``
from the environment; a proxy is used where one is given. An answer counts when it is whole: its length as announced,
its compression ended, its size under a cap. Every failure is a :class:`~llmbatch.errors.TransportError` that says
whether the request left this machine.

It does not judge answers, retry, or bound how many requests run at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp.payload import Payload
from aiohttp.resolver import ThreadedResolver

from llmbatch.errors import TransportError
from llmbatch.providers.faults import connect_fault, lost_fault
from llmbatch.providers.inflate import CODINGS, CorruptBodyError, OversizeBodyError, inflate
from llmbatch.records import Reply, Request

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

__all__ = ["HttpTransport"]

_CONNECT_SECONDS = 15.0
"""The longest a new connection may take, name look-up and TLS handshake included."""

_OPENING_AT_ONCE = 100
"""New connections in the making; thousands at once stall the event loop and look like an attack."""

_KEEPALIVE_SECONDS = 4.0
"""How long an unused connection is kept. Below the 5 s after which uvicorn, and so vLLM, closes its own: a POST that
meets the closing is lost, as it may not be sent again."""

_DNS_SECONDS = 30
"""How long a looked-up name holds: short enough to follow a provider that moves in an outage."""

_SPARE_CONNECTIONS = 16
"""Above the concurrency, for probes and canaries, so that no request waits for a place in the pool."""


class HttpTransport:
    """Implements :class:`llmbatch.records.Transport`.

    Belongs to the event loop of its first request. A cancelled :meth:`post` has aborted its connection, and so has one
    that failed: nothing of it lingers.
    """

    def __init__(self, concurrency: int, *, proxy: str | None = None, max_body_bytes: int = 256 * 1024 * 1024) -> None:
        self._proxy = proxy
        self._connections = concurrency + _SPARE_CONNECTIONS
        self._max_body_bytes = max_body_bytes
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
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
        session = self._session or self._open()
        body = _Body(request.body)
        response: aiohttp.ClientResponse | None = None
        self._in_flight += 1
        try:
            response = await session.post(
                request.url,
                data=body,
                headers=request.headers,
                allow_redirects=False,
                proxy=self._proxy,
                timeout=self._timeouts.get(timeout) or self._timeout(timeout),
            )
            return await self._read(response, request)
        except aiohttp.ClientProxyConnectionError as error:
            raise connect_fault(error, f"the proxy {error.host}:{error.port}") from error
        except aiohttp.ClientHttpProxyError as error:
            words = f"the proxy refused a connection to {_place(request)} (status {error.status})"
            raise TransportError("connect", words, sent=False) from None
        except aiohttp.ClientConnectorError as error:
            raise connect_fault(error, _place(request)) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise _connect_timeout(request) from error
        except TimeoutError as error:
            if not body.sent:
                raise _connect_timeout(request) from error
            raise TransportError(
                "timeout", f"no whole answer of {_place(request)} within {timeout:g} s", sent=True
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise lost_fault(error, _place(request), sent=body.sent) from error
        finally:
            # An answer that was read to its end has given its connection back; any other takes it along, and so does
            # one that came before the request was out. Closing alone would first wait until a server that reads
            # nothing had taken the rest.
            if response is None or not response.closed or not body.written:
                body.abort()
                if response is not None:
                    response.close()
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
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = _SteppedConnector(
            limit=self._connections,
            limit_per_host=0,
            ttl_dns_cache=_DNS_SECONDS,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            # The system's resolver tells "no such name" from "no answer", which others do not.
            resolver=ThreadedResolver(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            raise_for_status=False,
        )
        return self._session

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        if len(self._timeouts) >= 64:
            self._timeouts.clear()
        made = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, _CONNECT_SECONDS))
        self._timeouts[seconds] = made
        return made

    async def _read(self, response: aiohttp.ClientResponse, request: Request) -> Reply:
        if response.status < 200:
            # A switch of protocols nobody asked for would poison the pool for the next request.
            raise TransportError("garbage", f"{_place(request)} answered {response.status}", sent=True)
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > self._max_body_bytes:
                raise _too_large(request, self._max_body_bytes)
            parts.append(part)
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._check_length(response.status, headers, size, request)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if body and coding not in ("identity", ""):
            body = self._inflate(body, coding, request)
        return Reply(response.status, headers, body)

    def _check_length(self, status: int, headers: dict[str, str], size: int, request: Request) -> None:
        # The parser takes a length that overflows for "until the end", and would call a cut body whole.
        announced = headers.get("content-length")
        if announced is None or "transfer-encoding" in headers or status in (204, 304):
            return
        if announced.lstrip("0") != str(size).lstrip("0"):
            raise TransportError("truncated", f"{_place(request)} sent {size} of {announced[:24]} bytes", sent=True)

    def _inflate(self, body: bytes, coding: str, request: Request) -> bytes:
        if coding not in CODINGS:
            raise TransportError(
                "garbage", f"the answer of {_place(request)} has an encoding that was not asked for", sent=True
            )
        try:
            return inflate(body, coding, max_bytes=self._max_body_bytes)
        except CorruptBodyError as error:
            raise TransportError("truncated", f"the answer of {_place(request)} does not inflate", sent=True) from error
        except OversizeBodyError as error:
            raise _too_large(request, self._max_body_bytes) from error


class _Body(Payload):
    """A request body that knows whether it went out, and over which connection."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self._transport: asyncio.WriteTransport | None = None
        self.sent = False
        self.written = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        # The header waits for the first piece of the body, so that before this nothing has left.
        transport = writer.transport
        if transport is not None and not transport.is_closing():
            self._transport = transport
            self.sent = True
        await writer.write(self._value)
        self.written = True

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        if self._transport is not None:
            self._transport.abort()


class _SteppedConnector(aiohttp.TCPConnector):
    """Opens a bounded number of connections at a time, each within its time once it is its turn."""

    _gate: asyncio.Semaphore | None = None

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the overridden signature
    ) -> ResponseHandler:
        if self._gate is None:
            self._gate = asyncio.Semaphore(_OPENING_AT_ONCE)
        async with self._gate, asyncio.timeout(timeout.sock_connect):
            return await super()._create_connection(req, traces, timeout)


def _place(request: Request) -> str:
    parts = urlsplit(request.url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _connect_timeout(request: Request) -> TransportError:
    return TransportError("connect_timeout", f"no connection to {_place(request)} in time", sent=False)


def _too_large(request: Request, cap: int) -> TransportError:
    return TransportError("too_large", f"the answer of {_place(request)} is larger than {cap} bytes", sent=True)
