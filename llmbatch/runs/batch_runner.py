"""``BatchRunner``: sends rows through a circuit breaker and gives one result per row.

It assembles source, provider, sink and engine; :mod:`llmbatch.runs.file_run` opens and ends the files. Displays are
observers; the command line handles signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from llmbatch.core.errors import StoppedError
from llmbatch.core.events import Notice, Observer, RunStarted
from llmbatch.core.ports import Provider, Sink, Source, Transport
from llmbatch.core.rows import Result, Row
from llmbatch.outputs.sinks import LineSink, QueueSink
from llmbatch.report.stats import Summary
from llmbatch.runner.engine import RunOutcome
from llmbatch.runner.options import Endpoint, Fsync, Lock, OnOutage, RunOptions, check_keywords, check_names
from llmbatch.runs.job import RunJob
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.make_provider import AsyncFunction, ProviderArguments
from llmbatch.runs.nested_loop import run_in_thread

if TYPE_CHECKING:
    from llmbatch.outputs.writer import LineWriter
    from llmbatch.providers.http_provider import ModelUse
    from llmbatch.storage.filesystem import Filesystem

__all__ = ["BatchRunner", "Options"]


class Options(TypedDict, total=False):
    """The keywords of :class:`BatchRunner` that say how rows are sent; see :class:`RunOptions`."""

    concurrency: int
    rpm: float | None
    tpm: float | None
    timeout: float
    max_attempts: int
    failure_threshold: int
    recovery_timeout: float
    success_threshold: int
    on_outage: OnOutage
    max_outage: float | None
    circuit_key: str | None
    seed: int | None


class BatchRunner:
    """Sends rows to a provider, or to any async function, and survives outages.

    Runs share only these settings: they may run one after another, or concurrently in the same event loop. A canceled
    run leaves an output that the next one resumes.

    Args:
        model: ``PROVIDER/MODEL``, a bare model name, None (rows name their own), an ``async def call(row)``, or a
            :class:`~llmbatch.core.ports.Provider`, which is not closed at the end of a run.
        base_url: any OpenAI-compatible server, instead of the provider's.
        proxy: the URL of an HTTP proxy for every request; None: none, whatever the environment says.
        api_key_env: the environment variable that holds the key; keys are taken from nowhere else.
        headers: HTTP headers to send too, to ``base_url`` or else the model's provider; ``"$NAME"`` stands for the
            value of an environment variable. Values that hold keys are masked.
        endpoint: the wire format; None: as each row and the provider have it.
        system: a system prompt for rows that have none.
        params: request parameters for rows that do not set them.
        observers: receive every event.
        canary: for a function: a row that may be sent at any time as a health check.
        max_answer_memory: bytes that all answers in flight share, 1,000,000 or more; above it the largest fails with
            ``answer_too_large``.
        environ: where keys and base URLs are read from; None: the process's environment.
        transport: sends requests instead of the HTTP client, such as a simulated provider; closed with a run.
        filesystem: file system calls instead of the operating system's, for simulations.
        **options: concurrency and the rest of :class:`RunOptions`.

    Raises:
        UsageError: a value is out of range, or the callable is not async.
    """

    def __init__(
        self,
        model: str | AsyncFunction | Provider | None = None,
        *,
        base_url: str | None = None,
        proxy: str | None = None,
        api_key_env: str | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: Endpoint | None = None,
        system: str | None = None,
        params: Mapping[str, object] | None = None,
        observers: Sequence[Observer] = (),
        canary: object = None,
        max_answer_memory: int = 512_000_000,
        environ: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        filesystem: Filesystem | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names(frozenset(options))
        check_keywords(endpoint=endpoint, max_answer_memory=max_answer_memory, headers=headers)
        self.options = RunOptions(**options)
        self._provider = ProviderArguments(
            model=model,
            base_url=base_url,
            proxy=proxy,
            api_key_env=api_key_env,
            headers=dict(headers or {}),
            endpoint=endpoint,
            system=system,
            params=dict(params or {}),
            canary=canary,
            max_answer_memory=max_answer_memory,
            environ=os.environ if environ is None else environ,
            transport=transport,
        )
        self._model = model
        self._observers = list(observers)
        self._filesystem = filesystem
        self._jobs: list[RunJob] = []
        self._writers: list[LineWriter] = []
        self._given_up: int | None = None
        self._stopped: tuple[int, str, bool] | None = None
        self._provider.make(LocalSimulator())

    # Running.

    async def run(
        self,
        input: str | Path,  # noqa: A002 - what the command line calls it too
        output: str | Path | None = None,
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        overwrite: bool = False,
        strict: bool = False,
        force: bool = False,
        fsync: Fsync = "group",
        lock: Lock = "on",
    ) -> Summary:
        """Send every row of *input* that has no line in *output*, and append one line per row.

        *output* defaults to ``<stem>.results.jsonl`` beside the input, or standard output for ``-``. *limit*: only
        the first so many rows. *retry_failed*: send failed rows again; *overwrite*: start afresh; *strict*: refuse
        the whole input if any row is malformed; *force*: go on with an output that another model, *system*,
        *params* or *endpoint* has answered.
        *lock*: ``off`` does not lock the output, for file systems without locks; a second run at once would spoil it.
        *fsync*: ``group`` syncs lines once per second; with ``off`` a power cut may lose any lines. The
        summary's ``exit_code`` says how it went.

        Raises:
            UsageError: an argument is wrong (input, output, key, model); as for the first row, before anything is
                sent.
            WriteError: a line could not be written; the file ends with a whole line, and the same call resumes.
        """
        from llmbatch.runs.file_run import FileOptions, FileRun

        how = FileOptions(
            limit=limit,
            retry_failed=retry_failed,
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
        )
        files = FileRun(input, output, how, self._filesystem)
        host = LocalSimulator(seed=self.options.seed or 0)
        warnings = _Warnings()
        # Lines go first: what a kill repeats is then no more than what was in flight.
        provider = self._provider.make(host, before_sending=lambda: files.writer.flush(), warn=warnings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            if provider is not self._model:
                stack.push_async_callback(provider.aclose)
            # A function may change its name; what it is asked is its author's matter.
            files.open(stack, provider, compare_model=not (force or callable(self._model)))
            self._writers.append(files.writer)
            stack.callback(self._writers.remove, files.writer)
            job = self._start(
                *(files.source, LineSink(files.writer), provider),
                answered_before=files.has_success,
                good_rows=files.good_rows,
            )
            job.engine.emit(files.started(self.options))
            warnings.start(job.engine.emit)
            models = getattr(provider, "models", None)
            if models is not None:
                models.reset()
            outcome, deferred = await files.close_after(job, self._finished(job))
            unused = self._unused_model(models)
            for notice in (*files.notices(outcome), *([] if unused is None else [unused])):
                job.engine.emit(notice)
            torn_line = files.source.torn_line
            if torn_line is not None and outcome.exit_code in (0, 1):
                outcome = RunOutcome(75, f"line {torn_line} of the input is cut off")
            if self._given_up is not None and outcome.exit_code in (0, 1):
                # All rows were finished, but the reader did not read their lines.
                outcome = RunOutcome(self._given_up, "stopped at once, before the reader had read all lines")
            self._given_up = None
            return job.conclude(outcome, deferred)

    def run_sync(
        self,
        input: str | Path,  # noqa: A002
        output: str | Path | None = None,
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        overwrite: bool = False,
        strict: bool = False,
        force: bool = False,
        fsync: Fsync = "group",
        lock: Lock = "on",
    ) -> Summary:
        """Run :meth:`run` from synchronous code; inside an event loop (a notebook) it uses a thread of its own.

        Ctrl-C cancels it in both cases, and is raised once the output is closed.

        Raises:
            UsageError: as :meth:`run`.
            WriteError: as :meth:`run`.
        """
        run = self.run(
            *(input, output),
            limit=limit,
            retry_failed=retry_failed,
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
        )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run)
        return run_in_thread(run)

    async def stream(self, rows: Iterable[object] | AsyncIterable[object]) -> AsyncGenerator[Result, None]:
        """Send rows from any iterable and yield each result as it arrives; a failed row is a result, not an exception.

        With backpressure in both directions: rows are taken as slots become free, and nothing is sent while results
        are not consumed. With ``on_outage="defer"``, rows that are still waiting come last, as ``deferred``. To stop
        early, break out of the loop (within ``contextlib.aclosing``, so that requests in flight end at once).

        Raises:
            StoppedError: the provider refuses the account, the key, or the first rows.
            UsageError: a row needs a key or a model that is missing.
            Exception: whatever the iterable raises.
        """
        from llmbatch.inputs.iterable import IterableSource
        from llmbatch.outputs.deferred import stamp_retry_at

        host = LocalSimulator(seed=self.options.seed or 0)
        provider = self._provider.make(host, warn=lambda text: job.engine.emit(_warning(text)))
        sink = QueueSink(2 * self.options.concurrency)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            if provider is not self._model:
                stack.push_async_callback(provider.aclose)
            source = IterableSource(rows, opaque=callable(self._model))
            stack.push_async_callback(source.aclose)
            job = self._start(source, sink, provider)
            now = asyncio.get_running_loop().time()
            job.engine.emit(RunStarted(now, "", "", self.options.concurrency, 0, 0, _length(rows)))
            task = asyncio.create_task(job.run())
            task.add_done_callback(lambda _: sink.close())
            all_yielded = False
            try:
                async for result in sink.results():
                    yield result
                outcome = await task
                unused = self._unused_model(getattr(provider, "models", None))
                if unused is not None:
                    job.engine.emit(unused)
                waiting = stamp_retry_at(job.deferred())
                for result in waiting:
                    yield result
                all_yielded = True
            finally:
                self._jobs.remove(job)
                if not task.done():
                    task.cancel()
                    await asyncio.wait([task])
                if not all_yielded:
                    job.abandon("the stream was closed early")
            job.conclude(outcome, len(waiting))
            if outcome.exit_code == 3:
                raise StoppedError(outcome.reason, hint=outcome.hint)

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop the runs in this event loop, or else the next run: no new rows; requests in flight have 30 s to finish.

        With *now*, at once. The exit code is 128 + *signal*, or 130.
        """
        exit_code = 128 + signal if signal is not None else 130
        reason = "stopped at once" if now else "interrupted: requests in flight may finish"
        if not self._jobs and not self._writers:
            self._stopped = (exit_code, reason, now)
        for job in self._jobs:
            job.stop(exit_code, reason, now=now)
        for writer in self._writers if now else ():
            if writer.abandon():
                self._given_up = exit_code

    def _unused_model(self, models: ModelUse | None) -> Notice | None:
        """The warning for a model that was given although every row names its own."""
        text = models.unused(self._model) if models is not None and isinstance(self._model, str) else ""
        return _warning(text) if text else None

    # Assembling.

    def _start(
        self,
        source: Source,
        sink: Sink,
        provider: Provider,
        *,
        answered_before: Callable[[str], bool] = lambda _: False,
        good_rows: Callable[[], Sequence[Row]] = lambda: (),
    ) -> RunJob:
        job = RunJob(
            *(source, sink, provider, self.options),
            observers=self._observers,
            answered_before=answered_before,
            good_rows=good_rows,
        )
        self._jobs.append(job)
        if self._stopped is not None:
            exit_code, reason, now = self._stopped
            self._stopped = None
            job.stop(exit_code, reason, now=now)
        return job

    async def _finished(self, job: RunJob) -> RunOutcome:
        try:
            return await job.run()
        finally:
            self._jobs.remove(job)


def _warning(text: str) -> Notice:
    return Notice(asyncio.get_running_loop().time(), "warning", text)


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


def _length(rows: object) -> int | None:
    return len(rows) if hasattr(rows, "__len__") else None
