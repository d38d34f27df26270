"""Value types of options: parse text, convert TOML values, check Python values.

A value type raises ``ValueError`` or ``TypeError`` for a value that is not allowed; :mod:`llmbatch.runner.option` turns
that into a message with the source, the value and the allowed range. :mod:`llmbatch.runner.quantities` has the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from llmbatch.core.headers import Headers, check_headers, is_secret_value
from llmbatch.core.shards import MOST_SHARDS, Shard

__all__ = [
    "Address",
    "Choice",
    "FieldPath",
    "HeaderLines",
    "Names",
    "ShardNumber",
    "Switch",
    "Text",
    "Value",
    "ValueType",
]

LOOPBACK = "127.0.0.1"

Value = str | int | float | bool | Decimal | Headers | tuple[str, ...] | Shard


class ValueType:
    """Type of an option's values, with the allowed range. Immutable."""

    __slots__ = ()
    metavar: str = ""
    """Placeholder for the value in the help; empty if the flag takes none."""
    unit: str = ""
    """Unit of a number; empty for other values."""
    repeats: bool = False
    """Whether its flag may be repeated; :meth:`parse` then gets one line per flag."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, as they follow "must be" in an error message."""
        raise NotImplementedError

    def parse(self, text: str) -> Value:
        """Parse the text of a flag or an environment variable."""
        raise NotImplementedError

    def from_toml(self, value: object) -> Value:
        """Convert a value of a TOML file: of TOML's own type, or text if it has a unit."""
        return self.check(value)

    def check(self, value: object) -> Value:
        """Check a Python value and return it."""
        raise NotImplementedError

    def show(self, value: Value) -> str:
        """Format *value* so that :meth:`parse` reads it."""
        return str(value)

    def refused(self, value: object) -> str:
        """Format a *value* that is not allowed, for an error message."""
        if isinstance(value, str):
            return f"'{value[:80]}'" if value else "empty"
        return repr(value)[:80].lower()


@dataclass(frozen=True, slots=True)
class Choice(ValueType):
    """One of several fixed words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The choices, separated by commas, or by "or" where one has a comma itself."""
        return "one of " + (" or " if any("," in word for word in self.words) else ", ").join(self.words)

    @property
    def metavar(self) -> str:  # type: ignore[override]  # read-only
        """The choices, separated by ``|``."""
        return "|".join(self.words)

    def parse(self, text: str) -> str:
        """Check that it is one of the choices."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Check that it is one of the choices."""
        if not isinstance(value, str):
            raise TypeError
        if value not in self.words:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Text(ValueType):
    """Text of any length without NUL; empty only if *may_be_empty*."""

    metavar: str = "TEXT"
    may_be_empty: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "text" if self.may_be_empty else "text that is not empty"

    def parse(self, text: str) -> str:
        """Check the text; it is not changed."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Check that it is a string without NUL."""
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
        """The allowed values in words."""
        return "the dotted name of a field of the rows, such as metadata.tenant"

    def parse(self, text: str) -> str:
        """Check a dotted name."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Check that it is a string of names separated by dots, none of them empty."""
        if not isinstance(value, str):
            raise TypeError
        if "\0" in value or not all(value.split(".")):
            raise ValueError
        return value


class HeaderLines(ValueType):
    """HTTP headers: ``NAME=VALUE`` per flag, one per line in a variable, a table in TOML, a mapping in Python.

    Flags, variables and TOML files take keys as ``NAME=$VARIABLE`` only, so that no command line or file contains one.
    """

    __slots__ = ()

    metavar = "NAME=VALUE"
    repeats = True

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "NAME=VALUE, a key as 'NAME=$VARIABLE', and not Host, Authorization or what describes the body"

    def parse(self, text: str) -> Headers:
        """Parse lines of ``NAME=VALUE``."""
        pairs = [line.partition("=") for line in text.splitlines() if line.strip()]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise ValueError
        return self._without_keys([(name.strip(), value.strip()) for name, _, value in pairs])

    def from_toml(self, value: object) -> Headers:
        """Check a table of names and values."""
        if not isinstance(value, dict):
            raise TypeError
        return self._without_keys(value)

    def check(self, value: object) -> Headers:
        """Check a mapping or pairs of names and values; values may be keys."""
        return check_headers(value)

    def show(self, value: Value) -> str:
        """The names without the values, which may be keys."""
        return ", ".join(name for name, _ in cast("Headers", value)) if isinstance(value, tuple) else ""

    def refused(self, value: object) -> str:
        """The name at most, never the value, which may be a key."""
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


