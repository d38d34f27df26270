"""Collects ended batches: every line of their results becomes the line of its row, or says why it does not yet.

May be repeated at any time: rows that have their line are left alone. Nothing is marked as collected, and nothing is
deleted at the provider, before all lines are on the disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from llmbatch.core.batch_events import BatchCollected
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.events import CallEnded, RowFinished
from llmbatch.providers.batches.port import RemoteBatch, ResultLine
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.meaning import meaning_of, whole_batch_refused
from llmbatch.runs.batches.names import read_custom_id
from llmbatch.runs.batches.row_result import row_result
from llmbatch.runs.batches.rows import BatchRow, ChunkRows, bind
from llmbatch.storage.filesystem import O_CLOEXEC, Filesystem, write_all
from llmbatch.storage.finished_rows import RowSet

__all__ = ["Collector"]

_LINES_A_TURN = 200
_RETRY_SECONDS = 60.0
_MOST_TRIES = 3
"""Downloads that may be shorter than the provider's counts before they are believed."""

_UNCERTAIN_STOPS = 3
"""Rows that must say the account is refused where the words of one are not certain."""


@dataclass(slots=True)
class _Written:
    """What the lines that were written of one batch came to, in however many downloads."""

    success: int = 0
    failed: int = 0
    cost: Decimal = Decimal(0)
    is_cost_known: bool = False
    saved: Decimal | None = None
    again: RowSet = field(default_factory=RowSet)
    """Rows whose failed attempt was counted: they have no line, so that each download brings it again."""


@dataclass(slots=True)
class _Tally:
    """What the lines of one batch came to, in one download."""

    written: _Written
    again: int = 0
    dropped: int = 0
    edited: int = 0
    refused: int = 0
    foreign: int = 0
    answers: int = 0
    """Different rows that have an answer."""
    had_success: bool = False
    stop: Outcome | None = None
    """Why the run has to stop."""
    is_whole: bool = False
    """Whether that is because all rows were refused."""
    first_refusal: Outcome | None = None
    seen: RowSet = field(default_factory=RowSet)
    seen_any: bool = False
    """Whether the results were read at all."""


Collected = Literal["collected", "shared", "stopped", "incomplete"]


