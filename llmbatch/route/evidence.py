"""What speaks against each row: failed attempts, and which of them a later good answer has proven.

A failure counts against its row only after a call with a higher number has succeeded on the same route. Failures of one
row with no good answer between them count as one: they may have had one cause.
"""

from __future__ import annotations

from llmbatch.records import Outcome
from llmbatch.route.law import ErrorRate, attempts_needed, backoff_steps

__all__ = ["Evidence", "RowRecord"]

RARE = 0.1
"""Bad rows for each good one, up to which one attempt more for each costs next to nothing."""

MOST_UNPROVEN = 2
"""Failures of a row with no good answer between, after which another attempt would teach nothing."""


class RowRecord:
    """What is known against one unfinished row. Rows that never failed have none."""

    __slots__ = ("epoch", "held", "in_flight", "last", "pending", "proven", "retry_at", "sent_alone", "throttled")

    def __init__(self, epoch: int, last: Outcome) -> None:
        self.proven = 0
        """Failed attempts that count."""
        self.pending: list[int] = []
        """Numbers of failed calls that no later success has proven yet."""
        self.throttled = False
        """Whether it was throttled while calls sent later passed: from then on it no longer sets the route's pace."""
        self.held = False
        """Whether it waits for evidence."""
        self.in_flight = False
        self.retry_at = 0.0
        """When its backoff is over."""
        self.sent_alone = False
        """Whether nothing can prove its failures any more, so that its own attempts have to do."""
        self.last = last
        """The latest answer that was not good."""
        self.epoch = epoch
        """When it began to fail, as :class:`ErrorRate` counts."""

    def __repr__(self) -> str:
        where = " in flight" if self.in_flight else " held" if self.held else ""
        return f"<RowRecord {self.proven} proven, {len(self.pending)} pending{where}>"

    @property
    def failures(self) -> int:
        """Failures in a row, proven or not."""
        return self.proven + len(self.pending)


class Evidence:
    """The records of one route's unfinished rows, and the route's own error rate.

    Memory: one record per unfinished row that failed; a success walks over the unproven ones only.
    """

    __slots__ = ("_bad", "_least", "newest_success", "rate", "records", "unproven")

    def __init__(self, max_attempts: int) -> None:
        self._least = max_attempts
        self._bad = 0
        """Rows that ended as failed by the law."""
        self.rate = ErrorRate()
        self.records: dict[int, RowRecord] = {}
        self.unproven: dict[int, RowRecord] = {}
        """Those of the records with pending failures."""
        self.newest_success = 0
        """The highest number of a call that succeeded."""

    def __repr__(self) -> str:
        return f"<Evidence {len(self.records)} rows, {len(self.unproven)} unproven, errors {self.rate.value:.2%}>"

    def failed(self, row: int, serial: int, outcome: Outcome) -> RowRecord:
        """Call *serial* of *row* failed as *outcome* says; proven at once if a later call has succeeded already."""
        record = self.records.get(row)
        if record is None:
            record = self.records[row] = RowRecord(self.rate.epoch, outcome)
        record.last = outcome
        record.in_flight = False
        if serial < self.newest_success or record.sent_alone:
            record.proven += 1
        else:
            record.pending.append(serial)
            self.unproven[row] = record
        return record

    def prove(self, serial: int) -> list[tuple[int, RowRecord]]:
        """Call *serial* succeeded: what failed before it counts. Returns the rows with a newly proven failure."""
        if serial > self.newest_success:
            self.newest_success = serial
        if not self.unproven:
            return []
        changed: list[tuple[int, RowRecord]] = []
        for row, record in list(self.unproven.items()):
            left = [number for number in record.pending if number > serial]
            if len(left) == len(record.pending):
                continue
            record.pending = left
            record.proven += 1
            if not left:
                del self.unproven[row]
            changed.append((row, record))
        return changed

    def void(self) -> None:
        """An outage explains what is unproven: it counts against no row."""
        for row, record in self.unproven.items():
            record.pending.clear()
            if not record.proven:
                self.records.pop(row, None)
        self.unproven.clear()

    def excuse_throttled(self) -> list[tuple[int, float]]:
        """The route was throttled, and no single row: that counts against nobody.

        Returns the rows that were held for it, and when their backoff is over.
        """
        held: list[tuple[int, float]] = []
        for row, record in list(self.unproven.items()):
            if record.last.verdict == "throttled":
                record.pending.clear()
                del self.unproven[row]
                if record.held:
                    held.append((row, record.retry_at))
                    record.held = False
                if not record.proven:
                    self.records.pop(row, None)
        return held

    def needed(self, record: RowRecord) -> int:
        """Proven failures that end the row; where errors happen and bad rows are rare, one more, as it costs little."""
        needed = attempts_needed(self.rate.since(record.epoch), self._least)
        is_cheap = self.rate.value > 0 and needed > self._least and self._bad <= RARE * self.rate.rows
        return needed + is_cheap

    def ended(self, row: int) -> None:
        """The row failed as often as that."""
        self._bad += 1
        self.forget(row)

    def is_spent(self, record: RowRecord) -> bool:
        """Whether a good row would have failed so often less than once in 100,000."""
        return record.proven >= self._least and record.proven >= self.needed(record)

    def is_waiting(self, record: RowRecord) -> bool:
        """Whether another attempt would teach nothing before something else succeeds."""
        return len(record.pending) >= MOST_UNPROVEN

    def backoff(self, record: RowRecord) -> float:
        """How far the row's wait has grown, in doublings; see :func:`backoff_steps`."""
        return backoff_steps(record.failures, self.rate.since(record.epoch))

    def succeeded(self, row: int) -> None:
        """The row has its answer: what it met before is the route's own error rate."""
        record = self.forget(row)
        if record is None:
            self.rate.add(0, self.rate.epoch)
        else:
            self.rate.add(record.proven + bool(record.pending), record.epoch)

    def forget(self, row: int) -> RowRecord | None:
        """The row is done."""
        if not self.records:
            return None
        self.unproven.pop(row, None)
        return self.records.pop(row, None)

    def explain(self, row: int) -> str:
        """Why the row is where it is, in a phrase; empty where nothing speaks against it."""
        record = self.records.get(row)
        if record is None:
            return ""
        others = f"while {self.rate.value:.1%} of other attempts failed"
        waits = f", {len(record.pending)} more not proven yet" if record.pending else ""
        return f"failed {record.proven} of {self.needed(record)} {others}{waits}"
