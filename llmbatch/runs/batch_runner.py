"""BatchRunner: rows in, one result a row out, through a circuit breaker.

It puts the parts together: a source, a caller, a sink, the engine. What it does not do: draw, parse flags, or handle
signals; observers and the command line do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from llmbatch.core.errors import StoppedError, WriteError
from llmbatch.core.events import Notice, Observer, RunStarted
from llmbatch.core.ports import Provider, Transport
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Result, Row, encode_line
from llmbatch.outputs.sinks import LineSink, QueueSink
from llmbatch.report.stats import RunStats, Summary
from llmbatch.runner.engine import Engine, RunOutcome
from llmbatch.runner.options import Endpoint, Fsync, OnOutage, RunOptions, check_keywords, check_names
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.nested_loop import run_in_thread

if TYPE_CHECKING:
    from llmbatch.inputs.source import Source
    from llmbatch.outputs.file import Output
    from llmbatch.outputs.writer import LineWriter
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

    Runs share nothing but these settings: one may follow another, or go on beside it in the same event loop. A
    cancelled run leaves an output that the next one resumes.

    Args:
        model: ``PROVIDER/MODEL``, a bare model name, None (rows name their own), or an ``async def call(row)``.
        base_url: any OpenAI-compatible server, in place of the provider's.
        proxy: the URL of an HTTP proxy for every request; None: none, whatever the environment says.
        api_key_env: the environment variable that holds the key; keys are taken from nowhere else.
        endpoint: the wire format; None: as each row and the provider have it.
        system: a system prompt for rows that have none.
        params: request parameters for rows that do not set them.
        observers: told of every event.
        canary: for a function: a row that may be sent at any time to find out whether it works again.
        max_answer_memory: bytes that all answers in flight share, 1,000,000 or more; beyond it the largest fails with
            ``answer_too_large``.
        environ: where keys and base URLs are read from; None: the process's environment.
        transport: what carries requests in place of the HTTP client, such as a simulated provider; closed with a run.
        disk: what files are on in place of the operating system's, for simulations.
        **options: concurrency and the rest of :class:`RunOptions`.

    Raises:
        UsageError: a value is out of range, or the callable is not async.
    """

    def __init__(
        self,
        model: str | AsyncFunction | None = None,
        *,
        base_url: str | None = None,
        proxy: str | None = None,
        api_key_env: str | None = None,
        endpoint: Endpoint | None = None,
        system: str | None = None,
        params: Mapping[str, object] | None = None,
        observers: Sequence[Observer] = (),
        canary: object = None,
        max_answer_memory: int = 512_000_000,
        environ: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        disk: Filesystem | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names(frozenset(options))
        check_keywords(endpoint=endpoint, max_answer_memory=max_answer_memory)
        self.options = RunOptions(**options)
        self._max_answer_memory = max_answer_memory
        self._model = model
        self._base_url = base_url
        self._proxy = proxy
        self._api_key_env = api_key_env
        self._endpoint = endpoint
        self._system = system
        self._params = dict(params or {})
        self._observers = list(observers)
        self._canary = canary
        self._environ = os.environ if environ is None else environ
        self._transport = transport
        self._disk = disk
        self._engines: list[Engine] = []
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
    ) -> Summary:
        """Send every row of *input* that has no line in *output*, and append one line a row.

        *output* defaults to ``<stem>.results.jsonl`` beside the input, or standard output for ``-``. *limit*: only
        the first so many rows. *retry_failed*: send failed rows again; *overwrite*: start afresh; *strict*: refuse
        the whole input if any row is malformed; *force*: go on with an output whose rows another model has answered.
        *fsync*: ``group`` syncs lines once a second, ``off`` leaves to the system when a power cut spares them. The
        summary's ``exit_code`` says how it went.

        Raises:
            UsageError: something given is wrong (input, output, key, model); with a first row, before anything is
                sent.
            WriteError: a line could not be written; the file ends in a whole line, and the same call resumes.
        """
        from llmbatch.inputs.parallel_hash import start_parallel_hash
        from llmbatch.inputs.source import count_rows, open_source, verify_finished
        from llmbatch.outputs.deferred import default_output, spool_path, stamp_retry_at, write_deferred
        from llmbatch.outputs.file import open_output
        from llmbatch.outputs.writer import LineWriter
        from llmbatch.runs.good_rows import known_good_rows
        from llmbatch.runs.preflight import check_first_row, check_same_model
        from llmbatch.storage.filesystem import FILESYSTEM

        check_keywords(
            limit=limit, retry_failed=retry_failed, overwrite=overwrite, strict=strict, force=force, fsync=fsync
        )
        disk = self._disk or FILESYSTEM
        target = str(output if output is not None else default_output(input))
        host = LocalSimulator(seed=self.options.seed or 0)
        # Lines go first: what a kill repeats is then no more than what was in flight.
        provider = self._make_provider(
            host, before_sending=lambda: writer.flush(), warn=lambda text: engine.emit(_warning(text))
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            stack.push_async_callback(provider.aclose)
            check_first_row(provider, input, limit=limit, strict=strict, disk=disk)
            head_start = start_parallel_hash(input, target, disk)
            if head_start is not None:
                stack.callback(head_start.close)
            out = open_output(target, input_path=input, overwrite=overwrite, retry_failed=retry_failed, disk=disk)
            stack.callback(out.close)
            verify_finished(input, out.ledger, disk, head_start=head_start)
            if head_start is not None:
                head_start.close()
            # A function may change its name; what it is asked is its author's matter.
            earlier = None if force or callable(self._model) else out.first_success()
            if earlier is not None:
                check_same_model(provider, input, target, earlier, disk)
            source = open_source(input, ledger=out.ledger, limit=limit, spool=spool_path(target), disk=disk)
            stack.push_async_callback(source.aclose)
            total = count_rows(input, disk)
            if limit is not None and total is not None:
                total = min(limit, total)
            if total is None or len(out.ledger) < total:
                out.check_room(sync=fsync == "group")
            if out.is_resumable:
                write_deferred(Path(target), (), disk)  # what waited will be sent now, or is told again at the end
            sync_interval = 1.0 if fsync == "group" else None
            writer = LineWriter(out, sync_interval=sync_interval, on_error=lambda error: engine.abort(error))
            self._writers.append(writer)
            stack.callback(self._writers.remove, writer)
            stats = self._fold()
            engine = self._start(
                provider, source, LineSink(writer), stats, out, good_rows=lambda: known_good_rows(out, input, disk)
            )
            engine.emit(
                RunStarted(
                    asyncio.get_running_loop().time(),
                    str(input),
                    target,
                    self.options.concurrency,
                    out.ledger.success,
                    out.ledger.failed,
                    total,
                )
            )
            ending: RunOutcome | None = None
            try:
                ending = await engine.run()
            finally:
                self._engines.remove(engine)
                try:
                    await writer.aclose()
                except WriteError as error:
                    ending = RunOutcome(74, error.message, error.hint, error)
                finally:
                    waiting = stamp_retry_at(engine.deferred())
                    if out.is_resumable:
                        try:
                            write_deferred(Path(target), map(encode_line, waiting), disk)
                        except WriteError:
                            if ending is None or ending.error is None:
                                raise
                            # The error that ended the run is what there is to tell.
                if ending is None:
                    engine.ended(130, "the run was cancelled", len(waiting))
            if self._given_up is not None and ending.exit_code in (0, 1):
                # All rows were done, but a reader never took their lines.
                ending = RunOutcome(self._given_up, "stopped at once, before the reader had taken all lines")
            self._given_up = None
            return self._sum_up(engine, stats, ending, len(waiting))

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
    ) -> Summary:
        """As :meth:`run`, for code without an event loop; inside one (a notebook) it runs in a thread of its own.

        Ctrl-C cancels it, either way, and is raised once the output is closed.

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
        )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run)
        return run_in_thread(run)

    async def stream(self, rows: Iterable[object] | AsyncIterable[object]) -> AsyncGenerator[Result, None]:
        """Send rows from any iterable and yield each result as it comes; errors of rows are values.

        Back-pressured both ways: rows are taken as places get free, and nothing is sent while results are not taken.
        With ``on_outage="defer"`` rows that still wait come last, as ``deferred``. To stop early, break out of the
        loop (within ``contextlib.aclosing``, so that requests in flight end at once).

        Raises:
            StoppedError: the provider refuses the account, the key, or the first rows.
            UsageError: a row needs a key or a model that is not there.
            Exception: whatever the iterable raises.
        """
        from llmbatch.inputs.iterable import IterableSource
        from llmbatch.outputs.deferred import stamp_retry_at

        host = LocalSimulator(seed=self.options.seed or 0)
        provider = self._make_provider(host, warn=lambda text: engine.emit(_warning(text)))
        sink = QueueSink(2 * self.options.concurrency)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(host.aclose)
            stack.push_async_callback(provider.aclose)
            source = IterableSource(rows, opaque=callable(self._model))
            stack.push_async_callback(source.aclose)
            stats = self._fold()
            engine = self._start(provider, source, sink, stats, None)
            engine.emit(
                RunStarted(asyncio.get_running_loop().time(), "", "", self.options.concurrency, 0, 0, _length(rows))
            )
            task = asyncio.create_task(engine.run())
            task.add_done_callback(lambda _: sink.close())
            told_all = False
            try:
                async for result in sink.results():
                    yield result
                ending = await task
                waiting = stamp_retry_at(engine.deferred())
                for result in waiting:
                    yield result
                told_all = True
            finally:
                self._engines.remove(engine)
                if not task.done():
                    task.cancel()
                    await asyncio.wait([task])
                if not told_all:
                    engine.ended(130, "the stream was closed early", len(engine.deferred()))
            self._sum_up(engine, stats, ending, len(waiting))
            if ending.exit_code == 3:
                raise StoppedError(ending.reason, hint=ending.hint)

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop what runs in this event loop, or else the next run: no new rows, requests in flight may finish for 30 s.

        With *now*, at once. The exit code is 128 + *signal*, or 130.
        """
        exit_code = 128 + signal if signal is not None else 130
        reason = "stopped at once" if now else "interrupted: requests in flight may finish"
        if not self._engines and not self._writers:
            self._stopped = (exit_code, reason, now)
        for engine in self._engines:
            engine.stop(exit_code, reason, now=now)
        for writer in self._writers if now else ():
            if writer.abandon():
                self._given_up = exit_code

    # Putting the parts together.

    def _make_provider(
        self,
        host: LocalSimulator,
        *,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Provider:
        if self._model is not None and not isinstance(self._model, str):
            from llmbatch.providers.function_provider import FunctionProvider

            return FunctionProvider(self._model, ping_row=self._canary)
        from llmbatch.providers.http_provider import HttpProvider
        from llmbatch.providers.resolve import ProviderSettings

        connection = ProviderSettings(
            model=self._model,
            base_url=self._base_url,
            proxy=self._proxy,
            api_key_env=self._api_key_env,
            endpoint=self._endpoint,
            system=self._system,
            params={name: dumps(value) for name, value in self._params.items()},
            environ=self._environ,
            sim_url=host.url,
        )
        if self._transport is not None:
            return HttpProvider(connection, self._transport)
        return HttpProvider.over_http(
            connection, before_sending=before_sending, warn=warn, max_answer_memory=self._max_answer_memory
        )

    def _fold(self) -> RunStats:
        """What adds up this run's events: a fresh one among the observers, as others may read it too, or our own."""
        fresh = (other for other in self._observers if isinstance(other, RunStats) and other.started is None)
        return next(fresh, None) or RunStats()

    def _start(
        self,
        provider: Provider,
        source: Source,
        sink: LineSink | QueueSink,
        stats: RunStats,
        out: Output | None,
        *,
        good_rows: Callable[[], Sequence[Row]] = lambda: (),
    ) -> Engine:
        engine = Engine(
            provider,
            source,
            sink,
            self.options,
            observers=[stats, *(other for other in self._observers if other is not stats)],
            answered_before=out.has_success if out is not None else lambda _: False,
            good_rows=good_rows,
        )
        self._engines.append(engine)
        if self._stopped is not None:
            exit_code, reason, now = self._stopped
            self._stopped = None
            engine.stop(exit_code, reason, now=now)
        return engine

    def _sum_up(self, engine: Engine, stats: RunStats, ending: RunOutcome, deferred: int) -> Summary:
        if isinstance(ending.error, WriteError):
            engine.ended(74, ending.reason, deferred)
            raise ending.error
        if ending.error is not None:
            engine.ended(2, ending.reason, deferred)
            raise ending.error
        exit_code = ending.exit_code
        if exit_code == 0 and deferred:
            exit_code = 75
        failed = stats.failed
        if exit_code == 0 and failed:
            exit_code = 1
        return stats.summary(engine.ended(exit_code, ending.reason, deferred))


def _warning(text: str) -> Notice:
    return Notice(asyncio.get_running_loop().time(), "warning", text)


def _length(rows: object) -> int | None:
    return len(rows) if hasattr(rows, "__len__") else None