class Address(ValueType):
    """Where a server of the run listens: ``PORT`` of this machine alone, or ``HOST:PORT``. Kept as ``HOST:PORT``."""

    __slots__ = ()

    metavar = "PORT|HOST:PORT"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "a port from 0 (any free one) to 65535, or HOST:PORT"

    def parse(self, text: str) -> str:
        """Parse ``9464``, ``0.0.0.0:9464``, ``localhost:9464`` or ``[::1]:9464``."""
        return self.check(text)

    def check(self, value: object) -> str:
        """Check a port, or text as :meth:`parse` reads it."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError
        host, _, port = str(value).strip().rpartition(":")
        name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        is_name = re.fullmatch(r"[0-9A-Za-z._-]*" if name == host else r"[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?", name)
        if (
            not is_name
            or not re.fullmatch(r"[0-9]{1,5}", port)
            or int(port) > 65535
            or (":" in str(value) and not name)
        ):
            raise ValueError
        return f"{host or LOOPBACK}:{int(port)}"

    @staticmethod
    def split(address: str) -> tuple[str, int]:
        """Host and port of what :meth:`check` gave."""
        host, _, port = address.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Names(ValueType):
    """Names in order: one per flag, separated by commas in a variable, a list in TOML, a sequence in Python."""

    metavar: str = "NAME"
    repeats = True

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return f"{self.metavar}, or a list of them"

    def parse(self, text: str) -> tuple[str, ...]:
        """Parse names separated by commas or line ends."""
        names = [name.strip() for name in re.split(r"[,\n]", text) if name.strip()]
        if not names:
            raise ValueError
        return self.check(names)

    def check(self, value: object) -> tuple[str, ...]:
        """Check a sequence of names that are not empty, or one name."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            raise TypeError
        if not all(isinstance(name, str) and name.strip() and "\0" not in name for name in names):
            raise ValueError
        return tuple(names)

    def show(self, value: Value) -> str:
        """Separated by commas."""
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class ShardNumber(ValueType):
    """One shard of several: ``3/64``, or ``any/64``; in Python also a pair of numbers."""

    __slots__ = ()

    metavar = "I/N"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return f"I/N with I from 1 to N, such as 3/64, or any/N (N at most {MOST_SHARDS:,})"

    def parse(self, text: str) -> Shard:
        """Parse ``3/64`` or ``any/64``."""
        return Shard.parse(text)

    def check(self, value: object) -> Shard:
        """Check a shard, its text, or a pair of numbers from 1."""
        if isinstance(value, Shard):
            return value
        if isinstance(value, str):
            return Shard.parse(value)
        if not isinstance(value, tuple | list) or [type(part) for part in value] != [int, int]:
            raise TypeError
        index, count = value
        if not index:
            raise ValueError
        return Shard(index, count)


class Switch(ValueType):
    """True or false; its flag takes no value."""

    __slots__ = ()

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "true or false"

    def parse(self, text: str) -> bool:
        """Parse ``1``, ``true``, ``yes``, ``on``, ``0``, ``false``, ``no`` or ``off``, in any case."""
        word = text.lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError

    def check(self, value: object) -> bool:
        """Check that it is a boolean."""
        if not isinstance(value, bool):
            raise TypeError
        return value

    def show(self, value: Value) -> str:
        """``true`` or ``false``, as in TOML."""
        return "true" if value else "false"
