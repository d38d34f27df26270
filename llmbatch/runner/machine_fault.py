"""Faults of this machine (no file handles, no memory, no network): pause all sending, or let one row wait by itself."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from llmbatch.core.calls import Outcome
from llmbatch.core.events import Notice
from llmbatch.route.calls import Call
from llmbatch.route.failures import log_chance
from llmbatch.route.route import RouteState

__all__ = ["LONGEST_ALONE", "Machine"]

LONGEST_ALONE = 600.0
"""Seconds after which a run ends that has nothing left but rows that fail by a fault of this machine each alone."""

ROWS_OWN = math.log(0.02)
"""Logarithm of the share of rows that may need more than this machine has."""

CONFIRMED = math.log(1e-3)
"""Logarithm of the chance below which such failures mean this machine and not some rows, or one row and not chance."""

RECENT = 400
"""Calls after which older ones count half."""


@dataclass(slots=True)
class _Row:
    """A row that failed by a fault of this machine: when first and last, on the loop's clock, how often, and why."""

    first: float
    last: float
    failures: int = 0
    message: str = ""
    proven: int = 0
    """How often a call that was sent after it had failed was answered before it failed again."""
    streak: int = 0
    """How often it has failed with no such answer since."""
    alone: int = 0
    """How often it has failed since it is known that it is this row that fails, whatever others do; at first 0."""


class Machine:
    """Faults of this machine, and until when nothing is sent. *longest*: longest wait in seconds.

    All calls pause once so many of those that a route has sent since its newest success failed so that chance hardly
    explains it: two in a row, or six of forty. A row that fails so while others are answered, more often than their
    rate of such failures explains, needs more than this machine has: it waits by itself, and says nothing about others.
    Memory: one entry per such row, and per such call since the newest success.
    """

    __slots__ = (
        "_answered",
        "_failed",
        "_faults",
        "_level",
        "_longest",
        "_was_told",
        "_worked_at",
        "rows",
        "since",
        "until",
    )

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._level = 0
        self.rows: dict[int, _Row] = {}
        """Unfinished rows whose last call failed by a fault of this machine, by number."""
        self._was_told = False
        self._failed: dict[str, dict[int, int]] = {}
        """Of each route, the newest call that failed so of each row since its newest success, by row; minus the row if
        it is known to fail alone."""
        self._answered = self._faults = 0
        """Of late, while rows fail so: calls that were answered, and those that failed so of rows not known for it."""
        self._worked_at = -math.inf
        """When the newest call was sent that was answered since a row failed."""
        self.until = 0.0
        """Earliest time of the next call, on the loop's clock."""
        self.since: float | None = None
        """Since when this machine is at fault; None if it is not."""

    def __repr__(self) -> str:
        rows = f", {len(self.rows)} rows failed" if self.rows else ""
        return f"<Machine {'ok' if self.since is None else f'at fault until {self.until:.1f}'}{rows}>"

    def works(self, row: int, sent_at: float) -> None:
        """Note that a call of *row* (0: of none), sent at *sent_at*, was answered, so this machine works."""
        self._level = 0
        self.since = None
        self._worked_at = max(self._worked_at, sent_at)
        self._answered += 1
        self.rows.pop(row, None)

    def failed(self, state: RouteState, call: Call, outcome: Outcome, now: float) -> tuple[Outcome, Notice | None]:
        """Note a *call* of a route that failed by a fault of this machine, and pause if chance hardly explains so many.

        Return the outcome, with the wait of the row alone (``min_backoff``) if nothing else waits, and the scope
        ``row`` if it is known that this row fails; and what to tell.
        """
        if call.kind != "row" or call.probe or not state.is_closed:
            return outcome, self._pause(outcome, now)
        known = self.rows.setdefault(call.row, _Row(now, now))
        if known.streak and self._worked_at > known.last:
            known.proven, known.streak = known.proven + 1, 0
        known.streak += 1
        known.last, known.message = now, outcome.message
        known.failures += 1
        if known.alone or known.proven >= self._needed(known):
            known.alone += 1
            self._is_at_fault(state, -call.row, call.serial)
            wait = self._wait(known.alone)
            return replace(outcome, scope="row", min_backoff=wait), self._tell(call.row, outcome, now)
        self._count_fault()
        if self._is_at_fault(state, call.row, call.serial) or (known.streak > 1 and state.in_flight <= 1):
            self._failed.clear()
            return outcome, self._pause(outcome, now)
        return replace(outcome, min_backoff=self._wait(known.streak - 1)), None

    def _needed(self, known: _Row) -> int:
        """How often a row must have failed so that chance hardly explains it, at the rate at which others fail so."""
        faults = max(0, self._faults - known.failures + 1)
        rate = (faults + 1) / (faults + self._answered + 2)
        return max(2, math.ceil(CONFIRMED / math.log(rate)))

    def _count_fault(self) -> None:
        self._faults += 1
        if self._faults + self._answered > RECENT:
            self._faults, self._answered = self._faults // 2, self._answered // 2

    def _is_at_fault(self, state: RouteState, row: int, serial: int) -> bool:
        """Note a failed call, and return whether chance and the rows themselves hardly explain so many rows."""
        newest = state.evidence.newest_success
        calls = self._failed.get(state.label, {}) | {row: serial}
        self._failed[state.label] = calls = {one: number for one, number in calls.items() if number > newest}
        failed = sum(one > 0 for one in calls)
        sent = state.circuit.serial - newest - (len(calls) - failed)
        return log_chance(failed, sent, failed * ROWS_OWN) < CONFIRMED

    def _wait(self, doublings: int) -> float:
        return min(self._longest, 2.0 ** min(doublings, 30))

    def _pause(self, outcome: Outcome, now: float) -> Notice | None:
        """Pause for 1 s, doubling; None if it is pausing already."""
        if now < self.until:
            return None
        if self.since is None:
            self.since = now
        wait = min(self._longest, 2.0**self._level)
        self._level = min(self._level + 1, 30)
        self.until = now + wait
        hint = outcome.hint or "nothing is lost: the rows are resent"
        return Notice(now, "warning", f"this machine: {outcome.message}; trying again in {wait:.0f} s", hint)

    def _tell(self, row: int, outcome: Outcome, now: float) -> Notice | None:
        if self._was_told:
            return None
        self._was_told = True
        message = f"this machine: {outcome.message} (row {row}); it waits by itself, as others are answered"
        return Notice(now, "warning", message, outcome.hint or "does this row need more than this machine has?")

    def held_until(self, rows: Collection[int], *, longest: float) -> float:
        """When each of *rows* has failed by this machine's fault for *longest* seconds, some alone; inf if not so."""
        until, are_own = 0.0, False
        for row in rows:
            known = self.rows.get(row)
            if known is None:
                return math.inf
            are_own |= known.alone > 0
            until = max(until, known.first + min(longest, LONGEST_ALONE))
        return until if are_own else math.inf

    def why_held(self) -> str:
        """Why rows fail that fail alone, for humans; empty if none does."""
        return next((one.message for one in self.rows.values() if one.alone), "")
