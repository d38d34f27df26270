"""How long a request has to wait for a rate limit, and for which one. Pure."""

from __future__ import annotations

from llmbatch.core.calls import record

__all__ = ["NO_WAIT", "BudgetWait"]


@record
class BudgetWait:
    """How long a request has to wait for a rate limit. ``limit``: which one, as a flag or in words."""

    seconds: float = 0.0
    limit: str = ""
    is_reported: bool = False
    """Whether the provider reported that limit; False where the user set it."""
    is_quota: bool = False
    """Whether its period is longer than a minute, or unknown: a wait may be long, and rows need not stay queued."""

    def __str__(self) -> str:
        return f"the provider's limit of {self.limit}" if self.is_reported else self.limit


NO_WAIT = BudgetWait()
"""Nothing to wait for."""
