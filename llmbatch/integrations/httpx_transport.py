"""Put circuits around the transports of httpx and httpx2, which are alike: what their classes share.

Imports neither. :mod:`llmbatch.integrations.httpx` and :mod:`llmbatch.integrations.httpx2` complete the classes.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar
from urllib.request import getproxies, proxy_bypass

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.core.raw_json import JSON
from llmbatch.integrations.answer_body import MAX_KEPT
from llmbatch.integrations.circuits import ModelCircuits
from llmbatch.integrations.endpoints import Endpoint, endpoint_of
from llmbatch.integrations.guarded_request import GuardedRequest
from llmbatch.integrations.refusals import refusal_type

__all__ = ["AsyncGuardedStream", "AsyncTransportCore", "GuardedStream", "TransportCore", "TransportParts"]


class TransportParts:
    """The circuits of a transport, and the transports below it. Safe between threads and event loops."""

    # The request, response and transport types differ between the two packages, so that here they are Any.
    _httpx: ClassVar[Any]
    """The package."""
    _refusal: ClassVar[type[CircuitOpenError]]
    _error_inside: ClassVar[Any]
    """The exception that is judged for an error inside an answer."""
    _default_transport: ClassVar[Any]

    def __init__(self, transport: Any, circuits: BreakerRegistry[Endpoint] | None, options: dict[str, Any]) -> None:
        if circuits is not None and options:
            raise TypeError(f"give either circuits or {', '.join(options)}, not both")
        self.circuits = ModelCircuits(**options) if circuits is None else circuits
        self._transport = transport
        self._proxies = getproxies() if transport is None else {}
        self._by_proxy: dict[str, Any] = {}

    def _begin(self, request: Any) -> GuardedRequest:
        """Admit *request*.

        Raises:
            CircuitOpenError: it was refused; also the package's ``ConnectError``.
        """
        url = request.url
        try:
            body = request.content
        except Exception:  # noqa: BLE001 - RequestNotRead: a stream, which is left alone
            body = None
        breaker = self.circuits[endpoint_of(url.scheme, url.host, url.port, url.path, body)]
        try:
            permit = breaker.acquire()
        except CircuitOpenError as error:
            kind = refusal_type(self._refusal, request.headers.get("user-agent", ""))
            raise kind(*error.args, request=request) from None
        return GuardedRequest(breaker, permit, lambda message, body: self._error_inside(message, body, request))

    def _below(self, request: Any) -> Any:
        """The transport for *request*: the given one, or one for the proxy that the environment names, made once."""
        if self._transport is not None:
            return self._transport
        url = request.url
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all") or ""
        if proxy and proxy_bypass(url.host):
            proxy = ""
        found = self._by_proxy.get(proxy)
        if found is None:
            # As many connections as the SDKs allow, and kept alive as anthropic's are.
            limits = self._httpx.Limits(max_connections=1000, max_keepalive_connections=100)
            made = self._default_transport(
                limits=limits, proxy=_with_scheme(proxy) if proxy else None, socket_options=_KEEP_ALIVE
            )
            found = self._by_proxy.setdefault(proxy, made)
        return found

    def _all_below(self) -> list[Any]:
        """The transports to close."""
        return [*self._by_proxy.values()] if self._transport is None else [self._transport]

    def _status_error(self, request: Any, response: Any, body: bytes) -> Exception:
        """The package's exception for an error status, with what was read of the body."""
        httpx = self._httpx
        message = f"status {response.status_code}"
        try:
            read = httpx.Response(response.status_code, headers=response.headers, content=body, request=request)
        except Exception:  # noqa: BLE001 - a compressed body that was not read to its end
            read = httpx.Response(response.status_code, request=request)
        error: Exception = httpx.HTTPStatusError(message, request=request, response=read)
        return error

    def _head_received(self, response: Any, guard: GuardedRequest) -> bool:
        """Note the head of a good answer; return whether its body is still to be received."""
        guard.answered(response.headers.get("content-type", ""), response.headers.get("content-encoding", ""))
        if response.status_code == 101:  # another protocol, such as WebSocket, which is not looked into
            guard.ended()
        elif response.is_closed:  # made of a body that is in memory
            guard.received(response.content)
            guard.ended()
        return not response.is_closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.circuits!r}>"


