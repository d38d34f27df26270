"""The batches of one output over all of its runs: when each was made and ended, what became of it, and what it cost.

Pure: wall time is handed in. Bounded: the last 200 batches; of those before, their number and sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchEvent, BatchLost, BatchMoved, BatchSubmitted
from llmbatch.core.raw_json import JSON
from llmbatch.report.iso_time import from_iso, to_iso

__all__ = ["MOST_BATCHES", "BatchLog", "Fate", "LoggedBatch"]

MOST_BATCHES = 200
_MOST_CHARACTERS = 200

Fate = Literal["open", "collected", "lost"]


@dataclass(slots=True)
class LoggedBatch:
    """One batch. ``made`` and ``ended`` are seconds since the epoch, ``ended`` None as long as it is not known.

    ``status`` is the provider's last word. ``fate``: ``open`` (at the provider), ``collected``, or ``lost``: given up,
    and its rows were sent again. ``id`` is empty if its creation got no answer.
    """

    id: str
    model: str
    rows: int
    status: str
    made: float
    ended: float | None = None
    fate: Fate = "open"
    done: int | None = None
    """Rows that it has finished so far, as the provider says; None: it does not."""
    success: int = 0
    failed: int = 0
    not_run: int = 0
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None

    @property
    def state(self) -> str:
        """Where it stands, in a few words: ``in_progress, 412 of 1,000 rows``, ``expired, collected``."""
        match self.fate:
            case "open":
                return self.status if self.done is None else f"{self.status}, {self.done:,} of {self.rows:,} rows"
            case "collected":
                return f"{self.status}, collected"
            case "lost":
                return f"{self.status}, given up: its rows were sent again"

    def to_json(self) -> dict[str, JSON]:
        """As the sidecars keep it, and as ``status --json`` gives it."""
        return {
            "id": self.id,
            "model": self.model,
            "rows": self.rows,
            "status": self.status,
            "fate": self.fate,
            "made": to_iso(self.made),
            "ended": None if self.ended is None else to_iso(self.ended),
            "done": self.done,
            "success": self.success,
            "failed": self.failed,
            "not_run": self.not_run,
            "cost_usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "saved_usd": None if self.saved_usd is None else f"{self.saved_usd:f}",
        }

    @classmethod
    def from_json(cls, value: JSON) -> LoggedBatch | None:
        """The batch of :meth:`to_json`; None if *value* is none."""
        if not isinstance(value, dict):
            return None
        made, fate = from_iso(value.get("made")), value.get("fate")
        if made is None or fate not in get_args(Fate):
            return None
        done = value.get("done")
        return cls(
            *(_text(value.get("id")), _text(value.get("model")), _count(value.get("rows")), _text(value.get("status"))),
            *(made, from_iso(value.get("ended"))),
            fate=next(one for one in get_args(Fate) if one == fate),
            done=None if done is None else _count(done),
            success=_count(value.get("success")),
            failed=_count(value.get("failed")),
            not_run=_count(value.get("not_run")),
            cost_usd=_usd(value.get("cost_usd")),
            saved_usd=_usd(value.get("saved_usd")),
        )


@dataclass(slots=True)
class BatchLog:
    """The batches, in the order in which they were made or found. ``earlier``: how many are left out before them.

    ``cost_usd`` and ``saved_usd`` are of those that are left out.
    """

    batches: list[LoggedBatch] = field(default_factory=list)
    earlier: int = 0
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None

    @classmethod
    def from_json(cls, value: JSON) -> BatchLog:
        """The log of :meth:`to_json`; an empty one of anything else."""
        values = value if isinstance(value, dict) else {}
        listed = values.get("batches")
        read = [LoggedBatch.from_json(one) for one in (listed if isinstance(listed, list) else ())]
        log = cls(
            [one for one in read if one is not None],
            _count(values.get("earlier")),
            _usd(values.get("cost_usd")),
            _usd(values.get("saved_usd")),
        )
        log._trim()
        return log

    @classmethod
    def joined(cls, logs: Sequence[BatchLog]) -> BatchLog:
        """The batches of several processes."""
        whole = cls(sorted((replace(one) for log in logs for one in log.batches), key=lambda one: one.made))
        for log in logs:
            whole.earlier += log.earlier
            whole._add(log.cost_usd, log.saved_usd)
        whole._trim()
        return whole

    @property
    def total_cost_usd(self) -> Decimal | None:
        """What all of them cost, as far as it is known."""
        return _sum([self.cost_usd, *(one.cost_usd for one in self.batches)])

    @property
    def total_saved_usd(self) -> Decimal | None:
        """What all of them have saved against the live price, as far as it is known."""
        return _sum([self.saved_usd, *(one.saved_usd for one in self.batches)])

    def copy(self) -> BatchLog:
        """The log as it is now."""
        return replace(self, batches=[replace(one) for one in self.batches])

    def to_json(self) -> dict[str, JSON]:
        """The log as JSON values."""
        return {
            "batches": [one.to_json() for one in self.batches],
            "earlier": self.earlier,
            "cost_usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "saved_usd": None if self.saved_usd is None else f"{self.saved_usd:f}",
        }

    def observe(self, event: BatchEvent, wall: float) -> None:
        """Take one event, seen at *wall*."""
        known = self._find(event.batch)
        match event:
            case BatchSubmitted():
                if known is None:
                    made = wall if event.created_at is None else event.created_at
                    known = self._new(event.batch, event.route, event.rows, "submitted", made)
                known.fate = "open"
            case BatchMoved() if known is not None:
                known.status, known.done = event.status[:_MOST_CHARACTERS], event.done
                known.rows = known.rows or event.rows or 0
                known.ended = known.ended if event.ended_at is None else event.ended_at
            case BatchCancelled() if known is not None:
                known.status = "canceling"
            case BatchLost():
                known = known or self._new(event.batch, "", event.rows, "no answer", wall)
                known.fate, known.ended = "lost", wall
            case BatchCollected():
                known = known or self._new(event.batch, event.route, event.success + event.failed, "ended", wall)
                known.fate, known.ended, known.done = "collected", known.ended or wall, None
                known.success, known.failed, known.not_run = event.success, event.failed, event.not_run
                known.cost_usd, known.saved_usd = event.cost_usd, event.saved_usd
            case _:
                pass

    def _find(self, batch_id: str) -> LoggedBatch | None:
        name = batch_id[:_MOST_CHARACTERS]
        return next((one for one in reversed(self.batches) if name and one.id == name), None)

    def _new(self, batch_id: str, model: str, rows: int, status: str, made: float) -> LoggedBatch:
        one = LoggedBatch(batch_id[:_MOST_CHARACTERS], model[:_MOST_CHARACTERS], rows, status, made)
        self.batches.append(one)
        self._trim()
        return one

    def _trim(self) -> None:
        """Leave out the oldest ones that are over, then the oldest."""
        while len(self.batches) > MOST_BATCHES:
            at = next((at for at, one in enumerate(self.batches) if one.fate != "open"), 0)
            gone = self.batches.pop(at)
            self.earlier += 1
            self._add(gone.cost_usd, gone.saved_usd)

    def _add(self, cost: Decimal | None, saved: Decimal | None) -> None:
        self.cost_usd, self.saved_usd = _sum([self.cost_usd, cost]), _sum([self.saved_usd, saved])


def _sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if known else None


def _text(value: JSON) -> str:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else ""


def _count(value: JSON) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _usd(value: JSON) -> Decimal | None:
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() else None
