"""What the parts of a run over batch APIs share, and the accounts whose batch APIs they call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Literal

from llmbatch.core.batch_events import BatchCollected, BatchMoved, BatchSubmitted
from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError
from llmbatch.core.events import CircuitChanged, Event, Notice, OutageEnded, OutageStarted
from llmbatch.core.exchange import Exchanger
from llmbatch.core.ports import Sink
from llmbatch.core.rows import Result, Row
from llmbatch.inputs.input import Input
from llmbatch.outputs.writer import LineWriter
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.make import make_api
from llmbatch.providers.batches.port import BatchApi, ControlError, RemoteBatch
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runs.batches.board import Board, Chunk
from llmbatch.runs.batches.chunks import ChunkLimits
from llmbatch.runs.batches.control_plane import LISTING, ControlPlane
from llmbatch.runs.batches.money import BatchMoney
from llmbatch.runs.batches.queue import Queue
from llmbatch.runs.batches.record import ChunkRecord
from llmbatch.runs.batches.rows import BatchProvider, BatchRow, InputRows, bind
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows, RowSet

__all__ = ["Account", "BatchParts", "BatchRun", "usual_limits"]


_USUAL_ROWS = 100_000
"""The most rows of a chunk unless more are asked for: what stands to be paid twice if a create's answer is lost."""

_LARGE_ROWS = 1000


def usual_limits(options: RunOptions, family: BatchFamily, tokens: int | None, *, less_rows: int = 0) -> ChunkLimits:
    """What a chunk may hold by *family* and *options*.

    *less_rows*: that many rows less in large chunks. The number of rows is all that tells a batch of a job in a listing
    without labels.
    """
    own_rows = options.chunk_rows or _USUAL_ROWS
    if less_rows and min(own_rows, family.max_rows) >= _LARGE_ROWS:
        own_rows = min(own_rows, int(family.max_rows * 0.95)) - less_rows
    limits = ChunkLimits.within(
        max_rows=family.max_rows,
        max_bytes=family.max_bytes,
        max_row_bytes=family.max_row_bytes,
        max_inputs=family.max_embedding_inputs,
        own_rows=own_rows,
        own_bytes=None if options.chunk_mb is None else int(options.chunk_mb * 1_000_000),
    )
    return limits.scaled(1.0, tokens)


@dataclass(slots=True)
class Account:
    """One key at one address: its batch API, the circuit of its control plane, and its queues by route."""

    name: str
    label: str
    """For people and events: ``openai/batch``."""
    api: BatchApi
    family: BatchFamily
    plane: ControlPlane = field(default_factory=ControlPlane)
    queues: dict[str, Queue] = field(default_factory=dict)
    is_reconciled: bool = False
    """Whether the batches of earlier runs are known, so that rows may be submitted."""
    looks_since: float | None = None
    """When its batches were first listed without a journal, in Unix time; None: they were not, or it has one."""
    next_poll: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParts:
    """What a run over batch APIs is put together from."""

    engine: Engine
    provider: BatchProvider
    options: RunOptions
    input: Input
    input_path: str
    output_path: str
    limit: int | None
    finished: FinishedRows
    had_runs: bool
    """Whether the output was there before: an earlier run may have made batches."""
    sink: Sink
    writer: LineWriter
    exchanger: Exchanger
    money: BatchMoney
    disk: Filesystem
    wall: Callable[[], float]


