"""Results in the order of the rows, in bounded memory.

Results that arrive before those of earlier rows wait. So that they stay few, rows are read only up to a number ahead of
the first one without a result that was consumed; what was read is sent, retried and probed as usual. A row that waits
out an outage thus stops the reading, and the run goes on as soon as it has its result. Where only rows that failed are
left of those that were read, a few more are read one by one: their answers tell a bad row from an outage. So do those
that probe an open circuit, which come from as far ahead as where results come in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence

from llmbatch.core.rows import Malformed, Result, Row
from llmbatch.inputs.iterable import IterableSource
from llmbatch.inputs.shape import RowShape
from llmbatch.outputs.sinks import QueueSink

__all__ = ["AHEAD", "LEAST_AHEAD", "OrderedSink", "OrderedSource"]

AHEAD = 5
"""Rows read ahead of the first result that is missing, as a multiple of the results that may wait to be consumed."""

LEAST_AHEAD = 100
"""The least of them: a run holds back more than 20 first rows to see whether any can be sent."""


class OrderedSink(QueueSink):
    """Passes results on by row number, from 1; congested from *bound* results on that are ready to be consumed."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self._early: dict[int, Result] = {}
        """Results whose turn has not come, by row number."""
        self._next = 1
        self._most_ahead = max(LEAST_AHEAD, AHEAD * bound)
        self._consumed = 0
        self._lent = 0
        """Rows that may be read beyond that, since a result was last consumed."""
        self._has_room = asyncio.Event()

    def put(self, result: Result) -> None:
        """Take one result, and pass on all whose turn has come."""
        self._early[result.number] = result
        while (ready := self._early.pop(self._next, None)) is not None:
            self._next += 1
            super().put(ready)

    async def results(self) -> AsyncIterator[Result]:
        """Iterate over the results in order until the sink is closed."""
        async for result in super().results():
            self._consumed += 1
            self._lent = 0
            self._has_room.set()
            yield result

    def last(self, deferred: Sequence[Result]) -> list[Result]:
        """What is left once the sink was closed, with the rows that are *deferred*, in order."""
        return sorted((*self._early.values(), *deferred), key=lambda result: result.number)

    def may_read(self, rows_read: int) -> bool:
        """Whether another row may be read after *rows_read* of them."""
        return rows_read - self._consumed < self._most_ahead + self._lent

    def lend(self) -> bool:
        """Let one more row be read, for its answer; False if :data:`LEAST_AHEAD` were lent already."""
        if self._lent >= LEAST_AHEAD:
            return False
        self._lent += 1
        self._has_room.set()
        return True

    def lend_to_probe(self, rows_read: int, rows: int) -> None:
        """Let *rows* more rows be read after *rows_read* of them, so that one of them can probe an open circuit."""
        self._lent = max(self._lent, rows_read + rows - self._consumed - self._most_ahead)
        self._has_room.set()

    def waits_for_a_row(self, rows_read: int) -> bool:
        """Whether nothing can be read or consumed before the next row in order has its result."""
        return not self.may_read(rows_read) and self._next == self._consumed + 1

    async def room(self) -> None:
        """Wait until a result was consumed."""
        self._has_room.clear()
        await self._has_room.wait()


class OrderedSource(IterableSource):
    """Reads rows only as far ahead as *sink* allows."""

    def __init__(
        self,
        rows: Iterable[object] | AsyncIterable[object],
        sink: OrderedSink,
        *,
        opaque: bool,
        shape: RowShape | None = None,
    ) -> None:
        super().__init__(rows, opaque=opaque, shape=shape)
        self._sink = sink

    @property
    def is_held(self) -> bool:
        """Whether no row can be read before one of those that were read has its result."""
        return not self.exhausted and self._sink.waits_for_a_row(self.rows_read)

    def lend(self) -> bool:
        """Let one more row be read although it is held; False if there were enough of them."""
        return self._sink.lend()

    def lend_to_probe(self, rows: int) -> None:
        """Let *rows* more rows be read although it is held, of which the last one probes an open circuit."""
        self._sink.lend_to_probe(self.rows_read, rows)

    def take(self) -> Row | Malformed | None:
        """As :meth:`IterableSource.take`; None while enough rows are ahead."""
        return super().take() if self.exhausted or self._sink.may_read(self.rows_read) else None

    async def wait(self) -> None:
        """As :meth:`IterableSource.wait`, once a row may be read."""
        if not self.exhausted and not self._sink.may_read(self.rows_read):
            await self._sink.room()
            return
        await super().wait()
