"""Gives up batches that may have been paid for: the cap counts them, and the run says how many rows and how much."""

from __future__ import annotations

from decimal import Decimal

from llmbatch.core.batch_events import BatchLost
from llmbatch.money.text import usd
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.context import BatchRun

__all__ = ["give_up", "told_at_most"]


def give_up(run: BatchRun, chunk: Chunk, why: str, words: str) -> None:
    """Free the rows of *chunk*, whose batch may be billed. *why*: for the summary; *words*: for the warning.

    Cost: a pass over its rows.

    Raises:
        InputError: the input cannot be read.
        WriteError: the journal cannot be written.
    """
    rows, most = run.at_risk(chunk)
    chunk.move("void", run.wall())
    run.record.step("void", chunk, chunk.at, reason=why)
    run.release(chunk, chunk.most_usd or most or Decimal(0))
    run.emit(BatchLost(run.now(), chunk.batch_id, rows, why, most))
    label = chunk.label
    run.tell(
        "warning",
        f"{words}: {rows:,} of its rows (lines {label.first} to {label.last}) have no line and are sent again; they "
        f"may be paid for twice, {told_at_most(most)}",
    )


def told_at_most(most: Decimal | None) -> str:
    """How much rows that are paid for twice can cost."""
    return "at an unknown price" if most is None else f"{usd(most)} at most"
