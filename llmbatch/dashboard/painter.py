"""Turns values into what open pages are sent: all of a page, or what has changed since the last second."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from llmbatch.core.errors import LlmbatchError
from llmbatch.core.raw_json import JSON
from llmbatch.dashboard.live_chart import LiveChart
from llmbatch.dashboard.sources import Source
from llmbatch.report.html.chart_data import chart_data
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.page import build_live_page, live_parts, page_title
from llmbatch.report.journal import Outage

__all__ = ["Message", "Painter", "RunPainter", "encode"]

_SLOW_EVERY_S: Final = 5.0
_SLOW_AT_LEAST_EVERY_S: Final = 30.0
_SLOW_SHARE: Final = 0.005
"""The share of the process's CPU that the tables of a page may take."""
_READ_EVERY_S: Final = 0.9


class Message:
    """What pages are sent once: ``news`` to those that have all before it, :meth:`whole` to the others."""

    def __init__(self, number: int, news: bytes, whole: Callable[[], bytes], *, is_last: bool = False) -> None:
        self.number = number
        self.news = news
        self.is_last = is_last
        self._make = whole
        self._whole: bytes | None = None
        self._lock = threading.Lock()

    def whole(self) -> bytes:
        """All that the page shows; made once. Any thread."""
        with self._lock:
            if self._whole is None:
                self._whole = self._make()
            return self._whole


class Painter(Protocol):
    """Makes the pages and messages of one path. Any thread, one at a time waits for the other."""

    def page(self) -> str:
        """The document.

        Raises:
            LlmbatchError: it cannot be made; the message says why.
        """
        ...

    def message(self, number: int, *, is_last: bool = False) -> Message:
        """The next message. Raises nothing of llmbatch's own."""
        ...


class RunPainter:
    """The page about one output."""

    def __init__(
        self, source: Source, *, events: str, up: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._events = events
        self._up = up
        self._clock = clock
        self._lock = threading.Lock()
        self._read: tuple[float, RunReport] | None = None
        self._parts: dict[str, str] = {}
        self._slow_at: float | None = None
        self._slow_used = 0.0
        self._outages: list[Outage] | None = None
        self._chart = LiveChart()

    def page(self) -> str:
        """The document."""
        with self._lock:
            report = replace(self._report(), latest=self._source.latest())
            return build_live_page(report, events=self._events, up=self._up)

    def _report(self, *, is_last: bool = False, for_tables: bool = True) -> RunReport:
        now = self._clock()
        if is_last or self._read is None or now - self._read[0] >= _READ_EVERY_S:
            self._read = (now, self._source.read(is_last=is_last, for_tables=for_tables))
        return self._read[1]

    def message(self, number: int, *, is_last: bool = False) -> Message:
        """What has changed since the last message."""
        with self._lock:
            is_slow = is_last or self._has_time_for_tables()
            try:
                report = self._report(is_last=is_last, for_tables=is_slow)
            except LlmbatchError as error:
                text = encode(number, status=f"Cannot be read now: {error.message}")
                return Message(number, text, lambda: text, is_last=is_last)
            return self._message(report, number, is_slow=is_slow, is_last=is_last)

    def _has_time_for_tables(self) -> bool:
        """Whether they were made long enough ago, for what they cost and by what the process has used since."""
        if self._slow_at is None:
            return True
        ago = self._clock() - self._slow_at
        return ago >= _SLOW_EVERY_S and (ago >= _SLOW_AT_LEAST_EVERY_S or time.process_time() >= self._slow_used)

    def _have_outages_changed(self, outages: list[Outage]) -> bool:
        """Whether one has begun or ended since the last time, or goes on."""
        before, self._outages = self._outages, outages
        return outages != before or any(outage.ended is None for outage in outages)

    def _message(self, report: RunReport, number: int, *, is_slow: bool, is_last: bool) -> Message:
        if is_slow:
            report = replace(report, latest=self._source.latest())
        began = time.thread_time()
        parts = live_parts(report, slow=is_slow, outages=is_slow or self._have_outages_changed(report.outages))
        if is_slow:
            used = time.thread_time() - began
            self._slow_at, self._slow_used = self._clock(), time.process_time() + used / _SLOW_SHARE
        changed = {name: text for name, text in parts.items() if self._parts.get(name) != text}
        self._parts = {**self._parts, **parts}
        chart = self._chart.news(report, is_whole=is_last)
        status, title = _status(report, is_last=is_last), page_title(report)
        all_parts = self._parts
        return Message(
            number,
            encode(number, status=status, title=title, parts=changed, chart=chart, is_last=is_last),
            lambda: encode(
                number, status=status, title=title, parts=all_parts, chart=chart_data(report), is_last=is_last
            ),
            is_last=is_last,
        )


def encode(
    number: int,
    *,
    status: str,
    title: str = "",
    parts: dict[str, str] | None = None,
    chart: JSON = None,
    is_last: bool = False,
) -> bytes:
    """A message as a server-sent event."""
    value: dict[str, JSON] = {"seq": number, "status": status, "title": title, "parts": dict(parts or {})}
    value |= {"chart": chart, "final": is_last}
    return b"data: %b\n\n" % json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _status(report: RunReport, *, is_last: bool) -> str:
    if is_last:
        return "The run has ended, and the dashboard with it. This is how it ended; what to type next is below."
    if report.state == "running":
        return "Live: updated every second or two."
    return "No run goes on here; the page is updated when its files change."
