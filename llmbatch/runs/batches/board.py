"""The batches of one job: what is known of each, and what a listing or a lost answer means. Pure; ``now`` is Unix time.

A chunk's life::

    intent ─► sending ─► running ─► ended ─► collected
       │         │ └─► ambiguous ─┤    ▲
       └─────────┴──────► void ◄──┘    └ also of batches that only the listing knows

``void``: it never ran, so its rows are free and have not had a turn. ``collected``: rows without a result are free, and
have had one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from llmbatch.providers.batches.port import RemoteBatch
from llmbatch.runs.batches.names import Label, is_sibling, read_label

__all__ = ["AMBIGUOUS_SECONDS", "LOST_SECONDS", "Board", "Chunk", "ChunkState"]

ChunkState = Literal["intent", "sending", "ambiguous", "running", "ended", "collected", "void"]

AMBIGUOUS_SECONDS = 600.0
"""How long the listing may take to show a batch whose create got no answer."""

LOST_SECONDS = 900.0
"""How long a known batch may be missing before it is asked for by its id, and its results before they are given up."""

_GONE_TRIES = 3
"""Times that results must have been missing, as runs with ``--detach`` ask once each."""

_CLOCK_SLACK = 120.0
_HOLDING = frozenset({"intent", "sending", "ambiguous", "running", "ended"})


@dataclass(slots=True)
class Chunk:
    """One batch, as far as it is known. ``at``: when it came into its state; ``created_at``: when it was created."""

    label: Label
    account: str
    """The key and address whose listing shows it."""
    state: ChunkState
    at: float
    created_at: float
    batch_id: str = ""
    file_id: str = ""
    tokens: int = 0
    size_bytes: int = 0
    remote: RemoteBatch | None = None
    missing_since: float | None = None
    is_ours_for_certain: bool = True
    model: str = ""
    endpoint: str = ""
    """The wire format of its rows, as in ``--endpoint``; empty: unknown."""
    most_usd: Decimal | None = None
    """The most that its rows can cost; None: unknown, or not counted yet."""
    takes_any_job: bool = False
    """Whether lines of another job's rows count too: the user has adopted the batch."""
    tries: Tries = field(default_factory=lambda: Tries())
    cancel_asked_at: float | None = None
    """When it was asked to cancel it, on the event loop's clock."""

    @property
    def is_open(self) -> bool:
        """Whether its rows must not be sent elsewhere."""
        return self.state in _HOLDING

    def move(self, state: ChunkState, now: float) -> None:
        """Change its state."""
        self.state, self.at = state, now


@dataclass(slots=True)
class Tries:
    """Downloads of one batch's results that brought nothing, or too little."""

    next_at: float = 0.0
    """When they are fetched again, on the event loop's clock."""
    failed: int = 0
    """Times in a row that the download failed."""
    short: int = 0
    """Times that they were fewer than the provider's counts."""
    missing: int = 0
    """Times that they were not found."""
    missing_since: float = 0.0
    """When they were first not found, in Unix time."""

    def not_found(self, now: float) -> None:
        """Note that they were not found."""
        self.missing_since = self.missing_since if self.missing else now
        self.missing += 1

    def are_gone(self, now: float) -> bool:
        """Whether they have not been found for so long, and so often, that they are given up."""
        return self.missing >= _GONE_TRIES and now - self.missing_since >= LOST_SECONDS


@dataclass(slots=True)
class Seen:
    """What a listing has changed."""

    adopted: list[Chunk] = field(default_factory=list)
    moved: list[tuple[Chunk, str]] = field(default_factory=list)
    """Chunks whose status has changed, with the one before."""
    missing: list[Chunk] = field(default_factory=list)
    """Chunks to be asked for by their id, as they have been missing for long."""


