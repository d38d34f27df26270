"""HTTP exchanges of any method with streamed bodies, for the control calls of batch APIs: values and their port.

Calls of rows are single POSTs with whole bodies: :class:`llmbatch.core.ports.Transport`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Exchanger", "HttpCall", "StreamedReply", "Upload"]


class Upload(Protocol):
    """A request body that is produced while it is sent. ``size_bytes`` is its exact length."""

    size_bytes: int

    def blocks(self) -> AsyncIterator[bytes]:
        """Produce the body from its start; each call begins again."""
        ...


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request of any method. An empty body is sent without a length."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Upload = field(default=b"", repr=False)


class StreamedReply(Protocol):
    """Status and headers (names in lower case) of an answer whose body is read as it arrives."""

    status: int
    headers: Mapping[str, str]

    def blocks(self) -> AsyncIterator[bytes]:
        """Yield the decompressed body; to be iterated over once.

        Raises:
            TransportError: the body is not complete, or nothing arrived in time.
        """
        ...


class Exchanger(Protocol):
    """Sends HTTP calls once each: the HTTP client, or a simulated provider in virtual time."""

    def exchange(self, call: HttpCall, *, timeout: float) -> AbstractAsyncContextManager[StreamedReply]:
        """Send *call* once; *timeout* is the longest silence in seconds, while sending and receiving.

        Entering raises:
            TransportError: no HTTP response.
        """
        ...

    def wall(self) -> float:
        """Unix time, by which batches are dated: this machine's, or that of a simulated provider."""
        ...

    async def aclose(self) -> None:
        """Close connections; idempotent."""
        ...
