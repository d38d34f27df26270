"""Finds batches of this job where the listing shows no labels (Anthropic): by their results, and by when and how large.

An ended batch is of this job if the first line of its results says so. One in progress is only *possibly* of this job:
if it has as many rows as a chunk whose create got no answer, or, without a journal, as some chunk of this input would
have. Rows that it may hold are not sent until it has ended; then its first line tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal

from llmbatch.core.batch_events import BatchLost
from llmbatch.core.calls import Outcome
from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.rows import Row
from llmbatch.providers.batches.port import ControlError, RemoteBatch
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.chunks import ChunkBuilder
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.losses import told_at_most
from llmbatch.runs.batches.names import Label, custom_id, read_custom_id, read_label
from llmbatch.runs.batches.rows import bind
from llmbatch.storage.finished_rows import MAX_ROW

__all__ = ["Claims"]

_CLOCK_SLACK = 60.0
_MOST_SHORT = 3


class Claims:
    """Batches of accounts without labels. Belongs to one run. Each method may raise ControlError."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run
        self._others: set[str] = set(run.record.ignored)
        """Batches that are known not to be of this job."""
        self._short: dict[str, int] = {}
        """How often the results of a batch had fewer lines than it has rows."""
        self._counts: dict[str, frozenset[int]] = {}

    def __repr__(self) -> str:
        return f"<Claims, {len(self._others)} batches of others>"

    def is_wanted(self, account: Account, remote: RemoteBatch, *, is_first: bool) -> bool:
        """Whether a listed batch, which the board does not know, has to be looked at."""
        if account.api.has_labels or remote.id in self._others:
            return False
        return is_first or self._is_late(account, remote) or bool(self._waiting(account, remote))

    @staticmethod
    def _is_late(account: Account, remote: RemoteBatch) -> bool:
        """Whether it was made before the first listing, which did not show it, and no journal tells whose it is."""
        since = account.looks_since
        return since is not None and remote.created_at is not None and remote.created_at < since

    def _waiting(self, account: Account, remote: RemoteBatch) -> list[Chunk]:
        """Chunks whose create got no answer, and that may be this batch."""
        created_at = remote.created_at or self._run.wall()
        return [
            chunk
            for chunk in self._run.board.in_state("sending", "ambiguous")
            if chunk.account == account.name
            and not chunk.batch_id
            and chunk.label.rows == remote.rows
            and created_at >= chunk.created_at - _CLOCK_SLACK
        ]

    async def take(self, account: Account, listed: Sequence[RemoteBatch], *, is_first: bool) -> None:
        """Take in a listing: adopt what is of this job, and hold the rows of what possibly is.

        Raises:
            ControlError: results could not be looked at now.
            InputError: the input cannot be read.
        """
        run, board = self._run, self._run.board
        for remote in listed:
            if board.by_id(remote.id) is not None or not self.is_wanted(account, remote, is_first=is_first):
                continue
            waiting = self._waiting(account, remote)
            if waiting:
                waiting[0].is_ours_for_certain = False
                board.update(waiting[0], remote, run.wall())
            elif remote.is_ended:
                span = await self._span(account, remote)
                if span is None:
                    self._others.add(remote.id)
                else:
                    self._tell_twice(account, remote, *span)
                    self._adopt(account, remote, Label(board.job, *span, 1, rows=remote.rows), is_certain=True)
            elif remote.rows in await self._counts_of(account):
                self._adopt(account, remote, Label(board.job, 1, MAX_ROW, 1, rows=remote.rows), is_certain=False)
                run.tell(
                    "warning",
                    f"batch {remote.id} has {remote.rows:,} rows, as one of this input would: no rows are submitted "
                    "until it has ended, when its results tell whose it is",
                    f"if it is not yours: llmbatch batch ignore {run.parts.output_path} {remote.id}",
                )

    async def take_adopted(self, account: Account) -> None:
        """Take the batches that the user says are of this job; those of another account are not found in this one.

        Raises:
            ControlError: one could not be looked at now.
        """
        run = self._run
        for batch_id in run.record.adopted:
            if run.board.by_id(batch_id) is not None:
                continue
            try:
                remote = await account.api.retrieve(batch_id)
            except ControlError as error:
                if error.is_missing:
                    continue
                raise
            found = read_label(remote.metadata, remote.file_name)
            label = Label(run.board.job, 1, MAX_ROW, 1, rows=remote.rows)
            if found is not None:
                label = Label(run.board.job, found.first, found.last, found.gen, rows=found.rows or remote.rows)
            chunk = self._adopt(account, remote, label, is_certain=True)
            chunk.takes_any_job = True

    def _adopt(self, account: Account, remote: RemoteBatch, label: Label, *, is_certain: bool) -> Chunk:
        run = self._run
        chunk = Chunk(label, account.name, "running", run.wall(), remote.created_at or run.wall(), model=remote.model)
        chunk.is_ours_for_certain = is_certain
        run.board.chunks.append(chunk)
        run.board.update(chunk, remote, run.wall())
        if is_certain:
            run.reserve(chunk)
            run.record.step("created", chunk, run.wall())
            run.tell_found(account, chunk)
        return chunk

    async def settle(self, account: Account, chunk: Chunk) -> bool:
        """Find out whether an ended batch that was possibly of this job is; False if not: its rows are free.

        Raises:
            ControlError: its results could not be looked at now.
        """
        run, remote = self._run, chunk.remote
        if chunk.is_ours_for_certain or remote is None:
            return True
        span = await self._span(account, remote)
        if span is None:
            self._others.add(remote.id)
            chunk.batch_id, chunk.remote = "", None
            is_guess = chunk.label.last == MAX_ROW
            chunk.move("void" if is_guess else "ambiguous", run.wall())
            return False
        owner = self._owner(chunk, span)
        if owner is not chunk:
            owner.batch_id, chunk.batch_id = chunk.batch_id, owner.batch_id
            owner.remote, chunk.remote = chunk.remote, owner.remote
            owner.is_ours_for_certain = True
            owner.move("ended", run.wall())
            chunk.move("ambiguous" if chunk.remote is None else "running", run.wall())
            run.record.step("created", owner, run.wall())
            run.tell_found(account, owner)
            return False
        if chunk.label.last == MAX_ROW:
            self._tell_twice(account, remote, *span)
            chunk.label = Label(run.board.job, *span, 1, rows=remote.rows)
        chunk.is_ours_for_certain = True
        run.record.step("created", chunk, run.wall())
        run.tell_found(account, chunk)
        return True

    def _tell_twice(self, account: Account, remote: RemoteBatch, first: int, last: int) -> None:
        """Say so if rows *first* to *last* of the batch were sent again, as no listing had shown it in time."""
        run = self._run
        again = [chunk for chunk in run.board.around(first, last) if self._is_made_since(account, chunk)]
        if not again or not self._is_late(account, remote):
            return
        rows = min(remote.rows or last - first + 1, sum(chunk.label.rows or 0 for chunk in again))
        costs = [chunk.most_usd for chunk in again]
        known = [cost for cost in costs if cost is not None]
        most = sum(known, Decimal(0)) if len(known) == len(costs) else None
        run.emit(
            BatchLost(run.now(), remote.id, rows, "a batch was not listed until its rows had been sent again", most)
        )
        run.tell(
            "warning",
            f"batch {remote.id} (lines {first} to {last}) was not listed before: up to {rows:,} of its rows were sent "
            f"again, and may be paid for twice, {told_at_most(most)}",
        )

    @staticmethod
    def _is_made_since(account: Account, chunk: Chunk) -> bool:
        """Whether *chunk* was submitted by this run, after it had looked for those of earlier ones."""
        since = account.looks_since
        is_sent = chunk.state not in ("intent", "void") and chunk.label.last < MAX_ROW
        return chunk.account == account.name and is_sent and since is not None and chunk.created_at >= since

    def _owner(self, chunk: Chunk, span: tuple[int, int]) -> Chunk:
        """The chunk whose rows the batch taken for *chunk* has: that one, or another without an answer."""
        others = self._run.board.in_state("sending", "ambiguous", "running", "ended")
        for one in (chunk, *(one for one in others if not one.is_ours_for_certain or not one.batch_id)):
            if one.label.first <= span[0] and span[1] <= one.label.last:
                return one
        return chunk

    async def _span(self, account: Account, remote: RemoteBatch) -> tuple[int, int] | None:
        """The first and the last row that the results of an ended batch are of; None if it is not of this job."""
        first = last = count = 0
        if not remote.result_files:
            return None
        async with aclosing(account.api.results(remote)) as lines:
            async for line in lines:
                count += 1
                name = None if line is None else read_custom_id(line.custom_id)
                if name is None or name.job != self._run.board.job:
                    if not first:
                        return None
                    continue
                first = min(first or name.number, name.number)
                last = max(last, name.number)
        if count >= (remote.rows or 0):
            return (first, last) if first else None
        # Each row has a line, so the download was cut, or it will never be whole.
        self._short[remote.id] = self._short.get(remote.id, 0) + 1
        if self._short[remote.id] > _MOST_SHORT:
            return (1, MAX_ROW) if first else None
        outcome = Outcome("failure", code="short_results", message=f"{count} of {remote.rows} lines came")
        raise ControlError(f"the results of batch {remote.id}", outcome, may_have_arrived=False)

    async def _counts_of(self, account: Account) -> frozenset[int]:
        """How many rows the chunks of this input would have."""
        known = self._counts.get(account.name)
        if known is not None:
            return known
        run = self._run
        builders: dict[str, ChunkBuilder] = {}
        counts: set[int] = set()
        for item in run.rows.scan():
            if item is None:
                await asyncio.sleep(0)
                continue
            try:
                row = bind(run.parts.provider, item) if isinstance(item, Row) else None
            except (MalformedRowError, MissingKeyError):
                continue
            if row is None or row.account != account.name or run.is_done(item.number):
                continue
            limits = run.limits_of(account, row.route)
            builder = builders.setdefault(row.route, ChunkBuilder(limits))
            name = custom_id(run.board.job, item.number, row.row.hash)
            size = sum(map(len, account.api.encode(name, row.request)))
            if not builder.takes(size, row.tokens):
                counts.add(builder.rows)
                builder = builders[row.route] = ChunkBuilder(limits)
            builder.add(item.number, name, size, row.tokens)
        counts.update(builder.rows for builder in builders.values())
        self._counts[account.name] = frozenset(counts)
        return self._counts[account.name]
