"""The pace of ``--rpm`` where one process keeps it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

__all__ = ["request_pace"]


def request_pace(rpm: float | None) -> AsyncLimiter | None:
    """Rate limiter for *rpm* requests per minute, with a burst of one second's worth; None for no limit."""
    if rpm is None:
        return None
    from aiolimiter import AsyncLimiter

    burst = max(1.0, rpm / 60.0)
    return AsyncLimiter(burst, burst * 60.0 / rpm)
