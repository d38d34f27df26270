"""What the page shows, as values; :mod:`llmbatch.display.report_read` reads it from the files of an output."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import tzinfo
from decimal import Decimal
from typing import Literal

from llmbatch.core.raw_json import JSON
from llmbatch.report.history import History, PauseSpan
from llmbatch.report.journal import Journal, Outage
from llmbatch.report.output_lines import FailureGroup, LineRoute
from llmbatch.report.row_spread import RowSpread

__all__ = ["LatestRow", "RunNow", "RunReport"]


@dataclass(frozen=True, slots=True)
class RunNow:
    """A run that goes on, at this instant."""

    rows_per_s: float
    in_flight: int
    eta_s: float | None
    """Seconds left, where that can be said."""
    work_left_s: float | None = None
    """Seconds left once it goes on, in an outage or a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestRow:
    """One of the rows that ended last. ``prompt`` and ``answer`` are None where they are not to be shown."""

    number: int
    id: JSON
    failed: bool
    code: str
    latency_s: float | None
    model: str
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What the files of one output say. Instants are seconds since the epoch; None is what is not known."""

    output: str
    state: Literal["running", "finished", "stopped", "unknown"]
    success: int
    failed: int
    was_killed: bool
    total_rows: int | None
    total_is_estimate: bool
    deferred_rows: int | None
    exit_code: int | None
    reason: str
    """Why the last run stopped; empty where it did not."""
    waits_for: str
    calls_avoided: int
    """By the last run."""
    input: str
    command: str
    next: str
    """How to go on."""
    began: float | None
    ended: float | None
    """None while a run goes on."""
    journal: Journal
    """The outages, and the speed of each route."""
    history: History
    history_note: str
    """Why there is no time axis; empty where nothing is to be said of that."""
    failures: list[FailureGroup]
    routes: list[LineRoute]
    spread: RowSpread
    tiers: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    cut_answers: int = 0
    answers_without_text: int = 0
    now: RunNow | None = None
    """None where no run goes on, or none that tells."""
    latest: list[LatestRow] = field(default_factory=list)
    """The newest first; empty on a page that is not live."""
    lines_read: int | None = None
    """How many lines ``failures``, ``routes`` and ``spread`` are made from, where not all have been read yet."""
    made_at: float
    """When the files were read."""
    version: str
    zone: tzinfo | None = None
    """The time zone of what is shown; None is the local one."""

    @property
    def rows(self) -> int:
        """Rows that have their line."""
        return self.success + self.failed

    @property
    def rows_left(self) -> int | None:
        """Rows without a line."""
        return None if self.total_rows is None else max(0, self.total_rows - self.rows)

    @property
    def cost_usd(self) -> Decimal | None:
        """US$ by the lines; None if no line has a cost."""
        costs = [route.cost_usd for route in self.routes if route.cost_usd is not None]
        return sum(costs, Decimal(0)) if costs else None

    @property
    def outages(self) -> list[Outage]:
        """The outages, oldest first."""
        return sorted(self.journal.outages, key=lambda outage: outage.began)

    def end_of(self, span: Outage | PauseSpan) -> float:
        """When *span* ended; one that is not over is counted up to the run's end, or until now."""
        end = span.ended if span.ended is not None else self.ended
        return max(span.began, self.made_at if end is None else end)
