"""Adds up the batches of a run (``--via batch``) from their events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchEvent, BatchLost, BatchMoved, BatchSubmitted

__all__ = ["BatchSnapshot", "BatchStats", "OneBatch"]

_MOST_BATCHES = 10_000


@dataclass(frozen=True, slots=True)
class OneBatch:
    """One open batch: the provider's id and status, and how many of its ``rows`` are ``done`` (None: unknown)."""

    id: str
    status: str
    rows: int
    done: int | None
    submitted_at: float
    is_cancelling: bool = False


@dataclass(frozen=True, slots=True)
class BatchSnapshot:
    """The batches of a run at one moment. ``open`` ones are at the provider, oldest first."""

    submitted: int = 0
    found: int = 0
    """Batches of an earlier run."""
    collected: int = 0
    open: tuple[OneBatch, ...] = ()
    rows: int = 0
    """Rows that batches have answered."""
    not_run: int = 0
    """Rows that came back without a result, and went again."""
    dropped: int = 0
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    perhaps_twice_rows: int = 0
    """Rows that were sent again although an earlier batch of them may run unseen."""
    perhaps_twice_usd: Decimal | None = Decimal(0)
    """What that can cost at most; None: unknown."""
    why_twice: str = ""

    @property
    def is_used(self) -> bool:
        """Whether the run had any batch."""
        return bool(self.submitted or self.found)

    @property
    def open_rows(self) -> int:
        """Rows in open batches."""
        return sum(batch.rows for batch in self.open)

    @classmethod
    def joined(cls, snapshots: Sequence[BatchSnapshot]) -> BatchSnapshot:
        """Those of several runs as one; money is None only if no run knows any."""
        costs = [one.cost_usd for one in snapshots if one.cost_usd is not None]
        saved = [one.saved_usd for one in snapshots if one.saved_usd is not None]
        return cls(
            submitted=sum(one.submitted for one in snapshots),
            found=sum(one.found for one in snapshots),
            collected=sum(one.collected for one in snapshots),
            open=tuple(sorted((each for one in snapshots for each in one.open), key=lambda each: each.submitted_at)),
            rows=sum(one.rows for one in snapshots),
            not_run=sum(one.not_run for one in snapshots),
            dropped=sum(one.dropped for one in snapshots),
            cost_usd=sum(costs, Decimal(0)) if costs else None,
            saved_usd=sum(saved, Decimal(0)) if saved else None,
            perhaps_twice_rows=sum(one.perhaps_twice_rows for one in snapshots),
            perhaps_twice_usd=_whole_sum([one.perhaps_twice_usd for one in snapshots]),
            why_twice=next((one.why_twice for one in snapshots if one.why_twice), ""),
        )

    def states(self) -> dict[str, int]:
        """How many open batches are in each status."""
        counts: dict[str, int] = {}
        for batch in self.open:
            word = "canceling" if batch.is_cancelling else batch.status
            counts[word] = counts.get(word, 0) + 1
        return counts


class BatchStats:
    """Counts batches. Memory: a record for each open one."""

    def __init__(self) -> None:
        self._open: dict[str, OneBatch] = {}
        self._total = BatchSnapshot()

    def __repr__(self) -> str:
        return f"<BatchStats {len(self._open)} open>"

    def observe(self, event: BatchEvent) -> None:
        """Count one event."""
        total = self._total
        match event:
            case BatchSubmitted():
                if event.batch not in self._open and len(self._open) < _MOST_BATCHES:
                    self._open[event.batch] = OneBatch(event.batch, "submitted", event.rows, None, event.at)
                    new, found = total.submitted + event.is_new, total.found + (not event.is_new)
                    self._total = replace(total, submitted=new, found=found)
            case BatchMoved():
                known = self._open.get(event.batch)
                if known is not None:
                    rows = known.rows or event.rows or 0
                    self._open[event.batch] = replace(known, status=event.status, done=event.done, rows=rows)
            case BatchCancelled():
                known = self._open.get(event.batch)
                if known is not None:
                    self._open[event.batch] = replace(known, is_cancelling=True)
            case BatchLost():
                self._open.pop(event.batch, None)
                self._total = replace(
                    total,
                    perhaps_twice_rows=total.perhaps_twice_rows + event.rows,
                    perhaps_twice_usd=_whole_sum([total.perhaps_twice_usd, event.at_risk_usd]),
                    why_twice=event.reason,
                )
            case BatchCollected():
                self._open.pop(event.batch, None)
                self._total = replace(
                    total,
                    collected=total.collected + 1,
                    rows=total.rows + event.success + event.failed,
                    not_run=total.not_run + event.not_run,
                    dropped=total.dropped + event.dropped,
                    cost_usd=_plus(total.cost_usd, event.cost_usd),
                    saved_usd=_plus(total.saved_usd, event.saved_usd),
                )

    def snapshot(self) -> BatchSnapshot:
        """The batches now."""
        return replace(self._total, open=tuple(self._open.values()))


def _plus(sum_: Decimal | None, amount: Decimal | None) -> Decimal | None:
    return sum_ if amount is None else amount if sum_ is None else sum_ + amount


def _whole_sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    """The sum of *amounts*; None if one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None
