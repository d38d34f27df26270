"""Faults of this machine (no file handles, no memory, no network): pause all sending, or let one row wait by itself."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from llmbatch.core.calls import Outcome
from llmbatch.core.events import Notice

__all__ = ["LONGEST_ALONE", "Machine"]

LONGEST_ALONE = 600.0
"""Seconds after which a run ends that has nothing left but rows that fail by a fault of this machine each alone."""


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

    The machine is at fault once two calls failed so and no call that was sent after the first was answered between
    them. A row that fails so while others are answered waits by itself: it may need more than this machine has.
    """

    __slots__ = ("_doubted_at", "_level", "_longest", "_rows", "_was_told", "_worked_at", "since", "until")

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._level = 0
        self._rows: dict[int, _Row] = {}
        self._was_told = False
        self._doubted_at: float | None = None
        """When a call failed by this machine's fault that no later call has disproved; None if there is none."""
        self._worked_at = -math.inf
        """When the newest call was sent that was answered since a row failed."""
        self.until = 0.0
        """Earliest time of the next call, on the loop's clock."""
        self.since: float | None = None
        """Since when this machine is at fault; None if it is not."""

    def __repr__(self) -> str:
        rows = f", {len(self._rows)} rows failed" if self._rows else ""
        return f"<Machine {'ok' if self.since is None else f'at fault until {self.until:.1f}'}{rows}>"

    @property
    def awaits_answers(self) -> bool:
        """Whether the next answer tells something about this machine."""
        return self.since is not None or self._doubted_at is not None or bool(self._rows)

    def works(self, row: int, sent_at: float) -> None:
        """Note that a call of *row* (0: of none), sent at *sent_at*, was answered, so this machine works."""
        self._level = 0
        self.since = None
        self._worked_at = max(self._worked_at, sent_at)
        if self._doubted_at is not None and sent_at > self._doubted_at:
            self._doubted_at = None
        self._rows.pop(row, None)

    def failed(self, row: int, outcome: Outcome, now: float) -> tuple[Outcome, Notice | None]:
        """Note a call of *row* (0: of none) that failed by a fault of this machine, and pause if it is no single row's.

        Return the outcome, with the scope ``row`` and the row's own wait if it is, and what to tell.
        """
        if row:
            known = self._rows.setdefault(row, _Row(now, now))
            was_alone = known.is_alone
            known.is_alone |= known.failures > 0 and self._worked_at > known.last
            known.last, known.message = now, outcome.message
            known.failures += 1
            if known.is_alone or self._doubted_at is None:
                self._doubted_at = self._doubted_at if known.is_alone else now
                wait = min(self._longest, 2.0 ** min(known.failures - 1, 30))
                notice = None if was_alone or not known.is_alone else self._tell(row, outcome, now)
                return replace(outcome, scope="row", min_backoff=wait), notice
        return outcome, self._pause(outcome, now)

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
        """When each of *rows* has failed alone by this machine's fault for *longest* seconds; inf if one does not."""
        until = 0.0 if rows else math.inf
        for row in rows:
            known = self._rows.get(row)
            if known is None or not known.is_alone:
                return math.inf
            until = max(until, known.first + min(longest, LONGEST_ALONE))
        return until

    def why_held(self) -> str:
        """Why rows fail that fail alone, for humans; empty if none does."""
        return next((one.message for one in self._rows.values() if one.is_alone), "")
