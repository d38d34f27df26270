"""Exponential backoff before a row is resent. Pure: the random draw is an argument."""

from __future__ import annotations

__all__ = ["retry_delay"]


def retry_delay(failures: float, chance: float, *, first: float = 1.0, longest: float = 30.0) -> float:
    """Seconds to wait after *failures* failures, not necessarily a whole number; *chance* is a draw from 0 to 1.

    Exponential backoff, ``min(longest, first · 2^(failures−1))``, spread from three quarters to five quarters of
    that, so that rows which failed together do not come back together ("equal jitter", AWS Architecture Blog, 2015).
    """
    wait = min(longest, first * 2.0 ** min(max(failures, 1.0) - 1.0, 60.0))
    return float(wait * (0.75 + 0.5 * chance))
