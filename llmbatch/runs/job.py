"""A run from given parts: rows from a source, calls to a provider, results to a sink, events to observers.

It opens no files and creates no provider; :class:`~llmbatch.runs.batch_runner.BatchRunner` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from llmbatch.core.errors import LlmbatchError, StoppedError
from llmbatch.core.events import Event, Observer, RunStarted
from llmbatch.core.observers import as_observers
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.core.rows import Result
from llmbatch.money.cap import CostCap
from llmbatch.money.prices import Prices
from llmbatch.outputs.deferred import stamp_retry_at
from llmbatch.report.stats import RunStats
from llmbatch.report.summary import Summary
from llmbatch.runner.control import Change, Command
from llmbatch.runner.costs import Costs
from llmbatch.runner.earlier import NOTHING_EARLIER, EarlierRuns
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.runner.unshared import Channel
from llmbatch.runs.logging_observer import LoggingObserver

__all__ = ["RunJob", "run_job"]


class RunJob:
    """A run. Create it inside the event loop that runs it.

    Args:
        source: gives the rows.
        sink: receives each result, once.
        provider: answers the rows.
        options: how they are sent.
        observers: receive every event: objects with a method ``observe``, or plain functions.
        earlier: what is known of earlier runs.
        costs: prices, and the cap of ``max_cost``; None: the price list, and the cap of *options*.
        channel: to what is shared with other processes; None: nothing is.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        provider: Provider,
        options: RunOptions,
        *,
        observers: Iterable[Observer | Callable[[Event], object]] = (),
        earlier: EarlierRuns = NOTHING_EARLIER,
        costs: Costs | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.options = options
        self.on_stop: Callable[[bool], object] = lambda now: None
        """Called when the run is told to stop before :meth:`run`, in the phase of batches; with True: at once."""
        self.is_stopping = False
        """Whether :meth:`stop` was called."""
        self.summary: Summary | None = None
        """What became of the run; None until it has ended."""
        observers = as_observers(observers)
        # Statistics of this run: an observer's unused RunStats, which others may read too, or our own.
        fresh = (other for other in observers if isinstance(other, RunStats) and other.started is None)
        self.stats = next(fresh, None) or RunStats()
        if costs is None:
            costs = Costs(Prices(), None if options.max_cost is None else CostCap(options.max_cost))
        self._costs = costs
        self.engine = Engine(
            provider,
            source,
            sink,
            options,
            observers=[self.stats, *(other for other in observers if other is not self.stats), LoggingObserver()],
            earlier=earlier,
            costs=costs,
            channel=channel,
        )

    async def run(self) -> RunOutcome:
        """Send every row until all have ended or the run has to stop. Cancelling it releases every permit."""
        return await self.engine.run()

    def stop(self, exit_code: int = 130, reason: str = "stopped", *, now: bool = False) -> None:
        """Take no new rows and let requests in flight finish for 30 s; with *now*, cut them off."""
        self.is_stopping = True
        self.engine.stop(exit_code, reason, now=now)
        self.on_stop(now)

    def control(self, command: Command) -> None:
        """Carry out *command* now: a pause, its end, or other limits."""
        self.engine.control(command)
        if isinstance(command, Change):
            self.options = command.options

    def deferred(self) -> list[Result]:
        """The rows that are still waiting, as results, ordered by row number."""
        return self.engine.deferred()

    def conclude(self, outcome: RunOutcome, waiting: Sequence[Result]) -> Summary:
        """Emit the end of the run, and build its summary; *waiting*: results of the rows that are deferred.

        Raises:
            WriteError: results could not be written.
            Exception: what the source raised.
        """
        deferred = len(waiting)
        if outcome.error is not None:
            exit_code = outcome.error.exit_code if isinstance(outcome.error, LlmbatchError) else 2
            self._end(exit_code, outcome.reason, deferred)
            raise outcome.error
        exit_code = outcome.exit_code
        if exit_code == 0:
            exit_code = 75 if deferred else 1 if self.stats.failed else 0
        summary = self._end(exit_code, outcome.reason, deferred)
        retry_at = min((result.retry_at for result in waiting if result.retry_at), default=None)
        self.summary = summary = replace(summary, retry_at=retry_at)
        return summary

    def abandon(self, reason: str) -> None:
        """Emit the end of a run that was canceled."""
        self._end(130, reason, len(self.engine.deferred()))

    def _end(self, exit_code: int, reason: str, deferred: int) -> Summary:
        if self._costs.cap is not None:
            self._costs.cap.close()
        self.summary = self.stats.summary(self.engine.ended(exit_code, reason, deferred))
        return self.summary


async def run_job(
    source: Source,
    sink: Sink,
    provider: Provider,
    options: RunOptions | None = None,
    *,
    observers: Iterable[Observer | Callable[[Event], object]] = (),
) -> Summary:
    """Send every row of *source* with *provider* and pass each result to *sink*. Closes none of them.

    Rows that are still waiting at the end (``on_outage="defer"``) are passed to the sink too, as ``deferred``.

    Raises:
        StoppedError: the provider refuses the account, the key or the first rows.
        WriteError: the sink failed.
        Exception: what the source raised.
    """
    job = RunJob(source, sink, provider, options or RunOptions(), observers=observers)
    now = asyncio.get_running_loop().time()
    job.engine.emit(RunStarted(now, "", "", job.options.concurrency, 0, 0, None, adapts=job.options.adapts))
    outcome: RunOutcome | None = None
    try:
        outcome = await job.run()
    finally:
        if outcome is None:
            job.abandon("the run was canceled")
    waiting = stamp_retry_at(job.deferred())
    for result in waiting:
        sink.put(result)
    summary = job.conclude(outcome, waiting)
    if summary.exit_code == 3:
        raise StoppedError(outcome.reason, hint=outcome.hint)
    return summary
