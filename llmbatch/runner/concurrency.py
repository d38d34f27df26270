"""The value of ``--concurrency``: a number of requests in flight, or ``auto``, which adapts up to a ceiling."""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.runner.quantities import Whole
from llmbatch.runner.value_types import Value

__all__ = ["Auto", "InFlight"]

CEILING = 1000
"""Ceiling of ``auto``."""


class Auto(int):
    """A concurrency that begins low and finds the best by itself. As a number it is its ceiling."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "auto" if self == CEILING else f"auto:{int(self)}"


@dataclass(frozen=True, slots=True)
class InFlight(Whole):
    """A whole number from *least* to *most*, or ``auto`` or ``auto:N``, which become :class:`Auto`."""

    metavar = "N|auto"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return f"{Whole.allowed.fget(self)}, auto, or auto:N"  # type: ignore[attr-defined]  # a property has it

    def parse(self, text: str) -> int:
        """Parse ``40``, ``1.5k``, ``auto`` or ``auto:200``."""
        word, colon, ceiling = text.strip().lower().partition(":")
        if word != "auto":
            return Whole.parse(self, text)
        return Auto(Whole.parse(self, ceiling) if colon else CEILING)

    def check(self, value: object) -> int:
        """Check that it is an integer in the range, or text that begins with ``auto``."""
        if isinstance(value, str):
            if not value.lower().startswith("auto"):
                raise TypeError
            return self.parse(value)
        return Whole.check(self, value)

    def from_toml(self, value: object) -> Value:
        """Convert a number, text that ends in a unit, or text that begins with ``auto``."""
        if isinstance(value, str) and value.lower().startswith("auto"):
            return self.parse(value)
        return Whole.from_toml(self, value)

    def show(self, value: Value) -> str:
        """Decimal digits, or ``auto`` with its ceiling if that is not the usual one."""
        return repr(value) if isinstance(value, Auto) else Whole.show(self, value)
