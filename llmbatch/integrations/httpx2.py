"""Transports for httpx2 that put one circuit per origin and model around each request.

::

    client = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(transport=AsyncCircuitTransport()))

For openai and anthropic, whose SDKs are on httpx2 since openai 3 and anthropic 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.httpx_transport import (
    AsyncGuardedStream,
    AsyncTransportCore,
    GuardedStream,
    TransportCore,
    error_inside,
)

try:
    import httpx2
except ImportError as error:
    raise ImportError("llmbatch.integrations.httpx2 needs httpx2: pip install httpx2") from error

if TYPE_CHECKING:
    from llmbatch.integrations.circuits import CircuitOptions

__all__ = ["AsyncCircuitTransport", "CircuitConnectError", "CircuitTransport", "Endpoint", "ModelCircuits"]


class CircuitConnectError(CircuitOpenError, httpx2.ConnectError):
    """A request was refused and not sent. Has ``retry_after``, ``name`` and ``reason``; can be pickled."""

    def __init__(
        self, retry_after: float, name: str = "", reason: str = "", *, request: httpx2.Request | None = None
    ) -> None:
        httpx2.ConnectError.__init__(self, "", request=request)
        self.args = (retry_after, name, reason)

    def __reduce__(self) -> tuple[type[CircuitConnectError], tuple[object, ...]]:
        return CircuitConnectError, self.args  # without the request, which has the key


class _Stream(GuardedStream, httpx2.SyncByteStream):
    pass


class _AsyncStream(AsyncGuardedStream, httpx2.AsyncByteStream):
    pass


class CircuitTransport(TransportCore, httpx2.BaseTransport):
    """Sends requests with *transport*, one circuit per origin and model around them. Thread-safe.

    Args:
        transport: what sends. Default: an ``HTTPTransport``, with the proxies that the environment names and up to
            1,000 connections.
        circuits: circuits shared with others. Default: a :class:`ModelCircuits` of its own, of *options*.
        options: as of :class:`ModelCircuits`.

    Raises:
        ValueError: an option is out of range.
        TypeError: unknown option, or both *circuits* and *options*.
    """

    _httpx: ClassVar[Any] = httpx2
    _refusal: ClassVar[type[CircuitOpenError]] = CircuitConnectError
    _error_inside: ClassVar[Any] = error_inside(httpx2.RemoteProtocolError)
    _default_transport: ClassVar[Any] = httpx2.HTTPTransport
    _stream_type: ClassVar[Any] = _Stream

    def __init__(
        self,
        transport: httpx2.BaseTransport | None = None,
        *,
        circuits: BreakerRegistry[Endpoint] | None = None,
        **options: Unpack[CircuitOptions],
    ) -> None:
        super().__init__(transport, circuits, {**options})


class AsyncCircuitTransport(AsyncTransportCore, httpx2.AsyncBaseTransport):
    """As :class:`CircuitTransport`, for event loops. Its circuits may be shared between loops and threads."""

    _httpx: ClassVar[Any] = httpx2
    _refusal: ClassVar[type[CircuitOpenError]] = CircuitConnectError
    _error_inside: ClassVar[Any] = error_inside(httpx2.RemoteProtocolError)
    _default_transport: ClassVar[Any] = httpx2.AsyncHTTPTransport
    _stream_type: ClassVar[Any] = _AsyncStream

    def __init__(
        self,
        transport: httpx2.AsyncBaseTransport | None = None,
        *,
        circuits: BreakerRegistry[Endpoint] | None = None,
        **options: Unpack[CircuitOptions],
    ) -> None:
        super().__init__(transport, circuits, {**options})
