"""An adapter for requests that puts one circuit per origin and model around each request.

::

    session.mount("https://", CircuitAdapter())
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Unpack
from urllib.parse import urlsplit

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.core.raw_json import JSON
from llmbatch.integrations.answer_body import MAX_KEPT
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.endpoints import endpoint_of
from llmbatch.integrations.guarded_request import GuardedRequest

try:
    import requests
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise ImportError("llmbatch.integrations.requests needs requests: pip install requests") from error

if TYPE_CHECKING:
    from llmbatch.integrations.circuits import CircuitOptions

__all__ = ["CircuitAdapter", "CircuitConnectionError", "Endpoint", "ModelCircuits"]


class CircuitConnectionError(CircuitOpenError, requests.ConnectionError):
    """A request was refused and not sent. Has ``retry_after``, ``name`` and ``reason``; can be pickled."""

    def __init__(
        self, retry_after: float, name: str = "", reason: str = "", *, request: requests.PreparedRequest | None = None
    ) -> None:
        requests.ConnectionError.__init__(self, request=request)
        self.args = (retry_after, name, reason)

    def __reduce__(self) -> tuple[type[CircuitConnectionError], tuple[object, ...]]:
        return CircuitConnectionError, self.args  # without the request, which has the key


class CircuitAdapter(HTTPAdapter):
    """Sends requests through circuits. As thread-safe as requests' own adapter; its circuits are.

    Args:
        circuits: circuits shared with others. Default: a :class:`ModelCircuits` of its own, of *options*.
        adapter: arguments of ``HTTPAdapter``, such as ``{"pool_maxsize": 40}``.
        options: as of :class:`ModelCircuits`.

    Raises:
        ValueError: an option is out of range.
        TypeError: unknown option, or both *circuits* and *options*.
    """

    def __init__(
        self,
        circuits: BreakerRegistry[Endpoint] | None = None,
        *,
        adapter: dict[str, Any] | None = None,
        **options: Unpack[CircuitOptions],
    ) -> None:
        if circuits is not None and options:
            raise TypeError(f"give either circuits or {', '.join(options)}, not both")
        self.circuits = ModelCircuits(**options) if circuits is None else circuits
        super().__init__(**(adapter or {}))

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled with a session, which would drop the circuits.

        Raises:
            TypeError: always.
        """
        raise TypeError("a CircuitAdapter cannot be copied or pickled: mount one in each process")

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send *request* if its circuit admits it, and account for the answer.

        Raises:
            CircuitConnectionError: it was refused.
        """
        url = urlsplit(request.url or "")
        body = request.body if isinstance(request.body, bytes | str) else None
        breaker = self.circuits[endpoint_of(url.scheme, url.hostname or "", url.port, url.path, body)]
        try:
            permit = breaker.acquire()
        except CircuitOpenError as error:
            raise CircuitConnectionError(*error.args, request=request) from None
        guard = GuardedRequest(breaker, permit, lambda message, body: BadAnswer(message, body, request))
        try:
            response = super().send(request, *args, **kwargs)
            if response.status_code >= 400:
                length = response.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) <= MAX_KEPT:
                    response.content  # noqa: B018 - reads the body and keeps it
                guard.failed(requests.HTTPError(f"status {response.status_code}", request=request, response=response))
                return response
        except BaseException as error:
            guard.failed(error)
            raise
        guard.answered(response.headers.get("Content-Type", ""))
        response.raw = _GuardedRaw(response.raw, guard)
        return response


class BadAnswer(requests.RequestException):
    """An answer with a good status that has an error inside. Never raised: it is only judged."""

    def __init__(self, message: str, body: JSON, request: requests.PreparedRequest) -> None:
        super().__init__(message, request=request)
        self.body = body


class _GuardedRaw:
    """urllib3's response, accounted for while it is read; everything else is its own."""

    def __init__(self, raw: Any, guard: GuardedRequest) -> None:
        self._raw = raw
        self._guard = guard

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """As of urllib3's response."""
        guard = self._guard
        guard.asks()
        try:
            for chunk in self._raw.stream(*args, **kwargs):
                guard.received(chunk)
                yield chunk
                guard.asks()
        except BaseException as error:
            guard.failed(error)
            raise
        guard.ended()

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        """As of urllib3's response."""
        self._guard.asks()
        try:
            data: bytes = self._raw.read(*args, **kwargs)
        except BaseException as error:
            self._guard.failed(error)
            raise
        self._guard.received(data)
        if self._raw.closed or not data:
            self._guard.ended()
        return data

    def close(self) -> None:
        """Close the response; leaving it before its end counts as an answer if some of it came."""
        try:
            self._raw.close()
        finally:
            self._guard.left()

    def __iter__(self) -> Iterator[bytes]:
        yield from self.stream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
