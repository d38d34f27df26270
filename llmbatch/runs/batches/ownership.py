"""Whose the batches in an output's journal are: its own, also once it was moved with the journal, or another output's.

The journal notes the folder of each job (``home``). An output in another folder was moved, or is a copy if the journal
is still there too. That cannot be seen of a copy on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmbatch.core.errors import OutputError
from llmbatch.outputs.deferred import batch_journal_path
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.names import is_sibling
from llmbatch.runs.batches.record import ChunkRecord
from llmbatch.storage.batch_journal import BatchJournal
from llmbatch.storage.filesystem import Filesystem

__all__ = ["folder_of", "own_job", "refuse_others_batches"]

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Owner:
    job: str
    """The job of the run on this output."""
    original: str
    """The output of which this one is a copy; empty: of none."""


def folder_of(output: str, disk: Filesystem) -> str:
    """The real folder of *output*."""
    return str(Path(disk.real_path(output)).parent)


def own_job(output: str, job: str, record: ChunkRecord, disk: Filesystem) -> str:
    """*job*, or that of the journal where the output has been moved with it from another folder; notes the folder.

    Raises:
        WriteError: the journal cannot be written.
    """
    owner = _owner(output, job, record, disk)
    folder = folder_of(output, disk)
    if record.homes().get(owner.job) != folder:
        record.note("home", job=owner.job, folder=folder)
    return owner.job


def refuse_others_batches(output: str, job: str, disk: Filesystem) -> None:
    """Refuse to submit rows that the batches of another job hold, which the journal says are running.

    Such batches are those of the output of which this is a copy, of this one under its former name, or of the same
    output with another input or other settings. Those that were adopted or are ignored do not count.

    Raises:
        OutputError: there are some.
    """
    record = ChunkRecord(BatchJournal(str(batch_journal_path(output)), disk))
    jobs = record.jobs()
    if not jobs:
        return
    owner = _owner(output, job, record, disk)
    others = [other for other in jobs if other != owner.job or owner.original]
    chunks = [chunk for other in others for chunk in _running(record, other)]
    if not chunks:
        return
    ids = [chunk.batch_id for chunk in chunks if chunk.batch_id]
    named = f" ({', '.join(ids[:_MOST_NAMED])}{', …' if len(ids) > _MOST_NAMED else ''})" if ids else ""
    several = f"{len(chunks)} batches{named} are" if len(chunks) > 1 else f"a batch{named} is"
    if owner.original:
        raise OutputError(
            f"{output}: is a copy of {owner.original}, of which {several} running: sent from here too, their rows "
            "would be paid for twice",
            hint=f"collect them there, or here with llmbatch batch adopt {output} ID…; or pay twice: --force",
        )
    raise OutputError(
        f"{output}: {several} running that another input, other settings or another output's name have made: "
        "rows that they hold would be paid for twice",
        hint=f"if the output was renamed, llmbatch batch adopt {output} ID… collects them; llmbatch batch ignore "
        f"{output} ID… leaves them out; or pay twice: --force",
    )


def _running(record: ChunkRecord, job: str) -> list[Chunk]:
    board = record.board(job)
    known = {*record.adopted, *record.ignored}
    return [chunk for chunk in board.open if chunk.batch_id not in known]


def _owner(output: str, job: str, record: ChunkRecord, disk: Filesystem) -> _Owner:
    jobs = record.jobs()
    moved = next((other for other in reversed(jobs) if is_sibling(other, job)), None)
    found = job if job in jobs or moved is None else moved
    home = record.homes().get(found)
    if home is None or home == folder_of(output, disk) or not _is_there(home, output, found, disk):
        return _Owner(found, "")
    return _Owner(job, str(Path(home) / Path(output).name))


def _is_there(home: str, output: str, job: str, disk: Filesystem) -> bool:
    """Whether another journal of *job* is in the folder *home*."""
    mine = str(batch_journal_path(output))
    theirs = str(Path(home) / Path(mine).name)
    try:
        one, other = disk.stat(mine), disk.stat(theirs)
    except OSError:
        return False
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return False
    return job in ChunkRecord(BatchJournal(theirs, disk)).jobs()
