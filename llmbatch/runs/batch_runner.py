"""``BatchRunner``: sends rows through a circuit breaker and gives one result per row.

It puts a run together from its parts: :mod:`llmbatch.runs.open_runs` opens what all runs have,
:mod:`llmbatch.runs.file_run` the files, :mod:`llmbatch.runs.streaming` yields results. Displays are observers; the
command line handles signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import StoppedError, UsageError
from llmbatch.core.events import Event, Observer
from llmbatch.core.observers import as_observers
from llmbatch.core.ports import Provider, Transport
from llmbatch.core.rows import Result
from llmbatch.inputs.shape import RowShape
from llmbatch.money.prices import Prices
from llmbatch.report.summary import Summary
from llmbatch.runner.command_options import Fsync, Lock
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runner.keywords import as_path, as_shard, check_keywords, check_names
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.runs.controls import RunnerControls
from llmbatch.runs.keyword_types import Keywords, Options
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.make_provider import ProviderArguments, RowFunction, loaded
from llmbatch.runs.open_runs import OpenRuns
from llmbatch.runs.watchers import make_telemetry, show_in_notebook

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from typing_extensions import TypeVar

    from llmbatch.breaker.classify import ErrorJudge, ResultJudge
    from llmbatch.core.shards import Shard
    from llmbatch.inputs.format_names import InputFormat
    from llmbatch.providers.structured.schema import AnswerSchema
    from llmbatch.runs.streaming import ResultStream
    from llmbatch.runs.sync_stream import SyncResultStream
    from llmbatch.storage.filesystem import Filesystem

    RowT = TypeVar("RowT", default=Any)
    ValueT = TypeVar("ValueT", default=Any)
else:  # a default needs Python 3.13, and only type checkers look at it
    from typing import TypeVar

    RowT = TypeVar("RowT")
    ValueT = TypeVar("ValueT")

__all__ = ["BatchRunner", "Options"]


class BatchRunner(RunnerControls, Generic[RowT, ValueT]):
    """Sends rows to a provider, or to any function, and survives outages.

    Generic in the row that the function takes and the value that it returns: with ``async def ask(row: Question) ->
    Answer`` it is a ``BatchRunner[Question, Answer]``. With a provider rows are of any kind, and values None.

    Runs share only these settings: they may run one after another, or concurrently. A canceled run leaves an output
    that the next one resumes. :meth:`pause`, :meth:`resume`, :meth:`set` and :meth:`stop` control the open ones.

    Args:
        model: ``PROVIDER/MODEL``, a bare model name, None (rows name their own), a function, or a
            :class:`~llmbatch.core.ports.Provider`, which is not closed at the end of a run. A function is an
            ``async def call(row)``, or a plain one, which runs in at most ``concurrency`` threads. Each call has a
            fresh copy of the caller's context variables.
        base_url: any OpenAI-compatible server, instead of the provider's.
        proxy: the URL of an HTTP proxy for every request; None: none, whatever the environment says.
        api_key_env: the environment variable that holds the key; keys are taken from nowhere else.
        headers: HTTP headers to send too, to ``base_url`` or else the model's provider; ``"$NAME"`` stands for the
            value of an environment variable. Values that hold keys are masked.
        endpoint: the wire format; None: as each row and the provider have it.
        system: a system prompt for rows that have none.
        template: the prompt, made from a record's fields in Jinja's syntax; ``@FILE`` reads it from a file.
        prompt_column: the field that is the prompt; ``system_column``: the system prompt, ``id_column``: the id.
        keep: fields that are echoed in a result's metadata.
        params: request parameters for rows that do not set them.
        fallback: ``PROVIDER/MODEL`` names, in order: where rows go while the route of their model is down, or its
            account, key or model is refused.
        pools: routes that are used as one, by the name that follows ``pool/`` in a model's name: ``{"cheap":
            {"routes": [{"model": …, "base_url": …, "api_key_env": …, "weight": …}]}}``, as in a configuration file.
        cache: an SQLite file of good answers: rows whose requests it has cost no call, and good answers are kept in
            it. Equal rows of one run cost one call.
        allow_files: the folder below which files that rows name with ``file:`` URLs are read; None: such rows fail.
        server_files: send such URLs as they are: the server reads the files.
        prices: a TOML file of prices, before those of the price list: see docs/cost.md. ``max_cost`` needs a price of
            each model; a provider must tell its tokens.
        schema: a pydantic model, a JSON Schema, its path, or ``MODULE:CLASS``: answers are checked by it, and asked for
            again up to ``repair`` times; ``schema_lenient`` finds JSON inside other text. See docs/structured.md.
        observers: receive every event: objects with a method ``observe(event)``, or plain functions.
        tracer_provider: OpenTelemetry's: a span for each run, and one for each call; None: none. See docs/metrics.md.
        meter_provider: OpenTelemetry's: duration and tokens of calls, and the numbers of runs; None: none.
        display: in a Jupyter notebook, show each run below its cell, updated in place; elsewhere nothing is shown.
        canary: for a function: a row that may be sent at any time as a health check.
        judge_error: for a function: says what an exception means, as for a :class:`~llmbatch.CircuitBreaker`: a
            verdict, a :class:`~llmbatch.Judgement`, or None for the usual classification.
        judge_result: for a function: the same for what it returns; None means a success.
        max_answer_memory: bytes that all answers in flight share, 1,000,000 or more; above it the largest fails with
            ``answer_too_large``.
        environ: where keys and base URLs are read from; None: the process's environment.
        transport: sends requests instead of the HTTP client, such as a simulated provider; closed with a run.
        filesystem: file system calls instead of the operating system's, for simulations.
        **options: concurrency (a number, ``"auto"`` or ``"auto:200"``) and the rest of :class:`RunOptions`.

    Raises:
        UsageError: a value is out of range, or an argument is not of these kinds.
    """

    @overload
    def __init__(self: BatchRunner[Any, None], model: str | None = None, **keywords: Unpack[Keywords]) -> None: ...
    @overload
    def __init__(self: BatchRunner[Any, Any], model: Provider, **keywords: Unpack[Keywords]) -> None: ...
    @overload
    def __init__(self, model: Callable[[RowT], Awaitable[ValueT]], **keywords: Unpack[Keywords]) -> None: ...
    @overload
    def __init__(self, model: Callable[[RowT], ValueT], **keywords: Unpack[Keywords]) -> None: ...
    def __init__(
        self,
        model: str | RowFunction | Provider | None = None,
        *,
        base_url: str | None = None,
        proxy: str | None = None,
        api_key_env: str | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: Endpoint | None = None,
        system: str | None = None,
        template: str | None = None,
        prompt_column: str | None = None,
        system_column: str | None = None,
        id_column: str | None = None,
        keep: Sequence[str] | None = None,
        params: Mapping[str, object] | None = None,
        fallback: Sequence[str] | None = None,
        pools: Mapping[str, object] | None = None,
        cache: str | Path | None = None,
        allow_files: str | Path | None = None,
        server_files: bool = False,
        prices: str | Path | None = None,
        schema: type[Any] | Mapping[str, Any] | str | Path | AnswerSchema | None = None,
        schema_lenient: bool = False,
        repair: int = 1,
        observers: Sequence[Observer | Callable[[Event], object]] = (),
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        display: bool = True,
        canary: object = None,
        judge_error: ErrorJudge | None = None,
        judge_result: ResultJudge | None = None,
        max_answer_memory: int = 512_000_000,
        environ: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        filesystem: Filesystem | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names(frozenset(options))
        check_keywords(endpoint=endpoint, max_answer_memory=max_answer_memory, headers=headers, fallback=fallback)
        columns = {"prompt_column": prompt_column, "system_column": system_column, "id_column": id_column}
        check_keywords(template=template, keep=keep, **columns)
        shape = RowShape(template=template, keep=(keep,) if isinstance(keep, str) else tuple(keep or ()), **columns)
        run_options = RunOptions(**options)  # type: ignore[arg-type]  # it converts "auto"
        arguments = ProviderArguments(
            model=model,
            base_url=base_url,
            proxy=proxy,
            api_key_env=api_key_env,
            headers=dict(headers or {}),
            endpoint=endpoint,
            system=system,
            shape=shape.load(),
            params=params or {},
            fallback=(fallback,) if isinstance(fallback, str) else fallback or (),
            tier=run_options.tier,
            pools=pools or {},
            cache=as_path("cache", cache),
            allow_files=as_path("allow_files", allow_files),
            server_files=server_files,
            schema=loaded(schema),
            schema_lenient=schema_lenient,
            repair=repair,
            require_finish=run_options.require_finish,
            canary=canary,
            max_answer_memory=max_answer_memory,
            environ=os.environ if environ is None else environ,
            transport=transport,
            judge_error=judge_error,
            judge_result=judge_result,
        )
        if run_options.max_cost is not None and callable(model):
            raise UsageError("max_cost needs a provider's prices, and a function has none", hint="leave it out")
        known_prices = Prices.read(as_path("prices", prices))
        self._runs = OpenRuns(arguments, run_options, as_observers(observers), known_prices)
        self._runs.watchers += make_telemetry(tracer_provider, meter_provider)
        if display:
            self._runs.watchers.append(show_in_notebook)
        self._filesystem = filesystem
        arguments.make(LocalSimulator(), threads=1)

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
        input_format: InputFormat | None = None,
        shard: Shard | tuple[int, int] | None = None,
    ) -> Summary:
        """Send every row of *input* that has no line in *output*, and append one line per row.

        *output* defaults to ``<stem>.results.jsonl`` beside the input, or standard output for ``-``. *limit*: only
        the first so many rows. *retry_failed*: send failed rows again, and with the option ``require_finish`` those
        whose answers were cut at their token limit; *overwrite*: start afresh; *strict*: refuse
        the whole input if any row is malformed; *force*: go on with an output that another model, *system*,
        *params* or *endpoint* has answered. *input_format*: None for the one that its ending says.
        *shard*: ``(i, n)`` sends only rows i, i + n, i + 2n, …; with a folder as *output* they go to their part in it,
        and rows that are finished in other parts are not sent.
        *lock*: ``off`` does not lock the output, for file systems without locks; a second run at once would spoil it.
        *fsync*: ``group`` syncs lines once per second; with ``off`` a power cut may lose any lines. The
        summary's ``exit_code`` says how it went.

        Raises:
            UsageError: an argument is wrong (input, output, key, model); as for the first row, before anything is
                sent.
            WriteError: a line could not be written; the file ends with a whole line, and the same call resumes.
        """
        from llmbatch.runs.file_options import FileOptions
        from llmbatch.runs.file_run import FileRun
        from llmbatch.runs.preflight import check_cache_path

        how = FileOptions(
            limit=limit,
            retry_failed=retry_failed,
            require_finish=self.options.require_finish,
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
            input_format=input_format,
            shard=None if shard is None else as_shard(shard),
        )
        check_cache_path(self._runs.arguments.cache, input, output)
        files = FileRun(input, output, how, self._filesystem)
        batches = self._runs.batches(input, files.path)
        async with contextlib.AsyncExitStack() as stack:
            # Lines go first: what a kill repeats is then no more than what was in flight.
            opening = self._runs.open(before_sending=lambda: files.writer.flush())
            run = await stack.enter_async_context(opening)
            # A function may change its name; what it is asked is its author's matter.
            model = self._runs.arguments.model
            files.open(
                *(stack, run.provider, self._runs.prices),
                max_cost=self.options.max_cost,
                compare_model=not (force or callable(model)),
                reads_bodies=model is None or isinstance(model, str),
                shape=self._runs.arguments.shape,
                is_whole=callable(model),
                is_live=batches is None,
                check_rows=batches.check_of(run.provider, str(input), limit, force=force) if batches else None,
            )
            stack.enter_context(self._runs.writing(files.writer))
            sink = files.writer
            job = run.start(
                *(batches.source(files.source) if batches else files.source, sink, files.started(self.options)),
                earlier=EarlierRuns(files.has_success, files.good_rows),
                costs=files.costs,
                output=files.path,
            )
            sending = batches.run(run, sink, files.opened()) if batches else run.finish()
            outcome, waiting = await files.close_after(job, sending)
            for notice in files.notices(outcome):
                job.engine.emit(notice)
            await run.wind_up()
            if files.cut_off is not None and outcome.exit_code in (0, 1):
                outcome = RunOutcome(75, files.cut_off)
            given_up = self._runs.given_up()
            if given_up is not None and outcome.exit_code in (0, 1):
                # All rows were finished, but the reader did not read their lines.
                outcome = RunOutcome(given_up, "stopped at once, before the reader had read all lines")
            return job.conclude(outcome, waiting)

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
        input_format: InputFormat | None = None,
        shard: Shard | tuple[int, int] | None = None,
    ) -> Summary:
        """Run :meth:`run` from synchronous code; inside an event loop (a notebook) it uses a thread of its own.

        Ctrl-C cancels it in both cases, and is raised once the output is closed.

        Raises:
            UsageError: as :meth:`run`.
            WriteError: as :meth:`run`.
        """
        from llmbatch.runs.nested_loop import run_in_thread

        run = self.run(
            *(input, output),
            limit=limit,
            retry_failed=retry_failed,
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
            input_format=input_format,
            shard=shard,
        )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run)
        return run_in_thread(run)

    def stream(
        self, rows: Iterable[RowT] | AsyncIterable[RowT], *, ordered: bool = False
    ) -> ResultStream[RowT, ValueT]:
        """Send rows from any iterable and yield each result as it arrives; a failed row is a result, not an exception.

        With backpressure in both directions: rows are taken as slots become free, and nothing is sent while results
        are not consumed. With ``on_outage="defer"``, rows that are still waiting come last, as ``deferred``. To stop
        early, break out of the loop (within ``async with``, so that requests in flight end at once). Afterwards the
        stream's ``summary`` says how it went.

        *ordered*: yield results in the order of the rows. Rows are then read at most ten times ``concurrency`` (and at
        least 100) ahead of the first result that is missing, so a row that waits out an outage holds up the others;
        with ``on_outage="defer"`` reading ends there.

        Raises:
            StoppedError: while iterating: the provider refuses the account, the key, or the first rows.
            UsageError: while iterating: a row needs a key or a model that is missing.
            Exception: while iterating: whatever the iterable raises.
        """
        from llmbatch.runs.streaming import ResultStream

        return ResultStream(self._runs, rows, ordered=ordered)

    def stream_sync(
        self, rows: Iterable[RowT] | AsyncIterable[RowT], *, ordered: bool = False
    ) -> SyncResultStream[RowT, ValueT]:
        """Iterate over results as :meth:`stream` does, from synchronous code, also inside an event loop (a notebook).

        An event loop in a thread of its own sends the rows; there the iterable is iterated over, and observers and
        async functions are called. Leaving the loop early ends the run; ``with`` makes sure of it.

        Raises:
            StoppedError: as :meth:`stream`, while iterating, and so are the others.
        """
        from llmbatch.runs.streaming import ResultStream
        from llmbatch.runs.sync_stream import SyncResultStream

        return SyncResultStream(ResultStream(self._runs, rows, ordered=ordered))

    async def map(self, rows: Iterable[RowT] | AsyncIterable[RowT]) -> list[Result[RowT, ValueT]]:
        """Send all rows and return their results in the order of the rows; a failed row is a result.

        Rows that a run did not read before it gave up are ``deferred``; after :meth:`stop` they have no results.

        Raises:
            StoppedError: the provider refuses the account, the key, or the first rows; ``results`` has those before.
            UsageError: a row needs a key or a model that is missing.
            Exception: whatever the iterable raises.
        """
        from llmbatch.runs.streaming import ResultStream

        results: list[Result[RowT, ValueT]] = []
        try:
            async with ResultStream[RowT, ValueT](self._runs, rows, ordered=False, reads_all=True) as stream:
                async for result in stream:
                    results.append(result)
        except StoppedError as error:
            error.results = sorted(results, key=lambda result: result.number)
            raise
        return sorted(results, key=lambda result: result.number)
