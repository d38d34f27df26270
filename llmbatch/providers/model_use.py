"""Counts which rows name a model of their own."""

from __future__ import annotations

__all__ = ["ModelUse"]


class ModelUse:
    """How many rows name their own model (``own``), and how many take the run's (``run``)."""

    def __init__(self) -> None:
        self.own = self.run = self._last = 0

    def reset(self) -> None:
        """Count from zero."""
        self.own = self.run = self._last = 0

    def add(self, number: int, *, is_own: bool) -> None:
        """Count the row, unless it is seen again in a later pass."""
        if number > self._last:
            self._last = number
            self.own += is_own
            self.run += not is_own

    def unused(self, model: str | None) -> str:
        """A warning that *model*, the run's, is used for no row, since each names its own; else empty."""
        if not model or self.run or not self.own:
            return ""
        rows = "1 row names its" if self.own == 1 else f"{self.own:,} rows name their"
        return f"{rows} own model; {model} (-m) is used for 0"
