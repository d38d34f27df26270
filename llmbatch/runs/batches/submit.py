"""Submits chunks: finds rows that may go, streams them to the provider, and creates the batch exactly once."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from llmbatch.core.batch_events import BatchSubmitted
from llmbatch.core.calls import Outcome
from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.events import RowFinished
from llmbatch.core.rows import Malformed, Result, Row
from llmbatch.providers.batches.port import ControlError
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.chunks import ChunkBuilder
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.names import Label, custom_id
from llmbatch.runs.batches.queue import QUEUE_FULL, RUNNING, Queue, says_too_many
from llmbatch.runs.batches.rows import BatchRow, bind

__all__ = ["NotReconciled", "Plan", "Submitter", "submit_call"]

_BLOCK_BYTES = 1 << 20
_ZERO = Decimal(0)
_FEW_ROWS = 50
"""Rows of a remainder below which it is sent live."""

_TOO_LARGE = 413

_READY_SECONDS = 600.0
"""How long an uploaded file may take until it can be used."""

_MOST_TURNS = 2
"""Batches without a result for a row after which it is sent live."""


@dataclass(slots=True)
class Plan:
    """A chunk that could be submitted: its rows, and one of them bound to its account."""

    account: Account
    route: str
    like: BatchRow
    builder: ChunkBuilder
    numbers: array[int]
    most: Decimal | None
    """The most that it can cost; None: unknown."""


Sent = Literal["created", "waiting", "stopped"]


class Submitter:
    """Cuts and submits chunks. Belongs to one run."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run
        self._next: dict[str, float] = {}
        """For each route the first row that was not looked at; infinity: none is left."""
        self._unseen = 1
        """The first row whose route may be new."""
        self._has_ended = False
        self._by_account: dict[str, str] = {}
        self.capped: tuple[str, str] | None = None
        """Why the cap allows no further chunk."""

    def look_again(self, first: int, route: str | None) -> None:
        """Rows of *route* (None: of any) from *first* on may be free again."""
        for known in list(self._next):
            if route in (None, known):
                self._next[known] = min(self._next[known], first)
        if route is None or route not in self._next:
            self._unseen = min(self._unseen, first)
            self._has_ended = False

    def has_more(self) -> bool:
        """Whether some row was not looked at since it may be free."""
        return not self._has_ended or any(at < math.inf for at in self._next.values())

    # Planning.

    async def plan(self, now: float) -> Plan | None:
        """The next chunk that may be submitted at *now*; None if there is none, or all queues are full.

        Raises:
            InputError: the input cannot be read.
            UsageError: a row names no model, or one that cannot be reached.
        """
        while True:
            free = [one for one, at in self._next.items() if at < math.inf and self._may_submit(one, now)]
            if free:
                route = min(free, key=lambda one: self._next[one])
                plan = await self._scan(route, int(self._next[route]))
            elif not self._has_ended:
                plan = await self._scan(None, self._unseen)
            else:
                return None
            if plan is not None or self.capped is not None:
                return plan

    def next_try(self) -> float | None:
        """When a queue that was full may be tried again; None if none waits."""
        waits = [
            queue.not_before
            for account in self._run.accounts.values()
            for route, queue in account.queues.items()
            if self._next.get(route, math.inf) < math.inf
        ]
        return min(waits, default=None)

    def _may_submit(self, route: str, now: float) -> bool:
        account = self._run.accounts.get(self._by_account.get(route, ""))
        if account is None:
            return True
        queue = self._run.queue_of(account, route)
        return queue.may_submit(now, self._run.queued(route))

    async def _scan(self, route: str | None, start: int) -> Plan | None:
        """Look at rows from *start* on, until a chunk of *route* (None: of a new one) is full."""
        run = self._run
        plan: Plan | None = None
        all_had_a_turn = True
        held, had_turns = ([], []) if route is None else run.board.spans(route)
        for item in run.rows.scan(start):
            if item is None:
                await asyncio.sleep(0)
                continue
            number = item.number
            self._unseen = max(self._unseen, number + 1)
            if run.is_done(number):
                continue
            row = self.bound(item)
            if row is None:
                continue
            if route is None and row.route not in self._next:
                route = row.route
                self._next[route] = number
                held, had_turns = run.board.spans(route)
            if row.route != route:
                self._next.setdefault(row.route, number)
                continue
            if row.family is None:
                continue
            account = run.account_of(row)
            self._by_account[route] = account.name
            if not account.is_reconciled:
                raise NotReconciled(account)
            if _within(number, held):
                continue
            turns = _within(number, had_turns)
            builder = plan.builder if plan is not None else ChunkBuilder(run.limits_of(account, route))
            name = custom_id(run.board.job, number, row.row.hash)
            size = sum(map(len, account.api.encode(name, row.request)))
            is_large = size > builder.limits.row_bytes
            if turns >= _MOST_TURNS or is_large:
                continue
            if plan is None:
                plan = Plan(account, route, row, builder, array("q"), _ZERO)
            most = run.parts.money.most(row.request.route, row.request)
            if not run.parts.money.allows((plan.most or _ZERO) + (most or _ZERO)):
                self.capped = run.parts.money.told_cap(most or _ZERO)
                self._next[route] = number
                return plan if plan.numbers else None
            inputs = row.request.body.count(b'",') + 1 if row.request.endpoint == "embeddings" else 1
            if not builder.takes(size, row.tokens, inputs):
                self._next[route] = number
                return plan
            builder.add(number, name, size, row.tokens, inputs)
            plan.numbers.append(number)
            plan.most = None if most is None or plan.most is None else plan.most + most
            all_had_a_turn = all_had_a_turn and turns > 0
        self._has_ended = True
        if route is not None:
            self._next[route] = math.inf
        if plan is None or not plan.numbers or (all_had_a_turn and plan.builder.rows < _FEW_ROWS):
            return None
        return plan

    def bound(self, item: Row | Malformed) -> BatchRow | None:
        """The request of a row; None if it can be none, which ends the row."""
        try:
            if isinstance(item, Malformed):
                raise MalformedRowError(item.code, item.message)
            return bind(self._run.parts.provider, item)
        except MalformedRowError as error:
            self._fail(item, error.code, error.message)
        except MissingKeyError as error:
            self._fail(item, "no_key", f"{error.message}; {error.hint}")
        return None

    def _fail(self, item: Row | Malformed, code: str, message: str) -> None:
        run = self._run
        run.put(Result(item.number, item.hash, "failed", item.id_json, error_code=code, error_message=message))
        run.emit(RowFinished(run.now(), "", item.number, "failed", code, 0))

    # Submitting.

    async def submit(self, plan: Plan) -> Sent:
        """Upload and create the chunk of *plan*. The create is sent once, whatever becomes of it.

        Raises:
            WriteError: the journal cannot be written.
        """
        run, account, wall = self._run, plan.account, self._run.wall()
        builder, board = plan.builder, run.board
        label = Label(
            *(board.job, builder.first, builder.last, board.next_gen(builder.first, builder.last)),
            rows=builder.rows,
            digest=builder.digest,
            route=plan.route,
        )
        route = plan.like.request.route
        chunk = Chunk(label, account.name, "intent", wall, wall, tokens=builder.tokens, size_bytes=builder.size_bytes)
        chunk.model, chunk.endpoint = route.model or route.label, plan.like.request.endpoint
        lines = _ChunkLines(run, account, plan)
        chunk.most_usd = plan.most
        run.record.step("intent", chunk, wall)
        board.chunks.append(chunk)
        run.parts.money.reserve(plan.most or _ZERO)
        run.queue_of(account, plan.route).sent(builder.tokens)
        try:
            chunk.file_id, is_ready = await account.api.upload(label.file_name, lines)
            is_ready = is_ready or await self._is_processed(account, chunk.file_id)
        except ControlError as error:
            self._void(chunk, str(error))
            return self._failed(account, plan, chunk, error)
        except asyncio.CancelledError:
            self._void(chunk, "the run was told to end")
            raise
        if not is_ready or run.is_stopping():
            self._void(chunk, "the uploaded file is not ready")
            queue = run.queue_of(account, plan.route)
            queue.failed(run.now())
            if not run.is_stopping():
                wait = queue.not_before - run.now()
                run.tell(
                    "warning",
                    f"the uploaded file {chunk.file_id} is not ready after {_READY_SECONDS / 60:.0f} minutes; its rows "
                    f"are uploaded again in {wait:.0f} s",
                )
            await self._drop_file(account, chunk)
            return "waiting"
        chunk.move("sending", run.wall())
        chunk.created_at = chunk.at
        run.record.step("sending", chunk, chunk.at)
        try:
            remote = await account.api.create(chunk.file_id, lines, label.metadata, label.file_name, plan.like.request)
        except ControlError as error:
            if error.may_have_arrived:
                chunk.move("ambiguous", run.wall())
                run.tell("warning", f"{error.message}; whether the batch was created is looked up, not tried again")
                return self._failed(account, plan, chunk, error)
            self._void(chunk, str(error))
            await self._drop_file(account, chunk)
            return self._failed(account, plan, chunk, error)
        run.plane_answered(account, submit_call(plan.route))
        chunk.created_at = remote.created_at or chunk.created_at
        board.update(chunk, remote, run.wall())
        run.record.step("created", chunk, run.wall())
        place = (chunk.model, label.first, label.last, builder.rows, label.gen)
        run.emit(BatchSubmitted(run.now(), remote.id, *place, created_at=remote.created_at))
        return "created"

    async def _is_processed(self, account: Account, file_id: str) -> bool:
        """Wait until an uploaded file may be used; False if it takes 10 minutes, or the run is told to end."""
        run, wait = self._run, 1.0
        until = run.now() + _READY_SECONDS
        while run.now() < until and not run.is_stopping():
            await run.parts.engine.pause(wait)
            if await account.api.is_processed(file_id):
                return True
            wait = min(15.0, 2 * wait)
        return False

    def _void(self, chunk: Chunk, reason: str) -> None:
        run = self._run
        chunk.move("void", run.wall())
        run.record.step("void", chunk, chunk.at, reason=reason)
        run.release(chunk)
        self.look_again(chunk.label.first, chunk.label.route)

    async def _drop_file(self, account: Account, chunk: Chunk) -> None:
        """Delete the uploaded file of a batch that was refused, if possible."""
        if not chunk.file_id or self._run.options.keep_remote:
            return
        from llmbatch.providers.batches.port import RemoteBatch

        try:
            await account.api.delete(RemoteBatch("", "", is_ended=True, input_file=chunk.file_id))
        except ControlError:
            return

    def _failed(self, account: Account, plan: Plan, chunk: Chunk, error: ControlError) -> Sent:
        """What a failed upload or create means: the queue is full, the provider is down, or it refuses."""
        run, outcome = self._run, error.outcome
        queue = run.queue_of(account, plan.route)
        call = submit_call(plan.route)
        if outcome.verdict == "throttled" or outcome.code in QUEUE_FULL:
            run.plane_answered(account, call)
            self.queue_full(queue, chunk, outcome)
            return "waiting"
        is_too_large = outcome.status == _TOO_LARGE or (error.is_refusal and says_too_many(outcome.message))
        if is_too_large and plan.builder.rows > 1:
            run.plane_answered(account, call)
            queue.was_too_large()
            return "waiting"
        if error.is_refusal and not error.may_have_arrived:
            self._stop(account, error)
            return "stopped"
        queue.failed(run.now())  # a listing may work while uploads fail
        run.plane_failed(account, error, call, again_at=queue.not_before, is_told=chunk.state == "ambiguous")
        return "waiting"

    def queue_full(self, queue: Queue, chunk: Chunk, outcome: Outcome) -> None:
        """The provider's queue had no room for *chunk*."""
        run = self._run
        own = [one for one in run.board.in_state("running") if one.label.route == chunk.label.route]
        taken = sum(
            one.tokens
            for one in own
            if one.created_at < chunk.created_at or (one.remote is not None and one.remote.status in RUNNING)
        )
        message = outcome.message
        queue.was_full(run.now(), message, has_own=bool(own), chunk_tokens=chunk.tokens, taken_tokens=taken)
        if outcome.retry_after is not None:
            queue.not_before = max(queue.not_before, run.now() + outcome.retry_after)
        wait = queue.not_before - run.now()
        run.tell("info", f"the batch queue of {chunk.model} is full: {outcome.message}; next try in {wait:.0f} s")

    def _stop(self, account: Account, error: ControlError) -> None:
        hint = error.hint or "send the rows live: leave out --via batch"
        if error.is_missing:
            hint = f"{account.label} may have no batch API; send the rows live: leave out --via batch"
        self._run.parts.engine.stop(3, error.message, hint=hint)


