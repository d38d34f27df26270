"""Serve the simulated provider over HTTP on loopback, compatible with the official clients. No TLS.

Only loopback addresses are allowed, because any client can read the statistics and reset the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import time

from aiohttp import web

from llmbatch.core.errors import UsageError
from llmbatch.sim.batches.service import BatchService
from llmbatch.sim.protocol import ErrorResponse, dialect_of, error_body
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.response_plan import ResponsePlan, Stats
from llmbatch.sim.scenario import Scenario

__all__ = ["SimServer", "start"]

_MAX_BODY_BYTES = 64 * 1024 * 1024


class SimServer:
    """A running server. Close it with :meth:`aclose`, or use it as an async context manager.

    It belongs to the event loop that started it. A cancellation while it closes leaves it closed.
    """

    def __init__(self, provider: SimulatedProvider, host: str) -> None:
        """Prepare a server; :func:`start` makes one that runs."""
        self.provider = provider
        self._host = host
        self._port = 0
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._requests: set[asyncio.Task[object]] = set()
        self._runner = self._new_runner()

    def __repr__(self) -> str:
        return f"<SimServer {self.url} {self.provider!r}>"

    @property
    def url(self) -> str:
        """The base URL for OpenAI's client, with ``/v1``."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The base URL for Anthropic's client, without a path."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def stats(self) -> Stats:
        """Statistics of the requests so far; also at ``GET /sim/stats``."""
        return self.provider.stats

    async def __aenter__(self) -> SimServer:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop at once: requests in flight, also hanging ones, lose their connection. Idempotent."""
        for request in self._requests:
            request.cancel()
        await self._runner.cleanup()

    async def restart(self) -> None:
        """Drop all connections and serve again on the same port: batches, files and statistics stay.

        Raises:
            UsageError: the port was taken meanwhile.
        """
        await self.aclose()
        self._runner = self._new_runner()
        await self.listen(self._port)

    async def listen(self, port: int, listener: socket.socket | None = None) -> None:
        """Open the socket, or take up *listener*, which listens already.

        Raises:
            UsageError: the port is in use or may not be opened.
        """
        await self._runner.setup()
        try:
            if listener is not None:
                await web.SockSite(self._runner, listener).start()
            else:
                await web.TCPSite(self._runner, self._host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"port {port} on {self._host} is in use", hint="choose another port, or 0 for any that is free"
                ) from error
            raise UsageError(f"cannot listen on {self._host} port {port}: {error.strerror or error}") from error
        self._port = int(self._runner.addresses[0][1])

    def _new_runner(self) -> web.AppRunner:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A client that gives up must not go on counting as in flight. Graceful waiting is pointless: see aclose.
        return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._requests.add(task)
        try:
            return await self._answer(request)
        finally:
            if task is not None:
                self._requests.discard(task)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if BatchService.serves(request.path):
            return await self._answer_batch_call(request)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            refusal = ErrorResponse(
                413, f"The request is larger than {_MAX_BODY_BYTES} bytes.", code="request_too_large"
            )
            kind, page = error_body(dialect_of(request.path), refusal, "req_none")
            return web.Response(status=413, headers={"content-type": kind}, body=page)
        headers = {name.lower(): value for name, value in request.headers.items()}
        plan = self.provider.answer(request.method, request.path, headers, body, self._elapsed())
        try:
            return await self._carry_out(plan, request)
        finally:
            self.provider.finish(plan)

    def _elapsed(self) -> float:
        return self._loop.time() - self._started

    async def _answer_batch_call(self, request: web.Request) -> web.StreamResponse:
        """Answer a call of the batch APIs; its body, and that of the answer, pass in pieces."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        batches = self.provider.batches
        body = batches.body(request.path, headers)
        async for piece in request.content.iter_any():
            body.feed(piece)
        origin = f"{request.scheme}://{request.host}"
        method, path, query = request.method, request.path, request.query_string
        reply = batches.answer(method, path, query, headers, body, self._elapsed(), origin=origin)
        if reply.kind == "close":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere
        response = web.StreamResponse(status=reply.status, headers={**reply.headers})
        response.content_length = reply.length
        # A client may leave in the middle of a download.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for piece in reply.pieces():
                await response.write(piece)
            if reply.kind == "answer":
                await response.write_eof()
        if reply.kind == "cut" and request.transport is not None:
            request.transport.close()
        return response

    async def _carry_out(self, plan: ResponsePlan, request: web.Request) -> web.StreamResponse:
        if plan.kind == "hang":
            await self._loop.create_future()  # until the client or the server closes
        if plan.delay:
            await asyncio.sleep(plan.delay)
        if plan.kind == "close":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere
        if plan.kind == "cut":
            return await self._cut(plan, request)
        if not plan.chunks:
            return web.Response(status=plan.status, headers=plan.headers, body=plan.body)
        response = web.StreamResponse(status=plan.status, headers=plan.headers)
        # A client may leave in the middle of a stream.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for gap, chunk in plan.chunks:
                if gap:
                    await asyncio.sleep(gap)
                await response.write(chunk)
            await response.write_eof()
        return response

    async def _cut(self, plan: ResponsePlan, request: web.Request) -> web.StreamResponse:
        """Send half of the answer, then close the connection."""
        whole = b"".join(chunk for _, chunk in plan.chunks) or plan.body
        headers = dict(plan.headers) if plan.chunks else {**plan.headers, "content-length": str(len(whole))}
        response = web.StreamResponse(status=plan.status, headers=headers)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.close()
        return response


async def start(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    listener: socket.socket | None = None,
    scenario: str | Scenario = "steady",
    seed: int = 0,
    latency: float | None = None,
    speed: float = 1.0,
    require_key: str | None = None,
    capacity: int | None = None,
    rate: float = 100.0,
    keep_ledger: bool = False,
) -> SimServer:
    """Start a server on a loopback *host*; port 0 takes any free one. The rest is :class:`SimulatedProvider`'s.

    *listener*: a socket that already listens on *host*, instead of *port*.

    Raises:
        UsageError: a value is out of range, the host is not loopback, or the port is in use.
    """
    if not _is_loopback(host):
        raise UsageError(f"host is {host!r}, must be a loopback address", hint="use 127.0.0.1 or ::1")
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port!r}, must be 0 to 65535")
    provider = SimulatedProvider(
        scenario,
        seed=seed,
        latency=latency,
        speed=speed,
        require_key=require_key,
        capacity=capacity,
        rate=rate,
        epoch=time.time(),
        keep_ledger=keep_ledger,
    )
    server = SimServer(provider, host)
    await server.listen(port, listener)
    return server


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
