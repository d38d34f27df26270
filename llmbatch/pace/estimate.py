"""Correct the estimate of a request's tokens by what earlier requests of its route have used. Pure."""

from __future__ import annotations

__all__ = ["TokenEstimate"]

WEIGHT = 0.1
"""Weight of the newest request in the moving average (EWMA) of used ÷ estimated tokens."""

LEAST, MOST = 0.1, 4.0
"""Bounds of the correction."""


class TokenEstimate:
    """Ratio of used to estimated tokens on one route; 1 before the first answer."""

    __slots__ = ("_ratio",)

    def __init__(self) -> None:
        self._ratio: float | None = None

    def __repr__(self) -> str:
        return f"<TokenEstimate × {1.0 if self._ratio is None else self._ratio:.2f}>"

    def corrected(self, tokens: int) -> int:
        """The estimate *tokens*, corrected; at least 1."""
        if self._ratio is None:
            return tokens
        return max(1, round(tokens * self._ratio))

    def learn(self, estimated: int, used: int) -> None:
        """Note that a request that was estimated at *estimated* tokens used *used*."""
        if estimated <= 0:
            return
        ratio = min(MOST, max(LEAST, used / estimated))
        self._ratio = ratio if self._ratio is None else self._ratio + WEIGHT * (ratio - self._ratio)
