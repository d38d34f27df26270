"""Exponential backoff before a row is resent. Pure: the random draw is an argument."""

from __future__ import annotations

__all__ = ["retry_delay"]


def retry_delay(failures: float, chance: float, *, first: float = 1.0, longest: float = 30.0) -> float:
    """Return the seconds to wait after *failures* failures (may be fractional); *chance* is a random draw, 0 to 1.

    Exponential backoff, ``min(longest, first · 2^(failures−1))``, spread from 75 % to 125 %,
    so that rows that failed together are not resent together ("equal jitter", AWS Architecture Blog, 2015).
    """
    wait = min(longest, first * 2.0 ** min(max(failures, 1.0) - 1.0, 60.0))
    return float(wait * (0.75 + 0.5 * chance))
