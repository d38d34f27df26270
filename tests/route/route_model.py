"""What speaks against each row, told in lists and worked out anew for every question.

Written from the rules in words; it shares nothing with the package. A story is a list of what happened; the model
reads it from the beginning each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

Kind = Literal["check", "failed", "own", "proof", "void", "excused", "alone", "done", "answered"]


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
    """The number of its first failed call."""
    latest: int = 0
    """The number of its last one."""
    attempts: int = 0
    """Failed ones that nothing explains otherwise."""
    raised: bool = False
    """Whether the last one was an exception of the program's own."""
    own_errors: int = 0
    """How many were."""


class Model:
    """The whole story of one route."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.story: list[Happening] = []
        self._read: dict[int, Against] = {}
        """What was worked out since the story grew last: only to save time."""
        self._at: dict[tuple[int, int], Against] = {}

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
        found, newest = Against(), 0
        for it in self.story[:end]:
            mine = row in it.rows
            if it.kind == "failed" and mine:
                found.last = it.word
                found.raised = False
                found.since = it.serial if found.since is None else found.since
                found.latest = max(found.latest, it.serial)
                found.attempts += 1
                if found.alone or it.serial < newest:
                    found.proven += 1
                else:
                    found.pending.append(it.serial)
            elif it.kind == "own" and mine:
                found.raised, found.own_errors = True, found.own_errors + 1
                if found.pending:
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
                found.attempts -= len(found.pending)
                found.pending = []
            elif it.kind == "alone" and mine:
                found.proven, found.pending, found.alone = found.proven + len(found.pending), [], True
            elif it.kind == "done" and mine:
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
        good = [i for i, it in enumerate(self.story) if it.kind == "done" and it.word in ("success", "probe")]
        start = max(good, default=-1)
        failed = {row for it in self.story if it.kind == "failed" for row in it.rows}
        asked = [i for i in range(start + 1, len(self.story)) if self.story[i].word == "ping asks"]
        return {row for row in failed for i in (*asked, len(self.story)) if self.read(row, i).pending}

    def needed(self, row: int, *, jumped: bool, oldest: int | None = None) -> float:
        """Proven failures that end it, by rates 1 % to 90 %: a good row has so many less than once in 100,000.

        *jumped*: whether other rows made it likely, when last looked at, that the rate had only just changed. *oldest*:
        the number of the oldest call in flight.
        """
        against = self.against(row)
        assert against.since is not None
        if against.raised:
            return self.needed_of_own()
        times = self.times()
        mine = max((start for start in times if start <= against.since), default=0)
        if against.alone:
            return failures_asked(self.sample(0, row, more=10), 1.0)
        own = self.sample(mine, row)
        earlier = [start for start in reversed(times) if start < mine]
        wider = own
        while earlier and wider[0] + wider[1] < 300:
            wider = self.sample(earlier.pop(0), row)
        may_have_jumped = jumped and wider != own
        asked = max(failures_asked(wider, 1.0), failures_asked(own, 0.01) if may_have_jumped else 0.0)
        last = against.latest if oldest is None else min(oldest, against.latest)
        until = max((start for start in times if start <= last), default=0)
        older = [start for start in reversed(times) if start <= mine and start < until]
        for start in older:
            before = self.sample(start, row, until=until, others=False)
            if before[0] + before[1] >= 300:
                return max(asked, failures_asked(before, 1.0))
        return asked

    def needed_of_own(self) -> float:
        """The same for an exception of the program's own: one, unless rows have succeeded after such."""
        overcome, rows = 0, 0
        for i, it in enumerate(self.story):
            if it.kind == "done" and it.word in ("success", "probe"):
                overcome += self.at(it.rows[0], i).own_errors
                rows += it.word == "success"
        chance, needed = 1.0, 0
        while overcome and chance > 1e-5:
            chance *= max(0.01, (overcome + 1 + needed) / (overcome + max(10, rows) + 2 + needed))
            needed += 1
        return max(1, needed)

    def times(self) -> list[int]:
        """Numbers of calls with which another time began: a row's first failure after something good since the last."""
        return [start for start, _ in self.marks()]

    def marks(self) -> list[tuple[int, int]]:
        """The same, each with the place in the story where it was noticed."""
        marks = [(0, 0)]
        for i, it in enumerate(self.story):
            if it.kind == "failed" and self.read(it.rows[0], i).since is None and it.serial > marks[-1][0]:
                rows, checks, _, _ = self.sample(marks[-1][0], 0, end=i, marks=marks)
                if rows + checks:
                    marks.append((it.serial, i))
        return marks

    def sample(
        self,
        start: int,
        row: int,
        *,
        end: int | None = None,
        more: int = 0,
        until: float = math.inf,
        others: bool = True,
        marks: list[tuple[int, int]] | None = None,
    ) -> tuple[int, int, int, tuple[int, ...]]:
        """Good rows and checks, their failures, and those of each other row, of all that began in a stretch.

        What came before another time was noticed belongs to an older one, whatever its number.
        """
        known = self.marks() if marks is None else marks

        def is_within(began: int, place: int) -> bool:
            return start <= max(mark for mark, at in known if mark <= began and at <= place) < until

        story = self.story[:end]
        rows, checks, failures, left = 0, more, 0, []
        failed_checks = 0
        for i, it in enumerate(story):
            if it.kind == "done":
                against = self.at(it.rows[0], i)
                began = it.serial if against.since is None else against.since
                if it.word == "failed" and is_within(began, i):
                    left.append(against.attempts)
                elif it.word in ("success", "probe") and is_within(began, i):
                    rows += it.word == "success"
                    failures += against.attempts
            elif it.kind == "check":
                if it.word == "failed":
                    failed_checks += 1
                else:
                    checks += is_within(it.serial, i)
                    failures += failed_checks * is_within(it.serial, i)
                    failed_checks = 0
            elif it.kind == "void":
                failed_checks = 0
        for other in {row for it in story if it.kind == "failed" for row in it.rows} - {row} if others else ():
            against = self.at(other, len(story))
            if against.since is not None and start <= against.since < until and against.attempts:
                left.append(against.attempts)
        return rows, checks, failures, tuple(sorted(left))

    def at(self, row: int, end: int) -> Against:
        """What spoke against *row* when so much had happened; read once."""
        if (row, end) not in self._at:
            self._at[row, end] = self.read(row, end)
        return self._at[row, end]

    def throttled(self) -> list[int]:
        """Numbers of throttled calls with no good answer to a later one, and no pause, since."""
        found: set[int] = set()
        newest = 0
        for it in self.story:
            if it.kind == "answered" and it.word == "throttled":
                if it.serial > newest:  # else a later call has succeeded already
                    found.add(it.serial)
            elif it.kind == "answered" and it.word == "success":
                newest = max(newest, it.serial)
                found = {serial for serial in found if serial > it.serial}
            elif it.kind == "answered" and it.word == "pause":
                found = set()
        return sorted(found)


@cache
def failures_asked(sample: tuple[int, int, int, tuple[int, ...]], believed: float) -> float:
    """For each rate, and whatever share of rows may be bad: the most failures that it asks for, as a broken number."""
    rows, checks, failures, left = sample

    def chance(rate: float) -> float:
        found = failures * math.log(rate) + (rows + checks) * math.log(1 - rate)
        if not rows:
            return found
        best = -math.inf
        for share in (number / 200 for number in range(200)):
            of_bad = rows * math.log(1 - share)
            best = max(best, of_bad + sum(math.log(share + (1 - share) * rate**count) for count in left))
            if not left:
                break
        return found + best

    chances = {rate: chance(rate) for rate in (0.01, *(number / 60 for number in range(1, 54)), 0.9)}
    top = max(chances.values())
    return max((math.log(1e-5 / believed) + top - found) / math.log(rate) for rate, found in chances.items())
