"""The exception for a refused call, and a warning. Independent of llmbatch's, as this package can be used alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["CircuitOpenError", "UnguardedStreamWarning"]


class UnguardedStreamWarning(RuntimeWarning):
    """A stream was counted as a success before its first chunk; ``breaker.stream()`` counts it by how it ends."""


class CircuitOpenError(Exception):
    """A call was refused and not made. Raised anew for each refusal; can be pickled."""

    # The fields are read from ``args``: creating one costs no more than a bare exception.

    if TYPE_CHECKING:

        def __init__(self, retry_after: float, name: str = "", reason: str = "", /) -> None: ...

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be admitted: above zero, and finite unless the circuit is forced open."""
        return float(self.args[0])

    @property
    def name(self) -> str:
        """Name of the breaker; may be empty."""
        return str(self.args[1]) if len(self.args) > 1 else ""

    @property
    def reason(self) -> str:
        """Why the circuit opened."""
        return str(self.args[2]) if len(self.args) > 2 else ""

    def __str__(self) -> str:
        subject = f"circuit {self.name} is open" if self.name else "circuit is open"
        because = f" ({self.reason})" if self.reason else ""
        if self.retry_after == float("inf"):
            return f"{subject}{because}, until it is reset"
        return f"{subject}{because}, retry in {self.retry_after:.1f} s"
