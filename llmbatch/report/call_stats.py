"""Statistics of the calls of one route."""

from __future__ import annotations

from dataclasses import dataclass, field

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
