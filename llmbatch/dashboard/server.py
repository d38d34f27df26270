"""Serves pages on loopback, to this machine's browsers only: GET and HEAD, known hosts, a strict policy, bounded.

What requests do cannot reach a run: they are answered in a thread and an event loop of their own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from llmbatch.core.errors import LlmbatchError
from llmbatch.dashboard.channel import Channel, Watcher
from llmbatch.report.html.assets import live_script, style_sheet

__all__ = ["PageServer"]

MOST_WATCHERS: Final = 32
MOST_CONNECTIONS: Final = 128
_SILENT_S: Final = 10.0
_GOODBYE_S: Final = 2.0
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "llmbatch",
}
_match_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII).fullmatch
_log = logging.getLogger("llmbatch.dashboard")
_log.addHandler(logging.NullHandler())  # else a bad request would be told on the standard error of a run

FindChannel = Callable[[str], Awaitable[Channel | None]]


class PageServer:
    """Serves the pages that *find* knows by their key: ``""`` is ``/``, ``x`` is ``/run/x/``; None is 404.

    It belongs to the event loop that started it.
    """

    def __init__(self, listener: socket.socket, find: FindChannel) -> None:
        self._listener = listener
        self._find = find
        self._watchers = 0
        self._streams: set[asyncio.Task[None]] = set()
        self._spoken: set[int] = set()
        app = web.Application(middlewares=[_guard], client_max_size=1024)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/{events:(?:events)?}", self._page)
        app.router.add_get("/run/{key:.+}/{events:(?:events)?}", self._page)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            app, access_log=None, logger=_log, handler_cancellation=True, shutdown_timeout=0.5, keepalive_timeout=15.0
        )
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer requests from now on."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._listener)
        self._sweeping = asyncio.create_task(self._sweep())

    async def aclose(self, channel: Channel | None = None) -> None:
        """Give the watchers of *channel* its last message, and end."""
        if channel is not None and channel.watchers:
            await channel.end()
            if self._streams:
                await asyncio.wait(self._streams, timeout=_GOODBYE_S)
        for task in (self._sweeping, *self._streams):
            if task is not None:
                task.cancel()
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MOST_CONNECTIONS:
            return _Busy()
        return server()

    async def _sweep(self) -> None:
        """Close connections over which nothing is asked: else a handful of them would keep everybody out."""
        silent: set[int] = set()
        while True:
            await asyncio.sleep(_SILENT_S)
            server = self._runner.server
            now = {id(one): one for one in (() if server is None else server.connections)}
            self._spoken &= now.keys()
            for identity in silent & now.keys() - self._spoken:
                now[identity].force_close()
                now[identity].close()
                transport = now[identity].transport
                if transport is not None:
                    transport.abort()
            silent = now.keys() - self._spoken

    async def _static(self, request: web.Request) -> web.Response:
        match request.match_info["name"]:
            case "page.css":
                return web.Response(text=style_sheet(), content_type="text/css")
            case "page.js":
                return web.Response(text=live_script(), content_type="text/javascript")
        raise web.HTTPNotFound

    async def _page(self, request: web.Request) -> web.StreamResponse:
        self._spoken.add(id(request.protocol))
        channel = await self._find(request.match_info.get("key", ""))
        if channel is None:
            raise web.HTTPNotFound
        if request.match_info["events"]:
            return await self._stream(request, channel)
        try:
            text = await channel.page()
        except LlmbatchError as error:
            return web.Response(status=404, text=f"{error.message}\n")
        return web.Response(text=text, content_type="text/html")

    async def _stream(self, request: web.Request, channel: Channel) -> web.StreamResponse:
        if self._watchers >= MOST_WATCHERS:
            raise web.HTTPServiceUnavailable(text="Too many pages are open.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        is_chunked = request.version >= HttpVersion11
        if is_chunked:
            response.enable_chunked_encoding()
        task = asyncio.current_task()
        self._watchers += 1
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._streams.add(task)
        try:
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            await response.write(b":\n\n")  # a comment, so that the head is on its way
            if isinstance(request.transport, asyncio.Transport):
                await channel.watch(Watcher(request.transport, is_chunked=is_chunked))
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._watchers -= 1
            self._streams.discard(task)
        return response


class _Busy(asyncio.Protocol):
    """Refuses a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        transport.close()


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what no page of ours asks: other methods, other hosts (DNS rebinding), and requests of other sites."""
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _is_ours(hosts[0]):
        raise web.HTTPMisdirectedRequest(text="This host is not served here.\n")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != hosts[0]:
        raise web.HTTPForbidden(text="Pages of other origins are not answered.\n")
    site, mode = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Sec-Fetch-Mode")
    if site not in ("none", "same-origin") and mode != "navigate":
        raise web.HTTPForbidden(text="Pages of other origins are not answered.\n")
    return await handler(request)


def _is_ours(host: str) -> bool:
    """Whether *host*, of a request, names this machine's loopback; the port may be that of a tunnel."""
    found = _match_host(host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