class BatchRun:
    """State that submitting, collecting and the loop share. For one event loop."""

    def __init__(self, parts: BatchParts, board: Board, record: ChunkRecord) -> None:
        self.parts = parts
        self.options = parts.options
        self.board = board
        self.record = record
        self.rows = InputRows(parts.input, parts.input_path, parts.disk, limit=parts.limit)
        self.accounts: dict[str, Account] = {}
        self.written = RowSet()
        """Rows that got their line in this phase."""
        self.tried = RowSet()
        """Rows that had a failed attempt in a batch."""
        self.answered: set[str] = set()
        """Routes that have answered a row."""
        self.random = Random(f"{parts.options.seed}:batches") if parts.options.seed is not None else Random()

    def __repr__(self) -> str:
        return f"<BatchRun {self.board!r}>"

    def now(self) -> float:
        """The event loop's clock."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Unix time."""
        return self.parts.wall()

    def is_done(self, number: int) -> bool:
        """Whether the row has its line."""
        return number in self.written or self.parts.finished.is_done(number)

    def emit(self, event: Event) -> None:
        """Tell the observers."""
        self.parts.engine.emit(event)

    def tell(self, level: Literal["info", "warning"], message: str, hint: str = "") -> None:
        """Emit a notice."""
        self.emit(Notice(self.now(), level, message, hint))

    def put(self, result: Result) -> None:
        """Write the line of a row."""
        self.written.add(result.number)
        self.parts.sink.put(result)

    def is_stopping(self) -> bool:
        """Whether the run was told to end."""
        return self.parts.engine.ending is not None

    def account_of(self, row: BatchRow) -> Account:
        """The account whose batch API takes *row*, which has one.

        Raises:
            InputError: it has none; rows are checked before.
        """
        known = self.accounts.get(row.account)
        if known is None:
            if row.family is None:
                raise InputError(f"row {row.row.number} goes to a provider without a batch API")
            control = Control(self.parts.exchanger, row.base, row.request.headers, self.parts.provider.mask)
            label = f"{row.family.name or row.base}/batch"
            known = Account(row.account, label, make_api(control, row.family), row.family)
            self.accounts[row.account] = known
        return known

    def queue_of(self, account: Account, route: str) -> Queue:
        """The queue of *route*."""
        known = account.queues.get(route)
        if known is None:
            known = account.queues[route] = Queue(self.options.queue_tokens)
        return known

    def queued(self, route: str) -> int:
        """Input tokens of *route* in open batches."""
        return sum(chunk.tokens for chunk in self.board.open if chunk.label.route in (None, route))

    def limits_of(self, account: Account, route: str) -> ChunkLimits:
        """What the next chunk of *route* may hold."""
        distinct = 0 if account.api.has_labels else int(self.board.job, 16) % 97
        limits = usual_limits(self.options, account.family, None, less_rows=distinct)
        queue = self.queue_of(account, route)
        queued = self.queued(route)
        room, stated = queue.room(self.now(), queued), queue.stated_room(queued)
        about = None if room is None else int(room * 1.1)  # a chunk like the one that fitted, with longer rows
        return limits.scaled(queue.share, stated).within_tokens(about)

    def plane_failed(
        self,
        account: Account,
        error: ControlError,
        call: str = LISTING,
        *,
        again_at: float = 0.0,
        is_told: bool = False,
    ) -> None:
        """A control call got no answer, or a bad one: only probes follow until one is answered.

        *call*: the kind of call, which is made again at *again_at* at the earliest. The first failure of one other than
        a listing is told, unless it is already (*is_told*).
        """
        now, plane = self.now(), account.plane
        was_open = plane.is_open
        failures = plane.failed(now, error.message, error.outcome.retry_after, call=call)
        wait = max(plane.next_probe, again_at) - now
        if failures == 1 and call != LISTING and not is_told:
            self.tell("warning", f"{error.message}; trying again in {wait:.0f} s", error.hint)
        if plane.is_open and not was_open:
            self.emit(CircuitChanged(now, account.label, "closed", "open", error.message, wait))
            self.emit(OutageStarted(now, account.label, plane.since, error.message, wait))
        elif was_open:
            self.emit(CircuitChanged(now, account.label, "half_open", "open", error.message, wait))

    def plane_answered(self, account: Account, call: str = LISTING) -> None:
        """A control call was answered."""
        since = account.plane.since
        self._tell_end(account, since, has_ended=account.plane.succeeded(call))

    def forget_call(self, account: Account, call: str) -> None:
        """A kind of control call is not made any more."""
        since = account.plane.since
        self._tell_end(account, since, has_ended=account.plane.forget(call))

    def _tell_end(self, account: Account, since: float, *, has_ended: bool) -> None:
        now = self.now()
        if has_ended:
            self.emit(CircuitChanged(now, account.label, "half_open", "closed", "", 0.0))
            self.emit(OutageEnded(now, account.label, since, now - since))

    def tell_found(self, account: Account, chunk: Chunk) -> None:
        """Tell the observers of a batch that an earlier run has made, or another output's."""
        remote, label = chunk.remote, chunk.label
        if remote is None or chunk.state == "collected":
            return
        self.emit(
            BatchSubmitted(
                *(self.now(), remote.id, chunk.model or account.label, label.first, label.last),
                *(label.rows or remote.rows or 0, label.gen, False, remote.created_at),
            )
        )
        self.tell_moved(chunk, remote)

    def tell_moved(self, chunk: Chunk, remote: RemoteBatch) -> None:
        """Tell the observers how far a batch is."""
        done = None if remote.succeeded is None else remote.succeeded + (remote.failed or 0)
        rows = remote.rows or chunk.label.rows
        self.emit(BatchMoved(self.now(), remote.id, remote.status, done, rows, remote.ended_at))

    def tell_unrun(self, chunk: Chunk) -> None:
        """Tell the observers that a batch is over of which no row has a result."""
        rows = chunk.label.rows or 0
        self.emit(BatchCollected(self.now(), chunk.batch_id, chunk.model, 0, 0, rows, 0, 0))

    def forget_collected(self) -> None:
        """The output starts afresh: collected batches are over, but those at the provider are still used."""
        for chunk in self.board.in_state("collected"):
            chunk.move("void", self.wall())
            self.record.step("void", chunk, chunk.at, reason="the output started afresh")

    def reserve(self, chunk: Chunk) -> None:
        """Let the cap count what the rows of *chunk*, which a listing has shown, can cost at most.

        Without a cap nothing is read. Cost: a pass over its rows.
        """
        money = self.parts.money
        if money.is_capped:
            _, chunk.most_usd = self.at_risk(chunk)
            money.reserve(chunk.most_usd or Decimal(0))

    def at_risk(self, chunk: Chunk) -> tuple[int, Decimal | None]:
        """How many rows of *chunk* have no line, and the most that they can cost in it; None: unknown.

        Cost: a pass over its rows.
        """
        money, label = self.parts.money, chunk.label
        rows, total = 0, Decimal(0)
        is_known = True
        for item in self.rows.scan(label.first, label.last):
            if isinstance(item, Row) and not self.is_done(item.number):
                with contextlib.suppress(MalformedRowError, MissingKeyError):
                    row = bind(self.parts.provider, item)
                    if label.route in (None, row.route):
                        most = money.most(row.request.route, row.request)
                        rows, total = rows + 1, total + (most or Decimal(0))
                        is_known = is_known and most is not None
        if label.rows is not None and rows >= label.rows:
            rows = label.rows
            if chunk.most_usd is not None:
                return rows, chunk.most_usd
        return rows, total if is_known else None

    def release(self, chunk: Chunk, cost: Decimal = Decimal(0)) -> None:
        """Replace what the cap counts for *chunk* by what it cost."""
        self.parts.money.settle(chunk.most_usd or Decimal(0), cost)
        chunk.most_usd = None
