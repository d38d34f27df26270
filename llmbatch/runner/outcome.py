"""How a run ended."""

from __future__ import annotations

__all__ = ["RunOutcome"]


class RunOutcome:
    """How a run ended: ``exit_code`` (0 even if lines are failed), ``reason``, ``hint``, and the error, if any."""

    __slots__ = ("error", "exit_code", "hint", "reason")

    def __init__(self, exit_code: int, reason: str, hint: str = "", error: Exception | None = None) -> None:
        self.exit_code = exit_code
        self.reason = reason
        self.hint = hint
        self.error = error
