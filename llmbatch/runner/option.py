"""One option: name, flags, type, default and help, and how values from each source are parsed and refused.

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

Group = Literal["Input and output", "Model", "Pace", "Outages", "Batches", "Display"]
Local = Literal["any", "loopback", "key", "folder", "subfolder", "file", "literal", "never"]
Drill = Literal["no", "flag", "policy"]

GROUPS: tuple[Group, ...] = ("Input and output", "Model", "Pace", "Outages", "Batches", "Display")
"""Groups in the order of the help."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Immutable."""

    name: str
    """The keyword of the library and the key of configuration files, with underscores."""
    default: Value | None
    """Default; None if it has no value, then ``unset`` describes it."""
    value: ValueType
    flags: tuple[str, ...]
    """Flags; the help shows the first short and the first long one, the others are aliases."""
    help: str
    """What it does, in one or two sentences, without the default."""
    group: Group
    unset: str = ""
    """What a default of None means, in words."""
    settable: bool = True
    """Whether variables and configuration files may set it; False for options of a single run."""
    sends: bool = False
    """Whether it matters only when rows are sent; ``check`` accepts it but does not show it."""
    local: Local = "any"
    """Values allowed in ``./llmbatch.toml``: ``any``; ``loopback``: URLs of this machine; ``key``: the name of a key's
    variable if requests stay on this machine; ``folder``: paths in the file's own folder; ``subfolder``: folders below
    it; ``file``: as ``folder``, but no MODULE:CLASS; ``literal``: values without variables; ``never``: none."""
    after: str = ""
    """Name of the option that it follows in the help; empty: by its group and place in the class."""
    drill: Drill = "no"
    """Whether ``sim drill`` takes it: ``no``; ``flag``; ``policy``: as a flag and in the policies to compare."""

    @property
    def flag(self) -> str:
        """The flag used in messages: the first long one."""
        return next(name for name in self.flags if name.startswith("--"))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys in configuration files: its own name, then its long aliases."""
        long = (name[2:].replace("-", "_") for name in self.flags if name.startswith("--"))
        return (self.name, *(key for key in long if key != self.name))

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables: its own, then those of its long aliases."""
        return tuple(f"LLMBATCH_{key.upper()}" for key in self.keys)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Flags that the help lists as aliases."""
        short = next((name for name in self.flags if not name.startswith("--")), None)
        first = short if short == self.flags[0] else None
        return tuple(name for name in self.flags if name not in (first, self.flag))

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return isinstance(self.value, Switch)

    @property
    def default_text(self) -> str:
        """The default in words; empty if there is none."""
        return self.unset if self.default is None or self.is_switch else self.value.show(self.default)

    @property
    def help_text(self) -> str:
        """The help followed by the default."""
        return f"{self.help} Default: {self.default_text}." if self.default_text else self.help

    def parse(self, text: str, source: str) -> Value:
        """Parse *text* from *source* (the name of a flag or variable).

        Raises:
            UsageError: not allowed; the message has source, value and range.
        """
        try:
            return self.value.parse(text)
        except (TypeError, ValueError):
            raise self._refuse(text, source, self._hint()) from None

    def from_toml(self, value: object, source: str) -> Value:
        """Convert *value* from *source* (file and key).

        Raises:
            UsageError: not allowed; the message has source, value and range.
        """
        try:
            return self.value.from_toml(value)
        except (TypeError, ValueError):
            raise self._refuse(value, source, "see llmbatch run --help") from None

    def check(self, value: object) -> None:
        """Check the *value* of a keyword of the library. None is accepted if the default is None.

        Raises:
            UsageError: not allowed; the message has name, value and range.
        """
        if value is None and self.default is None:
            return
        try:
            self.value.check(value)
        except (TypeError, ValueError):
            raise self._refuse(value, self.name, "") from None

    def _refuse(self, value: object, source: str, hint: str) -> UsageError:
        words = self.value.words if isinstance(self.value, Choice) and isinstance(value, str) else ()
        typed = str(value).lower()
        # A path, such as /v1/chat/completions, begins with what it means.
        close = [part for part in typed.split("/") if part in words] or difflib.get_close_matches(typed, words, n=1)
        return UsageError(
            f"{source} is {self.value.refused(value)}, must be {self.value.allowed}",
            hint=f"did you mean {close[0]}?" if close else hint,
        )

    def _hint(self) -> str:
        if self.is_switch:
            return f"set {self.variables[0]}=1, or leave it unset"
        return "see llmbatch run --help"


def option(
    default: _T,
    value: ValueType,
    *flags: str,
    help: str,  # noqa: A002 - the usual name
    group: Group,
    unset: str = "",
    settable: bool = True,
    sends: bool = False,
    local: Local = "any",
    after: str = "",
    drill: Drill = "no",
) -> _T:
    """Return a dataclass field that defines an option; see :class:`Option` for the arguments."""
    row = {
        "value": value,
        "flags": flags,
        "help": help,
        "group": group,
        "unset": unset,
        "settable": settable,
        "sends": sends,
        "local": local,
        "after": after,
        "drill": drill,
    }
    return field(default=default, metadata=row)


def options_of(kind: type[Any]) -> Mapping[str, Option]:
    """Return the options among the fields of a dataclass by name, in the order of the help."""
    rows = [
        Option(item.name, item.default, **item.metadata)
        for item in fields(kind)
        if "flags" in item.metadata and item.default is not MISSING
    ]
    order = sorted(rows, key=lambda row: GROUPS.index(row.group))
    for row in [row for row in order if row.after in {other.name for other in order}]:
        order.remove(row)
        order.insert(1 + next(at for at, other in enumerate(order) if other.name == row.after), row)
    return {row.name: row for row in order}
