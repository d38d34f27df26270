"""The cap of ``--max-cost``: what is spent, what requests in flight could cost, and whether one more fits.

A request is sent only if the cap holds even if it, and each one in flight, costs the most it can.
"""

from __future__ import annotations

from decimal import Decimal

__all__ = ["CostCap"]

_ZERO = Decimal(0)


class CostCap:
    """US$ *limit*, of which *spent* is gone already. Not thread-safe; time and chance play no part."""

    __slots__ = ("limit", "reserved", "spent")

    def __init__(self, limit: Decimal, spent: Decimal = _ZERO) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = _ZERO
        """The most that the requests in flight can cost together."""

    def allows(self, most: Decimal) -> bool:
        """Whether a request that costs at most *most* may be sent now."""
        return self.spent + self.reserved + most <= self.limit

    @property
    def is_final(self) -> bool:
        """Whether a request that is not allowed will not be, unless those in flight turn out cheaper."""
        return True

    def reserve(self, most: Decimal) -> None:
        """Note that a request is sent which costs at most *most*."""
        self.reserved += most

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replace what was *reserved* for a request by its *cost*."""
        self.reserved -= reserved
        self.spent += cost

    def close(self) -> None:
        """Note that no more requests will be sent. A cap that is not shared has nothing to give back."""

    def __repr__(self) -> str:
        return f"<CostCap {self.spent:f} of {self.limit:f}, {self.reserved:f} reserved>"
