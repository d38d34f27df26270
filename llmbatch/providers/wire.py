"""Where requests go, prepared once: the bytes before a body, and connections that open a few at a time.

A run speaks to few URLs with few sets of headers, so all that does not change from row to row is made once. What this
module does not do: send, read, judge, or close anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.resolver import ThreadedResolver
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["CONNECT_SECONDS", "KEEPALIVE_SECONDS", "Destination", "SteppedConnector"]

CONNECT_SECONDS = 15.0
"""The longest a new connection may take once it is its turn, name look-up and TLS handshake included."""

_OPENING_AT_ONCE = 100
"""New connections in the making; thousands at once stall the event loop and look like an attack."""

KEEPALIVE_SECONDS = 4.0
"""How long an unused connection is kept. Below the 5 s after which uvicorn, and so vLLM, closes its own: a POST that
meets the closing is lost, as it may not be sent again."""

_DNS_SECONDS = 30
"""How long a looked-up name holds: short enough to follow a provider that moves in an outage."""


class Destination:
    """One URL with one set of headers.

    ``place`` is HOST:PORT, for messages. ``head`` is the request up to the number of its ``Content-Length``.
    ``template`` tells the connector which connection to give, ``kept`` are those at hand.
    """

    __slots__ = ("head", "headers", "kept", "place", "template")

    def __init__(self, url: str, headers: Mapping[str, str], *, proxy: str | None) -> None:
        target = URL(url)
        via = URL(proxy) if proxy is not None else None
        self.headers = headers
        self.kept: deque[tuple[float, Connection]] = deque()
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
        self._gate = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the overridden signature
    ) -> ResponseHandler:
        async with asyncio.timeout(timeout.total), self._gate, asyncio.timeout(timeout.sock_connect):
            protocol = await super()._create_connection(req, traces, timeout)
        if protocol.transport is None:
            raise aiohttp.ServerDisconnectedError
        if protocol.should_close:  # a new one would do the same
            protocol.abort()
            raise HttpProcessingError(message="it spoke before it was asked")
        # Or uvloop would keep every request back until the end of the turn.
        protocol.transport.set_write_buffer_limits(0)
        return protocol