class Collector:
    """Collects batches, one at a time. Belongs to one run."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run
        self._written: dict[str, _Written] = {}
        """Of batches whose results came torn or short so far, by their ids."""

    async def collect(self, account: Account, chunk: Chunk) -> Collected:
        """Fetch the results of *chunk*'s ended batch and write the lines of its rows.

        ``shared``: it has lines of other rows, or none was read, so that its results may be of use to another run.
        ``incomplete``: fewer lines came than the provider counts, so that they are fetched again later. ``stopped``: an
        operator must act, and the run was told to end; rows without a line are free.

        Raises:
            ControlError: the results cannot be fetched now; what came before is written.
            InputError: the input cannot be read, or has changed.
            WriteError: the output cannot be written.
        """
        run, remote = self._run, chunk.remote
        assert remote is not None  # noqa: S101 - it was seen to have ended
        label, tally = chunk.label, _Tally(self._written.setdefault(chunk.batch_id, _Written()))
        rows = ChunkRows(run.rows, run.parts.output_path, label.first, label.last, run.parts.disk)
        held = _HeldLines(run.parts.output_path, run.parts.disk)
        try:
            for turn in rows.load(lambda number: not run.is_done(number)):
                del turn
                await asyncio.sleep(0)
            if rows.count:
                tally.seen_any = True
                await self._read(account, chunk, remote, rows, held, tally)
            else:  # all its rows have their lines
                tally.answers = label.rows or remote.rows or 0
            if rows.count and self._is_incomplete(remote, tally) and self._tries_again(chunk, remote, tally):
                return "incomplete"
            verdict = whole_batch_refused(
                tally.refused,
                has_success=tally.had_success or bool(remote.succeeded),
                threshold=run.options.failure_threshold,
            )
            if tally.stop is None and tally.refused and verdict == "stop":
                tally.stop, tally.is_whole = tally.first_refusal, True
            if verdict == "fail":
                for name, reply in held.replies():
                    self._settle(chunk, rows, name, reply, tally, has_proof=True)
        finally:
            rows.close()
            held.close()
        await run.parts.writer.synced()
        self._written.pop(chunk.batch_id, None)
        if tally.stop is not None:
            self._stop(chunk, remote, tally.stop, tally)
            return "stopped"
        self._finish(chunk, remote, tally)
        is_unread = not tally.seen_any and not chunk.tokens
        return "shared" if tally.edited or tally.foreign or is_unread else "collected"

    async def _read(
        self, account: Account, chunk: Chunk, remote: RemoteBatch, rows: ChunkRows, held: _HeldLines, tally: _Tally
    ) -> None:
        count = 0
        async for line in account.api.results(remote):
            count += 1
            if count % _LINES_A_TURN == 0:
                await asyncio.sleep(0)
                if self._run.parts.writer.error is not None:
                    raise self._run.parts.writer.error
            if line is None:
                tally.dropped += 1
                continue
            number = self._number(line, rows, tally, takes_any_job=chunk.takes_any_job)
            if number is None or line.reply is None:
                continue
            if not self._settle(chunk, rows, number, line.reply, tally, has_proof=tally.had_success):
                held.add(number, line.reply)

    def _number(self, line: ResultLine, rows: ChunkRows, tally: _Tally, *, takes_any_job: bool) -> int | None:
        """The row that *line* answers; None for a line that is dropped."""
        name = read_custom_id(line.custom_id)
        is_ours = name is not None and (takes_any_job or name.job == self._run.board.job)
        if name is None or not is_ours or not rows.first <= name.number <= rows.last:
            tally.foreign += 1
        elif line.reply is not None and name.number in tally.seen:
            pass  # the first line of a row counts
        elif not rows.has(name.number):
            if line.reply is not None:
                tally.seen.add(name.number)
                tally.answers += 1  # it has its line from before
                if 200 <= line.reply.status < 300:
                    tally.had_success = True
        elif not rows.hash_of(name.number).startswith(name.hash):
            tally.edited += 1
        else:
            if line.reply is not None:
                tally.seen.add(name.number)
                tally.answers += 1
            return name.number
        tally.dropped += 1
        return None

    def _settle(
        self, chunk: Chunk, rows: ChunkRows, number: int, reply: Reply, tally: _Tally, *, has_proof: bool
    ) -> bool:
        """Write the row's line if it has come to its end; False if that needs a success of another row."""
        run = self._run
        row = rows.get(number)
        try:
            bound = bind(run.parts.provider, row)
        except (MalformedRowError, MissingKeyError):
            tally.dropped += 1
            return True
        outcome = run.parts.provider.judge(bound.request, reply)
        meaning = meaning_of(outcome, truncated_fails=run.options.require_finish)
        if meaning == "refused" and not has_proof:
            tally.refused += 1
            tally.first_refusal = tally.first_refusal or outcome
            if outcome.verdict == "account_refused" and tally.refused >= _UNCERTAIN_STOPS:
                tally.stop = outcome
            return False
        if meaning == "stop" or (meaning == "refused" and outcome.verdict == "account_refused"):
            if meaning == "stop":
                tally.stop = outcome
            return True
        if number not in tally.written.again:
            self._account(bound, outcome, tally)
        if meaning == "again":
            tally.written.again.add(number)
            run.tried.add(number)
            tally.again += 1
            return True
        status: Literal["success", "failed"] = "success" if meaning == "success" else "failed"
        if status == "success":
            tally.written.success += 1
            tally.had_success = True
            run.answered.add(bound.request.route.label)
        else:
            tally.written.failed += 1
        self._put(chunk, bound, outcome, status)
        return True

    def _account(self, bound: BatchRow, outcome: Outcome, tally: _Tally) -> None:
        """Count what the row cost, once: its line is about to be written, or it goes again."""
        run, route, usage = self._run, bound.request.route, outcome.usage
        cost, saved = run.parts.money.cost(route, usage)
        written = tally.written
        if cost is not None:
            written.cost += cost
            written.is_cost_known = True
        if saved is not None:
            written.saved = saved if written.saved is None else written.saved + saved
        run.parts.money.learn(route, bound.request, usage)
        run.emit(
            CallEnded(
                *(run.now(), route.label, bound.row.number, False, outcome.verdict, outcome.code, outcome.message),
                *(outcome.status, 0.0),
                *((0, 0) if usage is None else (usage.input_tokens, usage.output_tokens)),
                cost_usd=cost,
                via="batch",
            )
        )

    def _put(self, chunk: Chunk, bound: BatchRow, outcome: Outcome, status: Literal["success", "failed"]) -> None:
        run, row, route = self._run, bound.row, bound.request.route
        cost, _ = run.parts.money.cost(route, outcome.usage)
        attempts = 2 if row.number in run.tried else 1
        result = row_result(bound, outcome, status, attempts=attempts, cost=cost, via="batch", batch_id=chunk.batch_id)
        run.put(result)
        run.emit(
            RowFinished(
                *(run.now(), route.label, row.number, status, result.error_code or "", attempts),
                finish_reason=outcome.finish_reason,
                has_no_text=status == "success" and outcome.text == "",
            )
        )

    def _is_incomplete(self, remote: RemoteBatch, tally: _Tally) -> bool:
        """Whether the provider counts more answers than there were lines. Its counts may be too low, never too high."""
        return _counted(remote) > tally.answers + tally.edited and not remote.has_failed

    def _tries_again(self, chunk: Chunk, remote: RemoteBatch, tally: _Tally) -> bool:
        """Whether results that are too few are fetched again; says so."""
        run, tries = self._run, chunk.tries
        told = f"{tally.answers + tally.edited:,} of {_counted(remote):,} lines of batch {chunk.batch_id} came"
        tries.short += 1
        if tries.short > _MOST_TRIES:
            run.tell("warning", f"{told}, {tries.short} times: rows without one are sent again, perhaps paid for twice")
            return False
        run.record.step("short", chunk, run.wall())
        wait = _RETRY_SECONDS * tries.short
        tries.next_at = run.now() + wait
        run.tell("warning", f"{told}; downloading again in {wait:.0f} s")
        return True

    def _stop(self, chunk: Chunk, remote: RemoteBatch, outcome: Outcome, tally: _Tally) -> None:
        """An operator must act: nothing is marked failed for it, and the next run sends the rows again."""
        run = self._run
        why = outcome.message or outcome.code
        reason = f"batch {chunk.batch_id}: {why}"
        if tally.is_whole:
            reason = f"all {tally.refused:,} rows of batch {chunk.batch_id} that were answered were refused: {why}"
        chunk.move("void", run.wall())
        run.record.step("void", chunk, chunk.at, reason=reason)
        run.release(chunk, tally.written.cost)
        self._tell(chunk, remote, tally)
        hint = outcome.hint or "correct it, then run the same command again: nothing was marked failed"
        run.parts.engine.stop(3, reason, hint=hint)

    def _finish(self, chunk: Chunk, remote: RemoteBatch, tally: _Tally) -> None:
        run = self._run
        chunk.move("collected", run.wall())
        run.record.step("collected", chunk, chunk.at)
        run.release(chunk, tally.written.cost)
        self._tell(chunk, remote, tally)
        if tally.edited:
            run.tell(
                "warning",
                f"{tally.edited:,} rows of batch {chunk.batch_id} were edited after they were submitted: their answers "
                "are dropped, and they are sent again",
            )
        if tally.foreign:
            run.tell("warning", f"{tally.foreign:,} lines of batch {chunk.batch_id} are of no row of it, and dropped")

    def _tell(self, chunk: Chunk, remote: RemoteBatch, tally: _Tally) -> None:
        """Tell the observers that the batch is over, and what it came to."""
        run, written = self._run, tally.written
        rows = chunk.label.rows if chunk.label.rows is not None else remote.rows
        not_run = 0 if rows is None else max(0, rows - tally.answers - tally.edited)
        run.emit(
            BatchCollected(
                *(run.now(), chunk.batch_id, chunk.model, written.success, written.failed, not_run),
                tally.again,
                tally.dropped,
                written.cost if written.is_cost_known else None,
                written.saved,
            )
        )


