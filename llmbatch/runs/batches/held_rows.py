"""Refuses a run that would send rows which batches of the same output still hold: both would be paid for.

It knows batches from the journals alone: that of the output, and those of parts of another number of shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.core.errors import OutputError
from llmbatch.core.shards import Shard
from llmbatch.outputs.deferred import batch_journal_path
from llmbatch.outputs.parts import is_part, shard_of
from llmbatch.storage.batch_journal import BatchJournal
from llmbatch.storage.filesystem import Filesystem

if TYPE_CHECKING:
    from llmbatch.runs.batches.board import Chunk

__all__ = ["open_chunks", "refuse_held_rows"]


def refuse_held_rows(output: str, shard: Shard, disk: Filesystem, *, is_live: bool, folder: str | None) -> None:
    """Refuse to send the rows of *shard* while batches hold some of them.

    *is_live*: the run does not look after the batches of *output* itself. *folder*: where other parts are.

    Raises:
        OutputError: there are such batches.
    """
    if is_live and output != "-" and (chunks := open_chunks(output, disk)):
        raise OutputError(
            f"{output}: {_told(chunks)}, and sending the same rows live would pay for them twice",
            hint="collect them with --via batch (with --deadline 1s too, what they have not done goes live), "
            "or send them all the same: --force",
        )
    if folder is None:
        return
    for journal in sorted(Path(folder).glob("part-*-of-*.batch.jsonl")):
        part = journal.with_name(journal.name.removesuffix(".batch.jsonl") + ".jsonl")
        own = shard_of(part)
        if not is_part(part) or part == Path(output) or not own.overlaps(shard):
            continue
        if chunks := open_chunks(str(part), disk):
            raise OutputError(
                f"{part}: {_told(chunks)}, and rows of it would be paid for twice: shard {own} has rows of {shard} too",
                hint=f"collect them first: --via batch --shard {own}; or send their rows all the same: --force",
            )


def open_chunks(output: str, disk: Filesystem) -> list[Chunk]:
    """The chunks that the journal of *output* says are at the provider, of all its jobs."""
    journal = BatchJournal(str(batch_journal_path(output)), disk)
    jobs = dict.fromkeys(str(record["job"]) for record in journal.read() if record.get("job"))
    if not jobs:
        return []
    from llmbatch.runs.batches.record import ChunkRecord

    found: list[Chunk] = []
    for job in jobs:
        record = ChunkRecord(journal)
        board = record.board(job)
        found += (chunk for chunk in board.open if chunk.batch_id not in record.ignored)
    return found


def _told(chunks: list[Chunk]) -> str:
    named = next((f" ({chunk.batch_id})" for chunk in chunks if chunk.batch_id), "")
    return f"{len(chunks)} of its batches{named} are still running" if len(chunks) > 1 else f"a batch{named} is running"
