"""Statistics of the calls of one route."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llmbatch.core.events import CallEnded
from llmbatch.report.spending import Spending

__all__ = ["CallStats"]


@dataclass(slots=True)
class CallStats:
    """Calls ``sent``, those ``in_flight``, and of those that have ended the ``good`` ones and the failures."""

    sent: int = 0
    in_flight: int = 0
    good: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Calls that did not succeed, by verdict; ``canceled`` for those that were cut off."""
    last_failure: str = ""
    """Code, status and message, such as ``overloaded_error (529): …``."""
    first_at: float | None = None
    spending: Spending = field(default_factory=Spending)

    def add_failure(self, event: CallEnded) -> None:
        """Count a call that did not succeed, and note what was said."""
        verdict = event.verdict or "canceled"
        self.failures[verdict] = self.failures.get(verdict, 0) + 1
        if event.verdict is not None:
            status = "" if event.status is None else f" ({event.status})"
            message = f": {event.message[:300]}" if event.message else ""
            self.last_failure = f"{event.code[:80] or verdict}{status}{message}"

    def copy(self) -> CallStats:
        """The statistics as they are now."""
        return replace(self, failures=dict(self.failures), spending=replace(self.spending))

    def add_since(self, now: CallStats, then: CallStats) -> None:
        """Add what *now* has more than *then*, an earlier state of it; calls in flight are not added."""
        self.sent += now.sent - then.sent
        self.good += now.good - then.good
        for verdict, count in now.failures.items():
            self.failures[verdict] = self.failures.get(verdict, 0) + count - then.failures.get(verdict, 0)
        self.last_failure = now.last_failure or self.last_failure
        if now.first_at is not None:
            self.first_at = now.first_at if self.first_at is None else min(self.first_at, now.first_at)
        self.spending.add_since(now.spending, then.spending)
