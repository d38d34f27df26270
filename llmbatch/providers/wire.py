"""Where requests go, prepared once: the bytes before a body, and connections that open a few at a time.

A run speaks to few URLs with few sets of headers, so all that does not change from row to row is made once. What this
module does not do: send, read, judge, or close anything.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from llmbatch.providers.deadlines import GRACE_SECONDS, STOPPED_SECONDS, not_running
from llmbatch.providers.origin import Origin
from llmbatch.providers.protocol import AnswerProtocol

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.tracing import Trace

__all__ = ["CONNECT_SECONDS", "KEEPALIVE_SECONDS", "Destination", "SteppedConnector"]

CONNECT_SECONDS = 15.0
"""The longest a new connection may take once it is its turn, name look-up and TLS handshake included."""

_OPENING_AT_ONCE = 100
"""New connections in the making; thousands at once stall the event loop and look like an attack."""

KEEPALIVE_SECONDS = 4.0
"""How long an unused connection is kept. Below the 5 s after which uvicorn, and so vLLM, closes its own: a POST that
meets the closing has to be sent twice."""

_PROBE_IDLE_SECONDS = 60
_PROBE_SECONDS = 15
_PROBES = 4
"""TCP keep-alive: a connection whose other end vanished while a model thinks is found dead after two minutes."""

_DNS_SECONDS = 30
"""How long a looked-up name holds: short enough to follow a provider that moves in an outage."""


class Destination:
    """One URL with one set of headers.

    ``place`` is HOST:PORT, for messages. ``head`` is the request up to the number of its ``Content-Length``.
    ``template`` tells the connector which connection to give, ``origin`` has those at hand.
    """

    __slots__ = ("head", "headers", "origin", "place", "template")

    def __init__(self, url: str, headers: Mapping[str, str], *, proxy: str | None) -> None:
        target = URL(url)
        via = URL(proxy) if proxy is not None else None
        self.headers = headers
        self.origin = Origin()
        self.place = f"{target.host}:{target.port}"
        self.template = _Template("POST", target, loop=asyncio.get_running_loop(), proxy=via)
        asked, sent = target.raw_path_qs, {"Host": self.template.headers["Host"], **headers}
        if via is not None and target.scheme == "http":
            # A proxy passes plain requests on itself, and so is told the whole URL; TLS goes through a tunnel.
            asked = str(target)
            if via.user is not None:
                sent["Proxy-Authorization"] = aiohttp.encode_basic_auth(via.user, via.password or "")
        lines = [f"POST {asked} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        if not all(map(str.isprintable, lines)):
            raise ValueError("a header or the URL has control characters in it")
        self.head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()


class _Template(aiohttp.ClientRequest):
    """What the connector asks about a request; its answers do not change here, and this one is asked every time."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


class SteppedConnector(aiohttp.TCPConnector):
    """Opens connections: any number, but a bounded number at a time, each within its time. Keeps none."""

    def __init__(self) -> None:
        super().__init__(
            limit=0,  # who sends bounds how many requests run at once
            ttl_dns_cache=_DNS_SECONDS,
            force_close=True,  # connections are kept by who sends
            # The system's resolver tells "no such name" from "no answer", which others do not.
            resolver=ThreadedResolver(),
        )
        protocol: type[ResponseHandler] = AnswerProtocol
        self._factory = partial(protocol, asyncio.get_running_loop())
        self._gate = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the overridden signature
    ) -> ResponseHandler:
        async with _within(timeout.total), self._gate, _within(timeout.sock_connect):
            protocol = await super()._create_connection(req, traces, timeout)
        if protocol.transport is None:
            raise aiohttp.ServerDisconnectedError
        if protocol.should_close:  # a new one would do the same
            protocol.abort()
            raise HttpProcessingError(message="it spoke before it was asked")
        # Or uvloop would keep every request back until the end of the turn.
        protocol.transport.set_write_buffer_limits(0)
        _probe_when_idle(protocol.transport.get_extra_info("socket"))
        return protocol


@asynccontextmanager
async def _within(seconds: float | None) -> AsyncIterator[None]:
    """Raise ``TimeoutError`` if the body takes longer than *seconds*.

    A timer that fires late, after this process was stopped, leaves a moment to what was ready meanwhile; if that
    is not enough, it is this machine's fault.

    Raises:
        TransportError: ``local``, as this process did not run.
    """
    loop = asyncio.get_running_loop()
    due, stopped = loop.time() + (seconds if seconds is not None else 0.0), 0.0
    timer: asyncio.TimerHandle | None = None

    def expire() -> None:
        nonlocal timer, due, stopped
        late = loop.time() - due
        if late >= STOPPED_SECONDS and not stopped:
            stopped, due = late, loop.time() + GRACE_SECONDS
            timer = loop.call_at(due, expire)
        else:
            scope.reschedule(loop.time())

    if seconds is not None:
        timer = loop.call_at(due, expire)
    try:
        async with asyncio.timeout(None) as scope:
            yield
    except TimeoutError:
        if scope.expired() and stopped:
            raise not_running(stopped, sent=False) from None
        raise
    finally:
        if timer is not None:
            timer.cancel()


def _probe_when_idle(sock: socket.socket | None) -> None:
    if sock is None:
        return
    # Systems without these options have their own idea of when to probe.
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
