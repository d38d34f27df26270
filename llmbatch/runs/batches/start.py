"""Starts a run over batch APIs: what is refused before anything is sent, and the batches before the live rest."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError, OutputError, UsageError, WriteError
from llmbatch.core.exchange import Exchanger
from llmbatch.core.ports import Provider, Sink, Source, Transport
from llmbatch.core.rows import Row
from llmbatch.inputs.input import Input
from llmbatch.money.estimate import is_priced
from llmbatch.money.price import batch_price
from llmbatch.money.prices import Prices
from llmbatch.outputs.deferred import batch_journal_path, is_stream
from llmbatch.providers.batches.families import providers_with_batches
from llmbatch.runner.options import RUN_OPTIONS, RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.runs.batches.context import BatchParts, BatchRun
from llmbatch.runs.batches.loop import BatchLoop
from llmbatch.runs.batches.money import BatchMoney
from llmbatch.runs.batches.names import job_name
from llmbatch.runs.batches.ownership import folder_of, own_job, refuse_others_batches
from llmbatch.runs.batches.record import ChunkRecord
from llmbatch.runs.batches.rows import BatchProvider, BatchRow, bind
from llmbatch.runs.batches.skipping import SkippingSource
from llmbatch.runs.file_options import OpenFiles
from llmbatch.runs.make_provider import ProviderArguments
from llmbatch.runs.spending import spent_by_lines
from llmbatch.storage.batch_journal import BatchJournal
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

if TYPE_CHECKING:
    from llmbatch.runs.open_runs import OpenRun

__all__ = ["BatchPhase", "check_batch_options", "check_batch_price", "check_batch_rows", "job_of"]

_FEW_ROWS = 1000
_LIVE = "leave out --via batch, or use --tier flex where the provider has it"


def check_batch_options(
    options: RunOptions, input_path: str | Path, output: str, *, model: object, cache: str | None
) -> None:
    """Refuse what does not go with ``--via batch``, before any file is opened.

    Raises:
        UsageError: what, and what to type instead.
    """
    if options.via != "batch":
        for name in options.given_for_batches:
            flag = RUN_OPTIONS[name].flag
            raise UsageError(f"{flag} is for batch APIs, and rows are sent live", hint="add --via batch")
        return
    if model is not None and not isinstance(model, str):
        raise UsageError("via='batch' needs a provider's batch API, and a function is given", hint="leave via out")
    if cache is not None:
        raise UsageError("--cache does not go with --via batch", hint="leave one of them out")
    if model is not None and model.startswith("pool/"):
        raise UsageError(f"{model} is a pool, and a batch goes to one model", hint="name one model: -m PROVIDER/MODEL")
    if options.tier != "standard":
        raise UsageError(f"--tier {options.tier} does not go with --via batch", hint="leave one of them out")
    if str(input_path) == "-":
        raise InputError(
            "--via batch reads rows again when their results arrive, and standard input can be read once",
            hint="save it to a file first",
        )
    if is_stream(output):
        raise OutputError("--via batch needs an output that resumes", hint="name a file: -o results.jsonl")


def check_batch_rows(provider: Provider, rows: Input, name: str, *, limit: int | None) -> BatchRow | None:
    """Check the first rows: that one can go into a batch, and none asks for a stream. The first one that can.

    Raises:
        UsageError: what is wrong, of which row, and what to type instead.
    """
    if not rows.is_rereadable:
        raise InputError(
            f"{name} is a pipe, and --via batch reads rows again when their results arrive",
            hint="save it to a file first",
        )
    first: BatchRow | None = None
    other = obstacle = ""
    with contextlib.closing(rows.peek(limit)) as items:
        for item in itertools.islice(items, _FEW_ROWS):
            try:
                row = bind(cast("BatchProvider", provider), item) if isinstance(item, Row) else None
            except MalformedRowError as error:
                if error.code == "input_stream":
                    raise InputError(
                        f"{name}:{item.number}: the row sets stream to true, which no batch can give",
                        hint="remove stream from the rows, then run the same command again",
                        line=item.number,
                    ) from None
                continue
            except MissingKeyError:
                continue
            if row is None:
                continue
            if row.family is None:
                other, obstacle = other or f"{row.request.route.label} ({row.request.endpoint})", row.obstacle
                continue
            first = first or row
    if first is None and obstacle:
        raise UsageError(
            f"no row can go into a batch of {other}: its batches do not take {obstacle}",
            hint=f"leave that out of the rows; or {_LIVE}",
        )
    if first is None and other:
        raise UsageError(
            f"there is no batch API for {other}",
            hint=f"batch APIs of {providers_with_batches()} are known; {_LIVE}",
        )
    return first


def check_batch_price(prices: Prices, options: RunOptions, first: BatchRow | None) -> None:
    """Refuse ``--max-cost`` without a batch price: the cap could not be kept.

    Raises:
        UsageError: of which model, and what to type.
    """
    if first is None or options.max_cost is None:
        return
    name = first.request.route.model or first.request.route.label
    if not is_priced(batch_price(prices.of(name)), first.request):
        raise UsageError(
            f"--max-cost needs the batch price of {name}, which is unknown",
            hint=f'name it in a file: --prices prices.toml, with ["{name}".batch], input = 0.125 and output = 1.0',
        )


def job_of(rows: Input, first: BatchRow | None, output: str, disk: Filesystem = FILESYSTEM) -> str:
    """The name of the job of *rows* with this output."""
    with contextlib.closing(rows.peek(1)) as items:
        item = next(items, None)
    return job_name(
        base_url="" if first is None else first.base,
        endpoint="" if first is None else first.request.endpoint,
        settings="" if first is None else first.request.settings,
        first_hash="" if item is None else item.hash,
        output=Path(output).name,
        folder=folder_of(output, disk),
    )


class BatchPhase:
    """The batches of a run, before its live rest. One for each run over batch APIs."""

    def __init__(self, arguments: ProviderArguments, options: RunOptions, prices: Prices) -> None:
        self._arguments = arguments
        self._prices = prices
        self._options = options
        self._first: BatchRow | None = None
        self._source: SkippingSource

    def check_of(
        self, provider: Provider, name: str, limit: int | None, *, force: bool
    ) -> Callable[[Input, str, Filesystem], None]:
        """A check of the input, called *name*, and of an output, before anything is opened for writing."""

        def check(rows: Input, output: str, disk: Filesystem) -> None:
            self._first = check_batch_rows(provider, rows, name, limit=limit)
            check_batch_price(self._prices, self._options, self._first)
            if not force:
                refuse_others_batches(output, job_of(rows, self._first, output, disk), disk)

        return check

    def source(self, source: Source) -> Source:
        """The source of the live rest of *source*."""
        self._source = SkippingSource(source)
        return self._source

    async def run(self, run: OpenRun, sink: Sink, files: OpenFiles) -> RunOutcome:
        """Run the batches, then send the rest live, and give the outcome.

        Raises:
            UsageError: a row names no model, or one that cannot be reached.
            WriteError: the output or the journal cannot be written.
        """
        try:
            await self._run_batches(run, sink, files)
        except InputError as error:
            run.job.engine.fail(error)
        except WriteError as error:
            run.job.engine.abort(error)
        return await run.finish()

    async def _run_batches(self, run: OpenRun, sink: Sink, files: OpenFiles) -> None:
        exchanger = _exchanger(self._arguments)
        journal = BatchJournal(str(batch_journal_path(files.output_path)), files.disk)
        record = ChunkRecord(journal)
        parts = BatchParts(
            engine=run.job.engine,
            provider=cast("BatchProvider", run.provider),
            options=self._options,
            input=files.rows,
            input_path=files.input_path,
            output_path=files.output_path,
            limit=files.limit,
            finished=files.output.finished,
            had_runs=not files.output.is_new,
            sink=sink,
            writer=files.writer,
            exchanger=exchanger,
            money=BatchMoney(files.costs, lambda: spent_by_lines(files.output_path, files.disk)),
            disk=files.disk,
            wall=exchanger.wall,
        )
        try:
            job = job_of(files.rows, self._first, files.output_path, files.disk)
            job = own_job(files.output_path, job, record, files.disk)
            batches = BatchRun(parts, record.board(job), record)
            self._source.is_done = batches.written.__contains__
            if files.is_afresh:
                batches.forget_collected()
            loop = BatchLoop(batches, listed=record.listed)
            with anyio.CancelScope() as scope:
                run.job.on_stop = lambda now: scope.cancel() if now else loop.hurry()
                await loop.run()
        finally:
            run.job.on_stop = lambda now: None
            journal.close()
            if self._arguments.transport is None:  # which is closed with the run
                await exchanger.aclose()


def _exchanger(arguments: ProviderArguments) -> Exchanger:
    transport: Transport | None = arguments.transport
    if transport is not None:
        if not callable(getattr(transport, "exchange", None)):
            raise UsageError(
                "via='batch' needs a transport with a method exchange()", hint="leave transport out, or add the method"
            )
        return cast("Exchanger", transport)
    from llmbatch.http.exchange import HttpExchanger

    return HttpExchanger(proxy=arguments.proxy)