class Board:
    """All chunks of one job. Not thread-safe."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.chunks: list[Chunk] = []
        self.perhaps_twice: list[Chunk] = []
        """Chunks that were given up without an answer to their create, and may run all the same."""

    def __repr__(self) -> str:
        return f"<Board {self.job}, {len(self.open)} of {len(self.chunks)} chunks open>"

    @property
    def open(self) -> list[Chunk]:
        """Chunks whose rows are held."""
        return [chunk for chunk in self.chunks if chunk.is_open]

    def in_state(self, *states: ChunkState) -> list[Chunk]:
        """Chunks in one of *states*."""
        return [chunk for chunk in self.chunks if chunk.state in states]

    def by_id(self, batch_id: str) -> Chunk | None:
        """The chunk whose batch is *batch_id*."""
        return next((chunk for chunk in self.chunks if chunk.batch_id == batch_id), None)

    def spans(self, route: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Ranges of rows of *route* that open chunks hold, and those that have had a turn in collected ones."""
        mine = [chunk for chunk in self.chunks if chunk.label.route in (None, route)]
        held = [(chunk.label.first, chunk.label.last) for chunk in mine if chunk.is_open]
        return held, [(chunk.label.first, chunk.label.last) for chunk in mine if chunk.state == "collected"]

    def around(self, first: int, last: int) -> list[Chunk]:
        """Chunks that touch rows *first* to *last*."""
        return [chunk for chunk in self.chunks if chunk.label.first <= last and first <= chunk.label.last]

    def next_gen(self, first: int, last: int) -> int:
        """The generation of a new chunk of these rows: one more than that of any before it."""
        return 1 + max((chunk.label.gen for chunk in self.around(first, last)), default=0)

    def oldest(self) -> float | None:
        """When the oldest open chunk was created, or was about to be; None without one."""
        return min((chunk.created_at for chunk in self.open), default=None)

    # What is heard of the provider.

    def is_of_interest(self, remote: RemoteBatch) -> bool:
        """Whether a listed batch may be one of this job."""
        label = read_label(remote.metadata, remote.file_name)
        if label is not None and label.job == self.job:
            return True
        return any(
            chunk.batch_id == remote.id or (chunk.file_id and chunk.file_id == remote.input_file)
            for chunk in self.chunks
        )

    def is_sibling(self, remote: RemoteBatch) -> bool:
        """Whether the same command has made a listed batch in another folder."""
        label = read_label(remote.metadata, remote.file_name)
        return label is not None and is_sibling(label.job, self.job) and self.by_id(remote.id) is None

    def see(self, listed: Iterable[RemoteBatch], account: str, now: float) -> Seen:
        """Take in a listing of *account*'s batches, which reached back to the oldest open chunk."""
        seen = Seen()
        found: set[str] = set()
        for remote in listed:
            if remote.id in found:
                continue  # pages move while they are read
            known = self.by_id(remote.id) or self._waiting_for(remote, account)
            if known is None:
                known = self._adopt(remote, account, now)
                if known is None:
                    continue
                seen.adopted.append(known)
            found.add(remote.id)
            self.update(known, remote, now, seen)
        for chunk in self.chunks:
            if chunk.account == account and chunk.state == "running" and chunk.batch_id not in found:
                chunk.missing_since = now if chunk.missing_since is None else chunk.missing_since
                if now - chunk.missing_since >= LOST_SECONDS:
                    seen.missing.append(chunk)
        return seen

    def update(self, chunk: Chunk, remote: RemoteBatch, now: float, seen: Seen | None = None) -> None:
        """Take in what the provider says of *chunk*'s batch."""
        before = "" if chunk.remote is None else chunk.remote.status
        chunk.batch_id = remote.id
        chunk.missing_since = None
        if remote.input_file:
            chunk.file_id = remote.input_file
        if chunk.state in ("collected", "void"):
            return
        chunk.remote = remote
        if chunk.state != "ended":
            state: ChunkState = "ended" if remote.is_ended else "running"
            if state != chunk.state:
                chunk.move(state, now)
        if seen is not None and before != remote.status:
            seen.moved.append((chunk, before))

    def _waiting_for(self, remote: RemoteBatch, account: str) -> Chunk | None:
        """The chunk whose create got no answer and that turns out to be this batch."""
        label = read_label(remote.metadata, remote.file_name)
        for chunk in self.chunks:
            if chunk.account != account or chunk.batch_id or chunk.state not in ("sending", "ambiguous", "void"):
                continue
            is_file = bool(chunk.file_id) and chunk.file_id == remote.input_file
            if is_file or (label is not None and chunk.label.is_like(label) and not chunk.file_id):
                if chunk.state == "void":
                    if chunk not in self.perhaps_twice:
                        continue
                    self.perhaps_twice.remove(chunk)  # it is known now: what it did is collected too
                    chunk.move("running", chunk.at)
                return chunk
        return None

    def _adopt(self, remote: RemoteBatch, account: str, now: float) -> Chunk | None:
        label = read_label(remote.metadata, remote.file_name)
        if label is None or label.job != self.job:
            return None
        chunk = Chunk(
            label,
            account,
            "running",
            now,
            remote.created_at or now,
            batch_id=remote.id,
            file_id=remote.input_file,
            model=remote.model,
        )
        self.chunks.append(chunk)
        return chunk

    def hold_orphan(self, label: Label, account: str, file_id: str, created_at: float, now: float) -> Chunk | None:
        """Hold the rows of an uploaded file that no listed batch has as its input: its create may have been sent.

        None if it is known. Its batch has 10 minutes from now to appear.
        """
        if any(chunk.file_id == file_id for chunk in self.chunks) or label.job != self.job:
            return None
        chunk = Chunk(label, account, "ambiguous", now, created_at, file_id=file_id)
        self.chunks.append(chunk)
        return chunk

    def give_up_ambiguous(self, now: float) -> list[Chunk]:
        """Free the chunks whose create got no answer, and that no listing has shown in time; they may run twice."""
        waiting = self.in_state("sending", "ambiguous")
        late = [chunk for chunk in waiting if now - max(chunk.created_at, chunk.at) >= AMBIGUOUS_SECONDS]
        for chunk in late:
            chunk.move("void", now)
            self.perhaps_twice.append(chunk)
        return late

    def since(self, now: float, kept_seconds: float) -> float:
        """How far back a listing has to reach: to the oldest open chunk; at the start, as long as batches are kept."""
        oldest = self.oldest()
        return now - kept_seconds if oldest is None else oldest - _CLOCK_SLACK

    def summary(self) -> Sequence[tuple[str, int]]:
        """How many open batches are in each status, for people."""
        counts: dict[str, int] = {}
        for chunk in self.open:
            word = chunk.remote.status if chunk.remote is not None else chunk.state
            counts[word] = counts.get(word, 0) + 1
        return sorted(counts.items())