def submit_call(route: str) -> str:
    """The kind of control call that uploads and creates batches of *route*."""
    return f"submission of {route}"


def _within(number: int, spans: Sequence[tuple[int, int]]) -> int:
    """How many of *spans* hold the row."""
    return sum(first <= number <= last for first, last in spans)


class NotReconciled(Exception):  # noqa: N818 - no error: the loop lists the account's batches first
    """Rows of an account were met whose batches were not listed yet."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.name)
        self.account = account


class _ChunkLines:
    """The lines of a chunk, made from the input each time they are sent; a megabyte is in memory."""

    def __init__(self, run: BatchRun, account: Account, plan: Plan) -> None:
        self.size_bytes = plan.builder.size_bytes
        self._run = run
        self._account = account
        self._plan = plan

    async def blocks(self) -> AsyncIterator[bytes]:
        """The lines, in blocks of about a megabyte."""
        run, plan = self._run, self._plan
        encode, job = self._account.api.encode, run.board.job
        pieces: list[bytes] = []
        size = at = 0
        for item in run.rows.scan(plan.builder.first, plan.builder.last):
            if item is None:
                await asyncio.sleep(0)
                continue
            if at < len(plan.numbers) and item.number == plan.numbers[at] and isinstance(item, Row):
                at += 1
                row = bind(run.parts.provider, item)
                for piece in encode(custom_id(job, item.number, item.hash), row.request):
                    pieces.append(piece)
                    size += len(piece)
                if size >= _BLOCK_BYTES:
                    yield b"".join(pieces)
                    pieces, size = [], 0
        if pieces:
            yield b"".join(pieces)
