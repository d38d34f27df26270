"""The one exception of the breaker.

It shares no base with the rest of the project, because this package stands alone.
"""

from __future__ import annotations

__all__ = ["CircuitOpenError"]


class CircuitOpenError(Exception):
    """A call was refused without being made.

    ``retry_after`` is in seconds, finite and above zero: until the next probe may go (open), or until the probe that
    is out loses its lease (half-open). ``name`` is the breaker's, ``reason`` why it opened.
    """

    def __init__(self, retry_after: float, *, name: str = "", reason: str = "") -> None:
        super().__init__(retry_after, name, reason)
        self.retry_after = retry_after
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        subject = f"circuit {self.name} is open" if self.name else "circuit is open"
        because = f" ({self.reason})" if self.reason else ""
        return f"{subject}{because}, retry in {self.retry_after:.1f} s"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.retry_after, self.name, self.reason))


def _rebuild(retry_after: float, name: str, reason: str) -> CircuitOpenError:
    return CircuitOpenError(retry_after, name=name, reason=reason)
