"""Opens connections: name lookup, all addresses, TLS, proxy tunnel; at most 100 at a time, each with a timeout."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from llmbatch.core.errors import TransportError
from llmbatch.core.system_errors import machine_fault
from llmbatch.http.connect_errors import connect_fault, not_sent
from llmbatch.http.connection import Connection
from llmbatch.http.deadlines import STOPPED_SECONDS, not_running
from llmbatch.http.target import Address, Target

__all__ = ["CONNECT_SECONDS", "Dialer"]

CONNECT_SECONDS = 15.0
"""Maximum seconds for a new connection once it starts, including name lookup and TLS handshake."""

_OPENING_AT_ONCE = 100
"""Connections opened at the same time; thousands would stall the event loop and look like an attack."""

_NEXT_ADDRESS_SECONDS = 0.25
"""Seconds without an answer before the next address is tried as well (RFC 8305, 5)."""

_DNS_SECONDS = 30.0
"""Seconds that a looked-up name is cached: short enough to follow a provider that moves during an outage."""

_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""TCP keep-alive: a connection whose other end vanished while a model thinks is found dead after two minutes.

``TCP_KEEPALIVE`` is macOS's name of ``TCP_KEEPIDLE``.
"""

_Info = tuple[int, int, int, str, Any]


class Dialer:
    """Opens connections, created by *make* and ready for a request; belongs to one event loop.

    A canceled :meth:`dial` leaves no socket open.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._gate = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._names: dict[tuple[str, int], tuple[float, asyncio.Future[list[_Info]]]] = {}
        self._context: ssl.SSLContext | None = None

    async def dial(self, target: Target, seconds: float) -> Connection:
        """Open a connection to *target* within *seconds*.

        Raises:
            TransportError: it failed; nothing was sent.
        """
        place = target.place
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        try:
            async with asyncio.timeout_at(due), self._gate:
                due = min(due, loop.time() + CONNECT_SECONDS)
                async with asyncio.timeout_at(due):
                    connection = await self._reach(target)
        except TimeoutError as error:
            late = loop.time() - due
            if late >= STOPPED_SECONDS:
                raise not_running(late, sent=False) from None
            raise TransportError("connect_timeout", f"no connection to {place} in time", sent=False) from error
        if connection.heard:  # the server sent bytes before any request: not HTTP, so do not retry on a new connection
            connection.abort()
            raise TransportError("garbage", f"{place} sent data before any request", sent=False)
        if not connection.is_open:
            raise not_sent(place)
        # Otherwise uvloop would delay every request until the end of the turn.
        connection.transport.set_write_buffer_limits(0)
        _probe_when_idle(connection.transport.get_extra_info("socket"))
        return connection

    def close(self) -> None:
        """Cancel the name lookups that are still running."""
        for _, names in self._names.values():
            names.cancel()

    async def _reach(self, target: Target) -> Connection:
        if target.proxy is None:
            return await self._connect(target.address, target.place)
        proxy = f"the proxy {target.proxy.place}"
        connection = await self._connect(target.proxy, proxy)
        if not target.address.is_tls:
            return connection
        try:
            waiter = connection.begin(proxy, tunnel=True)
            connection.send(target.connect_head)
            await waiter
            if (error := connection.error) is not None:
                is_lost = error.fault in ("reset", "truncated")
                raise not_sent(proxy) if is_lost else TransportError(error.fault, str(error), sent=False)
            if connection.status // 100 != 2:
                words = f"the proxy refused a connection to {target.place} (status {connection.status})"
                raise TransportError("connect", words, sent=False)
            if not connection.finish():
                raise not_sent(proxy)
            connection.heard = False
            name, loop = target.address.host, asyncio.get_running_loop()
            inner = await loop.start_tls(connection.transport, connection, self._tls(), server_hostname=name)
            if inner is None:
                raise not_sent(target.place)
            connection.connection_made(inner)
        except (OSError, RuntimeError) as broken:
            connection.abort()
            raise connect_fault(broken, target.place) from broken
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _connect(self, address: Address, place: str) -> Connection:
        try:
            infos = await self._look_up(address)
            sock = await _first_connected(infos)
            options: dict[str, Any] = {"server_hostname": address.host} if address.is_tls else {}
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    self._make, sock=sock, ssl=self._tls() if address.is_tls else None, **options
                )
            except BaseException:
                sock.close()
                raise
        except (OSError, RuntimeError, UnicodeError) as error:
            raise connect_fault(error, place) from error
        return connection

    async def _look_up(self, address: Address) -> list[_Info]:
        """Round-robin over the addresses of a host: each call begins with another one."""
        host, port = address.host, address.port
        with suppress(socket.gaierror):
            return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
        now = asyncio.get_running_loop().time()
        until, found = self._names.get((host, port), (0.0, None))
        if found is None or (found.done() and now >= until):
            found = asyncio.ensure_future(_infos(host, port))
            found.add_done_callback(lambda done: self._forget_failed(host, port, done))
            self._names[host, port] = now + _DNS_SECONDS, found
        infos = await asyncio.shield(found)
        infos.append(infos.pop(0))
        return infos[:]

    def _forget_failed(self, host: str, port: int, done: asyncio.Future[list[_Info]]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._names.pop((host, port), None)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


async def _infos(host: str, port: int) -> list[_Info]:
    flags = getattr(socket, "AI_ADDRCONFIG", 0)
    return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


async def _first_connected(infos: list[_Info]) -> socket.socket:
    """Connect to the first address that answers; families alternate, the next one at a failure or after 0.25 s."""
    if len(infos) == 1:
        return await _connected(infos[0])
    families = [[info for info in infos if (info[0] == infos[0][0]) is is_first] for is_first in (True, False)]
    left = [info for info in chain(*zip_longest(*families)) if info is not None]
    tasks: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while (left or tasks) and winner is None:
            if left:
                tasks.add(asyncio.create_task(_connected(left.pop(0))))
            timeout = _NEXT_ADDRESS_SECONDS if left else None
            done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is None:
                    winner = task
                else:
                    errors.append(error)
                    tasks.discard(task)
    finally:
        for task in tasks - {winner}:
            task.cancel()
            task.add_done_callback(_close_late)
    if winner is None:
        # That one address family has no network says nothing if the other one has.
        raise min(errors, key=lambda error: machine_fault(error) == "no_network")
    return winner.result()


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connected(info: _Info) -> socket.socket:
    family, kind, number, _, address = info
    sock = socket.socket(family, kind, number)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _probe_when_idle(sock: socket.socket) -> None:
    # Systems without these options have their own idea of when to probe.
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
