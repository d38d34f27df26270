"""How a whole run ended; how one call ended is :class:`llmbatch.core.calls.Outcome`."""

from __future__ import annotations

from llmbatch.core.errors import InputError, UsageError

__all__ = ["RunOutcome", "why_not_read"]


class RunOutcome:
    """How a run ended: ``exit_code`` (0 even if lines are failed), ``reason``, ``hint``, and the error, if any."""

    __slots__ = ("error", "exit_code", "hint", "reason")

    def __init__(self, exit_code: int, reason: str, hint: str = "", error: Exception | None = None) -> None:
        self.exit_code = exit_code
        self.reason = reason
        self.hint = hint
        self.error = error


def why_not_read(error: Exception) -> str:
    """Why no row is read any more, in short: the error itself is told at the end."""
    if isinstance(error, InputError):
        return "the input cannot be used"
    return "the rows cannot be sent" if isinstance(error, UsageError) else "the rows cannot be read"
