"""What becomes of batches that have ended: collected, failed as a whole, or without results any more."""

from __future__ import annotations

from llmbatch.core.calls import Outcome
from llmbatch.providers.batches.port import ControlError, RemoteBatch
from llmbatch.runs.batches.board import LOST_SECONDS, Chunk
from llmbatch.runs.batches.claims import Claims
from llmbatch.runs.batches.collect import Collector
from llmbatch.runs.batches.context import Account, BatchRun
from llmbatch.runs.batches.losses import give_up
from llmbatch.runs.batches.queue import QUEUE_FULL, TOO_MANY_ROWS
from llmbatch.runs.batches.submit import Submitter
from llmbatch.runs.batches.validation import fail_named_rows

__all__ = ["Endings"]

_RETRY_SECONDS = 60.0
_MOST_RETRY_SECONDS = 300.0
_CORRECT = "the batch is kept: correct the key or its rights, then run the same command again"


class Endings:
    """Ends the batches of one run."""

    def __init__(self, run: BatchRun, submitter: Submitter, claims: Claims) -> None:
        self._claims = claims
        self._run = run
        self._submitter = submitter
        self._collector = Collector(run)

    async def end(self, account: Account, chunk: Chunk) -> None:
        """Collect *chunk*'s batch, or settle why it failed as a whole.

        Raises:
            InputError: the input cannot be read, or has changed.
            WriteError: the output or the journal cannot be written.
        """
        run, remote = self._run, chunk.remote
        assert remote is not None  # noqa: S101 - it has ended
        if remote.has_failed and not remote.result_files:
            await self._end_failed(account, chunk, remote)
            return
        call = f"results of {chunk.batch_id}"
        try:
            if not await self._claims.settle(account, chunk):
                run.plane_answered(account, call)
                self._submitter.look_again(chunk.label.first, chunk.label.route)
                return
            collected = await self._collector.collect(account, chunk)
        except ControlError as error:
            chunk.tries.next_at = run.now() + _RETRY_SECONDS
            if error.is_missing:
                run.plane_answered(account, call)
                await self._end_missing(account, chunk, remote, error)
            elif error.is_refusal:
                run.parts.engine.stop(3, error.message, hint=error.hint or _CORRECT)
            else:
                chunk.tries.failed += 1
                wait = min(_MOST_RETRY_SECONDS, _RETRY_SECONDS * 2.0 ** (chunk.tries.failed - 1))
                chunk.tries.next_at = run.now() + wait
                run.plane_failed(account, error, call, again_at=chunk.tries.next_at)
            return
        chunk.tries.failed = 0
        run.plane_answered(account, call)
        if collected == "incomplete":
            return
        self._submitter.look_again(chunk.label.first, chunk.label.route)
        self._submitter.capped = None
        if collected == "collected" and not run.options.keep_remote:
            await self._delete(account, remote)

    async def _end_missing(self, account: Account, chunk: Chunk, remote: RemoteBatch, error: ControlError) -> None:
        """The results are not found: not yet, not just now, or not any more."""
        run, tries = self._run, chunk.tries
        # A batch that the journal does not know may be one that an earlier run has collected and deleted.
        if not chunk.tokens and await self._was_deleted(account, remote):
            chunk.move("void", run.wall())
            run.record.step("void", chunk, chunk.at, reason="its results were deleted")
            run.tell_unrun(chunk)
            run.release(chunk)
            self._submitter.look_again(chunk.label.first, chunk.label.route)
            return
        tries.not_found(run.wall())
        run.record.step("missing", chunk, run.wall())
        minutes = LOST_SECONDS / 60
        if tries.are_gone(run.wall()):
            give_up(run, chunk, "the results of a batch are gone", f"{error.message}; for {minutes:.0f} minutes now")
            self._submitter.look_again(chunk.label.first, chunk.label.route)
        elif tries.missing == 1:
            run.tell("warning", f"{error.message}; they are asked for again for {minutes:.0f} minutes")

    async def _was_deleted(self, account: Account, remote: RemoteBatch) -> bool:
        try:
            return await account.api.was_deleted(remote)
        except ControlError as error:
            self._run.plane_failed(account, error)
            return False

    async def _end_failed(self, account: Account, chunk: Chunk, remote: RemoteBatch) -> None:
        """A batch that was refused as a whole, minutes after it was created: no row ran."""
        run = self._run
        first = remote.errors[0] if remote.errors else None
        code, message = ("batch_failed", "it does not say why") if first is None else (first.code, first.message)
        chunk.move("void", run.wall())
        run.record.step("void", chunk, chunk.at, reason=f"{code}: {message}")
        run.tell_unrun(chunk)
        run.release(chunk)
        self._submitter.look_again(chunk.label.first, chunk.label.route)
        self._submitter.capped = None
        if code in QUEUE_FULL:
            outcome = Outcome("throttled", scope="key", retry=True, code=code, message=message)
            self._submitter.queue_full(run.queue_of(account, chunk.label.route or ""), chunk, outcome)
        elif code == TOO_MANY_ROWS and chunk.label.rows != 1:
            run.queue_of(account, chunk.label.route or "").was_too_large()
        elif not await fail_named_rows(run, chunk, remote.errors):
            reason = f"batch {chunk.batch_id} failed as a whole: {message} ({code})"
            run.parts.engine.stop(
                3, reason, hint="correct it, then run the same command again; or leave out --via batch"
            )
        if not run.options.keep_remote:
            await self._delete(account, remote)

    async def _delete(self, account: Account, remote: RemoteBatch) -> None:
        """Delete what is not needed any more at the provider, if possible."""
        try:
            await account.api.delete(remote)
        except ControlError as error:
            if not error.is_refusal:
                self._run.plane_failed(account, error)
