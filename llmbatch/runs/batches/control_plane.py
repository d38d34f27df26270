"""The circuit of the control plane: uploads, creates, listings, downloads. Pure; ``now`` is the event loop's clock.

After a failure nothing is sent but probes, which are listings: harmless and free. The first follow after 5, 10, 20 …
seconds, later ones every 5 minutes. Submitted batches go on at the provider meanwhile.
"""

from __future__ import annotations

__all__ = ["ControlPlane"]

_FIRST_WAIT = 5.0
_MOST_WAIT = 300.0
_OPENS_AFTER = 3
"""Failures in a row from which it is an outage."""


class ControlPlane:
    """Whether control calls may be made. Not thread-safe."""

    def __init__(self) -> None:
        self.failures = 0
        self.since = 0.0
        """When the first failure of this row of failures came."""
        self.next_probe = 0.0
        self.reason = ""

    def __repr__(self) -> str:
        return f"<ControlPlane {'open' if self.is_open else 'closed'}, {self.failures} failures>"

    @property
    def is_well(self) -> bool:
        """Whether calls other than a probe may be made."""
        return self.failures == 0

    @property
    def is_open(self) -> bool:
        """Whether it is an outage."""
        return self.failures >= _OPENS_AFTER

    def failed(self, now: float, reason: str, retry_after: float | None = None) -> bool:
        """Note a failed call, and how long the provider wants to be left alone; whether this opens the circuit."""
        if not self.failures:
            self.since = now
        self.failures += 1
        self.reason = reason
        wait = min(_MOST_WAIT, _FIRST_WAIT * 2.0 ** (self.failures - 1))
        self.next_probe = now + max(wait, retry_after or 0.0)
        return self.failures == _OPENS_AFTER

    def succeeded(self) -> bool:
        """Note a call that was answered; whether this ends an outage."""
        was_open, self.failures = self.is_open, 0
        return was_open
