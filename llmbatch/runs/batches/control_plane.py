"""The circuit of the control plane: uploads, creates, listings, downloads. Pure; ``now`` is the event loop's clock.

After a failure nothing is sent but probes, which are listings: harmless and free. The first follow after 5, 10, 20 …
seconds, later ones every 5 minutes. Submitted batches go on at the provider meanwhile.

A listing that is answered lets the other calls be tried again, but says nothing of them: failures are counted for each
kind of call, such as the uploads of one route or the downloads of one batch, until one of that kind is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LISTING", "ControlPlane"]

LISTING = "listing"
"""Listings, and the calls of which the next listing shows what they did."""

_FIRST_WAIT = 5.0
_MOST_WAIT = 300.0
_OPENS_AFTER = 3
"""Failures in a row of one kind of call from which it is an outage."""


@dataclass(slots=True)
class _Streak:
    """Failures in a row of one kind of call."""

    since: float
    failures: int = 0
    reason: str = ""


class ControlPlane:
    """Whether control calls may be made. Not thread-safe."""

    def __init__(self) -> None:
        self.is_well = True
        """Whether calls other than a probe may be made."""
        self.next_probe = 0.0
        self._streaks: dict[str, _Streak] = {}

    def __repr__(self) -> str:
        return (
            f"<ControlPlane {'open' if self.is_open else 'closed'}, failing: {', '.join(self._streaks) or 'nothing'}>"
        )

    @property
    def is_open(self) -> bool:
        """Whether it is an outage."""
        return any(streak.failures >= _OPENS_AFTER for streak in self._streaks.values())

    @property
    def since(self) -> float:
        """When the first failure of the longest outage came; 0 if there is none."""
        return min((one.since for one in self._streaks.values() if one.failures >= _OPENS_AFTER), default=0.0)

    @property
    def reason(self) -> str:
        """The last message of the longest outage."""
        return next((one.reason for one in self._streaks.values() if one.since == self.since), "")

    def failed(self, now: float, reason: str, retry_after: float | None = None, *, call: str = LISTING) -> int:
        """Note a failure of one kind of *call*, and how long the provider wants to be left alone.

        How many have failed in a row now.
        """
        streak = self._streaks.setdefault(call, _Streak(now))
        streak.failures += 1
        streak.reason = reason
        probes = streak.failures if call == LISTING else 1
        self.is_well = False
        self.next_probe = now + max(min(_MOST_WAIT, _FIRST_WAIT * 2.0 ** (probes - 1)), retry_after or 0.0)
        return streak.failures

    def succeeded(self, call: str = LISTING) -> bool:
        """Note a *call* that was answered; whether this ends an outage."""
        self.is_well = True
        return self.forget(call)

    def forget(self, call: str) -> bool:
        """Drop the failures of a kind of *call* that is not made any more; whether this ends an outage."""
        was_open = self.is_open
        self._streaks.pop(call, None)
        return was_open and not self.is_open
