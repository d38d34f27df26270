"""Where requests go: the head of a request, and connections, by name lookup, all addresses, TLS and proxy tunnel."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from llmbatch.core.errors import TransportError
from llmbatch.http.connect_errors import STOPPED_SECONDS, connect_fault, not_running, not_sent
from llmbatch.http.connection import Connection

__all__ = ["Address", "Dialer", "Target"]

CONNECT_SECONDS = 15.0
"""Maximum seconds for a new connection once it starts, including name lookup and TLS handshake."""

_OPENING_AT_ONCE = 100
"""Connections opened at the same time; thousands would stall the event loop and look like an attack."""

_NEXT_ADDRESS_SECONDS = 0.25
"""Seconds without an answer before the next address is tried as well (RFC 8305, 5)."""

_DNS_SECONDS = 30.0
"""Seconds that a looked-up name is cached: short enough to follow a provider that moves during an outage."""

_PROBES = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""TCP keep-alive: a connection whose other end vanished while a model thinks is found dead after two minutes.

``TCP_KEEPALIVE`` is macOS's name of ``TCP_KEEPIDLE``.
"""


_KEPT_CHARACTERS = "%/:?#[]@!$&'()*+,;=~|"
"""What a URL may have in it as it is."""


class Address(NamedTuple):
    """Address of a server: ``host`` is looked up, and the certificate must be for it."""

    host: str
    port: int
    is_tls: bool

    @property
    def place(self) -> str:
        """HOST:PORT, for messages and for CONNECT."""
        return f"{_bracketed(self.host)}:{self.port}"


class Target:
    """One URL with one set of headers.

    ``head`` is the request up to the value of its ``Content-Length``. ``proxy`` is connected to instead of ``address``;
    for an https URL, ``connect_head`` opens a tunnel through it.

    Raises:
        ValueError: the URL or a header cannot be sent.
    """

    __slots__ = ("address", "connect_head", "head", "headers", "place", "proxy")

    def __init__(self, url: str, headers: Mapping[str, str], *, proxy: str | None, method: str = "POST") -> None:
        parts, via = urlsplit(url), urlsplit(proxy or "")
        self.headers = headers
        self.address = _address(parts)
        self.proxy = _address(via) if proxy is not None else None
        self.place = self.address.place
        is_default = self.address.port == (443 if self.address.is_tls else 80)
        host = _bracketed(self.address.host) if is_default else self.place
        asked = quote(parts.path or "/", safe=_KEPT_CHARACTERS)
        asked += "?" + quote(parts.query, safe=_KEPT_CHARACTERS) if parts.query else ""
        to_proxy = {}
        if via.username is not None:
            words = f"{unquote(via.username)}:{unquote(via.password or '')}"
            to_proxy["Proxy-Authorization"] = "Basic " + b64encode(words.encode()).decode()
        if self.proxy is not None and not self.address.is_tls:
            # A proxy forwards plain requests itself and needs the whole URL; TLS goes through a tunnel.
            asked, headers = f"http://{host}{asked}", {**headers, **to_proxy}
        self.head = _head(f"{method} {asked} HTTP/1.1", {"Host": host, **headers}) + b"Content-Length: "
        self.connect_head = _head(f"CONNECT {self.place} HTTP/1.1", {"Host": self.place, **to_proxy}) + b"\r\n"


