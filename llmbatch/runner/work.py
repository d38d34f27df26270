"""One unfinished row: where it is, what it was told, and what speaks against it.

It knows how often it may fail, but not whether a failure was its own: its lane finds that out.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from llmbatch.records import Outcome, Request, Row

if TYPE_CHECKING:
    from llmbatch.runner.lane import Lane

__all__ = ["PATIENCE", "Place", "Work"]

PATIENCE = 10
"""Failures under elevated errors count a tenth: ``PATIENCE`` times the attempts end a row all the same."""


class Place(Enum):
    """Where an unfinished row is."""

    QUEUED = auto()  # may go as soon as its route takes it
    RETRYING = auto()  # on the heap, until its time has come
    HELD = auto()  # waits for evidence; is not sent again by itself
    PARKED = auto()  # deferred: its route's circuit is open
    FLYING = auto()  # a request is out
    DONE = auto()


class Work:
    """One unfinished row. As many of these live as rows are in flight or waiting, never one a row of the input."""

    __slots__ = (
        "attempts",
        "charged",
        "deferrals",
        "elevated",
        "failures",
        "lane",
        "last",
        "latency",
        "pending",
        "place",
        "probe_failures",
        "refusal",
        "request",
        "row",
        "stamp",
        "voids",
    )

    def __init__(self, row: Row, request: Request, lane: Lane) -> None:
        self.row = row
        self.request = request
        self.lane = lane
        self.place = Place.QUEUED
        self.attempts = 0
        self.deferrals = 0
        self.failures = 0
        """Failures in a row, for the backoff."""
        self.charged = 0
        """Failed attempts that count: proven, and while others did well."""
        self.elevated = 0
        """Failed attempts that were proven under elevated errors."""
        self.pending: list[tuple[int, bool]] = []
        """Failed attempts without evidence yet: call number, and whether errors were elevated."""
        self.refusal: tuple[int, Outcome] | None = None
        """A refusal without evidence yet: call number and what was said."""
        self.probe_failures = 0
        self.last: Outcome | None = None
        self.latency: float | None = None
        self.stamp = 0
        self.voids = 0
        """How often an outage excused it that no failed probe confirmed."""

    def is_spent(self, max_attempts: int) -> bool:
        """Whether proven failures end the row."""
        return self.charged >= max_attempts or self.charged + self.elevated >= PATIENCE * max_attempts

    def would_be_spent(self, max_attempts: int) -> bool:
        """Whether it would end if all its pending failures were proven."""
        counted = self.charged + sum(1 for _, elevated in self.pending if not elevated)
        return counted >= max_attempts or (self.charged + self.elevated + len(self.pending) >= PATIENCE * max_attempts)

    @property
    def is_suspect(self) -> bool:
        """Whether there are grounds to believe that the row itself is bad; such rows do not probe."""
        return bool(self.probe_failures or self.charged or self.elevated or self.refusal)
