"""The sink of results that are iterated over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from llmbatch.core.rows import Result

__all__ = ["QueueSink"]


class QueueSink:
    """Buffers results for an iterator; congested from *bound* on, so that a slow consumer stops new calls."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._results: deque[Result] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._closed = False

    @property
    def congested(self) -> bool:
        """Whether the consumer is behind."""
        return len(self._results) >= self._bound

    @property
    def is_empty(self) -> bool:
        """Whether the consumer would have to wait."""
        return not self._results

    def put(self, result: Result) -> None:
        """Take one result."""
        self._results.append(result)
        self._filled.set()

    def close(self) -> None:
        """No more results will come."""
        self._closed = True
        self._filled.set()

    async def drained(self) -> None:
        """Return when the consumer has caught up."""
        while self.congested:
            self._emptied.clear()
            await self._emptied.wait()

    def last(self, deferred: Sequence[Result]) -> Sequence[Result]:
        """What is left once the sink was closed and is empty: the rows that are *deferred*."""
        return deferred

    async def results(self) -> AsyncIterator[Result]:
        """Iterate over the results until the sink is closed and empty."""
        while True:
            while self._results:
                result = self._results.popleft()
                self._emptied.set()
                yield result
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()
