"""A source without the rows that batches have answered, for the live rest of the run."""

from __future__ import annotations

from collections.abc import Callable

from llmbatch.core.ports import Source
from llmbatch.core.rows import Malformed, Row

__all__ = ["SkippingSource"]

_ROWS_A_TURN = 1000


class SkippingSource:
    """Implements :class:`llmbatch.core.ports.Source` over another one. ``is_done`` says which rows to leave out."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.is_done: Callable[[int], bool] = lambda number: False

    def __repr__(self) -> str:
        return f"<SkippingSource of {self._source!r}>"

    @property
    def name(self) -> str:
        """See the source."""
        return self._source.name

    @property
    def exhausted(self) -> bool:
        """See the source."""
        return self._source.exhausted

    @property
    def rows_read(self) -> int:
        """See the source."""
        return self._source.rows_read

    @property
    def fraction(self) -> float | None:
        """See the source."""
        return self._source.fraction

    @property
    def can_skip(self) -> bool:
        """See the source."""
        return self._source.can_skip

    @property
    def can_reread(self) -> bool:
        """See the source."""
        return self._source.can_reread

    @property
    def skipped(self) -> int:
        """See the source."""
        return self._source.skipped

    @property
    def torn_line(self) -> int | None:
        """See the source."""
        return self._source.torn_line

    def skip(self, row: Row) -> None:
        """See the source."""
        self._source.skip(row)

    def rewind(self) -> bool:
        """See the source."""
        return self._source.rewind()

    def keep(self, row: Row) -> bool:
        """See the source."""
        return self._source.keep(row)

    def reread(self, row: Row) -> Row:
        """See the source."""
        return self._source.reread(row)

    def finished(self, number: int) -> None:
        """See the source."""
        self._source.finished(number)

    def take(self) -> Row | Malformed | None:
        """The next row that is not done; None if there is none now.

        Raises:
            InputError: the input cannot be read, or has changed.
        """
        for _ in range(_ROWS_A_TURN):
            item = self._source.take()
            if item is None or not self.is_done(item.number):
                return item
        return None

    async def wait(self) -> None:
        """See the source."""
        await self._source.wait()

    async def aclose(self) -> None:
        """See the source."""
        await self._source.aclose()
