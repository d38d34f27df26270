"""Progress where there is no terminal: one plain line now and then, and one when a circuit opens or closes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from llmbatch.core.events import Event, RunStarted
from llmbatch.display.batches import batches_now
from llmbatch.display.line_display import LineDisplay
from llmbatch.display.log_lines import LogLines
from llmbatch.display.phrases import (
    circuit_phrase,
    codes_phrase,
    duration,
    elided,
    gives_up_phrase,
    idle_reason,
    is_idle,
    paused_phrase,
    plural,
    rate,
    rows_phrase,
    shown,
    stamp,
    time_left,
)
from llmbatch.money.text import usd
from llmbatch.report.snapshot import Snapshot
from llmbatch.report.stats import RunStats

__all__ = ["PlainDisplay", "progress_text"]


class PlainDisplay(LineDisplay):
    """Lines such as ``12:03:14  412/600 rows  38.2 rows/s  in flight 40  parked 12  failed 0  eta 1m02s``."""

    def __init__(
        self, stream: TextIO, *, verbose: int = 0, stats: RunStats | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(stream, verbose=verbose, stats=stats, clock=clock)
        self._news = LogLines(verbose=verbose)

    def event_lines(self, event: Event) -> list[str]:
        """A start line, and what :class:`~llmbatch.display.log_lines.LogLines` finds worth one."""
        if isinstance(event, RunStarted):
            before = event.done_success + event.done_failed
            there = f", {plural(before, 'row')} done before" if before else ""
            return [self._stamped(f"{shown(event.input)} -> {shown(event.output)}{there}")]
        news = self._news.line(event)
        return [] if news is None else [self._stamped(news.text)]

    def progress_line(self, now: Snapshot) -> str:
        """Where the run stands, in one line."""
        return self._stamped(progress_text(now))

    def _stamped(self, text: str) -> str:
        return f"{stamp(self._wall())}  {text}"


def progress_text(now: Snapshot) -> str:
    """The numbers that matter most, two spaces apart; those that are nought are left out, but for failed rows."""
    is_over = now.exit_code is not None
    parts = [rows_phrase(now), rate(now.overall_rows_per_s if is_over else now.rows_per_s)]
    idle = idle_reason(now)
    limit = " of auto" if now.adapts else ""
    paused = paused_phrase(now)
    if paused is not None:
        parts.insert(0, paused)
    parts.append(f"in flight {now.in_flight:,}{limit}{f' ({idle})' if idle else ''}")
    if batches := batches_now(now.batches):
        parts.append(batches)
    if now.parked:
        parts.append(f"parked {now.parked:,}")
    if now.waiting_retries:
        parts.append(f"retries waiting {now.waiting_retries:,}")
    # A pause under which nothing is in flight has been told beside that.
    down = [route for route in now.routes if route.state != "closed" and not is_idle(route)]
    trouble = [*down, *(route for route in now.routes if route.state == "closed" and route.paused_s > 0 and not idle)]
    if trouble and not is_over:
        more = f" (+{len(trouble) - 1} more)" if len(trouble) > 1 else ""
        gives_up = gives_up_phrase(now, trouble[0])
        limit = f", {gives_up}" if gives_up else ""
        parts.append(f"circuit {elided(trouble[0].label, 80)} {circuit_phrase(trouble[0])}{limit}{more}")
    parts.append(f"failed {now.failed:,}")
    if now.errors_by_code:
        parts.append(f"errors {codes_phrase(now.errors_by_code)}")
    if is_over:
        if now.spending.cost_usd is not None:
            parts.append(usd(now.spending.cost_usd))
        parts.append(f"elapsed {duration(now.elapsed_s)}")
    elif now.eta_s is not None:
        parts.append(f"eta {duration(now.eta_s)}")
    elif now.work_left_s is not None and now.stopping is None:
        parts.append(str(time_left(now)))
    return "  ".join(parts)