class TransportCore(TransportParts):
    """Sends requests through the circuits of a sync transport."""

    _stream_type: ClassVar[Any]

    def handle_request(self, request: Any) -> Any:
        """Send *request* if its circuit admits it, and account for the answer.

        Raises:
            CircuitOpenError: it was refused; also the package's ``ConnectError``.
        """
        guard = self._begin(request)
        try:
            response = self._below(request).handle_request(request)
            if response.status_code < 400:
                if self._head_received(response, guard):
                    response.stream = self._stream_type(response.stream, guard)
                return response
            stream, chunks = iter(response.stream), list[bytes]()
            try:
                for chunk in stream:
                    chunks.append(chunk)
                    if sum(map(len, chunks)) > MAX_KEPT:
                        break
            except BaseException:
                response.close()
                raise
        except BaseException as error:
            guard.failed(error)
            raise
        guard.failed(self._status_error(request, response, b"".join(chunks)))
        if not response.is_closed:
            response.stream = self._stream_type(response.stream, guard, chunks, stream)
        return response

    def close(self) -> None:
        """Close the transports below."""
        for transport in self._all_below():
            transport.close()


class AsyncTransportCore(TransportParts):
    """Sends requests through the circuits of an async transport."""

    _stream_type: ClassVar[Any]

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request* if its circuit admits it, and account for the answer.

        Raises:
            CircuitOpenError: it was refused; also the package's ``ConnectError``.
        """
        guard = self._begin(request)
        try:
            response = await self._below(request).handle_async_request(request)
            if response.status_code < 400:
                if self._head_received(response, guard):
                    response.stream = self._stream_type(response.stream, guard)
                return response
            stream, chunks = aiter(response.stream), list[bytes]()
            try:
                async for chunk in stream:
                    chunks.append(chunk)
                    if sum(map(len, chunks)) > MAX_KEPT:
                        break
            except BaseException:
                await response.aclose()
                raise
        except BaseException as error:
            guard.failed(error)
            raise
        guard.failed(self._status_error(request, response, b"".join(chunks)))
        if not response.is_closed:
            response.stream = self._stream_type(response.stream, guard, chunks, stream)
        return response

    async def aclose(self) -> None:
        """Close the transports below."""
        for transport in self._all_below():
            await transport.aclose()


class GuardedStream:
    """The body of an answer, accounted for while it is read. *chunks*: those that were read before, of *rest*."""

    def __init__(self, stream: Any, guard: GuardedRequest, chunks: list[bytes] | None = None, rest: Any = None) -> None:
        self._stream = stream
        self._guard = guard
        self._chunks = chunks or []
        self._rest = rest

    def __iter__(self) -> Iterator[bytes]:
        guard = self._guard
        yield from self._chunks
        guard.asks()
        try:
            for chunk in self._stream if self._rest is None else self._rest:
                guard.received(chunk)
                yield chunk
                guard.asks()
        except BaseException as error:
            guard.failed(error)
            raise
        guard.ended()

    def close(self) -> None:
        """Close the body; leaving it before its end counts as an answer if some of it came."""
        try:
            self._stream.close()
        finally:
            self._guard.left()


class AsyncGuardedStream:
    """As :class:`GuardedStream`, for event loops."""

    def __init__(self, stream: Any, guard: GuardedRequest, chunks: list[bytes] | None = None, rest: Any = None) -> None:
        self._stream = stream
        self._guard = guard
        self._chunks = chunks or []
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        guard = self._guard
        for chunk in self._chunks:
            yield chunk
        stream = aiter(self._stream) if self._rest is None else self._rest
        guard.asks()
        try:
            async for chunk in stream:
                guard.received(chunk)
                yield chunk
                guard.asks()
        except BaseException as error:
            guard.failed(error)
            raise
        finally:
            # Not left to the garbage collector: it would close it in another task.
            if hasattr(stream, "aclose"):
                await stream.aclose()
        guard.ended()

    async def aclose(self) -> None:
        """Close the body; leaving it before its end counts as an answer if some of it came."""
        try:
            await self._stream.aclose()
        finally:
            self._guard.left()


def error_inside(base: Any) -> Any:
    """A subclass of *base*, an exception of the package, with the ``body`` of an error inside a good answer."""

    class ErrorInAnswer(base):  # type: ignore[misc]  # which class it is differs between the packages
        """An answer with a good status that has an error inside. Never raised: it is only judged."""

        def __init__(self, message: str, body: JSON, request: object) -> None:
            super().__init__(message, request=request)
            self.body = body

    return ErrorInAnswer


_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}.items()
        if hasattr(socket, name)
    ),
]
"""Options of sockets that find a dead connection while an answer is awaited for minutes."""


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"
