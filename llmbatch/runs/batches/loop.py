"""The loop of a run over batch APIs: reconcile, submit, poll, collect, until only rows are left that go live.

One task, one control call at a time. What each step decides is in the pure modules beside it.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

import anyio

from llmbatch.core.batch_events import BatchCancelled
from llmbatch.core.events import Progress
from llmbatch.providers.batches.port import ControlError
from llmbatch.runs.batches.claims import Claims
from llmbatch.runs.batches.context import BatchRun
from llmbatch.runs.batches.ended import Endings
from llmbatch.runs.batches.listing import Listings
from llmbatch.runs.batches.submit import NotReconciled, Submitter, submit_call
from llmbatch.runs.batches.timing import Deadline

__all__ = ["BatchLoop"]

_CANCEL_AGAIN = 600.0
_INTERRUPT_SECONDS = 30.0


class BatchLoop:
    """Runs all batches of *run* to their end. Cancelling it leaves them running at the provider."""

    def __init__(self, run: BatchRun, *, listed: frozenset[str]) -> None:
        self._run = run
        self._submitter = Submitter(run)
        claims = Claims(run)
        self._listings = Listings(run, self._submitter, claims, listed=listed)
        self._endings = Endings(run, self._submitter, claims)
        self._deadline: Deadline | None = None
        self._calls = anyio.CancelScope()

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
        with self._calls:
            await self._work()
        if run.is_stopping():
            await self._end_interrupted()
        run.emit(Progress(run.now(), run.rows.rows_seen, None, exhausted=False))

    def hurry(self) -> None:
        """The run was told to end: a control call in flight has 30 s left."""
        self._calls.deadline = min(self._calls.deadline, self._run.now() + _INTERRUPT_SECONDS)

    async def _work(self) -> None:
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
            if not run.board.open and (self._listings.is_cancelling or not self._submitter.has_more()):
                break
            if self._submitter.capped is not None and not run.board.open:
                reason, hint = self._submitter.capped
                run.parts.engine.stop(4, reason, hint=hint)
                break
            if run.options.detach and all(account.is_reconciled for account in run.accounts.values()):
                run.parts.engine.stop(75, self._told_open(), hint="run the same command again to collect them")
                break
            await run.parts.engine.pause(self._wait())

    async def _step(self) -> bool:
        """Make one step, if any can be made now."""
        run, now = self._run, self._run.now()
        for account in list(run.accounts.values()):
            if self._listings.is_due(account, now):
                await self._listings.poll(account)
                return True
        for chunk in run.board.in_state("ended"):
            owner = run.accounts.get(chunk.account)
            if owner is not None and owner.plane.is_well and now >= chunk.tries.next_at:
                await self._endings.end(owner, chunk)
                return True
        if self._listings.is_cancelling:
            return await self._cancel_running("the deadline is near")
        if not all(account.plane.is_well for account in run.accounts.values()):
            return False
        return await self._submit()

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
        if seconds is None or self._listings.is_cancelling:
            return
        if self._deadline is None:
            oldest = run.board.oldest()
            self._deadline = Deadline(min(run.wall(), run.wall() if oldest is None else oldest), seconds)
        if self._deadline.has_come(run.wall()):
            self._listings.is_cancelling = True
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
            with anyio.move_on_after(_INTERRUPT_SECONDS):
                await self._cancel_all()
        if run.board.open and ending is not None and ending.exit_code != 75:
            run.tell("info", self._told_open(), "run the same command again to collect them, or cancel them")

    async def _cancel_all(self) -> None:
        """Cancel all batches, and collect what they have done."""
        run = self._run
        while await self._cancel_running("interrupted"):
            pass
        while run.board.open:
            await asyncio.sleep(5.0)
            for account in run.accounts.values():
                if account.plane.is_well:
                    await self._listings.poll(account)
            for chunk in run.board.in_state("ended"):
                if chunk.account in run.accounts and run.accounts[chunk.account].plane.is_well:
                    await self._endings.end(run.accounts[chunk.account], chunk)

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
        if not self._listings.is_cancelling:
            again = self._submitter.next_try()
            if again is not None:
                times.append(again)
            if self._deadline is not None:
                times.append(now + self._deadline.cancel_at - run.wall())
        later = [at for at in times if at > now]
        return max(0.05, min(later, default=now + 15.0) - now)
