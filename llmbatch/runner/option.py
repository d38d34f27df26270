"""One option: its name, flags, values, default and help, and how a value from any source is read and refused.

:mod:`llmbatch.runner.options` is the table of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

from llmbatch.core.errors import UsageError
from llmbatch.runner.value_types import Choice, Switch, Value, ValueType

__all__ = ["GROUPS", "Drill", "Group", "Local", "Option", "option", "options_of"]

Group = Literal["Input and output", "Model", "Pace", "Outages", "Display"]
Local = Literal["any", "loopback", "key", "folder", "literal", "never"]
Drill = Literal["no", "flag", "policy"]

GROUPS: tuple[Group, ...] = ("Input and output", "Model", "Pace", "Outages", "Display")
"""The groups in the order of the help."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. Immutable."""

    name: str
    """The keyword of the library and the key of configuration files, with underscores."""
    default: Value | None
    """What holds where nothing is said; None where only ``unset`` can tell."""
    value: ValueType
    flags: tuple[str, ...]
    """The flags; help shows the first short and the first long one, the rest are aliases."""
    help: str
    """What it does, in a sentence or two, without the default."""
    group: Group
    unset: str = ""
    """What a default of None means, in words."""
    settable: bool = True
    """Whether variables and configuration files may set it; what only one run shall do is a flag alone."""
    sends: bool = False
    """Whether it matters only where rows are sent, so that ``check`` takes it and does not show it."""
    local: Local = "any"
    """What a ``./llmbatch.toml`` may set it to: anything; a URL of this machine; the name of a key's variable if
    requests stay on this machine; a path in the file's own folder; values that come from no variable; nothing."""
    drill: Drill = "no"
    """Whether ``sim drill`` takes it: not at all; as a flag; as a flag and in the policies to compare."""

    @property
    def flag(self) -> str:
        """The flag that messages name: the first long one."""
        return next(name for name in self.flags if name.startswith("--"))

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in a configuration file: its own, then those of its long aliases."""
        long = (name[2:].replace("-", "_") for name in self.flags if name.startswith("--"))
        return (self.name, *(key for key in long if key != self.name))

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables: its own, then those of its long aliases."""
        return tuple(f"LLMBATCH_{key.upper()}" for key in self.keys)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The flags that help lists apart."""
        short = next((name for name in self.flags if not name.startswith("--")), None)
        first = short if short == self.flags[0] else None
        return tuple(name for name in self.flags if name not in (first, self.flag))

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return isinstance(self.value, Switch)

    @property
    def default_text(self) -> str:
        """The default in words; empty where there is nothing to tell."""
        return self.unset if self.default is None or self.is_switch else self.value.show(self.default)

    @property
    def help_text(self) -> str:
        """The help with the default."""
        return f"{self.help} Default: {self.default_text}." if self.default_text else self.help

    def parse(self, text: str, source: str) -> Value:
        """Read *text*, which *source* (a flag or a variable) says.

        Raises:
            UsageError: it is not allowed; the message has source, value and range.
        """
        try:
            return self.value.parse(text)
        except (TypeError, ValueError):
            raise self._refuse(text, source, self._hint()) from None

    def from_toml(self, value: object, source: str) -> Value:
        """Take *value*, which *source* (file and key) says.

        Raises:
            UsageError: it is not allowed; the message has source, value and range.
        """
        try:
            return self.value.from_toml(value)
        except (TypeError, ValueError):
            raise self._refuse(value, source, "llmbatch run --help tells what each flag takes") from None

    def check(self, value: object) -> None:
        """Accept *value*, which a keyword of the library says; None stands for a default of None.

        Raises:
            UsageError: it is not allowed; the message has name, value and range.
        """
        if value is None and self.default is None:
            return
        try:
            self.value.check(value)
        except (TypeError, ValueError):
            raise self._refuse(value, self.name, "") from None

    def _refuse(self, value: object, source: str, hint: str) -> UsageError:
        words = self.value.words if isinstance(self.value, Choice) and isinstance(value, str) else ()
        close = difflib.get_close_matches(str(value).lower(), words, n=1)
        return UsageError(
            f"{source} is {self.value.refused(value)}, must be {self.value.allowed}",
            hint=f"did you mean {close[0]}?" if close else hint,
        )

    def _hint(self) -> str:
        if self.is_switch:
            return f"set {self.variables[0]}=1, or leave it unset"
        return "llmbatch run --help tells what each flag takes"


def option(
    default: _T,
    value: ValueType,
    *flags: str,
    help: str,  # noqa: A002 - what it is called everywhere
    group: Group,
    unset: str = "",
    settable: bool = True,
    sends: bool = False,
    local: Local = "any",
    drill: Drill = "no",
) -> _T:
    """The field of a dataclass that is one row of the table; see :class:`Option` for the arguments."""
    row = {
        "value": value,
        "flags": flags,
        "help": help,
        "group": group,
        "unset": unset,
        "settable": settable,
        "sends": sends,
        "local": local,
        "drill": drill,
    }
    return field(default=default, metadata=row)


def options_of(kind: type[Any]) -> Mapping[str, Option]:
    """The options among the fields of a dataclass by name, in the order of the help."""
    rows = [
        Option(item.name, item.default, **item.metadata)
        for item in fields(kind)
        if "flags" in item.metadata and item.default is not MISSING
    ]
    return {row.name: row for row in sorted(rows, key=lambda row: GROUPS.index(row.group))}