def _counted(remote: RemoteBatch) -> int:
    """Rows that have an answer, as the provider counts them."""
    return (remote.succeeded or 0) + (remote.failed or 0)


class _HeldLines:
    """Replies that wait for the verdict on their batch, in a temporary file without a name."""

    def __init__(self, output: str, disk: Filesystem) -> None:
        name = f".{Path(output).name}.llmbatch-{secrets.token_hex(4)}.held"
        self._path = str(Path(output).with_name(name))
        self._disk = disk
        self._fd: int | None = None
        self._sizes: list[int] = []

    def add(self, number: int, reply: Reply) -> None:
        """Keep *reply*, to row *number*."""
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | O_CLOEXEC
            self._fd = self._disk.open_unnamed(self._path, flags)
        text = json.dumps([number, reply.status, dict(reply.headers), reply.body.decode(errors="surrogateescape")])
        data = text.encode()
        write_all(self._fd, data, self._disk)
        self._sizes.append(len(data))

    def replies(self) -> Iterator[tuple[int, Reply]]:
        """All of them."""
        at = 0
        for size in self._sizes:
            assert self._fd is not None  # noqa: S101 - something was added
            number, status, headers, body = json.loads(self._disk.pread(self._fd, size, at))
            at += size
            yield number, Reply(status, headers, body.encode(errors="surrogateescape"))

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)
