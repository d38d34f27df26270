"""What all runs of one ``BatchRunner`` share: opening and closing a run's provider, its job, and stopping.

Files are opened in :mod:`llmbatch.runs.file_run`, iterables in :mod:`llmbatch.runs.streaming`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from llmbatch.core.errors import UsageError
from llmbatch.core.events import Notice, Observer, RunStarted
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.money.cap import CostCap
from llmbatch.money.prices import Prices
from llmbatch.runner.control import Change, Command, Pause, Resume, changed
from llmbatch.runner.costs import Costs
from llmbatch.runner.earlier import NOTHING_EARLIER, EarlierRuns
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.runs.job import RunJob
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.make_provider import ProviderArguments
from llmbatch.runs.watchers import Watcher, watched

if TYPE_CHECKING:
    from pathlib import Path

    from llmbatch.outputs.writer import LineWriter
    from llmbatch.peers.local import Hub
    from llmbatch.runs.batches.start import BatchPhase
    from llmbatch.runs.shared_channel import LinkChannel

__all__ = ["OpenRun", "OpenRuns", "Opening"]


class OpenRuns:
    """The runs of one runner that are open, on any event loop.

    *arguments* make each run's provider; *options* and *observers* are those of all runs.
    """

    def __init__(
        self,
        arguments: ProviderArguments,
        options: RunOptions,
        observers: Sequence[Observer],
        prices: Prices | None = None,
    ) -> None:
        self.arguments = arguments
        self.prices = prices or Prices()
        self.options = options
        self.observers = observers
        self.watchers: list[Watcher] = []
        """Make observers of each run, which need a state of their own for it."""
        self._loops: dict[RunJob | LineWriter, asyncio.AbstractEventLoop] = {}
        """The open jobs and writers, and the event loop of each."""
        self.hub: Hub | None = None
        """The board that the runs share if the options name none; None: they share nothing."""
        self.answered_before: Callable[[str], bool] = lambda _: False
        """Whether a route, by its label, has answered an earlier stream."""
        self.requests_today = NOTHING_EARLIER.requests_today
        """As in :class:`~llmbatch.runner.earlier.EarlierRuns`, of each run."""
        self.is_cost_dealt = False
        """Whether ``max_cost`` is a part that was dealt out, so that nothing of it is shared."""
        self.is_paused = False
        self._lock = threading.Lock()
        """Commands reach each run in the order in which they were given."""
        self._given_up: int | None = None
        self._stopped: tuple[int, str, bool] | None = None

    def costs(self) -> Costs:
        """Prices and cap of a run whose results have no file that earlier runs wrote to."""
        most = self.options.max_cost
        return Costs(self.prices, None if most is None else CostCap(most))

    def batches(self, input_path: str | Path, output: str) -> BatchPhase | None:
        """The batches of a run with these files; None if its rows are sent live.

        Raises:
            UsageError: something does not go with batch APIs.
        """
        if self.options.via == "live" and not self.options.given_for_batches:
            return None
        from llmbatch.runs.batches.start import BatchPhase, check_batch_options

        given = self.arguments
        check_batch_options(self.options, input_path, output, model=given.model, cache=given.cache)
        return BatchPhase(self.arguments, self.options, self.prices)

    def __repr__(self) -> str:
        return f"<OpenRuns {len(self._loops)} jobs and writers>"

    def open(self, *, before_sending: Callable[[], None] = lambda: None) -> Opening:
        """Open a run with a provider of its own, and close both at the end (``async with``).

        *before_sending* is called before requests are written to a connection.
        """
        return Opening(self, before_sending)

    async def open_channel(self, stack: contextlib.AsyncExitStack) -> LinkChannel | None:
        """The channel to what the run shares with others; None if it shares nothing."""
        shared = self.options.shared
        if shared is None and self.hub is None:
            return None
        from llmbatch.runs.shared_channel import open_channel

        environ, is_cost_dealt = self.arguments.environ, self.is_cost_dealt
        return await open_channel(shared, environ, stack, hub=self.hub, is_cost_dealt=is_cost_dealt)

    @contextlib.contextmanager
    def writing(self, writer: LineWriter) -> Iterator[None]:
        """Let :meth:`stop` reach *writer* meanwhile, which may hang on the reader of a pipe."""
        self._loops[writer] = asyncio.get_running_loop()
        try:
            yield
        finally:
            del self._loops[writer]

    def add(self, job: RunJob) -> None:
        """Let :meth:`stop` reach *job*; stop it at once if that was asked for before it began."""
        self._loops[job] = asyncio.get_running_loop()
        if self._stopped is not None:
            exit_code, reason, now = self._stopped
            self._stopped = None
            job.stop(exit_code, reason, now=now)

    def pause(self) -> None:
        """Pause all open runs, and those that begin before :meth:`resume`; from any thread."""
        with self._lock:
            self.is_paused = True
            self._tell(Pause())

    def resume(self) -> None:
        """Let all runs go on; from any thread."""
        with self._lock:
            self.is_paused = False
            self._tell(Resume())

    def change(self, values: Mapping[str, Any]) -> None:
        """Change the options of all open runs, and of those to come; from any thread.

        Raises:
            UsageError: as :func:`llmbatch.runner.control.changed`; nothing was changed.
        """
        with self._lock:
            self.options = changed(self.options, values)
            self._tell(Change(self.options))

    def _tell(self, command: Command) -> None:
        here = _running_loop()
        for job, loop in list(self._loops.items()):
            if not isinstance(job, RunJob):
                continue
            if loop is here:
                job.control(command)
            else:
                with contextlib.suppress(RuntimeError):  # its loop was just closed
                    loop.call_soon_threadsafe(job.control, command)

    def catch_up(self, job: RunJob) -> None:
        """Pause *job*, which has just begun, if the runner is paused; give it options that were changed meanwhile."""
        with self._lock:
            if job.options is not self.options:
                job.control(Change(self.options))
            if self.is_paused:
                job.control(Pause())

    def remove(self, job: RunJob) -> None:
        """The job has ended."""
        self._loops.pop(job, None)

    def stop(self, exit_code: int, reason: str, *, now: bool) -> None:
        """Stop all open runs, or else the next one; from any thread."""
        if not self._loops:
            self._stopped = (exit_code, reason, now)
        for stopped, loop in list(self._loops.items()):
            if loop is _running_loop():
                self._stop(stopped, exit_code, reason, now)
            else:
                with contextlib.suppress(RuntimeError):  # its loop was just closed
                    loop.call_soon_threadsafe(self._stop, stopped, exit_code, reason, now)

    def _stop(self, stopped: RunJob | LineWriter, exit_code: int, reason: str, now: bool) -> None:
        if isinstance(stopped, RunJob):
            stopped.stop(exit_code, reason, now=now)
        elif now and stopped.abandon():
            self._given_up = exit_code

    def given_up(self) -> int | None:
        """The exit code with which a reader that did not read its lines was given up, once; None: none was."""
        exit_code, self._given_up = self._given_up, None
        return exit_code


class Opening:
    """Opens a run on entering, and closes it and its provider on leaving, also while the caller is being canceled.

    Not a generator: a program that ends closes all asynchronous generators at once, in whatever order.
    """

    def __init__(self, runs: OpenRuns, before_sending: Callable[[], None]) -> None:
        self._runs = runs
        self._before_sending = before_sending
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> OpenRun:
        """Open it.

        Raises:
            UsageError: a value is out of range, the shared store will never do, or no asyncio loop runs.
        """
        _require_asyncio()
        self._shield = anyio.CancelScope(shield=True)  # made now: anyio loads it, and at the end handles may be rare
        runs, arguments = self._runs, self._runs.arguments
        host, warnings = LocalSimulator(seed=runs.options.seed or 0), _Warnings()
        threads = runs.options.concurrency
        provider = arguments.make(host, threads=threads, before_sending=self._before_sending, warn=warnings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            if provider is not arguments.model:
                stack.push_async_callback(provider.aclose)
            channel = await runs.open_channel(stack)
            run = OpenRun(runs, provider, warnings, channel)
            stack.callback(run.forget)
            self._closing = stack.pop_all()
        return run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._shield:
            await self._closing.__aexit__(kind, error, trace)


class OpenRun:
    """One open run: its provider, and its job from :meth:`start` on."""

    job: RunJob

    def __init__(
        self, runs: OpenRuns, provider: Provider, warnings: _Warnings, channel: LinkChannel | None = None
    ) -> None:
        self.provider = provider
        self._runs = runs
        self._warnings = warnings
        self._channel = channel
        self._models = getattr(provider, "models", None)

    def start(
        self,
        source: Source,
        sink: Sink,
        started: RunStarted,
        *,
        earlier: EarlierRuns = NOTHING_EARLIER,
        costs: Costs | None = None,
        output: str | Path | None = None,
    ) -> RunJob:
        """Create the job, which *started* announces; it sends nothing before :meth:`finish`.

        *output*: the file, for claims on a shared cost cap, which all runs on it share; None: there is none.
        """
        if self._channel is not None and output is not None:
            from llmbatch.runs.shared_channel import part_of

            self._channel.part = part_of(output)
        self.job = job = RunJob(
            *(source, sink, self.provider, self._runs.options),
            observers=watched(self._runs.observers, self._runs.watchers),
            earlier=replace(earlier, requests_today=self._runs.requests_today),
            costs=costs or self._runs.costs(),
            channel=self._channel,
        )
        self._runs.add(job)
        job.engine.emit(started)
        self._runs.catch_up(job)
        self._warnings.start(job.engine.emit)
        if self._models is not None:
            self._models.reset()
        return job

    async def finish(self) -> RunOutcome:
        """Send the rows. Once they are sent, stopping does not reach the job any more."""
        try:
            return await self.job.run()
        finally:
            self.forget()

    def forget(self) -> None:
        """The job has ended, if it has begun."""
        if hasattr(self, "job"):
            self._runs.remove(self.job)

    async def wind_up(self) -> None:
        """Once all calls have ended: commit a cache, and emit the warnings that only the end can give.

        Of answers that are not kept, and of a model that was given although every row names its own.
        """
        commit = getattr(self.provider, "commit", None)
        if commit is not None:
            await commit()
        model = self._runs.arguments.model
        text = self._models.unused(model) if self._models is not None and isinstance(model, str) else ""
        if text:
            self.job.engine.emit(_warning(text))


class _Warnings:
    """Emits a provider's warnings as notices; keeps those that come before the run can emit events."""

    def __init__(self) -> None:
        self._early: list[str] = []
        self._emit: Callable[[Notice], None] | None = None

    def __call__(self, text: str) -> None:
        if self._emit is None:
            self._early.append(text)
        else:
            self._emit(_warning(text))

    def start(self, emit: Callable[[Notice], None]) -> None:
        """Emit the warnings kept so far, and each later one at once."""
        self._emit = emit
        for text in self._early:
            emit(_warning(text))


def _warning(text: str) -> Notice:
    return Notice(asyncio.get_running_loop().time(), "warning", text)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        message = "a run needs a running asyncio loop, and none runs in this thread"
        hint = "under trio, run it in a thread: await trio.to_thread.run_sync(runner.run_sync, INPUT, OUTPUT)"
        raise UsageError(message, hint=hint) from None
