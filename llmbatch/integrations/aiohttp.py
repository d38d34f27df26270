"""A client middleware for aiohttp (3.12 or newer) that puts one circuit per origin and model around each request.

::

    session = aiohttp.ClientSession(middlewares=(CircuitMiddleware(),))
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Unpack

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.core.raw_json import JSON
from llmbatch.integrations.answer_body import MAX_KEPT
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.endpoints import endpoint_of
from llmbatch.integrations.guarded_request import GuardedRequest

try:
    import aiohttp
    from aiohttp.client_middlewares import ClientHandlerType
except ImportError as error:
    raise ImportError("llmbatch.integrations.aiohttp needs aiohttp: pip install 'aiohttp>=3.12'") from error

if TYPE_CHECKING:
    from llmbatch.integrations.circuits import CircuitOptions

__all__ = ["CircuitConnectionError", "CircuitMiddleware", "Endpoint", "ModelCircuits"]


class CircuitConnectionError(CircuitOpenError, aiohttp.ClientConnectionError):
    """A request was refused and not sent. Has ``retry_after``, ``name`` and ``reason``; can be pickled."""


class CircuitMiddleware:
    """Sends requests through circuits. May be shared between sessions, event loops and threads.

    Redirected requests pass it again. A body that was not read to its end counts when the response is freed.

    Args:
        circuits: circuits shared with others. Default: a :class:`ModelCircuits` of its own, of *options*.
        options: as of :class:`ModelCircuits`.

    Raises:
        ValueError: an option is out of range.
        TypeError: unknown option, or both *circuits* and *options*.
    """

    def __init__(self, circuits: BreakerRegistry[Endpoint] | None = None, **options: Unpack[CircuitOptions]) -> None:
        if circuits is not None and options:
            raise TypeError(f"give either circuits or {', '.join(options)}, not both")
        self.circuits = ModelCircuits(**options) if circuits is None else circuits

    async def __call__(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        """Send *request* if its circuit admits it, and account for the answer.

        Raises:
            CircuitConnectionError: it was refused.
        """
        url = request.url
        breaker = self.circuits[endpoint_of(url.scheme, url.host or "", url.port, url.path, _body_of(request))]
        try:
            permit = breaker.acquire()
        except CircuitOpenError as error:
            raise CircuitConnectionError(*error.args) from None
        guard = GuardedRequest(breaker, permit, lambda message, body: BadAnswer(request, None, 0, message, body))
        try:
            response = await handler(request)
            if response.status >= 400:
                length = response.content_length
                body = await response.read() if length is None or length <= MAX_KEPT else b""
                guard.failed(BadAnswer(request, response, response.status, response.reason or "", body))
                return response
        except BaseException as error:
            guard.failed(error)
            raise
        if response.status == 101:
            guard.ended()
        else:
            guard.answered(response.headers.get("Content-Type", ""))  # aiohttp gives the body decompressed
            response.content = _GuardedContent(response.content, guard)  # type: ignore[assignment]  # it acts as one
        return response

    def __repr__(self) -> str:
        return f"<CircuitMiddleware {self.circuits!r}>"


class BadAnswer(aiohttp.ClientResponseError):
    """An answer with an error. Never raised: it is only judged."""

    def __init__(
        self,
        request: aiohttp.ClientRequest,
        response: aiohttp.ClientResponse | None,
        status: int,
        message: str,
        body: JSON | bytes,
    ) -> None:
        headers = None if response is None else response.headers
        super().__init__(request.request_info, (), status=status, message=message, headers=headers)
        self.body = body


class _GuardedContent:
    """The body of an answer, accounted for while it is read; everything else is the reader's own."""

    def __init__(self, reader: aiohttp.StreamReader, guard: GuardedRequest) -> None:
        self._reader = reader
        self._guard = guard

    async def _read(self, read: Any, *args: Any) -> Any:
        """Call *read*, a method of the reader, and account for what it returns."""
        self._guard.asks()
        try:
            data = await read(*args)
        except BaseException as error:
            self._guard.failed(error)
            raise
        self._guard.received(data[0] if isinstance(data, tuple) else data)
        if self._reader.at_eof():
            self._guard.ended()
        return data

    async def read(self, n: int = -1) -> bytes:
        """As of the reader."""
        data: bytes = await self._read(self._reader.read, n)
        return data

    async def readany(self) -> bytes:
        """As of the reader."""
        data: bytes = await self._read(self._reader.readany)
        return data

    async def readchunk(self) -> tuple[bytes, bool]:
        """As of the reader."""
        data: tuple[bytes, bool] = await self._read(self._reader.readchunk)
        return data

    async def readline(self, **options: Any) -> bytes:
        """As of the reader."""
        data: bytes = await self._read(lambda: self._reader.readline(**options))
        return data

    async def readuntil(self, separator: bytes = b"\n", **options: Any) -> bytes:
        """As of the reader."""
        data: bytes = await self._read(lambda: self._reader.readuntil(separator, **options))
        return data

    async def readexactly(self, n: int) -> bytes:
        """As of the reader."""
        data: bytes = await self._read(self._reader.readexactly, n)
        return data

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """As of the reader."""
        self._reader.set_read_chunk_size(n)
        while data := await self.read(n):
            yield data

    async def iter_any(self) -> AsyncIterator[bytes]:
        """As of the reader."""
        while data := await self.readany():
            yield data

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """As of the reader."""
        while (data := await self.readchunk()) != (b"", False):
            yield data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.readline():
            yield data

    def set_exception(self, exc: BaseException, *args: Any) -> None:
        """As of the reader. The response calls it when it is released or closed."""
        self._leave()
        self._reader.set_exception(exc, *args)

    def _leave(self) -> None:
        if self._reader.is_eof() and self._reader.exception() is None:
            self._guard.ended()  # the answer has come, although it was not read
        else:
            self._guard.left()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def __del__(self) -> None:
        self._leave()


def _body_of(request: aiohttp.ClientRequest) -> bytes | str | None:
    body = request.body
    if isinstance(body, bytes):
        return body
    return body.decode() if isinstance(body, aiohttp.BytesPayload) else None
