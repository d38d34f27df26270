"""The files of a run: opens and compares input and output, and ends them, whatever became of the run.

It sends nothing; :class:`~llmbatch.runs.batch_runner.BatchRunner` starts the job in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.core.errors import InputError, MissingKeyError, WriteError
from llmbatch.core.events import Notice, RunStarted
from llmbatch.core.ports import Provider, Source
from llmbatch.core.rows import Result, Row, encode_line
from llmbatch.core.shards import WHOLE
from llmbatch.inputs.input import Input, open_input
from llmbatch.inputs.shape import RowShape
from llmbatch.money.cap import CostCap
from llmbatch.money.prices import Prices
from llmbatch.outputs.deferred import (
    deferred_lines,
    deferred_path,
    has_batch_journal,
    spool_path,
    stamp_retry_at,
    write_deferred,
)
from llmbatch.outputs.file import Output
from llmbatch.outputs.lock import Unlocked
from llmbatch.outputs.open import open_output
from llmbatch.outputs.parts import (
    create_folder,
    default_target,
    is_folder,
    list_shards,
    output_of_parts,
    part_path,
    parts_beside,
)
from llmbatch.outputs.writer import LineWriter
from llmbatch.runner.costs import Costs
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.runs.batches.held_rows import refuse_held_rows
from llmbatch.runs.cut_answers import is_cut_answer
from llmbatch.runs.file_options import FileOptions, OpenFiles
from llmbatch.runs.good_rows import known_good_rows
from llmbatch.runs.input_notices import about_input, why_torn
from llmbatch.runs.job import RunJob
from llmbatch.runs.other_parts import check_other_parts, result_elsewhere
from llmbatch.runs.preflight import (
    check_first_row,
    check_prices,
    check_same_request,
    last_number,
    name_other_inputs,
)
from llmbatch.runs.spending import SpendingFile, spent_by_lines, spent_in_parts
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

if TYPE_CHECKING:
    from llmbatch.outputs.other_parts import OtherParts

__all__ = ["FileRun"]


class FileRun:
    """Input and output of one run. First :meth:`open` them, then await :meth:`close_after` the job.

    ``source`` gives the rows without a line, ``writer`` takes lines; both exist once the files are open. *output* is
    the default output of *input* if None, and ``-`` is a standard stream.
    """

    source: Source
    writer: LineWriter

    def __init__(
        self, input_path: str | Path, output: str | Path | None, how: FileOptions, filesystem: Filesystem | None
    ) -> None:
        self._input = input_path
        target = output if output is not None else default_target(input_path, how.shard)
        self._folder = str(target) if is_folder(target, how.shard) else None
        self._path = part_path(target, how.shard)
        self._how = how
        self._shard = how.shard or WHOLE
        self._filesystem = filesystem or FILESYSTEM
        self._locking = self._filesystem if how.lock == "on" else Unlocked(self._filesystem)
        self._output: Output
        self._rows: Input
        self._total: int | None = None
        self._beyond = 0
        self._had_deferred = False
        self._abort: Callable[[WriteError], None] = lambda error: None  # without a job nothing is to be stopped
        self._spending: SpendingFile | None = None
        self.costs: Costs

    def open(
        self,
        stack: contextlib.AsyncExitStack,
        provider: Provider,
        prices: Prices,
        *,
        max_cost: Decimal | None,
        compare_model: bool,
        reads_bodies: bool = False,
        shape: RowShape | None = None,
        is_whole: bool = False,
        is_live: bool = True,
        needs_key: bool = True,
        check_rows: Callable[[Input, str, Filesystem], None] | None = None,
    ) -> None:
        """Open both files, which *stack* closes, after every check that can be made before a request is paid for.

        *max_cost*: the cap of ``--max-cost``, kept at *prices*. *compare_model*: refuse an output that another model,
        system prompt, parameters or endpoint has answered. *reads_bodies*: the output's answers are a provider's own,
        so that they say how they ended. *shape*, *is_whole*: see :func:`~llmbatch.inputs.input.open_input`.
        *is_live*: no batches are looked after. *needs_key*: rows are sent from here, or with the same environment.
        *check_rows*: one more check, of the input and the output.

        Raises:
            UsageError: an argument is wrong (input, output, key, model).
            WriteError: the output cannot be written.
        """
        how, path = self._how, self._path
        self._rows = rows = stack.enter_context(
            open_input(
                self._input,
                output=path,
                filesystem=self._filesystem,
                input_format=how.input_format,
                shape=shape,
                is_whole=is_whole,
                shard=self._shard,
            )
        )
        with contextlib.nullcontext() if needs_key else contextlib.suppress(MissingKeyError):
            check_first_row(provider, rows, str(self._input), limit=how.limit, strict=how.strict)
        if check_rows is not None:
            check_rows(rows, path, self._filesystem)
        if not how.force:
            refuse_held_rows(path, self._shard, self._filesystem, is_live=is_live, folder=self._folder)
        self.costs = Costs(prices) if max_cost is None else self._capped(provider, rows, prices, max_cost)
        rows.hash_ahead()
        if self._folder is not None and create_folder(self._folder):
            stack.callback(self._remove_if_empty, self._folder)
        self._output = output = open_output(
            path,
            input_path=self._input,
            overwrite=how.overwrite,
            retry_failed=how.retry_failed,
            retry_up_to=last_number(rows, how.limit) if how.retry_failed else None,
            shard=self._shard,
            elsewhere=self._elsewhere if self._folder is not None else None,
            disk=self._locking,
        )
        stack.callback(output.close)
        with contextlib.ExitStack() as refused:
            refused.callback(output.remove_if_new)
            self._prepare(provider, compare_model=compare_model, reads_bodies=reads_bodies)
            self.source = rows.rows(output.finished, limit=how.limit, spool=spool_path(path))
            refused.pop_all()
        stack.push_async_callback(self.source.aclose)
        interval = 1.0 if how.fsync == "group" else None
        self.writer = LineWriter(output, sync_interval=interval, on_error=lambda error: self._abort(error))

    def _prepare(self, provider: Provider, *, compare_model: bool, reads_bodies: bool) -> None:
        """Compare the open output with the input, drop lines that are to be written anew, and make room.

        Raises:
            UsageError: they do not belong together.
            WriteError: the output cannot be written.
        """
        how, path, rows, output = self._how, self._path, self._rows, self._output
        if how.retry_failed and how.require_finish and output.is_resumable:
            is_cut = functools.partial(is_cut_answer, reads_body=reads_bodies)
            output.find_cut_answers(is_cut, last_number(rows, how.limit))
        self._compare(rows)
        if self._folder is not None and not how.overwrite:
            check_other_parts(self._elsewhere(), rows, str(self._input))
        earlier = output.earlier_success() if compare_model else None
        if earlier is not None:
            check_same_request(provider, rows, *earlier)
        output.drop_cut_answers()  # after all that may refuse the command: these lines were paid for
        self._total = self._count(rows)
        if self._total is None or len(output.finished) < self._total:
            output.check_room(sync=how.fsync == "group")
        if output.is_resumable:
            # Deferred rows are sent now, or reported again at the end.
            self._had_deferred = deferred_path(path).exists()
            write_deferred(Path(path), (), self._locking)

    def _elsewhere(self) -> OtherParts:
        from llmbatch.outputs.other_parts import OtherParts

        whole = output_of_parts(Path(self._path).parent)
        named = () if whole is None else (str(whole),)
        return OtherParts(self._path, self._shard, self._locking, named=named)

    @staticmethod
    def _remove_if_empty(folder: str) -> None:
        """Remove a folder that this run made and left nothing in."""
        with contextlib.suppress(OSError):
            Path(folder).rmdir()

    def _capped(self, provider: Provider, rows: Input, prices: Prices, max_cost: Decimal) -> Costs:
        """Costs under ``--max-cost``, of which what the output has cost counts.

        Raises:
            UsageError: the price of a route of the first row is unknown.
            OutputError: the output cannot be read.
        """
        check_prices(provider, rows, prices, limit=self._how.limit)
        if self._path == "-" or (Path(self._path).exists() and not Path(self._path).is_file()):
            return Costs(prices, CostCap(max_cost))
        self._spending = spending = SpendingFile(self._path, self._filesystem)
        if self._how.overwrite:
            spending.remove()
            return Costs(prices, CostCap(max_cost), on_reserve=spending.book)
        spent = spent_by_lines(self._path, self._filesystem)
        if spent or Path(self._path).exists():
            spent = max(spent, spending.read())
        spent += spent_in_parts(self._path, self._filesystem)
        return Costs(prices, CostCap(max_cost, spent), on_reserve=spending.book)

    def _count(self, rows: Input) -> int | None:
        """Lines of the output once this run is complete, also of finished rows beyond the limit; None: unknown.

        The latter are counted on their own too.
        """
        limit = self._how.limit
        total = rows.count(limit)
        last = last_number(rows, limit)
        if limit is None or last is None:
            return total
        self._beyond = sum(1 for _ in self._output.finished.done_after(last))
        return None if total is None else total + self._beyond

    def _compare(self, rows: Input) -> None:
        """Compare the finished rows with the input, and drop the lines of those that were no requests.

        Raises:
            InputError: a finished row has changed.
            WriteError: the output could not be rewritten.
        """
        output = self._output
        try:
            rows.verify(output.finished)
        except InputError as error:
            raise name_other_inputs(self._name_part(error), self._input, self._path) from None
        if not rows.is_rereadable:
            output.drop_input_errors(self._how.limit)
        else:
            output.drop_corrected(last_number(rows, self._how.limit) if output.finished.corrected else None)

    def _name_part(self, error: InputError) -> InputError:
        """*error*, with the file that has the row's result if that is another than the own part."""
        number = error.line
        holder = self._path if number is None else self._output.file_of(number)
        if holder == self._path:
            return error
        return InputError(error.message, hint=result_elsewhere(str(holder)), line=number)

    def has_success(self, model: str) -> bool:
        """Whether *model* (``provider/model``) has answered a row of the output."""
        return self._output.has_success(model)

    def good_rows(self) -> list[Row] | None:
        """Rows of the input that succeeded in an earlier run; None if they cannot be read now. At most a second."""
        return known_good_rows(self._output, self._rows)

    @property
    def path(self) -> str:
        """The file that takes the lines."""
        return self._path

    def started(self, options: RunOptions) -> RunStarted:
        """The first event of the run, as of now."""
        done = self._output.finished
        return RunStarted(
            asyncio.get_running_loop().time(),
            input=str(self._input),
            output=self._path,
            concurrency=options.concurrency,
            done_success=done.success,
            done_failed=done.failed,
            total_rows=self._total,
            max_outage=options.max_outage,
            own_limits=options.own_limits,
            limit=None if self._how.limit is None else -(-self._how.limit // self._shard.count),
            done_beyond_limit=self._beyond,
            adapts=options.adapts,
            input_format=self._how.input_format,
        )

    def opened(self) -> OpenFiles:
        """The open files, for a run over batch APIs."""
        return OpenFiles(
            rows=self._rows,
            input_path=str(self._input),
            output=self._output,
            output_path=self._path,
            writer=self.writer,
            costs=self.costs,
            disk=self._filesystem,
            limit=self._how.limit,
            is_afresh=self._how.overwrite,
        )

    @property
    def is_complete(self) -> bool:
        """Whether every row is known to have its line."""
        return self._total is not None and len(self._output.finished) >= self._total

    @property
    def left_usd(self) -> Decimal | None:
        """What may still be spent under ``max_cost``; None without a cap."""
        cap = self.costs.cap
        return None if cap is None else cap.limit - cap.spent

    async def collect(self) -> tuple[int, int, int]:
        """Take in the parts that processes have written beside the output, and list the rows that wait.

        How many rows of the output have succeeded, have failed, and wait.

        Raises:
            InUseError: a process is still writing its part.
            OutputError: a part is damaged.
            WriteError: there is no room, or an I/O error; parts that are left are taken in by the next run.
        """
        await self.writer.aclose()
        output = self._output
        waiting = deferred_lines(part.path for part in list_shards(parts_beside(self._path)))
        if self._spending is not None and self.costs.cap is not None:
            spent = self.costs.cap.spent + spent_in_parts(self._path, self._filesystem)
            if spent:
                self._spending.note(spent)
        try:
            output.take_in_parts()
            write_deferred(Path(self._path), waiting, self._locking)
        finally:
            output.remove_if_new()
        return output.finished.success, output.finished.failed, len(waiting)

    async def close_after(
        self, job: RunJob, outcome_of_job: Awaitable[RunOutcome]
    ) -> tuple[RunOutcome, Sequence[Result]]:
        """Await the end of *job*, write what is left, and list the rows that wait in the deferred file.

        Gives the outcome, which a failing output replaces, and the results of deferred rows. A cancellation is raised
        once all lines are written. A run that stopped without any line leaves no output that was not there before;
        one whose command was wrong (exit code 2) no deferred file either.

        Raises:
            WriteError: the deferred file could not be written, and nothing else was wrong.
        """
        self._abort = job.engine.abort
        outcome: RunOutcome | None = None
        try:
            outcome = await outcome_of_job
        finally:
            try:
                await self.writer.aclose()
            except WriteError as error:
                outcome = RunOutcome(error.exit_code, error.message, error.hint, error)
            finally:
                if self._spending is not None and self.costs.cap is not None:
                    self._spending.close(self.costs.cap)
                code = None if outcome is None else outcome.exit_code
                waiting = stamp_retry_at(job.deferred())
                if code == 2 and self._output.is_new and not self._output.lines_written and not self._had_deferred:
                    waiting = ()
                if self._output.is_resumable:
                    try:
                        write_deferred(Path(self._path), map(encode_line, waiting), self._locking)
                    except WriteError:
                        if outcome is None or outcome.error is None:
                            raise
                        # Report the error that ended the run.
                has_batches = code not in (2, 3) and has_batch_journal(self._path, self._filesystem)
                if code not in (0, 1) and not has_batches:  # of which an empty file tells, if the journal is lost
                    self._output.remove_if_new()
            if outcome is None:
                job.abandon("the run was canceled")
        return outcome, waiting

    @property
    def cut_off(self) -> str | None:
        """Which last line, or record, of the input is cut off; None if it is complete."""
        torn_line, unit = self.source.torn_line, self._rows.unit
        return None if torn_line is None else f"{self._input}:{torn_line}: the last {unit} {why_torn(unit)}"

    def notices(self, outcome: RunOutcome) -> list[Notice]:
        """What to say of the input at the end: no rows, or a last line that is cut off."""
        found = about_input(self._input, self.source, self._rows.unit, self._shard, self._path, outcome)
        return [] if found is None else [Notice(asyncio.get_running_loop().time(), "warning", *found)]
