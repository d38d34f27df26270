"""Results of a run as an async iterator: as they arrive, or in the order of the rows.

Backpressure works in both directions: rows are taken as slots become free, and nothing is sent while results are not
consumed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

import anyio

from llmbatch.core.errors import StoppedError
from llmbatch.core.events import RunStarted
from llmbatch.core.rows import Result
from llmbatch.inputs.iterable import IterableSource
from llmbatch.outputs.sinks import QueueSink
from llmbatch.report.summary import Summary
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runs.job import RunJob
from llmbatch.runs.open_runs import OpenRuns

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    RowT_co = TypeVar("RowT_co", covariant=True, default=Any)
    ValueT_co = TypeVar("ValueT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    RowT_co = TypeVar("RowT_co", covariant=True)
    ValueT_co = TypeVar("ValueT_co", covariant=True)

__all__ = ["ResultStream"]


class _Running:
    """The job and the sink of a stream, once it has begun."""

    job: RunJob | None = None
    sink: QueueSink | None = None

    @property
    def summary(self) -> Summary:
        """The summary of the run.

        Raises:
            RuntimeError: the stream has not ended.
        """
        summary = None if self.job is None else self.job.summary
        if summary is None:
            raise RuntimeError("the stream has not ended: its summary is known after the last result")
        return summary


class ResultStream(Generic[RowT_co, ValueT_co]):
    """Results of :meth:`~llmbatch.BatchRunner.stream`, to iterate over once, in one task.

    Nothing is sent before the first result is asked for. To stop early, break out of the loop within ``async with``,
    so that requests in flight end at once; without it they end when the stream is garbage collected.
    """

    def __init__(
        self, runs: OpenRuns, rows: Iterable[object] | AsyncIterable[object], *, ordered: bool, reads_all: bool = False
    ) -> None:
        self._running = _Running()
        # It must not refer to the stream: leaving a loop then closes it as soon as nothing else refers to it.
        self._results = _results(self._running, runs, rows, ordered=ordered, reads_all=reads_all)

    def __repr__(self) -> str:
        return f"<ResultStream {'open' if self._running.job is None or self._running.job.summary is None else 'ended'}>"

    def __aiter__(self) -> AsyncIterator[Result[RowT_co, ValueT_co]]:
        return self._results

    async def __anext__(self) -> Result[RowT_co, ValueT_co]:
        return await anext(self._results)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run at once, if it has not ended: requests in flight are canceled, and the iterable is closed."""
        await self._results.aclose()

    async def next_batch(self) -> list[Result[RowT_co, ValueT_co]]:
        """Wait for the next result and return it with all others that are there; an empty list at the end.

        Raises:
            Exception: as iterating does.
        """
        batch: list[Result[RowT_co, ValueT_co]] = []
        async for result in self._results:
            batch.append(result)
            if self._running.sink is None or self._running.sink.is_empty:
                break
        return batch

    @property
    def summary(self) -> Summary:
        """The summary of the run, once it has ended, however it did.

        Its ``exit_code`` is 0, 1 or 75 if all rows were read (all succeeded, some failed, some are deferred), 130 or
        the code of :meth:`~llmbatch.BatchRunner.stop` if it was stopped or closed early; ``stopped_reason`` says why.

        Raises:
            RuntimeError: the stream has not ended.
        """
        return self._running.summary


async def _results(
    running: _Running, runs: OpenRuns, rows: Iterable[object] | AsyncIterable[object], *, ordered: bool, reads_all: bool
) -> AsyncGenerator[Result[Any, Any], None]:
    """Run *rows* and yield their results; *running* gets the job and the sink.

    *reads_all*: rows that are left when the run ends by itself are read and yielded as ``deferred``.

    Raises:
        StoppedError: the provider refuses the account, the key, or the first rows.
        UsageError: a row needs a key or a model that is missing.
        Exception: whatever the iterable raises.
    """
    from llmbatch.outputs.deferred import stamp_retry_at
    from llmbatch.runs.ordered import OrderedSink, OrderedSource

    opaque = callable(runs.arguments.model)
    bound = 2 * runs.options.concurrency
    async with contextlib.AsyncExitStack() as stack:
        run = await stack.enter_async_context(runs.open())
        sink: QueueSink
        if ordered:
            sink = ordered_sink = OrderedSink(bound)
            source: IterableSource = OrderedSource(rows, ordered_sink, opaque=opaque, shape=runs.arguments.shape)
        else:
            sink = QueueSink(bound)
            source = IterableSource(rows, opaque=opaque, shape=runs.arguments.shape)
        stack.push_async_callback(_uninterrupted, source.aclose)
        now = asyncio.get_running_loop().time()
        options = runs.options
        started = RunStarted(now, "", "", options.concurrency, 0, 0, _length(rows), adapts=options.adapts)
        running.job = job = run.start(source, sink, started, earlier=EarlierRuns(runs.answered_before))
        running.sink = sink
        task = asyncio.create_task(job.run())
        task.add_done_callback(lambda _: sink.close())
        all_yielded = False
        try:
            async for result in sink.results():
                yield result
            outcome = await task
            await run.wind_up()
            waiting: Sequence[Result] = job.deferred()
            if reads_all and outcome.exit_code in _ENDS_EARLY and not job.is_stopping:
                soonest = min((each.retry_after or 0.0 for each in waiting), default=0.0)
                waiting = [*waiting, *await _unread(source, outcome.reason, soonest)]
            waiting = stamp_retry_at(waiting)
            for result in sink.last(waiting):
                yield result
            all_yielded = True
        finally:
            run.forget()
            if not task.done():
                task.cancel()
                await _uninterrupted(asyncio.wait, [task])
            if not all_yielded:
                job.abandon("the stream was closed early")
        job.conclude(outcome, waiting)
        if outcome.exit_code == 3:
            raise StoppedError(outcome.reason, hint=outcome.hint)


_ENDS_EARLY = frozenset({4, 75})
"""Exit codes of runs that stop at a bound of the user's while rows are left."""


async def _unread(source: IterableSource, reason: str, retry_after: float) -> list[Result]:
    """The rows that *source* still has, as ``deferred``; raises what its iterable raises."""
    results: list[Result] = []
    while True:
        row = source.take()
        if row is not None:
            results.append(
                Result(
                    row.number,
                    row.hash,
                    "deferred",
                    row.id_json,
                    deferrals=1,
                    retry_after=retry_after,
                    reason=reason,
                    row=row.value,
                )
            )
        elif source.exhausted:
            return results
        else:
            await source.wait()


async def _uninterrupted(work: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Await *work*, although the stream may be left because a cancel scope around it was canceled."""
    with anyio.CancelScope(shield=True):
        await work(*arguments)


def _length(rows: object) -> int | None:
    return len(rows) if hasattr(rows, "__len__") else None
