"""What a run hears of the processes that send its rows: folded into its numbers, and into events for its displays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from llmbatch.core.events import Event, Notice, RunEnded, RunStarted, RunStopping
from llmbatch.pace.daily import DailyBudget
from llmbatch.report.fold import FoldedStats
from llmbatch.workers.messages import Done, Ending, Failed, Happened, Message, Told

__all__ = ["News", "stops_all"]

_STOPS_ALL: Final = frozenset({2, 3, 70, 74})
"""Exit codes of one process after which the others are stopped too: what is wrong is wrong for all."""

_MOST_NOTICES: Final = 1000


def stops_all(ending: Ending) -> bool:
    """Whether the others are stopped too after a process has ended so.

    Not for one that only rows of a refused model are left of: as in a run of one process, all other rows are sent.
    """
    summary = ending.summary
    if ending.exit_code == 3 and summary is not None:
        return summary.success + summary.failed + summary.deferred != summary.total_rows
    return ending.exit_code in _STOPS_ALL


class News:
    """Takes the messages of processes, each known by its number from 0. *emit* gets the events of the whole run."""

    def __init__(
        self, stats: FoldedStats, emit: Callable[[Event], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stats = stats
        self.emit = emit
        self._notices: set[str] = set()
        self._starts: dict[int, RunStarted] = {}
        self._counted: dict[int, list[int]] = {}
        self._clock = clock
        self._calls: dict[int, int] = {}
        """Calls of each process that has told of any."""
        self._days: dict[int, DailyBudget] = {}
        """Calls of all processes with a number, and of runs before, in a day."""

    def __repr__(self) -> str:
        return f"<News of {len(self._starts)} processes>"

    def has_begun(self, number: int) -> bool:
        """Whether process *number* has ever begun its run."""
        return number in self._starts

    def sent_today(self, number: int, earlier: tuple[int, float]) -> tuple[int, float]:
        """Requests that processes with this number, also killed ones, have sent in a day that has not ended.

        And how many seconds ago it began. *earlier*: the same of runs before, when the first of them is started.
        """
        now = self._clock()
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = DailyBudget(math.inf, earlier[0], now - earlier[1])
        return day.sent(now)

    def take(self, number: int, message: Message) -> Ending | None:
        """Take a message of process *number*; how its run has ended, once it has."""
        match message:
            case Told():
                self._stats.take(number, message.state)
                counts = message.state.counts
                self._count_calls(number, sum(route.calls.sent for route in message.state.routes))
                self._counted.setdefault(number, [0, 0, 0, 0])[2:] = [counts.success, counts.failed]
            case Happened():
                self._hear(number, message.event)
            case Done():
                return Ending(number, message.summary.exit_code, message.summary)
            case Failed():
                return Ending(number, message.exit_code, failure=message)
        return None

    def gone(self, number: int, *, has_ended: bool) -> None:
        """Process *number* has ended its run, or was killed."""
        counted = self._counted.get(number)
        if counted is not None:  # another may take its place, also of one that has ended at its share of the cost
            self._counted[number] = [counted[0] + counted[2], counted[1] + counted[3], 0, 0]
        self._calls.pop(number, None)
        for event in self._stats.gone(number, has_ended=has_ended):
            self.emit(event)

    def _count_calls(self, number: int, calls: int) -> None:
        more = calls - self._calls.get(number, 0)
        self._calls[number] = calls
        if more > 0 and number in self._days:
            self._days[number].reserve(more, self._clock())

    def _hear(self, number: int, event: Event) -> None:
        match event:
            case RunStarted():
                self._began(number, event)
            case RunEnded():
                pass
            case RunStopping():
                if self._stats.stopping is None:
                    self.emit(event)
            case Notice():
                # All processes have the same to say of the input and the provider.
                if event.message not in self._notices and len(self._notices) < _MOST_NOTICES:
                    self._notices.add(event.message)
                    self.emit(event)
            case _:
                for one in self._stats.fold(number, event):
                    self.emit(one)

    def _began(self, number: int, event: RunStarted) -> None:
        """A process has opened its part. One that was started again may find rows that it had not told of."""
        for one in self._stats.begun(number):
            self.emit(one)
        first = self._starts.setdefault(number, event)
        counted = self._counted.setdefault(number, [0, 0, 0, 0])
        success = event.done_success - first.done_success - counted[0]
        failed = event.done_failed - first.done_failed - counted[1]
        self._stats.add_rows(success, failed)
        counted[0] += max(0, success)
        counted[1] += max(0, failed)
