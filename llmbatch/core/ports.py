"""What can be plugged into a run: providers, transports, sources, sinks and observers, as protocols."""

from __future__ import annotations

from typing import Protocol

from llmbatch.core.calls import Outcome, Reply, Request
from llmbatch.core.rows import Malformed, Result, Row

__all__ = ["Provider", "Sink", "Source", "Transport"]


class Transport(Protocol):
    """What carries a request: the HTTP client, or the simulated provider under virtual time."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        """Send once and read the whole answer within *timeout* seconds.

        Raises:
            TransportError: no whole HTTP answer came.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open; idempotent."""
        ...


class Provider(Protocol):
    """What the runner sends rows with: a provider over HTTP, or any async function."""

    def prepare(self, row: Row) -> Request:
        """What *row* becomes on the wire.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        ...

    def ping(self, like: Request) -> Request | None:
        """The smallest request that the route of *like* takes, or None where there is no such thing."""
        ...

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once (*row* is None for a canary) and judge what comes. Raises nothing but cancellation."""
        ...

    async def aclose(self) -> None:
        """Close connections; idempotent."""
        ...


class Source(Protocol):
    """Rows, pulled one at a time without awaiting; see :mod:`llmbatch.inputs.source`."""

    @property
    def exhausted(self) -> bool:
        """Nothing will come any more."""
        ...

    @property
    def rows_read(self) -> int:
        """Rows handed out or skipped so far."""
        ...

    @property
    def fraction(self) -> float | None:
        """How much of the input's bytes was consumed, 0 to 1; None for a stream."""
        ...

    @property
    def can_skip(self) -> bool:
        """Whether rows may be left for a later pass."""
        ...

    @property
    def can_reread(self) -> bool:
        """Whether a row may be read again."""
        ...

    @property
    def skipped(self) -> int:
        """Rows left for a later pass."""
        ...

    def skip(self, row: Row) -> None:
        """Leave the row for a later pass."""
        ...

    def rewind(self) -> bool:
        """Start another pass from the first row that was left; whether there is one."""
        ...

    def keep(self, row: Row) -> bool:
        """See to it that the row can be read again, so that its fields may be dropped; False: it cannot."""
        ...

    def reread(self, row: Row) -> Row:
        """The whole row again, after :meth:`keep` said True."""
        ...

    def finished(self, number: int) -> None:
        """The row has its line."""
        ...

    def take(self) -> Row | Malformed | None:
        """The next row; None: nothing right now, or exhausted."""
        ...

    async def wait(self) -> None:
        """Return when :meth:`take` may give something, or the source is exhausted."""
        ...


class Sink(Protocol):
    """Results, handed over without awaiting."""

    @property
    def congested(self) -> bool:
        """Whether new calls should wait until somebody has taken results."""
        ...

    def put(self, result: Result) -> None:
        """Take one result."""
        ...

    async def drained(self) -> None:
        """Return when the sink is no longer congested."""
        ...
