"""Turns results of batches that were submitted by hand into the output of a run, which ``llmbatch run`` continues.

Two passes over the files of results: answers first, then the failures of rows that have no line yet, so that a row that
was submitted twice keeps its answer. Rows that did not run, or may succeed when they are sent again, get no line.
Memory: 20 bytes for each row between the first and the last one of a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmbatch.core.calls import Outcome
from llmbatch.core.errors import MalformedRowError
from llmbatch.outputs.writer import LineWriter
from llmbatch.providers.batches.port import ResultLine
from llmbatch.runs.batches.meaning import meaning_of, whole_batch_refused
from llmbatch.runs.batches.money import BatchMoney
from llmbatch.runs.batches.names import read_custom_id
from llmbatch.runs.batches.row_result import row_result
from llmbatch.runs.batches.rows import BatchProvider, BatchRow, ChunkRows, InputRows, bind
from llmbatch.runs.convert.result_files import ResultFile, ResultShape, read_results
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows, RowSet

__all__ = ["Conversion", "Found", "NoAnswer"]

_LINES_A_TURN = 200


@dataclass(slots=True)
class NoAnswer:
    """Rows without a line for one reason: how many, and what the first of them said."""

    count: int = 0
    message: str = ""


@dataclass(slots=True)
class Found:
    """What the results came to. ``done_before``: rows that had their line already."""

    success: int = 0
    failed: int = 0
    done_before: int = 0
    edited: int = 0
    """Results of rows that were edited after they were submitted."""
    foreign: int = 0
    """Lines of no row of the input."""
    no_answer: dict[str, NoAnswer] = field(default_factory=dict)
    """By code: rows that did not run, or may succeed when they are sent again."""
    refused: Outcome | None = None
    """Why all rows that were answered were refused, if they were: nothing is marked failed then."""


@dataclass(slots=True)
class _Pass:
    """State of one pass."""

    kind: Literal["answers", "failures"]
    seen: RowSet = field(default_factory=RowSet)
    refused: int = 0
    first_refusal: Outcome | None = None


class Conversion:
    """Writes the lines of one set of results. For one event loop.

    *jobs*: those that rows of this input and these settings have. *is_batch*: whether batch prices hold.
    """

    def __init__(
        self,
        provider: BatchProvider,
        rows: InputRows,
        writer: LineWriter,
        finished: FinishedRows,
        money: BatchMoney,
        *,
        jobs: frozenset[str],
        shape: ResultShape,
        output_path: str,
        require_finish: bool,
        failure_threshold: int,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        self._provider = provider
        self._rows = rows
        self._writer = writer
        self._finished = finished
        self._money = money
        self._jobs = jobs
        self._shape: ResultShape = shape
        self._output_path = output_path
        self._require_finish = require_finish
        self._threshold = failure_threshold
        self._disk = disk
        self._written = RowSet()
        self.found = Found()

    def __repr__(self) -> str:
        return f"<Conversion {self.found!r}>"

    async def run(self, files: Sequence[ResultFile]) -> Found:
        """Write the lines of all *files*.

        Raises:
            InputError: a file or the input cannot be read, or the input has changed meanwhile.
            WriteError: the output cannot be written.
        """
        answers, failures = _Pass("answers"), _Pass("failures")
        for file in files:
            await self._read(file, answers)
        has_success = bool(self.found.success) or bool(self._finished.success)
        verdict = whole_batch_refused(answers.refused, has_success=has_success, threshold=self._threshold)
        if answers.refused and verdict == "stop":
            self.found.refused = answers.first_refusal
        for file in files:
            await self._read(file, failures)
        await self._writer.synced()
        return self.found

    def is_done(self, number: int) -> bool:
        """Whether the row has its line."""
        return number in self._written or self._finished.is_done(number)

    async def _read(self, file: ResultFile, now: _Pass) -> None:
        ranges = [file.rows[job] for job in self._jobs if job in file.rows]
        if not ranges:
            return
        first, last = min(low for low, _ in ranges), max(high for _, high in ranges)
        rows = ChunkRows(self._rows, self._output_path, first, last, self._disk)
        try:
            for turn in rows.load(lambda number: number not in self._written):
                del turn
                await asyncio.sleep(0)
            for count, line in enumerate(read_results(file.path, self._shape, self._disk)):
                if count % _LINES_A_TURN == 0:
                    await asyncio.sleep(0)
                    if self._writer.error is not None:
                        raise self._writer.error
                number = None if line is None else self._number(line, rows, now)
                if line is not None and number is not None:
                    self._take(line, number, rows, now)
        finally:
            rows.close()

    def _number(self, line: ResultLine, rows: ChunkRows, now: _Pass) -> int | None:
        """The row of *line*, if it needs one still."""
        name, is_first_pass = read_custom_id(line.custom_id), now.kind == "answers"
        if name is None or name.job not in self._jobs:
            self.found.foreign += is_first_pass
            return None
        if name.number in self._written:
            return None
        if not rows.has(name.number):
            self.found.foreign += is_first_pass
            return None
        if not rows.hash_of(name.number).startswith(name.hash):
            self.found.edited += is_first_pass
            return None
        if self._finished.is_done(name.number):
            if is_first_pass and name.number not in now.seen:
                now.seen.add(name.number)
                self.found.done_before += 1
            return None
        return name.number

    def _take(self, line: ResultLine, number: int, rows: ChunkRows, now: _Pass) -> None:
        if line.reply is None:
            if now.kind == "failures":
                self._leave(number, line.code, "", now)
            return
        try:
            bound = bind(self._provider, rows.get(number))
        except MalformedRowError:
            return  # a run writes its line
        outcome = self._provider.judge(bound.request, line.reply)
        meaning = meaning_of(outcome, truncated_fails=self._require_finish)
        if meaning == "success":
            self._put(bound, outcome, "success")
        elif now.kind == "answers":
            if meaning == "refused" and number not in now.seen:
                now.seen.add(number)
                now.refused += 1
                now.first_refusal = now.first_refusal or outcome
        elif meaning == "failed" or (
            meaning == "refused" and self.found.refused is None and outcome.verdict != "account_refused"
        ):
            self._put(bound, outcome, "failed")
        else:
            self._leave(number, outcome.code, outcome.message, now)

    def _leave(self, number: int, code: str, message: str, now: _Pass) -> None:
        """The row gets no line, so that a run sends it."""
        if number not in now.seen:
            now.seen.add(number)
            known = self.found.no_answer.setdefault(code, NoAnswer())
            known.count += 1
            known.message = known.message or message

    def _put(self, bound: BatchRow, outcome: Outcome, status: Literal["success", "failed"]) -> None:
        row, is_batch = bound.row, self._shape != "vllm"
        cost = self._money.cost(bound.request.route, outcome.usage)[0] if is_batch else None
        result = row_result(
            bound, outcome, status, attempts=1, cost=cost, via="batch" if is_batch else None, batch_id=None
        )
        self._written.add(row.number)
        self._writer.put(result)
        self.found.success += status == "success"
        self.found.failed += status == "failed"