class Dialer:
    """Opens connections, created by *make* and ready for a request, at most 100 at a time; belongs to one event loop.

    A canceled :meth:`dial` leaves no socket open.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._gate = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._names: dict[tuple[str, int], tuple[float, asyncio.Task[list[AddrInfoType]]]] = {}

    async def dial(self, target: Target, deadline: float) -> Connection:
        """Open a connection to *target* before *deadline*.

        Raises:
            TransportError: it failed; nothing was sent.
        """
        loop, proxy = asyncio.get_running_loop(), target.proxy
        try:
            async with asyncio.timeout_at(deadline) as limit, self._gate:
                deadline = min(deadline, loop.time() + CONNECT_SECONDS)
                limit.reschedule(deadline)
                if proxy is None:
                    connection = await self._connect(target.address, target.place)
                else:
                    connection = await self._connect(proxy, f"the proxy {proxy.place}")
                    if target.address.is_tls:
                        connection = await self._tunnel(connection, target, f"the proxy {proxy.place}")
        except TimeoutError as error:
            late = loop.time() - deadline
            if late >= STOPPED_SECONDS:
                raise not_running(late, sent=False) from None
            raise TransportError("connect_timeout", f"no connection to {target.place} in time", sent=False) from error
        # Otherwise uvloop would delay every request until the end of the turn.
        connection.transport.set_write_buffer_limits(0)
        _probe_when_idle(connection.transport.get_extra_info("socket"))
        return connection

    def close(self) -> None:
        """Cancel the name lookups that are still running."""
        for _, names in self._names.values():
            names.cancel()

    async def _connect(self, address: Address, place: str) -> Connection:
        try:
            infos = await self._look_up(address.host, address.port)
            sock = await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
            tls, name = (self._tls, address.host) if address.is_tls else (None, None)
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(self._make, sock=sock, ssl=tls, server_hostname=name)
            except BaseException:
                sock.close()
                raise
        except (OSError, RuntimeError, UnicodeError) as error:
            raise connect_fault(error, place) from error
        return connection

    async def _tunnel(self, outer: Connection, target: Target, proxy: str) -> Connection:
        """Ask *proxy*, to which *outer* is connected, for a connection to *target*, and speak TLS within."""
        inner, loop = self._make(), asyncio.get_running_loop()
        try:
            answer = outer.begin(loop.create_future(), proxy)
            outer.transport.write(target.connect_head)
            if (status := (await answer).status) // 100 != 2:
                words = f"the proxy refused a connection to {target.place} (status {status})"
                raise TransportError("connect", words, sent=False)
            name = target.address.host
            transport = await loop.start_tls(outer.transport, inner, self._tls, server_hostname=name)
            if transport is None:
                raise not_sent(target.place)
        except BaseException as error:
            outer.abort()
            if isinstance(error, (OSError, RuntimeError)):
                raise connect_fault(error, target.place) from error
            raise
        inner.connection_made(transport)
        return inner

    async def _look_up(self, host: str, port: int) -> list[AddrInfoType]:
        """Look up the addresses of *host*, round-robin: each call begins with another one."""
        with suppress(socket.gaierror):
            return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
        loop = asyncio.get_running_loop()
        until, found = self._names.get((host, port), (0.0, None))
        if found is None or (found.done() and (loop.time() >= until or found.cancelled() or found.exception())):
            found = asyncio.create_task(_infos(host, port))
            self._names[host, port] = loop.time() + _DNS_SECONDS, found
        infos = await asyncio.shield(found)
        infos.append(infos.pop(0))
        return infos[:]

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


async def _infos(host: str, port: int) -> list[AddrInfoType]:
    flags = getattr(socket, "AI_ADDRCONFIG", 0)
    return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


def _probe_when_idle(sock: socket.socket) -> None:
    for name, value in _PROBES.items():
        # Systems without one of these options have their own idea of when to probe.
        with suppress(AttributeError, OSError):
            level = socket.SOL_SOCKET if name == "SO_KEEPALIVE" else socket.IPPROTO_TCP
            sock.setsockopt(level, getattr(socket, name), value)


def _head(first: str, fields: Mapping[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields.items())]
    if not all(map(str.isprintable, lines)):
        raise ValueError("a header or the URL has control characters in it")
    return ("\r\n".join(lines) + "\r\n").encode()


def _address(url: SplitResult) -> Address:
    host = url.hostname
    if not host or url.scheme not in ("http", "https"):
        raise ValueError("the URL is not an http(s) URL")
    # Certificates are for names without the dot that makes them absolute.
    host = host.rstrip(".") or host
    is_tls = url.scheme == "https"
    port = url.port if url.port is not None else 443 if is_tls else 80
    return Address(host if host.isascii() else host.encode("idna").decode(), port, is_tls)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
