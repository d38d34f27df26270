"""Lists batches: finds those of this job, takes in how they stand, and gives up those that are not found any more."""

from __future__ import annotations

from llmbatch.providers.batches.port import ControlError, RemoteBatch
from llmbatch.runs.batches.board import AMBIGUOUS_SECONDS, LOST_SECONDS, Chunk, Seen
from llmbatch.runs.batches.claims import Claims
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.losses import give_up
from llmbatch.runs.batches.names import read_label
from llmbatch.runs.batches.queue import RUNNING
from llmbatch.runs.batches.siblings import tell_siblings
from llmbatch.runs.batches.submit import Submitter
from llmbatch.runs.batches.timing import poll_interval

__all__ = ["Listings"]

_KEPT_SECONDS = 29 * 86_400.0
"""How far back the first listing reaches: what is older has been deleted everywhere."""

_FIRST_LISTINGS = 4
"""Listings without a journal, as one may leave out batches while its pages move; one, if it has all uploaded files."""


class Listings:
    """Lists the batches of the accounts of one run."""

    def __init__(self, run: BatchRun, submitter: Submitter, claims: Claims, *, listed: frozenset[str]) -> None:
        self._run = run
        self._submitter = submitter
        self._claims = claims
        self._listed = listed
        """Accounts whose batches an earlier run has found; later ones are in the journal."""
        self.is_cancelling = False
        """Whether batches are being canceled, so that they are listed as often as may be."""

    def __repr__(self) -> str:
        return f"<Listings of {self._run.board!r}>"

    def is_due(self, account: Account, now: float) -> bool:
        """Whether the batches of *account* are to be listed now."""
        if not account.plane.is_well:
            return now >= account.plane.next_probe
        if not account.is_reconciled:
            return now >= account.next_poll
        watched = any(
            chunk.account == account.name and chunk.state in ("running", "sending", "ambiguous")
            for chunk in self._run.board.open
        )
        return watched and now >= account.next_poll

    async def poll(self, account: Account) -> None:
        """List the batches of *account*, which is also the probe of its control plane.

        Raises:
            InputError: the input cannot be read.
            WriteError: the journal cannot be written.
        """
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
        if self.is_cancelling or run.board.in_state("sending", "ambiguous"):
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
            if before:
                run.tell_moved(chunk, remote)
            else:
                run.tell_found(account, chunk)
                if chunk not in seen.adopted and chunk.is_ours_for_certain:
                    run.record.step("created", chunk, run.wall())
            queue = run.queue_of(account, chunk.label.route or "")
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
