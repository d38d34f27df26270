"""When to poll, and when the deadline begins to cancel. Pure: time and chance are arguments."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadline", "poll_interval"]

_LEAST_POLL, _MOST_POLL = 15.0, 300.0
_JITTER = 0.1
_CANCEL_SECONDS = 900.0


def poll_interval(age: float, chance: float, least: float = _LEAST_POLL) -> float:
    """Seconds until the next listing, for batches that are *age* seconds old: a tenth of it, from 15 s to 5 minutes.

    *least* replaces the 15 s. *chance*, 0 to 1, moves it by up to 10 % either way.
    """
    return min(_MOST_POLL, max(least, age / 10)) * (1 + _JITTER * (2 * chance - 1))


@dataclass(frozen=True, slots=True)
class Deadline:
    """``--deadline``: *seconds* from *start* (Unix time) until the last row should have its line."""

    start: float
    seconds: float

    @property
    def cancel_at(self) -> float:
        """When batches are canceled: 15 minutes before the deadline, or at half of one shorter than 30 minutes."""
        lead = _CANCEL_SECONDS if self.seconds >= 2 * _CANCEL_SECONDS else self.seconds / 2
        return self.start + self.seconds - lead

    def has_come(self, now: float) -> bool:
        """Whether the batches are canceled now."""
        return now >= self.cancel_at
