"""The loop of a run over batch APIs: reconcile, submit, poll, collect, until only rows are left that go live.

One task, one control call at a time. What each step decides is in the pure modules beside it.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from llmbatch.core.batch_events import BatchCancelled, BatchMoved, BatchSubmitted
from llmbatch.core.events import Progress
from llmbatch.providers.batches.port import ControlError, RemoteBatch
from llmbatch.runs.batches.board import AMBIGUOUS_SECONDS, LOST_SECONDS, Chunk, Seen
from llmbatch.runs.batches.claims import Claims
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.ended import Endings
from llmbatch.runs.batches.losses import give_up
from llmbatch.runs.batches.names import read_label
from llmbatch.runs.batches.queue import RUNNING
from llmbatch.runs.batches.siblings import tell_siblings
from llmbatch.runs.batches.submit import NotReconciled, Submitter, submit_call
from llmbatch.runs.batches.timing import Deadline, poll_interval

__all__ = ["BatchLoop"]

_KEPT_SECONDS = 29 * 86_400.0
"""How far back the first listing reaches: what is older has been deleted everywhere."""

_FIRST_LISTINGS = 4
"""Listings without a journal, as one may leave out batches while its pages move; one, if it has all uploaded files."""

_CANCEL_AGAIN = 600.0
_INTERRUPT_SECONDS = 30.0


class BatchLoop:
    """Runs all batches of *run* to their end. Cancelling it leaves them running at the provider."""

    def __init__(self, run: BatchRun, *, listed: frozenset[str]) -> None:
        self._run = run
        self._listed = listed
        """Accounts whose batches an earlier run has found; later ones are in the journal."""
        self._submitter = Submitter(run)
        self._claims = Claims(run)
        self._endings = Endings(run, self._submitter, self._claims)
        self._deadline: Deadline | None = None
        self._is_cancelling = False

    def __repr__(self) -> str:
        return f"<BatchLoop of {self._run.board!r}>"

    async def run(self) -> None:
        """Work until no batch is left and no row can be submitted, or the run is told to end.

        Raises:
            InputError: the input cannot be read, or has changed.
            UsageError: a row names no model, or one that cannot be reached.
            WriteError: the output or the journal cannot be written.
        """
        run = self._run
        await self._know_accounts()
        for chunk in run.board.open:
            if chunk.most_usd is None and run.parts.money.is_capped:  # of a run without a cap
                _, chunk.most_usd = run.at_risk(chunk)
        run.parts.money.take_over(sum((chunk.most_usd or Decimal(0) for chunk in run.board.open), Decimal(0)))
        while not run.is_stopping():
            self._mind_deadline()
            self._mind_outages()
            if run.is_stopping():
                break
            if await self._step():
                continue
            if run.is_stopping():
                break
            if not run.board.open and (self._is_cancelling or not self._submitter.has_more()):
                break
            if self._submitter.capped is not None and not run.board.open:
                reason, hint = self._submitter.capped
                run.parts.engine.stop(4, reason, hint=hint)
                break
            if run.options.detach and all(account.is_reconciled for account in run.accounts.values()):
                run.parts.engine.stop(75, self._told_open(), hint="run the same command again to collect them")
                break
            await run.parts.engine.pause(self._wait())
        if run.is_stopping():
            await self._end_interrupted()
        run.emit(Progress(run.now(), run.rows.rows_seen, None, exhausted=False))

    async def _step(self) -> bool:
        """Make one step, if any can be made now."""
        run, now = self._run, self._run.now()
        for account in list(run.accounts.values()):
            if self._is_due(account, now):
                await self._poll(account)
                return True
        for chunk in run.board.in_state("ended"):
            owner = run.accounts.get(chunk.account)
            if owner is not None and owner.plane.is_well and now >= chunk.tries.next_at:
                await self._endings.end(owner, chunk)
                return True
        if self._is_cancelling:
            return await self._cancel_running("the deadline is near")
        if not all(account.plane.is_well for account in run.accounts.values()):
            return False
        return await self._submit()

    # Accounts and listings.

    async def _know_accounts(self) -> None:
        """Find the accounts of chunks that only the journal knows, by one of their rows each."""
        run = self._run
        for chunk in run.board.open:
            if chunk.account in run.accounts:
                continue
            for item in run.rows.scan(chunk.label.first, chunk.label.last):
                row = None if item is None or run.is_done(item.number) else self._submitter.bound(item)
                if row is not None and row.family is not None and row.account == chunk.account:
                    run.account_of(row)
                    break
            else:
                # None of its rows waits any more, so nothing it holds is needed.
                chunk.move("void", run.wall())
                run.record.step("void", chunk, chunk.at, reason="none of its rows waits")

    def _is_due(self, account: Account, now: float) -> bool:
        if not account.plane.is_well:
            return now >= account.plane.next_probe
        if not account.is_reconciled:
            return now >= account.next_poll
        watched = any(
            chunk.account == account.name and chunk.state in ("running", "sending", "ambiguous")
            for chunk in self._run.board.open
        )
        return watched and now >= account.next_poll

    async def _poll(self, account: Account) -> None:
        """List the batches of *account*, which is also the probe of its control plane."""
        run, board = self._run, self._run.board
        since = board.since(run.wall(), _KEPT_SECONDS)
        if not account.is_reconciled and account.name not in self._listed:
            since = run.wall() - _KEPT_SECONDS
        is_first = not account.is_reconciled and account.name not in self._listed
        orphans: list[tuple[str, str, float]] = []
        listed: list[RemoteBatch] = []
        try:
            if is_first:  # before the listing, which may not show a batch yet whose file is there
                orphans = [one async for one in account.api.orphans(f"llmbatch-{board.job}-", since)]
            for _ in range(_FIRST_LISTINGS if is_first and account.looks_since is None else 1):
                listed += [
                    one
                    async for one in account.api.batches(since)
                    if board.is_of_interest(one)
                    or board.is_sibling(one)
                    or self._claims.is_wanted(account, one, is_first=is_first)
                ]
                found = {batch.input_file for batch in listed}
                if account.api.has_files and all(file_id in found for file_id, _, _ in orphans):
                    break
        except ControlError as error:
            if error.is_refusal:
                hint = error.hint or "see whether the provider has a batch API; or send the rows live: --via live"
                run.parts.engine.stop(3 if not error.is_missing else 2, error.message, hint=hint)
            else:
                run.plane_failed(account, error)
            return
        try:
            if not account.is_reconciled:
                await self._claims.take_adopted(account)
            await self._claims.take(account, listed, is_first=is_first)
        except ControlError as error:
            if error.is_refusal and not error.is_missing:
                run.parts.engine.stop(3, error.message, hint=error.hint)
            else:
                run.plane_failed(account, error)
            return
        run.plane_answered(account)
        if is_first and account.looks_since is None:
            await tell_siblings(run, account, listed)
        seen = board.see(listed, account.name, run.wall())
        self._tell_seen(account, seen)
        for file_id, name, created_at in orphans:
            label = read_label({}, name)
            if label is None or all(run.is_done(number) for number in range(label.first, label.last + 1)):
                continue
            if board.hold_orphan(label, account.name, file_id, created_at, run.wall()):
                run.tell("info", f"rows {label.first} to {label.last} were uploaded earlier: their batch is looked for")
        for chunk in seen.missing:
            await self._look_for(account, chunk)
        for chunk in board.give_up_ambiguous(run.wall()):
            give_up(
                *(run, chunk, "the creation of a batch got no answer"),
                "the creation of a batch got no answer, and no listing shows it",
            )
            self._submitter.look_again(chunk.label.first, chunk.label.route)
        if is_first and account.looks_since is None:
            account.looks_since = run.wall()
        if not account.is_reconciled and not self._may_still_appear(account):
            account.is_reconciled = True
            if is_first and all(chunk.is_ours_for_certain for chunk in board.open):
                run.record.note("listed", job=board.job, account=account.name, at=round(run.wall(), 3))
        account.next_poll = run.now() + self._interval(account)

    def _may_still_appear(self, account: Account) -> bool:
        """Whether batches may still appear: nothing but the listing can tell of those that an earlier run made."""
        run, since = self._run, account.looks_since
        if since is None or account.api.has_labels or not run.parts.had_runs:
            return False
        if run.wall() >= since + AMBIGUOUS_SECONDS:
            return False
        if run.wall() == since:
            run.tell(
                "info",
                f"the journal of the batches of {account.label} is missing, and an earlier run may have made some: "
                f"for {AMBIGUOUS_SECONDS / 60:.0f} minutes they are looked for, and no row is submitted",
            )
        return True

    def _interval(self, account: Account) -> float:
        run = self._run
        if not account.is_reconciled:
            return poll_interval(0.0, run.random.random(), account.family.least_poll_s)
        if self._is_cancelling or run.board.in_state("sending", "ambiguous"):
            return poll_interval(0.0, run.random.random(), account.family.least_poll_s)
        ages = [run.wall() - chunk.created_at for chunk in run.board.open if chunk.account == account.name]
        return poll_interval(min(ages, default=0.0), run.random.random(), account.family.least_poll_s)

    def _tell_seen(self, account: Account, seen: Seen) -> None:
        run = self._run
        for chunk in seen.adopted:
            run.reserve(chunk)
            run.record.step("created", chunk, run.wall())
        for chunk, before in seen.moved:
            remote = chunk.remote
            if remote is None:
                continue
            label = chunk.label
            if not before:
                if chunk.state != "collected":
                    event = BatchSubmitted(
                        *(run.now(), remote.id, chunk.model or account.label, label.first, label.last),
                        *(label.rows or remote.rows or 0, label.gen, False, remote.created_at),
                    )
                    run.emit(event)
                if chunk not in seen.adopted and chunk.is_ours_for_certain:
                    run.record.step("created", chunk, run.wall())
            done = None if remote.succeeded is None else remote.succeeded + (remote.failed or 0)
            rows = remote.rows or label.rows
            run.emit(BatchMoved(run.now(), remote.id, remote.status, done, rows, remote.ended_at))
            queue = run.queue_of(account, label.route or "")
            if remote.is_ended and chunk.is_ours_for_certain:
                run.record.step("ended", chunk, run.wall())
                queue.has_moved(run.now())
            elif remote.status in RUNNING:
                queue.took()

    async def _look_for(self, account: Account, chunk: Chunk) -> None:
        """Ask for a batch that the listing has not shown for long by its id."""
        run = self._run
        try:
            remote = await account.api.retrieve(chunk.batch_id)
        except ControlError as error:
            if not error.is_missing:
                run.plane_failed(account, error)
                return
            words = f"batch {chunk.batch_id} is neither listed nor found any more, for {LOST_SECONDS / 60:.0f} minutes"
            give_up(run, chunk, "a batch is not found any more", words)
            self._submitter.look_again(chunk.label.first, chunk.label.route)
            return
        seen = Seen()
        run.board.update(chunk, remote, run.wall(), seen)
        self._tell_seen(account, seen)

    # Submitting.

    async def _submit(self) -> bool:
        run = self._run
        if not self._submitter.has_more() or self._submitter.capped is not None:
            return False
        try:
            plan = await self._submitter.plan(run.now())
        except NotReconciled as error:
            return run.now() >= error.account.next_poll  # its batches are listed in the next step, or looked for
        run.emit(Progress(run.now(), run.rows.rows_seen, None, exhausted=False))
        if plan is None or run.is_stopping():
            return False
        sent = await self._submitter.submit(plan)
        if sent == "created":
            account = plan.account
            account.next_poll = min(max(account.next_poll, run.now()), run.now() + account.family.least_poll_s)
        return True

    # Deadline, interruption.

    def _mind_deadline(self) -> None:
        run, seconds = self._run, self._run.options.deadline
        if seconds is None or self._is_cancelling:
            return
        if self._deadline is None:
            oldest = run.board.oldest()
            self._deadline = Deadline(min(run.wall(), run.wall() if oldest is None else oldest), seconds)
        if self._deadline.has_come(run.wall()):
            self._is_cancelling = True
            if run.board.open:
                run.tell("info", "the deadline is near: batches are canceled and collected, and the rest goes live")
            for account in run.accounts.values():
                account.next_poll = min(account.next_poll, run.now())
                for route in account.queues:
                    run.forget_call(account, submit_call(route))

    def _mind_outages(self) -> None:
        """End the run once the control plane of an account has failed for ``--max-outage``."""
        run, most = self._run, self._run.options.max_outage
        for account in run.accounts.values():
            plane = account.plane
            if most is not None and plane.is_open and run.now() - plane.since >= most:
                reason = (
                    f"{account.label}: {plane.reason.rstrip('.')} (--max-outage {most:g} reached); {self._told_open()}"
                )
                run.parts.engine.stop(75, reason, hint="run the same command again to go on")
                return

    async def _cancel_running(self, reason: str) -> bool:
        run, now = self._run, self._run.now()
        for chunk in run.board.in_state("running"):
            account = run.accounts.get(chunk.account)
            asked = chunk.cancel_asked_at
            is_asked = asked is not None and now < asked + _CANCEL_AGAIN
            is_on = chunk.remote is not None and chunk.remote.is_cancelling
            if account is None or not account.plane.is_well or is_asked or is_on or not chunk.is_ours_for_certain:
                continue
            chunk.cancel_asked_at = now
            try:
                await account.api.cancel(chunk.batch_id)
            except ControlError as error:
                if not error.is_refusal:  # one that has just ended refuses
                    chunk.cancel_asked_at = None
                    run.plane_failed(account, error)
                account.next_poll = run.now()
                return True
            run.plane_answered(account)
            account.next_poll = min(account.next_poll, run.now() + account.family.least_poll_s)
            run.emit(BatchCancelled(run.now(), chunk.batch_id, reason))
            return True
        return False

    async def _end_interrupted(self) -> None:
        """The run was told to end: leave batches running, or cancel them and wait a moment."""
        run = self._run
        ending = run.parts.engine.ending
        is_signal = ending is not None and ending.exit_code > 128
        if is_signal and run.options.on_interrupt == "cancel" and run.board.open:
            until = run.now() + _INTERRUPT_SECONDS
            while await self._cancel_running("interrupted"):
                pass
            while run.board.open and run.now() < until:
                await asyncio.sleep(5.0)
                for account in run.accounts.values():
                    if account.plane.is_well:
                        await self._poll(account)
                for chunk in run.board.in_state("ended"):
                    if chunk.account in run.accounts and run.accounts[chunk.account].plane.is_well:
                        await self._endings.end(run.accounts[chunk.account], chunk)
        if run.board.open and ending is not None and ending.exit_code != 75:
            run.tell("info", self._told_open(), "run the same command again to collect them, or cancel them")

    def _told_open(self) -> str:
        """How many batches go on at the provider, and their ids."""
        chunks = self._run.board.open
        ids = [chunk.batch_id for chunk in chunks if chunk.batch_id]
        if not chunks:
            return "not all rows could be submitted yet"
        shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
        noun = "batch is" if len(chunks) == 1 else "batches are"
        return f"{len(chunks)} {noun} still running at the provider" + (f" ({shown})" if shown else "")

    def _wait(self) -> float:
        """Seconds until something can be done again."""
        run, now = self._run, self._run.now()
        times = [chunk.tries.next_at for chunk in run.board.in_state("ended")]
        for account in run.accounts.values():
            times.append(account.next_poll if account.plane.is_well else account.plane.next_probe)
            if account.plane.is_open and run.options.max_outage is not None:
                times.append(account.plane.since + run.options.max_outage)
        if not self._is_cancelling:
            again = self._submitter.next_try()
            if again is not None:
                times.append(again)
            if self._deadline is not None:
                times.append(now + self._deadline.cancel_at - run.wall())
        later = [at for at in times if at > now]
        return max(0.05, min(later, default=now + 15.0) - now)
