"""Record the evidence against each row: failed attempts, and which of them a later success has proven.

A failure counts against its row only after a call with a higher number has succeeded on the same route. Failures of one
row without a success in between count as one: they may have had one cause.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Final

from llmbatch.core.calls import EMPTY_BODY, WEB_PAGE, Outcome
from llmbatch.route.law import FLOOR, LOG_CHANCE, backoff_steps
from llmbatch.route.rate import ALONE, ErrorRate

__all__ = ["Evidence", "RowRecord", "is_of_no_api", "is_own_error", "what_no_api_answers"]

MOST_UNPROVEN = 2
"""Unproven failures of a row after which it is not resent until another call succeeds."""


CLOCK_TICK = 0.001
"""Seconds that count as none: sums of waits are rounded."""

LIMIT_SECONDS = 61.0
"""Seconds for which a row is throttled while others pass until it ends as too large for the limit."""


class RowRecord:
    """Evidence against one unfinished row. Rows that never failed have no record."""

    __slots__ = (
        "began",
        "held",
        "in_flight",
        "last",
        "latest",
        "merged",
        "own_errors",
        "pending",
        "proven",
        "retry_at",
        "sent_alone",
        "throttled",
        "throttled_at",
    )

    def __init__(self, began: int, last: Outcome) -> None:
        self.proven = 0
        """Number of failed attempts that count."""
        self.pending: list[int] = []
        """Numbers of failed calls that no later success has proven."""
        self.throttled = False
        """Whether it was throttled while calls sent later passed: from then on it no longer sets the route's pace."""
        self.throttled_at = -math.inf
        """When that was known first."""
        self.held = False
        """Whether the row is held until another call shows whether the route works."""
        self.in_flight = False
        self.retry_at = 0.0
        """When its backoff is over."""
        self.sent_alone = False
        """Whether nothing can prove its failures any more, so that its own attempts have to do."""
        self.last = last
        """Last outcome that was not a success."""
        self.began = began
        """Number of the row's first failed call."""
        self.latest = began
        """Number of its last failed call."""
        self.merged = 0
        """Failed attempts that do not count, as one before them does for both."""
        self.own_errors = 0
        """Attempts that ended with an exception of the program's own."""

    def __repr__(self) -> str:
        where = " in flight" if self.in_flight else " held" if self.held else ""
        return f"<RowRecord {self.proven} proven, {len(self.pending)} pending{where}>"

    def note_throttled(self, now: float) -> None:
        """Note that the row was throttled while others passed."""
        if not self.throttled:
            self.throttled, self.throttled_at = True, now

    @property
    def failures(self) -> int:
        """Number of consecutive failures, proven or not."""
        return self.proven + len(self.pending)

    @property
    def attempts(self) -> int:
        """Number of failed attempts that no outage explains."""
        return self.proven + self.merged + len(self.pending)


