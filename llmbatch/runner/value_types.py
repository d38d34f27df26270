"""What values an option takes: read from text, taken from a TOML file, or checked as a Python value.

A value type raises ``ValueError`` or ``TypeError`` for anything else; :mod:`llmbatch.runner.option` turns that into a
message that names the source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmbatch.core.headers import Headers, check_headers, is_secret_value

__all__ = [
    "Choice",
    "Duration",
    "FieldPath",
    "HeaderLines",
    "Number",
    "Size",
    "Switch",
    "Text",
    "Value",
    "ValueType",
    "Whole",
]

Value = str | int | float | bool | Headers

# Patterns are compiled when the first value is read: help needs none.
_COUNT = r"\+?(\d{1,20})(?:\.(\d{1,9}))? ?([kmg]?)"
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

_AMOUNT = r"\d{1,9}(?:\.\d{1,9})?"
_DURATION = (
    rf"(?:({_AMOUNT}) ?d)? ?(?:({_AMOUNT}) ?h)? ?(?:({_AMOUNT}) ?m(?!s))? ?(?:({_AMOUNT}) ?s)? ?(?:({_AMOUNT}) ?ms)?"
)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)

_SIZE = rf"({_AMOUNT}) ?([kmg])b"


class ValueType:
    """A kind of value, with its range. Immutable."""

    __slots__ = ()
    metavar: str = ""
    """What help shows in place of a value; empty where there is none."""
    unit: str = ""
    """What a number counts; empty for what is no number."""
    repeats: bool = False
    """Whether its flag may be given more than once; the texts are then lines of one."""

    @property
    def allowed(self) -> str:
        """The allowed values, to follow "must be"."""
        raise NotImplementedError

    def parse(self, text: str) -> Value:
        """Read what a command line or a variable says."""
        raise NotImplementedError

    def from_toml(self, value: object) -> Value:
        """Take what a configuration file says: a value of TOML's own type, or text where a unit needs it."""
        return self.check(value)

    def check(self, value: object) -> Value:
        """Take a Python value."""
        raise NotImplementedError

    def show(self, value: Value) -> str:
        """*value* in a form that :meth:`parse` reads."""
        return str(value)

    def refused(self, value: object) -> str:
        """What a message shows of a *value* that is not allowed."""
        if isinstance(value, str):
            return f"'{value[:80]}'" if value else "empty"
        return repr(value)[:80].lower()


class _Quantity(ValueType):
    """A number that may be written with a unit."""

    __slots__ = ()

    def from_toml(self, value: object) -> Value:
        """Take a number, or text that ends in a unit; a plain number in quotes is a mistake."""
        if not isinstance(value, str):
            return self.check(value)
        if not value.rstrip()[-1:].isalpha():
            raise TypeError
        return self.parse(value)


@dataclass(frozen=True, slots=True)
class Whole(_Quantity):
    """A whole number in a range; text may end in k, M or G, which are powers of a thousand."""

    least: int
    most: int | None = None
    unit: str = ""
    metavar = "N"

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.most is None:
            return f"a whole number, {self.least} or more"
        return f"a whole number from {self.least} to {self.most:,}"

    def parse(self, text: str) -> int:
        """Read ``40``, ``60k`` or ``1.5M``."""
        return self.check(_read_count(text))

    def check(self, value: object) -> int:
        """Take an integer in the range."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if value < self.least or (self.most is not None and value > self.most):
            raise ValueError
        return value

    def show(self, value: Value) -> str:
        """Digits."""
        return f"{value:d}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Number(_Quantity):
    """A number above 0; text may end in k, M or G, which are powers of a thousand."""

    unit: str
    metavar = "N"

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"a number of {self.unit} above 0"

    def parse(self, text: str) -> float:
        """Read ``500``, ``0.5``, ``1e3``, ``60k`` or ``1.5M``."""
        try:
            return self.check(float(text))
        except ValueError:
            return self.check(_read_count(text))

    def check(self, value: object) -> float:
        """Take a finite number above 0."""
        return _positive(value)

    def show(self, value: Value) -> str:
        """Digits."""
        return f"{value:g}" if isinstance(value, float) else str(value)


class Duration(_Quantity):
    """A length of time above 0 in seconds; text may have units: ``90``, ``2m``, ``1h30m``."""

    __slots__ = ()

    metavar = "DURATION"
    unit = "seconds"

    @property
    def allowed(self) -> str:
        """The form and the range in words."""
        return "a duration above 0, such as 90 (seconds), 2m or 1h30m"

    def parse(self, text: str) -> float:
        """Read seconds, or days, hours, minutes, seconds and milliseconds with their units (d, h, m, s, ms)."""
        try:
            return self.check(float(text))
        except ValueError:
            found = re.fullmatch(_DURATION, text.strip().lower())
            if found is None:
                raise
        return self.check(sum(float(part) * size for part, size in zip(found.groups(), _SECONDS, strict=True) if part))

    def check(self, value: object) -> float:
        """Take a finite number of seconds above 0."""
        return _positive(value)

    def show(self, value: Value) -> str:
        """Seconds with their unit."""
        return f"{value:g}s" if isinstance(value, (int, float)) else str(value)


@dataclass(frozen=True, slots=True)
class Size(ValueType):
    """A number of bytes; text has a unit: kB, MB or GB, which are powers of ten."""

    least_bytes: int
    metavar = "SIZE"
    unit = "bytes"

    @property
    def allowed(self) -> str:
        """The form and the range in words."""
        return f"a size such as 512MB, at least {self.least_bytes // 10**6}MB"

    def parse(self, text: str) -> int:
        """Read a number and its unit; a bare number is refused, as its unit would be a guess."""
        found = re.fullmatch(_SIZE, text.strip().lower())
        if found is None:
            raise ValueError
        return self.check(round(float(found[1]) * _SCALES[found[2]]))

    def from_toml(self, value: object) -> int:
        """Take text, as on the command line."""
        if not isinstance(value, str):
            raise TypeError
        return self.parse(value)

    def check(self, value: object) -> int:
        """Take a number of bytes in the range."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if value < self.least_bytes:
            raise ValueError
        return value

    def show(self, value: Value) -> str:
        """In MB."""
        return f"{value / 10**6:g}MB" if isinstance(value, (int, float)) else str(value)


