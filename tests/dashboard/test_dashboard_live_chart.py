"""What open pages are sent of the charts: with what they have they show the same as a page that is opened now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from night_files import WALL, write_night

from llmbatch.dashboard.live_chart import LiveChart
from llmbatch.display.report_read import read_report
from llmbatch.outputs.deferred import history_path
from llmbatch.report.html.chart_data import chart_data
from llmbatch.report.html.data import RunReport
from llmbatch.report.timeline import Bucket


class Page:
    """Joins what it is sent, as the script of the page does."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.wholes = 0

    def take(self, news: object) -> None:
        found = cast("dict[str, Any]", json.loads(json.dumps(news)))
        if "panels" in found:
            self.data, self.wholes = found, self.wholes + 1
            return
        last = self.data["buckets"][-1][0]
        self.data["buckets"] += [row for row in found["buckets"] if row[0] > last]
        self.data |= {name: found[name] for name in ("spans", "shades", "offsets")}

    def differs(self, report: RunReport) -> bool:
        whole = json.loads(json.dumps(chart_data(report)))
        return any(self.data[name] != whole[name] for name in ("spans", "shades", "offsets"))


def night(folder: Path) -> RunReport:
    """A report of a night that has just ended."""
    return read_report(write_night(folder, seconds=600), version="1")


def keep(report: RunReport, at: float, success: int = 1) -> None:
    """A second of the run that follows."""
    report.history.timeline._keep(Bucket(WALL + at, 1.0, success))


@pytest.mark.slow  # half an hour of seconds
def test_news_add_up_to_what_a_new_page_gets(tmp_path: Path) -> None:
    """Over half an hour, with a wait between two runs in it; all is sent again only now and then."""
    report, chart, page = night(tmp_path), LiveChart(), Page()
    page.take(chart.news(report))
    begins = [at + (0 if at < 1500 else 4000) for at in range(600, 2400)]

    for at in begins:
        keep(report, at)
        wholes = page.wholes
        page.take(chart.news(report))

        # A page of its own takes long to make; its worst moments are those around the sending of all.
        if at % 10 == 0 or page.wholes != wholes:
            assert not page.differs(report), at

    assert page.wholes == 3
    assert sum(row[2] for row in page.data["buckets"] if len(row) > 2 and row[0] >= WALL + 600) == len(begins)
    assert len(page.data["buckets"]) < 1300, "what is old is joined, as in the history"


def test_a_second_says_only_what_is_new(tmp_path: Path) -> None:
    """However long the history is."""
    report, chart = night(tmp_path), LiveChart()
    chart.news(report)
    for at in range(600, 1100):
        keep(report, at)
        news = chart.news(report)

    assert len(json.dumps(news)) < 500


def test_a_history_that_was_replaced_is_sent_whole(tmp_path: Path) -> None:
    """As by a run that begins afresh; and so is the end."""
    report, chart, page = night(tmp_path), LiveChart(), Page()
    keep(report, 9000)
    page.take(chart.news(report))
    page.take(chart.news(night(tmp_path)))

    assert not page.differs(night(tmp_path))
    assert "panels" in cast("dict[str, Any]", chart.news(night(tmp_path), is_whole=True))


def test_without_a_history_there_is_nothing(tmp_path: Path) -> None:
    """Until there is one."""
    output, chart = write_night(tmp_path), LiveChart()
    history = history_path(output).read_text()
    history_path(output).unlink()
    assert chart.news(read_report(output, version="1")) is None

    history_path(output).write_text(history)

    assert "panels" in cast("dict[str, Any]", chart.news(read_report(output, version="1")))
