"""Protocols of the pluggable parts of a run: providers, transports, sources, sinks and budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmbatch.core.calls import Outcome, Reply, Request, Route
from llmbatch.core.rows import Malformed, Result, Row

__all__ = ["Budget", "Provider", "Sink", "Source", "Transport", "first_request"]


class Transport(Protocol):
    """Sends HTTP requests: the HTTP client, or the simulated provider in virtual time."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        """Send *request* once and return the complete response; *timeout* is in seconds, for both.

        Raises:
            TransportError: no complete HTTP response.
        """
        ...

    async def aclose(self) -> None:
        """Close connections and files; idempotent."""
        ...


class Provider(Protocol):
    """Turns rows into requests and sends them: an HTTP provider, an async function, or a class of your own.

    Subclass it to inherit :meth:`lookup`, :meth:`flight_key`, :meth:`ping` and :meth:`aclose`. A provider sends once:
    it does not retry, sleep, or know of circuits; the run does. Used on one event loop only.
    """

    def routes(self, row: Row) -> Sequence[Route]:
        """Return the routes that can answer *row*, preferred first; at least one. Called once per row: keep it cheap.

        Raises:
            MalformedRowError: the row cannot be a request; it ends as ``failed`` with that code.
            MissingKeyError: there is no API key for the row's provider; it ends as ``failed`` with ``no_key``.
            UsageError: the row names no model, or one that cannot be reached: ends the run.
        """
        ...

    def request(self, row: Row, route: Route) -> Request:
        """Build the request for *row* on *route*, one of its :meth:`routes`.

        Called again if the row had to wait: it must return the same bytes each time.

        Raises:
            MalformedRowError: the row cannot be a request on this route.
        """
        ...

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """Return an answer that needs no call, such as a cached one; None (the default) if there is none.

        Called before the row takes a slot, so a row can be answered while its circuit is open. Such an answer has no
        effect on the route.
        """
        return None

    def flight_key(self, request: Request) -> bytes | None:
        """Return what equal requests have in common: one is sent at a time, and its good answer serves them all.

        None (the default): each request is sent.
        """
        return None

    def ping(self, like: Request) -> Request | None:
        """Return the smallest request for the route of *like*, as a health check; None (the default) for none."""
        return None

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send *request* once, within *timeout* seconds, and classify the response.

        *row* is None for a health check. If ``Outcome.follow_up`` is set, that request is sent next for the same row,
        as a separate call. Must not raise, except for a cancellation.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; idempotent."""
        return


def first_request(provider: Provider, row: Row) -> Request:
    """Build the request of *row* on its preferred route. Raises what ``Provider.routes`` and ``request`` raise."""
    return provider.request(row, provider.routes(row)[0])


class Budget(Protocol):
    """A rate limit in units per time: tokens, or anything else that requests consume.

    Time is an argument, in seconds of the event loop's clock. No method waits.
    """

    def wait(self, amount: int, now: float) -> float:
        """Seconds until *amount* may be reserved; 0 if it may be now."""
        ...

    def reserve(self, amount: int, now: float) -> None:
        """Reserve the estimate of a request that is sent now."""
        ...

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Replace a reservation by the amount that was *used*; 0 if nothing was."""
        ...


class Source(Protocol):
    """Iterates over input rows without awaiting; see :mod:`llmbatch.inputs.source`. Used on one event loop."""

    @property
    def name(self) -> str:
        """What error messages call the input: its path, or ``standard input``."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether there are no more rows."""
        ...

    @property
    def rows_read(self) -> int:
        """Rows returned or skipped so far."""
        ...

    @property
    def fraction(self) -> float | None:
        """Fraction of the input's bytes that was read, 0 to 1; None for a stream."""
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

    @property
    def torn_line(self) -> int | None:
        """Number of a last line without a newline, which may still be being written and is not a row yet; else None."""
        ...

    def skip(self, row: Row) -> None:
        """Leave the row for a later pass."""
        ...

    def rewind(self) -> bool:
        """Start another pass from the first skipped row; False if there is none."""
        ...

    def keep(self, row: Row) -> bool:
        """Keep the row readable, so that its fields may be dropped; False if that is not possible."""
        ...

    def reread(self, row: Row) -> Row:
        """Read the whole row again, after :meth:`keep` returned True."""
        ...

    def finished(self, number: int) -> None:
        """Note that the row has its output line."""
        ...

    def take(self) -> Row | Malformed | None:
        """Return the next row; None if there is none now, or none any more (see :attr:`exhausted`)."""
        ...

    async def wait(self) -> None:
        """Wait until :meth:`take` may return a row, or the source is exhausted."""
        ...

    async def aclose(self) -> None:
        """Close connections and files; idempotent."""
        ...


class Sink(Protocol):
    """Receives results, without awaiting. Used on one event loop."""

    @property
    def congested(self) -> bool:
        """Whether new calls should wait until results have been consumed."""
        ...

    def put(self, result: Result) -> None:
        """Take one result."""
        ...

    async def drained(self) -> None:
        """Wait until the sink is no longer congested."""
        ...
