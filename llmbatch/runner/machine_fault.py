"""Pause all sending while this machine is at fault: no file handles, no memory, no network."""

from __future__ import annotations

from llmbatch.core.calls import Outcome
from llmbatch.core.events import Notice

__all__ = ["Machine"]


class Machine:
    """Faults of this machine, and until when nothing is sent. *longest*: longest wait in seconds."""

    __slots__ = ("_level", "_longest", "since", "until")

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._level = 0
        self.until = 0.0
        """Earliest time of the next call, on the loop's clock."""
        self.since: float | None = None
        """Since when this machine is at fault; None if it is not."""

    def __repr__(self) -> str:
        return f"<Machine {'ok' if self.since is None else f'at fault until {self.until:.1f}'}>"

    def works(self) -> None:
        """Note that a call was answered, so this machine works."""
        self._level = 0
        self.since = None

    def failed(self, outcome: Outcome, now: float) -> Notice | None:
        """Note a call that failed by this machine's fault, and pause: 1 s, doubling; None if it is pausing already."""
        if now < self.until:
            return None
        if self.since is None:
            self.since = now
        wait = min(self._longest, 2.0**self._level)
        self._level = min(self._level + 1, 30)
        self.until = now + wait
        hint = outcome.hint or "nothing is lost: the rows are resent"
        return Notice(now, "warning", f"this machine: {outcome.message}; trying again in {wait:.0f} s", hint)
