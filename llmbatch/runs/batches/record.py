"""What the journal keeps of each chunk, and the board that it gives at the next start.

One record per step: ``intent`` before the upload, ``sending`` (synced) before the create, ``created`` (synced),
``ended``, ``missing`` (its results were not found), ``short`` (they were too few), ``collected``, ``void``. The key of
a chunk is its rows, generation and route.
"""

from __future__ import annotations

import contextlib
from decimal import Decimal, InvalidOperation
from typing import Any

from llmbatch.runs.batches.board import Board, Chunk, ChunkState
from llmbatch.runs.batches.names import Label
from llmbatch.storage.batch_journal import BatchJournal

__all__ = ["ChunkRecord"]

_STATES: dict[str, ChunkState] = {
    "intent": "intent",
    "sending": "sending",
    "created": "running",
    "ended": "ended",
    "collected": "collected",
    "void": "void",
}
_SYNCED = frozenset({"sending", "created"})


class ChunkRecord:
    """Writes the steps of chunks to *journal*, and reads them back."""

    def __init__(self, journal: BatchJournal) -> None:
        self._journal = journal
        self.listed: frozenset[str] = frozenset()
        """Accounts whose batches are all in the journal, once :meth:`board` was called."""
        self.adopted: tuple[str, ...] = ()
        """Batches that the user says are of this job (``llmbatch batch adopt``), likewise."""
        self.ignored: frozenset[str] = frozenset()
        """Batches that the user says are not (``llmbatch batch ignore``), likewise."""

    def __repr__(self) -> str:
        return f"<ChunkRecord in {self._journal.path}>"

    def step(self, kind: str, chunk: Chunk, now: float, *, reason: str = "") -> None:
        """Write that *chunk* has come to a step.

        Raises:
            WriteError: the journal cannot be written.
        """
        record: dict[str, object] = {"kind": kind, "key": _key(chunk), "at": round(now, 3)}
        if kind == "intent" or (kind == "created" and not chunk.tokens):
            label = chunk.label
            record |= {
                "job": label.job,
                "first": label.first,
                "last": label.last,
                "gen": label.gen,
                "rows": label.rows,
                "digest": label.digest,
                "route": label.route,
                "account": chunk.account,
                "model": chunk.model,
                "endpoint": chunk.endpoint,
                "tokens": chunk.tokens,
                "bytes": chunk.size_bytes,
                **({} if chunk.most_usd is None else {"most_usd": f"{chunk.most_usd:f}"}),
            }
        if kind in ("sending", "created") and chunk.file_id:
            record["file"] = chunk.file_id
        if kind == "created":
            record["batch"] = chunk.batch_id
            record["created_at"] = chunk.created_at
        if chunk.remote is not None and kind in ("ended", "collected"):
            record["status"] = chunk.remote.status
        if reason:
            record["reason"] = reason[:400]
        self._journal.append(record, sync=kind in _SYNCED)

    def note(self, kind: str, **members: object) -> None:
        """Write a record that belongs to no chunk.

        Raises:
            WriteError: the journal cannot be written.
        """
        self._journal.append({"kind": kind, **members})

    def jobs(self) -> list[str]:
        """The jobs in the journal, in the order of their first records."""
        return list(dict.fromkeys(str(record["job"]) for record in self._journal.read() if record.get("job")))

    def homes(self) -> dict[str, str]:
        """The folder in which each job last ran, as far as it is noted."""
        noted = (record for record in self._journal.read() if record["kind"] == "home")
        return {str(record.get("job")): str(record.get("folder")) for record in noted}

    def board(self, job: str) -> Board:
        """The board of *job* as the journal has it; empty without one."""
        board = Board(job)
        known: dict[str, Chunk] = {}
        listed: set[str] = set()
        said: dict[str, bool] = {}
        for record in self._journal.read():
            if record["kind"] == "listed" and record.get("job") == job:
                listed.add(str(record.get("account")))
            if record["kind"] in ("adopt", "ignore") and isinstance(record.get("batch"), str):
                said[record["batch"]] = record["kind"] == "adopt"
            key, kind = record.get("key"), record["kind"]
            state = _STATES.get(kind)
            if kind == "missing" and key in known:
                known[key].tries.not_found(_number(record.get("at")))
            if kind == "short" and key in known:
                known[key].tries.short += 1
            if not isinstance(key, str) or state is None:
                continue
            chunk = known.get(key)
            if record.get("job") is not None:
                label = _label(record)
                if label is None or label.job != job:
                    continue
                at = _number(record.get("at"))
                chunk = Chunk(label, str(record.get("account") or ""), state, at, at)
                chunk.model = str(record.get("model") or "")
                chunk.endpoint = str(record.get("endpoint") or "")
                with contextlib.suppress(InvalidOperation):
                    chunk.most_usd = Decimal(str(record.get("most_usd")))
                chunk.tokens, chunk.size_bytes = int(_number(record.get("tokens"))), int(_number(record.get("bytes")))
                if key in known:
                    board.chunks.remove(known[key])
                known[key] = chunk
                board.chunks.append(chunk)
            if chunk is None:
                continue
            chunk.move(state, _number(record.get("at")))
            if kind == "sending":
                chunk.created_at = chunk.at
            if isinstance(record.get("file"), str):
                chunk.file_id = record["file"]
            if isinstance(record.get("batch"), str):
                chunk.batch_id = record["batch"]
                chunk.created_at = _number(record.get("created_at")) or chunk.at
        self.listed = frozenset(listed)
        self.adopted = tuple(batch for batch, is_adopted in said.items() if is_adopted)
        self.ignored = frozenset(batch for batch, is_adopted in said.items() if not is_adopted)
        for chunk in board.chunks:
            chunk.takes_any_job = said.get(chunk.batch_id, False)
            if chunk.state == "intent":
                chunk.move("void", chunk.at)  # it was never asked to run
            elif chunk.state == "ended":
                chunk.move("running", chunk.at)  # its state at the provider is asked for again
        return board


def _key(chunk: Chunk) -> str:
    label = chunk.label
    return f"{label.first}-{label.last}-g{label.gen}-{label.route or ''}"


def _label(record: dict[str, Any]) -> Label | None:
    first, last, gen = (int(_number(record.get(name))) for name in ("first", "last", "gen"))
    if not (1 <= first <= last and gen >= 1):
        return None
    rows = record.get("rows")
    return Label(
        *(str(record["job"]), first, last, gen),
        rows=rows if isinstance(rows, int) else None,
        digest=record.get("digest") or None,
        route=record.get("route") or None,
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