@dataclass(frozen=True, slots=True)
class Choice(ValueType):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The words."""
        return "one of " + ", ".join(self.words)

    @property
    def metavar(self) -> str:  # type: ignore[override]  # nobody sets it
        """The words."""
        return "|".join(self.words)

    def parse(self, text: str) -> str:
        """Take one of the words."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Take one of the words."""
        if not isinstance(value, str):
            raise TypeError
        if value not in self.words:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Text(ValueType):
    """Text of any length; empty only where that means something."""

    metavar: str = "TEXT"
    may_be_empty: bool = False

    @property
    def allowed(self) -> str:
        """In words."""
        return "text" if self.may_be_empty else "text that is not empty"

    def parse(self, text: str) -> str:
        """Take it as it is."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Take a string without NUL."""
        if not isinstance(value, str):
            raise TypeError
        if "\0" in value or not (value or self.may_be_empty):
            raise ValueError
        return value


class FieldPath(ValueType):
    """The dotted name of a field of the rows, such as ``metadata.tenant``."""

    __slots__ = ()

    metavar = "FIELD"

    @property
    def allowed(self) -> str:
        """In words."""
        return "the dotted name of a field of the rows, such as metadata.tenant"

    def parse(self, text: str) -> str:
        """Take names with dots between."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Take a string of names with dots between, none of them empty."""
        if not isinstance(value, str):
            raise TypeError
        if "\0" in value or not all(value.split(".")):
            raise ValueError
        return value


class HeaderLines(ValueType):
    """HTTP headers: ``NAME=VALUE`` for each flag, lines of them in a variable, a table in TOML, a mapping in Python.

    From outside a key is taken as ``NAME=$VARIABLE`` only, so that it is on no command line and in no file.
    """

    __slots__ = ()

    metavar = "NAME=VALUE"
    repeats = True

    @property
    def allowed(self) -> str:
        """In words."""
        return "NAME=VALUE, a key as 'NAME=$VARIABLE', and not Host, Authorization or what describes the body"

    def parse(self, text: str) -> Headers:
        """Read lines of ``NAME=VALUE``."""
        pairs = [line.partition("=") for line in text.splitlines() if line.strip()]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise ValueError
        return self._without_keys([(name.strip(), value.strip()) for name, _, value in pairs])

    def from_toml(self, value: object) -> Headers:
        """Take a table."""
        if not isinstance(value, dict):
            raise TypeError
        return self._without_keys(value)

    def check(self, value: object) -> Headers:
        """Take a mapping or pairs; a key may be among the values."""
        return check_headers(value)

    def show(self, value: Value) -> str:
        """The names alone."""
        return ", ".join(name for name, _ in value) if isinstance(value, tuple) else ""

    def refused(self, value: object) -> str:
        """Names at most: a value may be a key."""
        if not isinstance(value, str):
            return "not allowed" if isinstance(value, Mapping) else "no table of names and values"
        name, found, _ = value.partition("=")
        if not value:
            return "empty"
        if not re.fullmatch(r"[\w.-]{1,40}", name) or is_secret_value("", name):
            return "not NAME=VALUE"
        return f"'{name}={'…' if found else ''}'" if found else f"'{name}'"

    @staticmethod
    def _without_keys(value: object) -> Headers:
        headers = check_headers(value)
        if any(is_secret_value(name, text) for name, text in headers):
            raise ValueError
        return headers


class Switch(ValueType):
    """On or off; a flag without a value."""

    __slots__ = ()

    @property
    def allowed(self) -> str:
        """In words."""
        return "true or false"

    def parse(self, text: str) -> bool:
        """Read what people write in variables."""
        word = text.lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError

    def check(self, value: object) -> bool:
        """Take a boolean."""
        if not isinstance(value, bool):
            raise TypeError
        return value

    def show(self, value: Value) -> str:
        """As in TOML."""
        return "true" if value else "false"


def _read_count(text: str) -> int | float:
    """The number that ``40``, ``2.5``, ``60k`` or ``1.5M`` stands for, exactly where it is whole."""
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
