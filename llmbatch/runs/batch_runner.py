"""``BatchRunner``: sends rows through a circuit breaker and gives one result per row.

It assembles source, provider, sink and engine. Displays are observers; the command line handles signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from llmbatch.core.errors import InputError, StoppedError, UsageError, WriteError
from llmbatch.core.events import Notice, Observer, RunStarted
from llmbatch.core.ports import Provider, Sink, Source, Transport
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Result, Row, encode_line
from llmbatch.outputs.sinks import LineSink, QueueSink
from llmbatch.report.stats import Summary
from llmbatch.runner.engine import RunOutcome
from llmbatch.runner.options import Endpoint, Fsync, Lock, OnOutage, RunOptions, check_keywords, check_names
from llmbatch.runs.job import RunJob
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.nested_loop import run_in_thread

if TYPE_CHECKING:
    from llmbatch.inputs.source import Source
    from llmbatch.outputs.writer import LineWriter
    from llmbatch.providers.http_provider import ModelUse
    from llmbatch.storage.filesystem import Filesystem

__all__ = ["BatchRunner", "Options"]

AsyncFunction = Callable[[object], Awaitable[object]]


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
        self._max_answer_memory = max_answer_memory
        self._model = model
        self._base_url = base_url
        self._proxy = proxy
        self._api_key_env = api_key_env
        self._headers = dict(headers or {})
        self._endpoint = endpoint
        self._system = system
        self._params = dict(params or {})
        self._observers = list(observers)
        self._canary = canary
        self._environ = os.environ if environ is None else environ
        self._transport = transport
        self._filesystem = filesystem
        self._jobs: list[RunJob] = []
        self._writers: list[LineWriter] = []
        self._given_up: int | None = None
        self._stopped: tuple[int, str, bool] | None = None
        self._make_provider(LocalSimulator())

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
        *fsync*: ``group`` syncs lines once a second, ``off`` leaves to the system when a power cut spares them. The
        summary's ``exit_code`` says how it went.

        Raises:
            UsageError: an argument is wrong (input, output, key, model); as for the first row, before anything is
                sent.
            WriteError: a line could not be written; the file ends with a whole line, and the same call resumes.
        """
        from llmbatch.inputs.input import JsonlInput
        from llmbatch.outputs.deferred import default_output, spool_path, stamp_retry_at, write_deferred
        from llmbatch.outputs.file import open_output
        from llmbatch.outputs.lock import Unlocked
        from llmbatch.outputs.writer import LineWriter
        from llmbatch.runs.good_rows import known_good_rows
        from llmbatch.runs.preflight import check_first_row, check_same_request, last_number, name_other_inputs
        from llmbatch.storage.filesystem import FILESYSTEM

        check_keywords(
            limit=limit,
            retry_failed=retry_failed,
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
        )
        filesystem = self._filesystem or FILESYSTEM
        locking = filesystem if lock == "on" else Unlocked(filesystem)
        target = str(output if output is not None else default_output(input))
        host = LocalSimulator(seed=self.options.seed or 0)
        warnings = _Warnings()
        # Lines go first: what a kill repeats is then no more than what was in flight.
        provider = self._make_provider(host, before_sending=lambda: writer.flush(), warn=warnings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            if provider is not self._model:
                stack.push_async_callback(provider.aclose)
            rows = stack.enter_context(JsonlInput(input, output=target, filesystem=filesystem))
            check_first_row(provider, rows, str(input), limit=limit, strict=strict)
            rows.hash_ahead()
            out = open_output(
                target,
                input_path=input,
                overwrite=overwrite,
                retry_failed=retry_failed,
                retry_up_to=last_number(rows, limit) if retry_failed else None,
                disk=locking,
            )
            stack.callback(out.close)
            try:
                rows.verify(out.ledger)
            except InputError as error:
                raise name_other_inputs(error, input, target) from None
            if not rows.is_rereadable:
                out.drop_input_errors(limit)
            else:
                out.drop_corrected(last_number(rows, limit) if out.ledger.corrected else None)
            # A function may change its name; what it is asked is its author's matter.
            earlier = None if force or callable(self._model) else out.first_success()
            if earlier is not None:
                check_same_request(provider, rows, target, earlier)
            source = rows.rows(out.ledger, limit=limit, spool=spool_path(target))
            stack.push_async_callback(source.aclose)
            total = rows.count()
            if limit is not None and total is not None:
                total = min(limit, total)
            if total is None or len(out.ledger) < total:
                out.check_room(sync=fsync == "group")
            if out.is_resumable:
                # Deferred rows are sent now, or reported again at the end.
                write_deferred(Path(target), (), locking)
            sync_interval = 1.0 if fsync == "group" else None
            writer = LineWriter(out, sync_interval=sync_interval, on_error=lambda error: job.engine.abort(error))
            self._writers.append(writer)
            stack.callback(self._writers.remove, writer)
            job = self._start(
                source,
                LineSink(writer),
                provider,
                answered_before=out.has_success,
                good_rows=lambda: known_good_rows(out, input, filesystem),
            )
            now, concurrency = asyncio.get_running_loop().time(), self.options.concurrency
            done, limits = out.ledger, _own_limits(self.options)
            job.engine.emit(
                RunStarted(
                    *(now, str(input), target, concurrency, done.success, done.failed, total),
                    max_outage=self.options.max_outage,
                    own_limits=limits,
                )
            )
            warnings.start(job.engine.emit)
            models = getattr(provider, "models", None)
            if models is not None:
                models.reset()
            outcome: RunOutcome | None = None
            try:
                outcome = await job.run()
            finally:
                self._jobs.remove(job)
                try:
                    await writer.aclose()
                except WriteError as error:
                    outcome = RunOutcome(74, error.message, error.hint, error)
                finally:
                    waiting = stamp_retry_at(job.deferred())
                    if out.is_resumable:
                        try:
                            write_deferred(Path(target), map(encode_line, waiting), locking)
                        except WriteError:
                            if outcome is None or outcome.error is None:
                                raise
                            # Report the error that ended the run.
                if outcome is None:
                    job.abandon("the run was cancelled")
            for warning in (_torn(source, input), _no_rows(source, outcome, input), self._unused_model(models)):
                if warning is not None:
                    job.engine.emit(warning)
            if isinstance(outcome.error, UsageError):
                out.remove_if_new()
            if source.torn_line is not None and outcome.exit_code in (0, 1):
                outcome = RunOutcome(75, f"line {source.torn_line} of the input is cut off")
            if self._given_up is not None and outcome.exit_code in (0, 1):
                # All rows were finished, but the reader did not read their lines.
                outcome = RunOutcome(self._given_up, "stopped at once, before the reader had read all lines")
            self._given_up = None
            return job.conclude(outcome, len(waiting))

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
        provider = self._make_provider(host, warn=lambda text: job.engine.emit(_warning(text)))
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
        """Told where a model was given, and every row names its own."""
        text = models.unused(self._model) if models is not None and isinstance(self._model, str) else ""
        return _warning(text) if text else None

    # Putting the parts together.

    def _make_provider(
        self,
        host: LocalSimulator,
        *,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Provider:
        if self._model is not None and not isinstance(self._model, str):
            if is_provider(self._model):
                return cast("Provider", self._model)
            from llmbatch.providers.function_provider import FunctionProvider

            return FunctionProvider(cast("AsyncFunction", self._model), ping_row=self._canary)
        from llmbatch.providers.http_provider import HttpProvider
        from llmbatch.providers.resolve import ProviderSettings

        connection = ProviderSettings(
            model=self._model,
            base_url=self._base_url,
            proxy=self._proxy,
            api_key_env=self._api_key_env,
            headers=self._headers,
            endpoint=self._endpoint,
            system=self._system,
            params={name: dumps(value) for name, value in self._params.items()},
            environ=self._environ,
            sim_url=host.url,
            sim_scenarios=None if self._transport is not None else host.scenarios,
        )
        if self._transport is not None:
            return HttpProvider(connection, self._transport, warn=warn)
        return HttpProvider.over_http(
            connection, before_sending=before_sending, warn=warn, max_answer_memory=self._max_answer_memory
        )

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


def is_provider(model: object) -> bool:
    """Whether *model* is a provider rather than a function: it has the methods of one."""
    return all(callable(getattr(model, name, None)) for name in ("routes", "request", "call"))


def _own_limits(options: RunOptions) -> str:
    """The limits that the caller set, as flags: ``--rpm 60, --tpm 90000``."""
    given = (("--rpm", options.rpm), ("--tpm", options.tpm))
    return ", ".join(f"{flag} {value:g}" for flag, value in given if value is not None)


def _warning(text: str) -> Notice:
    return Notice(asyncio.get_running_loop().time(), "warning", text)


class _Warnings:
    """Warnings of a provider, which may come before there is a run to tell them."""

    def __init__(self) -> None:
        self._early: list[str] = []
        self._emit: Callable[[Notice], None] | None = None

    def __call__(self, text: str) -> None:
        if self._emit is None:
            self._early.append(text)
        else:
            self._emit(_warning(text))

    def start(self, emit: Callable[[Notice], None]) -> None:
        """Tell the early ones, and from now on each as it comes."""
        self._emit = emit
        for text in self._early:
            emit(_warning(text))


def _torn(source: Source, path: str | Path) -> Notice | None:
    if source.torn_line is None:
        return None
    text = f"{path}:{source.torn_line}: the last line is cut off and has no line end: it gets no result yet"
    hint = "run the same command again once it is complete"
    return Notice(asyncio.get_running_loop().time(), "warning", text, hint)


def _no_rows(source: Source, outcome: RunOutcome, path: str | Path) -> Notice | None:
    if outcome.exit_code or source.rows_read or source.torn_line is not None:
        return None
    name = "standard input" if str(path) == "-" else path
    return Notice(asyncio.get_running_loop().time(), "warning", f"no rows in {name}")


def _length(rows: object) -> int | None:
    return len(rows) if hasattr(rows, "__len__") else None
