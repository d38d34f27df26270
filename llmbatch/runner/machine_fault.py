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
"""Logarithm of the chance below which such failures mean this machine, not some rows."""


@dataclass(slots=True)
class _Row:
    """A row that failed by a fault of this machine: when first and last, on the loop's clock, how often, and why."""

    first: float
    last: float
    failures: int = 0
    message: str = ""
    is_alone: bool = False
    """Whether a call that was sent after it had failed was answered before it failed again."""


class Machine:
    """Faults of this machine, and until when nothing is sent. *longest*: longest wait in seconds.

    The machine is at fault once so many of the calls that a route has sent since its newest success failed so that
    chance hardly explains it: two in a row, or six of forty. A row that fails so while others succeed waits by itself:
    it may need more than this machine has. Memory: one entry per such row, and per such call since the newest success.
    """

    __slots__ = ("_failed", "_level", "_longest", "_was_told", "_worked_at", "rows", "since", "until")

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._level = 0
        self.rows: dict[int, _Row] = {}
        """Unfinished rows whose last call failed by a fault of this machine, by number."""
        self._was_told = False
        self._failed: dict[str, set[int]] = {}
        """Numbers of each route's calls that failed so since its newest success; negative for rows that fail alone."""
        self._worked_at = -math.inf
        """When the newest call was sent that was answered since a row failed."""
        self.until = 0.0
        """Earliest time of the next call, on the loop's clock."""
        self.since: float | None = None
        """Since when this machine is at fault; None if it is not."""

    def __repr__(self) -> str:
        rows = f", {len(self.rows)} rows failed" if self.rows else ""
        return f"<Machine {'ok' if self.since is None else f'at fault until {self.until:.1f}'}{rows}>"

    @property
    def awaits_answers(self) -> bool:
        """Whether the next answer tells something about this machine."""
        return self.since is not None or bool(self.rows)

    def works(self, row: int, sent_at: float) -> None:
        """Note that a call of *row* (0: of none), sent at *sent_at*, was answered, so this machine works."""
        self._level = 0
        self.since = None
        self._worked_at = max(self._worked_at, sent_at)
        self.rows.pop(row, None)

    def failed(self, state: RouteState, call: Call, outcome: Outcome, now: float) -> tuple[Outcome, Notice | None]:
        """Note a *call* of a route that failed by a fault of this machine, and pause if it is no single row's.

        Return the outcome, with the scope ``row`` and the row's own wait if it is, and what to tell.
        """
        if call.kind != "row" or call.probe or not state.is_closed:
            return outcome, self._pause(outcome, now)
        known = self.rows.setdefault(call.row, _Row(now, now))
        was_alone = known.is_alone
        known.is_alone |= known.failures > 0 and self._worked_at > known.last
        known.last, known.message = now, outcome.message
        known.failures += 1
        if self._is_at_fault(state, call, is_alone=known.is_alone):
            self._failed.clear()
            return outcome, self._pause(outcome, now)
        wait = min(self._longest, 2.0 ** min(known.failures - 1, 30))
        notice = None if was_alone or not known.is_alone else self._tell(call.row, outcome, now)
        return replace(outcome, scope="row", min_backoff=wait), notice

    def _is_at_fault(self, state: RouteState, call: Call, *, is_alone: bool) -> bool:
        """Note the failed *call*, and return whether chance and the rows themselves hardly explain so many.

        The calls of rows that are known to fail alone say nothing.
        """
        newest = state.evidence.newest_success
        ended = {number for number in self._failed.get(state.label, ()) if abs(number) > newest}
        ended.add(-call.serial if is_alone else call.serial)
        self._failed[state.label] = ended
        failed = sum(number > newest for number in ended)
        sent = state.circuit.serial - newest - (len(ended) - failed)
        return not is_alone and log_chance(failed, sent, failed * ROWS_OWN) < CONFIRMED

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
            are_own |= known.is_alone
            until = max(until, known.first + min(longest, LONGEST_ALONE))
        return until if are_own else math.inf

    def why_held(self) -> str:
        """Why rows fail that fail alone, for humans; empty if none does."""
        return next((one.message for one in self.rows.values() if one.is_alone), "")
