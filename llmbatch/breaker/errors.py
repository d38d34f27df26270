"""The one exception of the breaker.

It shares no base with the rest of the project, because this package stands alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["CircuitOpenError"]


class CircuitOpenError(Exception):
    """A call was refused without being made. Each refusal is a new one, and can be pickled.

    The facts are the arguments, so that making one costs no more than a bare exception.
    """

    if TYPE_CHECKING:

        def __init__(self, retry_after: float, name: str = "", reason: str = "", /) -> None: ...

    @property
    def retry_after(self) -> float:
        """Seconds until the next probe may go: finite and above zero, infinite where an operator holds it open."""
        return float(self.args[0])

    @property
    def name(self) -> str:
        """The breaker's name, may be empty."""
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