class Evidence:
    """Evidence against the unfinished rows of one route, and the route's own error rate.

    Memory: one record per unfinished row that failed; a success walks over the unproven ones only.
    """

    __slots__ = (
        "_excused_checks",
        "_failed_checks",
        "_in_flight",
        "_least",
        "_met",
        "_own_overcome",
        "_throttled_checks",
        "few",
        "newest_success",
        "own_lost",
        "rate",
        "records",
        "unproven",
    )

    def __init__(self, max_attempts: int, in_flight: Collection[int] = ()) -> None:
        self._least = max_attempts
        self._in_flight = in_flight
        """The numbers of the route's calls in flight, the oldest first."""
        self._failed_checks = 0
        """Health checks that failed since the last success."""
        self._excused_checks = 0
        """Those of them that an opening voided, but one for each: without it, only the good ones would be counted."""
        self.few: set[int] = set()
        """Rows that are judged by their own attempts because few were left."""
        self._throttled_checks = 0
        """The same for those that were throttled."""
        self.rate = ErrorRate()
        self.records: dict[int, RowRecord] = {}
        self.unproven: dict[int, RowRecord] = {}
        """Records with unproven failures, by row."""
        self.newest_success = 0
        """Highest number of a call that succeeded."""
        self.own_lost = 0
        """Rows that ended as failed with an exception of the program's own."""
        self._own_overcome = 0
        """Such exceptions of rows that succeeded later."""
        self._met: dict[int, tuple[int, int]] = {}
        """By unfinished row that was throttled, its first failed call and its failed attempts, excused or not."""

    def __repr__(self) -> str:
        return f"<Evidence {len(self.records)} rows, {len(self.unproven)} unproven, errors {self.rate.value:.2%}>"

    def failed(self, row: int, serial: int, outcome: Outcome) -> RowRecord:
        """Record that call *serial* of *row* failed; proven at once if a later call has succeeded already."""
        record = self.records.get(row)
        self.rate.failing(serial, first=record is None)
        if outcome.verdict != "throttled" and row in self._met:
            self._meet(row, serial)
        if record is None:
            record = self.records[row] = RowRecord(serial, outcome)
        record.last = outcome
        record.own_errors += is_own_error(outcome)
        record.latest = max(record.latest, serial)
        record.in_flight = False
        if serial < self.newest_success or record.sent_alone:
            record.proven += 1
        else:
            record.pending.append(serial)
            self.unproven[row] = record
        return record

    def throttled(self, row: int, serial: int) -> None:
        """Count that call *serial* of *row* was throttled; 0: of a health check. It may be excused later.

        What is excused counts against no row, and yet in the rate by which a row is judged that only ever is throttled:
        all of its attempts count.
        """
        if row:
            self._meet(row, serial)
        else:
            self._throttled_checks += 1

    def _meet(self, row: int, serial: int) -> None:
        record = self.records.get(row)
        known = self._met.get(row) or ((serial, 0) if record is None else (record.began, record.attempts))
        self._met[row] = known[0], known[1] + 1

    def prove(self, serial: int) -> list[tuple[int, RowRecord]]:
        """Count failures of calls sent before *serial*, which succeeded; return rows with a newly proven failure."""
        if serial > self.newest_success:
            self.newest_success = serial
        if not self.unproven:
            return []
        changed: list[tuple[int, RowRecord]] = []
        for row, record in list(self.unproven.items()):
            left = [number for number in record.pending if number > serial]
            if len(left) == len(record.pending):
                continue
            record.merged += len(record.pending) - len(left) - 1
            record.pending = left
            record.proven += 1
            if not left:
                del self.unproven[row]
            changed.append((row, record))
        return changed

    def void(self) -> None:
        """Drop all unproven failures, because an outage explains them."""
        self._excused_checks += self._failed_checks > 0
        self._failed_checks = 0
        for row, record in self.unproven.items():
            record.pending.clear()
            self._met.pop(row, None)
            if not record.proven:
                self.records.pop(row, None)
        self.unproven.clear()
        self.rate.excused()

    def doubt_few(self) -> bool:
        """Drop the failures of rows that were judged by their own attempts as they are few; False if there are none."""
        doubted, self.few = self.few & self.records.keys(), set()
        for row in doubted:
            record = self.records[row]
            record.proven, record.sent_alone = 0, False
        return bool(doubted)

    def excuse_throttled(self) -> list[tuple[int, float]]:
        """The route was throttled, and no single row: that counts against nobody.

        Returns the rows that were held for it, and when their backoff is over.
        """
        throttled = [item for item in self.unproven.items() if item[1].last.verdict == "throttled"]
        held: list[tuple[int, float]] = []
        for row, record in throttled:
            record.pending.clear()
            del self.unproven[row]
            if record.held:
                held.append((row, record.retry_at))
                record.held = False
            if not record.proven:
                self.records.pop(row, None)
        if throttled:
            self.rate.excused()
        return held

    @property
    def newest_unproven(self) -> int:
        """Highest number of a call with an unproven failure; 0 if there is none."""
        return max((record.pending[-1] for record in self.unproven.values()), default=0)

    def needed(self, record: RowRecord) -> int:
        """Proven failures that end the row."""
        return max(self._least, self._asked(record), self._asked_before(record))

    def _asked(self, record: RowRecord) -> int:
        """Failures that all answered rows of the route ask for; see :meth:`ErrorRate.needed`."""
        if is_own_error(record.last):
            return self._asked_by_own_errors()
        others = self._unresolved(record)
        needed = self.rate.needed(record.began, others, own=record.attempts, alone=record.sent_alone)
        if record.throttled:
            met = (item for row, item in self._met.items() if self.records.get(row) is not record)
            own, alone = record.attempts, record.sent_alone
            needed = max(needed, self.rate.needed(record.began, met, own=own, alone=alone, with_excused=True))
        return needed

    def _asked_by_own_errors(self) -> int:
        """Failures that end a row whose exception is the program's own.

        Such an exception comes again on the same row, so the least number is enough. Only where rows have succeeded
        after one (a model's answer that does not parse), as many as such a row meets by chance once in 100,000: the
        posterior predictive probability of so many in a row, after a uniform prior for the rate. At least :data:`ALONE`
        rows are taken to have succeeded: a bad row among three would be called a hundred times, and paid for.
        """
        if not self._own_overcome:
            return 1
        failed = self._own_overcome + 1
        attempts = failed + max(ALONE, self.rate.rows) + 1  # probes that succeed are no rows
        needed, log_chance = 0, 0.0
        while log_chance > LOG_CHANCE:
            log_chance += math.log(max(FLOOR, (failed + needed) / (attempts + needed)))
            needed += 1
        return needed

    def _asked_before(self, record: RowRecord) -> int:
        """Failures that rows sent before its last failed call ask for; see :meth:`ErrorRate.needed_before`."""
        if record.sent_alone or is_own_error(record.last):
            return 1
        before = min(record.latest, next(iter(self._in_flight), record.latest))
        return self.rate.needed_before(before, record.began, with_excused=record.throttled)

    def _unresolved(self, record: RowRecord) -> Iterator[tuple[int, int]]:
        return ((other.began, other.attempts) for other in self.records.values() if other is not record)

    def ended(self, row: int) -> str:
        """Forget a row that ended as failed, and return why; its failures count in the error rate of later rows."""
        why = self.explain(row)
        record = self.forget(row)
        if record is not None:
            self.own_lost += is_own_error(record.last)
            self.rate.lost(record.attempts, record.began)
        return why

    def is_spent(self, record: RowRecord) -> bool:
        """Whether a good row would have failed so often less than once in 100,000."""
        proven = record.proven
        return proven >= self._least and proven >= self._asked(record) and proven >= self._asked_before(record)

    def may_end(self, record: RowRecord, now: float) -> bool:
        """Whether the row ends; one that is throttled not within the minute for which most limits are kept."""
        return self.is_spent(record) and record.throttled_at + LIMIT_SECONDS - now <= CLOCK_TICK

    def time_left(self, record: RowRecord, now: float) -> float:
        """Seconds until a row ends that has failed often enough, and is throttled; infinity for others."""
        left = record.throttled_at + LIMIT_SECONDS - now
        return left if left > CLOCK_TICK and self.is_spent(record) else math.inf

    def is_waiting(self, record: RowRecord) -> bool:
        """Whether another attempt would give no evidence until another call succeeds."""
        return len(record.pending) >= MOST_UNPROVEN

    def backoff(self, record: RowRecord) -> float:
        """How far the row's wait has grown, in doublings; see :func:`backoff_steps`."""
        return backoff_steps(record.failures, self._asked(record)) if record.failures > 1 else 1.0

    def succeeded(self, row: int, serial: int, *, probe: bool = False) -> None:
        """The row has its answer, by call *serial*: what it met before is the route's own error rate."""
        if self._met:
            self._count_excused(row)
        record = self.forget(row) if self.records else None
        if record is not None:
            self._own_overcome += record.own_errors
            self.rate.resolved(record.attempts, record.began, 0 if probe else 1)
        elif not probe:
            self.rate.answered(serial)

    def _count_excused(self, row: int) -> None:
        """The row that has its answer was throttled, and that was excused."""
        met, record = self._met.pop(row, None), self.records.get(row)
        if met is not None:
            self.rate.note_excused(met[1] - (0 if record is None else record.attempts), met[0])

    def check_failed(self) -> None:
        """Count a failed health check: by chance, if a later call succeeds."""
        self._failed_checks += 1

    def check_passed(self, serial: int) -> None:
        """Count a successful health check, sent as call *serial*."""
        self.rate.checked(serial, self._failed_checks + self._excused_checks)
        self.rate.note_excused(self._throttled_checks, serial)
        self._failed_checks = self._excused_checks = self._throttled_checks = 0

    def forget(self, row: int) -> RowRecord | None:
        """Remove the row's record; return it if there was one."""
        if self._met:
            self._met.pop(row, None)
        if not self.records:
            return None
        self.unproven.pop(row, None)
        return self.records.pop(row, None)

    def explain(self, row: int) -> str:
        """Describe the evidence against *row* in a phrase; empty if there is none."""
        record = self.records.get(row)
        if record is None:
            return ""
        others = f"while {self.rate.value:.1%} of other attempts failed"
        waits = f", {len(record.pending)} more not proven yet" if record.pending else ""
        return f"failed {record.proven} of {self.needed(record)} {others}{waits}"


_OF_NO_API: Final = {
    WEB_PAGE: "web pages",
    EMPTY_BODY: "empty answers",
    "invalid_body": "something other than a JSON object",
    **dict.fromkeys(("no_choices", "no_content", "no_output", "no_data"), "JSON of another kind"),
    "not_http": "something other than HTTP",
    "connection_reset": "closed connections",
}
"""By its code, what a server that is no API answers with: another service, a login page, a health check."""


def is_of_no_api(outcome: Outcome) -> bool:
    """Whether *outcome* is no answer of an API and no word about an outage, as of another server or a login page."""
    return outcome.verdict == "failure" and outcome.code in _OF_NO_API


def what_no_api_answers(outcome: Outcome) -> str:
    """What a server that is no API has answered with."""
    what = _OF_NO_API[outcome.code]
    return what if outcome.code == EMPTY_BODY else f"{what} ({outcome.message})"


def is_own_error(outcome: Outcome) -> bool:
    """Whether *outcome* is an exception of the program's own, raised by a function in place of a provider."""
    return outcome.verdict == "rejected" and outcome.scope == "row" and outcome.status is None and outcome.retry
