"""One batch of the simulated provider: its rows are answered as time passes, until it ends in one way or another.

Time is an argument: :meth:`Batch.advance` runs the rows that were due by then, each at its own instant.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from llmbatch.core.raw_json import JSON
from llmbatch.sim.batches.result_lines import ResultWriter
from llmbatch.sim.batches.rows import BatchRow, LineError, RowTable, read_row
from llmbatch.sim.batches.rules import BatchFaultKind, BatchRules
from llmbatch.sim.protocol import Dialect
from llmbatch.sim.response_plan import ResponsePlan

__all__ = ["Batch", "BatchOrder", "Engine", "Stage"]

Stage = Literal["validating", "running", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
Engine = Callable[[BatchRow, "Batch", float], ResponsePlan]
"""Answers one row at an instant."""

_ENDED: frozenset[Stage] = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(slots=True)
class BatchOrder:
    """What the creation of a batch asked for."""

    endpoint: str
    input_file_id: str = ""
    metadata: JSON = None
    key: str = ""
    output_expires_s: float | None = None


class Batch:
    """State of one batch. Not thread-safe."""

    def __init__(
        self,
        batch_id: str,
        number: int,
        dialect: Dialect,
        rows: RowTable,
        request: BatchOrder,
        rules: BatchRules,
        *,
        seed: int,
        created: float,
    ) -> None:
        self.id = batch_id
        self.number = number
        self.dialect: Dialect = dialect
        self.rows = rows
        self.request = request
        self.stage: Stage = "validating"
        self.at: dict[Stage, float] = {"validating": created}
        """When each stage began."""
        self.errors: list[LineError] = list(rows.errors)
        duplicate, foreign = (rules.fault(kind, number, seed) for kind in ("duplicate", "foreign"))
        self.results = ResultWriter(
            dialect,
            f"{seed}:{number}",
            duplicates=0.0 if duplicate is None else duplicate.share,
            foreign=0 if foreign is None else foreign.rows,
        )
        self.done = 0
        """Rows that were run, or left out for good, in the order of running."""
        self.rules = rules
        self._seed = seed
        self._order = array("L", range(len(rows)))
        Random(f"{seed}:batch order:{number}").shuffle(self._order)
        self._most = math.inf
        """Rows that are run at most."""

    def __repr__(self) -> str:
        return f"<Batch {self.number} {self.stage}, {self.done} of {len(self.rows)} rows>"

    @property
    def created(self) -> float:
        """When it was made."""
        return self.at["validating"]

    @property
    def expires(self) -> float:
        """When it expires."""
        return self.created + self.rules.window_s

    @property
    def is_ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.stage in _ENDED

    @property
    def ended(self) -> float | None:
        """When it ended; None if it has not."""
        return self.at[self.stage] if self.is_ended else None

    def seconds(self, kind: BatchFaultKind) -> float:
        """How long the fault of that *kind* lasts here; 0 without it."""
        fault = self.rules.fault(kind, self.number, self._seed)
        return 0.0 if fault is None else fault.seconds

    def cancel(self, now: float) -> None:
        """Begin to cancel."""
        slow = self.rules.fault("slow_cancel", self.number, self._seed)
        left = len(self.rows) - self.done
        self._most = self.done + (math.floor(left * slow.share) if slow is not None and not self.errors else 0)
        self._begin("cancelling", now)

    def advance(self, now: float, engine: Engine) -> None:
        """Do all that happens up to *now*."""
        if self.stage == "validating":
            self._validate(now)
        if self.stage in ("running", "cancelling"):
            self._run(now, engine)
        if self.stage == "finalizing":
            ready = self.at["finalizing"] + self.rules.finalize_s + self.seconds("finalizing")
            if now >= ready:
                self._end("completed", ready)

    def _begin(self, stage: Stage, now: float) -> None:
        self.stage = stage
        self.at[stage] = now

    def _validate(self, now: float) -> None:
        ready = self.created + self.rules.validate_s + self.seconds("stuck")
        if self.expires <= min(now, ready):
            self._end("expired", self.expires)
        elif now >= ready and self.errors:
            self._begin("failed", ready)
        elif now >= ready:
            self._begin("running", ready)
            expire = self.rules.fault("expire", self.number, self._seed)
            if expire is not None:
                self._most = math.floor(expire.share * len(self.rows))

    def _run(self, now: float, engine: Engine) -> None:
        since = self.at.get("running", self.at.get("cancelling", now))
        until = min(now, self.expires, self._cancelled_at())
        due = min(len(self.rows), self._most, math.floor((until - since) * self.rules.rows_per_s + 1e-9))
        while self.done < due:
            instant = since + (self.done + 1) / self.rules.rows_per_s
            self._answer(self._order[self.done], instant, engine)
            self.done += 1
        if self.stage == "cancelling":
            if now >= self._cancelled_at():
                self._end("cancelled", self._cancelled_at())
        elif self.done == len(self.rows):
            self._begin("finalizing", since + self.done / self.rules.rows_per_s)
        elif now >= self.expires:
            self._end("expired", self.expires)

    def _cancelled_at(self) -> float:
        """When a cancel that has begun is over."""
        if self.stage != "cancelling":
            return math.inf
        return self.at["cancelling"] + (self.seconds("slow_cancel") or self.rules.cancel_s)

    def _answer(self, index: int, instant: float, engine: Engine) -> None:
        if self._is_missing(index):
            self.results.missing += 1
            return
        row = read_row(self.rows.line(index), "params" if self.dialect == "anthropic" else "body")
        self.results.answer(row.custom_id, engine(row, self, instant))

    def _is_missing(self, index: int) -> bool:
        fault = self.rules.fault("missing", self.number, self._seed)
        if fault is None:
            return False
        return Random(f"{self._seed}:missing:{self.number}:{index}").random() < fault.share

    def _end(self, stage: Literal["completed", "expired", "cancelled"], now: float) -> None:
        if stage != "completed" and not self.errors:
            for index in self._order[self.done :]:
                if not self._is_missing(index):
                    row = read_row(self.rows.line(index), "params" if self.dialect == "anthropic" else "body")
                    self.results.not_run(row.custom_id, stage)
        self.results.finish()
        self._begin(stage, now)
