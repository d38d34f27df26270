"""Hold the state of one permit: which call was admitted, when, by which generation of the circuit."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["PermitState", "spent_error"]


class PermitState:
    """State of one permit: the admitted call's number, generation, caller, time. Settled or released exactly once."""

    __slots__ = ("at", "generation", "key", "lease", "longest_wait", "probe", "serial", "spent")

    def __init__(self, serial: int, generation: int, key: Hashable, at: float, *, probe: bool) -> None:
        self.serial = serial
        self.generation = generation
        self.key = key
        self.at = at
        self.probe = probe
        self.spent = False
        self.lease = 0.0
        """Seconds that a probe may take, and from one part of its answer to the next."""
        self.longest_wait: float | None = None
        """Seconds of the longest wait for a part of the answer; None: no part has come."""

    def note_wait(self, seconds: float) -> None:
        """Note that a part of the answer came after *seconds*."""
        if self.longest_wait is None or seconds > self.longest_wait:
            self.longest_wait = seconds

    def __repr__(self) -> str:
        kind = "probe" if self.probe else "call"
        return f"<PermitState {kind} {self.serial}{' spent' if self.spent else ''}>"


def spent_error(permit: PermitState) -> RuntimeError:
    """Return the error for a second use of *permit*."""
    kind = "probe" if permit.probe else "call"
    return RuntimeError(f"the permit of {kind} {permit.serial} was settled or released before")
