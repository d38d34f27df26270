"""What values a flag may take: read from a command line or a variable, or taken from a configuration file.

What this module does not do: know any flag, or word an error; it says what is allowed, and raises.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Choice", "Kind", "Number", "Size", "Switch", "Text", "Value", "Whole"]

Value = str | int | float | bool


class Kind(Protocol):
    """What values a flag takes. Both readers raise ``ValueError`` or ``TypeError`` for anything else."""

    @property
    def allowed(self) -> str:
        """The allowed values, to follow "must be"."""
        ...

    def from_text(self, text: str) -> Value:
        """Read what a command line or a variable says."""
        ...

    def from_toml(self, value: object) -> Value:
        """Take what a configuration file says."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a range."""

    least: int
    most: int | None = None

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.most is None:
            return f"a whole number, {self.least} or more"
        return f"a whole number from {self.least} to {self.most:,}"

    def from_text(self, text: str) -> int:
        """Read decimal digits."""
        if len(text) > 20:
            raise ValueError
        return self._checked(int(text))

    def from_toml(self, value: object) -> int:
        """Take an integer."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        return self._checked(value)

    def _checked(self, value: int) -> int:
        if value < self.least or (self.most is not None and value > self.most):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A number above 0."""

    unit: str = ""

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"a number of {self.unit} above 0" if self.unit else "a number above 0"

    def from_text(self, text: str) -> float:
        """Read a decimal number."""
        return self._checked(float(text))

    def from_toml(self, value: object) -> float:
        """Take an integer or a float."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        return self._checked(float(value))

    def _checked(self, value: float) -> float:
        if not math.isfinite(value) or value <= 0:
            raise ValueError
        return value


_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes with its unit: kB, MB or GB, which are powers of ten."""

    least_bytes: int

    @property
    def allowed(self) -> str:
        """The form and the range in words."""
        return f"a size such as 512MB, at least {self.least_bytes // 10**6}MB"

    def from_text(self, text: str) -> int:
        """Read a number and its unit; a bare number is refused, as its unit would be a guess."""
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([kmg]b)", text.strip().lower())
        if found is None:
            raise ValueError
        size = round(float(found[1]) * _UNITS[found[2]])
        if size < self.least_bytes:
            raise ValueError
        return size

    def from_toml(self, value: object) -> int:
        """Take a string, as on the command line."""
        if not isinstance(value, str):
            raise TypeError
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The words."""
        return "one of " + ", ".join(self.words)

    def from_text(self, text: str) -> str:
        """Take one of the words."""
        if text not in self.words:
            raise ValueError
        return text

    def from_toml(self, value: object) -> str:
        """Take one of the words."""
        if not isinstance(value, str):
            raise TypeError
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class Text:
    """Text of any length; empty only where that means something."""

    may_be_empty: bool = False

    @property
    def allowed(self) -> str:
        """In words."""
        return "text" if self.may_be_empty else "text that is not empty"

    def from_text(self, text: str) -> str:
        """Take it as it is."""
        if "\0" in text or not (text or self.may_be_empty):
            raise ValueError
        return text

    def from_toml(self, value: object) -> str:
        """Take a string."""
        if not isinstance(value, str):
            raise TypeError
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off; a flag without a value."""

    @property
    def allowed(self) -> str:
        """In words."""
        return "true or false"

    def from_text(self, text: str) -> bool:
        """Read what people write in variables."""
        word = text.lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError

    def from_toml(self, value: object) -> bool:
        """Take a boolean."""
        if not isinstance(value, bool):
            raise TypeError
        return value
