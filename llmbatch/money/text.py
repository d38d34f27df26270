"""Amounts of money as text."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

__all__ = ["usd"]

_CENT = Decimal("0.01")


def usd(amount: Decimal | float) -> str:
    """*amount* for humans: ``US$ 3.12``, with as many decimals below a cent as show two digits, ``US$ 0.00031``."""
    exact = Decimal(repr(amount)) if isinstance(amount, float) else amount
    if exact == 0 or exact >= _CENT * 10:
        return f"US$ {exact.quantize(_CENT, ROUND_HALF_EVEN):,f}"
    digits = 1 - exact.adjusted()
    return f"US$ {round(exact, max(2, digits)):f}"
