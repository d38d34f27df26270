"""What a run remembers of its processes when one takes the place of another: their rows, and requests for ``--rpd``."""

from __future__ import annotations

import math

import pytest

from llmbatch.core.events import CallSent, RowFinished, RunStarted
from llmbatch.pace.daily import DAY, DailyBudget
from llmbatch.report.fold import FoldedStats, ProcessStats
from llmbatch.workers.messages import Happened, Told
from llmbatch.workers.news import News

NEVER = (0, math.inf)


class Processes:
    """Processes with the number 0, one after another, on a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.whole = FoldedStats(1)
        self.news = News(self.whole, lambda event: None, clock=lambda: self.now)
        self.stats = ProcessStats()

    def send(self, calls: int) -> None:
        for serial in range(calls):
            self.stats.observe(CallSent(self.now, "m", serial, serial, False))
        self.news.take(0, Told(self.stats.state()))

    def begin(self, done: int) -> None:
        self.news.take(0, Happened(RunStarted(self.now, "in", "out", 8, done, 0, 100)))

    def finish(self, rows: int) -> None:
        for serial in range(rows):
            self.stats.observe(RowFinished(self.now, "m", serial, "success", "", 1))
        self.news.take(0, Told(self.stats.state()))

    def kill(self) -> None:
        self.leave(has_ended=False)

    def leave(self, *, has_ended: bool) -> None:
        self.news.gone(0, has_ended=has_ended)
        self.stats = ProcessStats()


@pytest.mark.parametrize("has_ended", [True, False])
def test_rows_of_a_process_are_counted_once_though_another_takes_its_place(has_ended: bool) -> None:
    """Those of one that had ended at its share of ``--max-cost`` were counted twice."""
    old = Processes()
    old.begin(7)
    old.finish(3)
    old.leave(has_ended=has_ended)
    old.begin(10)
    old.finish(2)
    old.leave(has_ended=has_ended)
    old.begin(13)  # one more than was told

    assert old.whole.success == 6


def test_a_process_that_takes_the_place_of_another_goes_on_with_its_day() -> None:
    """It began with the first request, and counts those of all processes that were killed."""
    old = Processes()
    assert old.news.sent_today(0, NEVER) == NEVER
    old.send(3)
    old.now += 3600.0
    old.send(4)
    old.kill()
    assert old.news.sent_today(0, NEVER) == (7, 3600.0)
    old.send(2)
    old.kill()

    assert old.news.sent_today(0, NEVER) == (9, 3600.0)


def test_requests_of_days_that_have_ended_do_not_count_for_the_one_that_takes_its_place() -> None:
    """After three days it would wait for another, and each time that one is killed: on Ray, for ever."""
    old = Processes()
    old.news.sent_today(0, NEVER)
    for _ in range(3):
        old.send(250)
        old.now += DAY
    old.send(20)
    old.kill()
    old.now += 60.0

    sent, ago = old.news.sent_today(0, NEVER)

    assert (sent, ago) == (20, 60.0)
    assert DailyBudget(250, sent, old.now - ago).wait(1, old.now) == 0.0


def test_requests_of_earlier_runs_count_until_their_day_has_ended() -> None:
    """Also for the process that takes the place of one which began with them."""
    old = Processes()
    earlier = (100, DAY - 60.0)
    assert old.news.sent_today(0, earlier) == earlier
    old.send(5)
    old.kill()
    assert old.news.sent_today(0, earlier) == (105, DAY - 60.0)
    old.now += 60.0

    assert old.news.sent_today(0, earlier) == NEVER
