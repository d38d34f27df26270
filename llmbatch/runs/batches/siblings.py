"""Batches that the same command has made in another folder: another's, or this output's before it was moved."""

from __future__ import annotations

from collections.abc import Sequence

from llmbatch.providers.batches.port import ControlError, RemoteBatch
from llmbatch.runs.batches.context import Account, BatchRun

__all__ = ["tell_siblings"]

_MOST_SIBLINGS = 5
"""Batches that are looked at, at most."""


async def tell_siblings(run: BatchRun, account: Account, listed: Sequence[RemoteBatch]) -> None:
    """Tell of such a batch among those *listed*, unless all were collected, or the user ignores them."""
    siblings = {
        remote.id: remote for remote in listed if run.board.is_sibling(remote) and remote.id not in run.record.ignored
    }
    for remote in list(siblings.values())[:_MOST_SIBLINGS]:
        try:
            if remote.is_ended and await account.api.was_deleted(remote):
                continue  # it was collected
        except ControlError:
            return
        run.tell(
            "warning",
            f"batch {remote.id} was made by the same command in another folder; if this output comes from there, its "
            "rows are paid for twice",
            f"if so, interrupt now, then: llmbatch batch adopt {run.parts.output_path} {remote.id}",
        )
        return
