"""Sinks for results: lines of a file, or an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from llmbatch.core.rows import Result, encode_line

__all__ = ["LineSink", "QueueSink"]


class _Lines(Protocol):
    @property
    def congested(self) -> bool: ...

    def put(self, line: bytes) -> None: ...

    async def drained(self) -> None: ...


class LineSink:
    """Hands each result to the writer as one line; congested while a pipe's reader is behind."""

    def __init__(self, writer: _Lines) -> None:
        self._writer = writer

    @property
    def congested(self) -> bool:
        """Whether the reader of the lines is behind."""
        return self._writer.congested

    def put(self, result: Result) -> None:
        """Take one result."""
        self._writer.put(encode_line(result))

    async def drained(self) -> None:
        """Return when the writer has caught up."""
        await self._writer.drained()


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
