"""Where rows come from and where results go, as the runner sees it."""

from __future__ import annotations

from typing import Protocol

from llmbatch.records import Malformed, Result, Row

__all__ = ["Sink", "Source"]


class Source(Protocol):
    """Rows, pulled one at a time without awaiting; see :mod:`llmbatch.files.reader`."""

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
