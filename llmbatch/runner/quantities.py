"""Value types of options that are numbers: counts, rates, durations, sizes. Text may have units (``60k``, ``2m``)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from llmbatch.runner.value_types import Value, ValueType

__all__ = ["Dollars", "Duration", "Number", "Size", "Whole"]

# Compiled when the first value is parsed: the help needs none of them.
_COUNT = r"\+?(\d{1,20})(?:\.(\d{1,9}))? ?([kmg]?)"
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

_AMOUNT = r"\d{1,9}(?:\.\d{1,9})?"
_DURATION = (
    rf"(?:({_AMOUNT}) ?d)? ?(?:({_AMOUNT}) ?h)? ?(?:({_AMOUNT}) ?m(?!s))? ?(?:({_AMOUNT}) ?s)? ?(?:({_AMOUNT}) ?ms)?"
)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)

_SIZE = rf"({_AMOUNT}) ?([kmg])b"


class Quantity(ValueType):
    """A number that text may write with a unit."""

    __slots__ = ()

    def from_toml(self, value: object) -> Value:
        """Convert a number, or text that ends in a unit. A number in quotes without a unit is a mistake: TypeError."""
        if not isinstance(value, str):
            return self.check(value)
        if not value.rstrip()[-1:].isalpha():
            raise TypeError
        return self.parse(value)


@dataclass(frozen=True, slots=True)
class Whole(Quantity):
    """A whole number from *least* to *most* (None: no bound). Text may end in k, M or G, powers of 1,000."""

    least: int
    most: int | None = None
    unit: str = ""
    metavar = "N"

    @property
    def allowed(self) -> str:
        """The allowed range in words."""
        if self.most is None:
            return f"a whole number, {self.least} or more"
        return f"a whole number from {self.least} to {self.most:,}"

    def parse(self, text: str) -> int:
        """Parse ``40``, ``60k`` or ``1.5M``."""
        return self.check(_read_count(text))

    def check(self, value: object) -> int:
        """Check that it is an integer in the range."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if value < self.least or (self.most is not None and value > self.most):
            raise ValueError
        return value

    def show(self, value: Value) -> str:
        """Decimal digits, without a unit."""
        return f"{value:d}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Number(Quantity):
    """A finite number above 0. Text may end in k, M or G, powers of 1,000."""

    unit: str
    metavar = "N"

    @property
    def allowed(self) -> str:
        """The allowed range in words."""
        return f"a number of {self.unit} above 0"

    def parse(self, text: str) -> float:
        """Parse ``500``, ``0.5``, ``1e3``, ``60k`` or ``1.5M``."""
        try:
            return self.check(float(text))
        except ValueError:
            return self.check(_read_count(text))

    def check(self, value: object) -> float:
        """Check that it is a finite number above 0."""
        return _positive(value)

    def show(self, value: Value) -> str:
        """Decimal digits, without a unit."""
        return f"{value:g}" if isinstance(value, float) else str(value)


class Dollars(ValueType):
    """An amount of US$ above 0, as ``Decimal``. Text may have the sign: ``5``, ``0.50``, ``$20``."""

    __slots__ = ()

    metavar = "USD"
    unit = "US$"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "an amount of US$ above 0, such as 5 or 0.50"

    def parse(self, text: str) -> Decimal:
        """Parse ``5``, ``$0.50`` or ``US$ 20``."""
        digits = text.strip().upper().removeprefix("US").removeprefix("D").removeprefix("$").strip()
        if not re.fullmatch(r"\d{1,12}(?:\.\d{1,12})?", digits):
            raise ValueError
        return self.check(Decimal(digits))

    def from_toml(self, value: object) -> Decimal:
        """Convert a number, or text as of a flag."""
        return self.parse(value) if isinstance(value, str) else self.check(value)

    def check(self, value: object) -> Decimal:
        """Check that it is a number above 0; a float is taken for the decimal number that it shows."""
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            raise TypeError
        try:
            amount = Decimal(repr(value) if isinstance(value, float) else value)
        except InvalidOperation:
            raise ValueError from None
        if not amount.is_finite() or amount <= 0:
            raise ValueError
        return amount


class Duration(Quantity):
    """A duration above 0, in seconds. Text may have units: ``90``, ``2m``, ``1h30m``."""

    __slots__ = ()

    metavar = "DURATION"
    unit = "seconds"

    @property
    def allowed(self) -> str:
        """The form and the allowed range in words."""
        return "a duration above 0, such as 90 (seconds), 2m or 1h30m"

    def parse(self, text: str) -> float:
        """Parse seconds, or days, hours, minutes, seconds and milliseconds with their units (d, h, m, s, ms)."""
        try:
            return self.check(float(text))
        except ValueError:
            found = re.fullmatch(_DURATION, text.strip().lower())
            if found is None:
                raise
        return self.check(sum(float(part) * size for part, size in zip(found.groups(), _SECONDS, strict=True) if part))

    def check(self, value: object) -> float:
        """Check that it is a finite number of seconds above 0."""
        return _positive(value)

    def show(self, value: Value) -> str:
        """Seconds, followed by ``s``."""
        return f"{value:g}s" if isinstance(value, (int, float)) else str(value)


@dataclass(frozen=True, slots=True)
class Size(ValueType):
    """A number of bytes, at least *least_bytes*. Text has a unit: kB, MB or GB, powers of 1,000."""

    least_bytes: int
    metavar = "SIZE"
    unit = "bytes"

    @property
    def allowed(self) -> str:
        """The form and the allowed range in words."""
        return f"a size such as 512MB, at least {self.least_bytes // 10**6}MB"

    def parse(self, text: str) -> int:
        """Parse a number with its unit. Without a unit it is refused: the unit would be a guess."""
        found = re.fullmatch(_SIZE, text.strip().lower())
        if found is None:
            raise ValueError
        return self.check(round(float(found[1]) * _SCALES[found[2]]))

    def from_toml(self, value: object) -> int:
        """Parse text, as on the command line."""
        if not isinstance(value, str):
            raise TypeError
        return self.parse(value)

    def check(self, value: object) -> int:
        """Check that it is an integer in the range."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if value < self.least_bytes:
            raise ValueError
        return value

    def show(self, value: Value) -> str:
        """Megabytes, followed by ``MB``."""
        return f"{value / 10**6:g}MB" if isinstance(value, (int, float)) else str(value)


def _read_count(text: str) -> int | float:
    """Parse ``40``, ``2.5``, ``60k`` or ``1.5M``: an exact int if the number is whole, else a float."""
    found = re.fullmatch(_COUNT, text.strip().lower().replace("_", ""))
    if found is None:
        raise ValueError
    whole, fraction, unit = found[1], found[2] or "", found[3]
    scaled, parts = int(whole + fraction) * _SCALES[unit], int("1" + "0" * len(fraction))
    return scaled // parts if scaled % parts == 0 else scaled / parts


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not math.isfinite(value) or value <= 0:
        raise ValueError
    return value
