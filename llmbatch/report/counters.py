"""Counts error codes in bounded memory.

Codes come from providers, so there may be any number of them: above the limit, new ones count as ``other``.
"""

from __future__ import annotations

__all__ = ["OTHER", "CodeCounter"]

OTHER = "other"


class CodeCounter:
    """Counts by code; at most *cap* codes, and :data:`OTHER` for the rest. One writer, any number of readers."""

    __slots__ = ("_cap", "_counts")

    def __init__(self, cap: int = 100) -> None:
        self._cap = cap
        self._counts: dict[str, int] = {}

    def add(self, code: str) -> None:
        """Count one *code*; an empty one is ``unknown``, a long one is cut to 80 characters."""
        code = code[:80] or "unknown"
        counts = self._counts
        if code not in counts and len(counts) >= self._cap:
            code = OTHER
        counts[code] = counts.get(code, 0) + 1

    def top(self, count: int | None = None) -> dict[str, int]:
        """The codes by descending count (all, or the first *count*), ties ordered by name."""
        pairs = sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return dict(pairs[:count])
