"""What speaks against each row, told in lists and worked out anew for every question.

Written from the rules in words; it shares nothing with the package. A story is a list of what happened; the model
reads it from the beginning each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["failed", "own", "proof", "void", "excused", "alone", "done", "answered"]


@dataclass(frozen=True)
class Happening:
    """One thing that happened. *rows*: whom it concerns; *serial*: the number of the call; *word*: what came back."""

    kind: Kind
    rows: tuple[int, ...] = ()
    serial: int = 0
    word: str = ""


@dataclass
class Against:
    """What speaks against one row."""

    proven: int = 0
    pending: list[int] = field(default_factory=list)
    alone: bool = False
    last: str = ""
    too_large: bool = False
    """Whether it was throttled while others passed."""
    since: int | None = None
    """Rows that had succeeded when it began to fail."""


class Model:
    """The whole story of one route."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.story: list[Happening] = []
        self._read: dict[int, Against] = {}
        """What was worked out since the story grew last: only to save time."""
        self._tries: dict[int, int] = {}
        """For each row that succeeded, by its place in the story, its failures until then."""
        self._began: dict[int, int] = {}

    def note(self, kind: Kind, *rows: int, serial: int = 0, word: str = "") -> None:
        """Something happened."""
        self.story.append(Happening(kind, rows, serial, word))
        self._read = {}

    def against(self, row: int) -> Against:
        """What speaks against *row* now."""
        if row not in self._read:
            self._read[row] = self.read(row, len(self.story))
        return self._read[row]

    def read(self, row: int, end: int) -> Against:
        """What spoke against *row* when so much had happened, read from the beginning."""
        found, newest, succeeded = Against(), 0, 0
        for it in self.story[:end]:
            mine = row in it.rows
            if it.kind == "failed" and mine:
                found.last = it.word
                found.since = succeeded if found.since is None else found.since
                if found.alone or it.serial < newest:
                    found.proven += 1
                else:
                    found.pending.append(it.serial)
            elif it.kind == "own" and mine and found.pending:
                found.proven, found.pending = found.proven + 1, []
            elif it.kind == "proof":
                newest = max(newest, it.serial)
                if any(serial < it.serial for serial in found.pending):
                    found.proven += 1
                    found.pending = [serial for serial in found.pending if serial > it.serial]
                    found.too_large = found.too_large or found.last == "throttled"
            elif it.kind == "void" or (it.kind == "excused" and found.last == "throttled"):
                if found.pending and not found.proven:
                    found = Against()
                found.pending = []
            elif it.kind == "alone" and mine:
                found.proven, found.pending, found.alone = found.proven + len(found.pending), [], True
            elif it.kind == "done":
                succeeded += it.word == "success"
                if mine:
                    found = Against()
        return found

    def rows(self) -> set[int]:
        """Rows that something speaks against."""
        rows = {row for it in self.story if it.kind == "failed" for row in it.rows}
        return {row for row in rows if self.against(row).since is not None}

    def newest_success(self) -> int:
        """The highest number of a call that proved something."""
        return max((it.serial for it in self.story if it.kind == "proof"), default=0)

    def vouched_for(self) -> set[int]:
        """Rows that the smallest request has vouched for since a good row, and would now."""
        start = max((i for i, it in enumerate(self.story) if it.kind == "done" and it.word == "success"), default=-1)
        failed = {row for it in self.story if it.kind == "failed" for row in it.rows}
        asked = [i for i in range(start + 1, len(self.story)) if self.story[i].word == "ping asks"]
        return {row for row in failed for i in (*asked, len(self.story)) if self.read(row, i).pending}

    def needed(self, row: int) -> int:
        """Proven failures that end it: a good row has so many by chance less than once in 100,000."""
        since = self.against(row).since
        assert since is not None
        rate = min(max(self.rate(since), 0.01), 0.9)
        needed = next(k for k in range(self.least, 200) if k * math.log(rate) <= math.log(1e-5) + 1e-12)
        good = self.succeeded()
        bad = sum(it.kind == "done" and it.word == "failed" for it in self.story)
        met_errors = any(failures for failures, _ in good)
        return needed + 1 if met_errors and needed > self.least and bad <= 0.1 * len(good) else needed

    def rate(self, since: int) -> float:
        """How often attempts of rows that succeeded had failed, on the safe side, for one that began to fail then.

        Stories are short: no attempt is old enough to fade.
        """
        rows = self.succeeded()
        failed, attempts = sum(failures for failures, _ in rows), sum(failures + 1 for failures, _ in rows) + 10
        usual = (failed + 0.1 + (0.25 + 2 * failed / attempts) * math.sqrt(failed)) / attempts
        late = [failures for failures, began in rows if began // 40 >= since // 40]
        lately, met = sum(late), sum(late) + len(late)
        if lately <= met * usual + 2 * math.sqrt(met * usual) + 1:
            return usual
        return max(usual, (lately + math.sqrt(lately)) / (met + 10))

    def succeeded(self) -> list[tuple[int, int]]:
        """For each row that succeeded, its failures, and how many had succeeded when its attempts began."""
        count = 0
        for i, it in enumerate(self.story):
            if it.kind == "done" and it.word == "success":
                if i not in self._tries:
                    against = self.read(it.rows[0], i)
                    self._tries[i] = against.proven + bool(against.pending)
                    self._began[i] = count if against.since is None else against.since
                count += 1
        return [(failures, self._began[i]) for i, failures in self._tries.items()]

    def throttled(self) -> list[int]:
        """Numbers of throttled calls with no good answer to a later one, and no pause, since."""
        found: set[int] = set()
        for it in self.story:
            if it.kind == "answered" and it.word == "throttled":
                found.add(it.serial)
            elif it.kind == "answered" and it.word == "success":
                found = {serial for serial in found if serial > it.serial}
            elif it.kind == "answered" and it.word == "pause":
                found = set()
        return sorted(found)
