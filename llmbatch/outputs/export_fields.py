"""The fields of an export: dotted names, and the JSON text that an output line has under each.

Values stay source text, so that numbers pass through exactly. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import split_array, split_object

__all__ = ["DEFAULT_FIELDS", "KNOWN_FIELDS", "FieldNames", "Line", "is_known", "parse_fields"]

DEFAULT_FIELDS: Final = ("id", "status", "text", "error.code")

KNOWN_FIELDS: Final = (
    "row",
    "hash",
    "status",
    "id",
    "custom_id",
    "response",
    "response.status_code",
    "response.request_id",
    "response.body",
    "error",
    "error.code",
    "error.message",
    "text",
    "usage",
    "usage.input_tokens",
    "usage.output_tokens",
    "cost_usd",
    "model",
    "attempts",
    "deferrals",
    "latency_s",
    "settings",
    "finish_reason",
    "parsed",
    "cached",
    "route",
    "tier",
    "via",
    "batch_id",
    "metadata",
)
"""What an output line may have: these are fields even where no line has them."""

_MOST_NAMES: Final = 200
_MOST_SHOWN: Final = 40
_DEPTH: Final = 3


def parse_fields(text: str) -> tuple[str, ...]:
    """Split *text*, the value of ``--fields``: names with commas between them. A repeated name counts once.

    Raises:
        UsageError: a name is empty.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not all(name.split(".")):
            shown = f"{name!r} is not a field" if name else "a name is empty"
            raise UsageError(f"--fields {text}: {shown}", hint=f"give names, such as {','.join(DEFAULT_FIELDS)}")
    return tuple(dict.fromkeys(names))


def is_known(name: str) -> bool:
    """Whether *name* is a field whatever the lines have."""
    return name in KNOWN_FIELDS


class Line:
    """The members of an output line, or of a value in it, as JSON texts; split further when a field asks for it."""

    __slots__ = ("_children", "members")

    def __init__(self, members: dict[str, str]) -> None:
        self.members = members
        self._children: dict[str, Line] | None = None

    def find(self, path: Sequence[str]) -> str | None:
        """The text under *path*; None if there is none. A name that itself has dots is found too.

        Raises:
            RawJsonError: a text is not JSON.
        """
        if len(path) == 1:
            return self.members.get(path[0])
        for count in range(1, len(path)):
            name = ".".join(path[:count])
            text = self.members.get(name)
            if text is not None and text[0] in "{[":
                found = self._child(name, text).find(path[count:])
                if found is not None:
                    return found
        return self.members.get(".".join(path))

    def _child(self, name: str, text: str) -> Line:
        if self._children is None:
            self._children = {}
        child = self._children.get(name)
        if child is None:
            child = self._children[name] = Line(_split(text))
        return child


def _split(text: str) -> dict[str, str]:
    """The text of each member of an object, of each item of an array by its position from 0; else empty."""
    if text[:1] == "[":
        return {str(at): item for at, item in enumerate(split_array(text) or ())}
    return split_object(text) or {} if text[:1] == "{" else {}


class FieldNames:
    """Looks for fields in lines, and collects which there are, for the message about one that no line has."""

    def __init__(self, names: Iterable[str]) -> None:
        self.missing = [name for name in names if not is_known(name)]
        """The fields that were not found yet; known ones are not looked for."""
        self.lines = 0
        self._seen: dict[str, None] = {}

    def look(self, line: Line) -> None:
        """Look at one more line.

        Raises:
            RawJsonError: the line is not JSON.
        """
        self.lines += 1
        self.missing = [name for name in self.missing if line.find(name.split(".")) is None]
        if self.missing and len(self._seen) < _MOST_NAMES:
            self._collect(line, "", _DEPTH)

    def check(self, joined: Collection[str] = ()) -> None:
        """Refuse a field that no line had. *joined*: the fields of the input, for the hint.

        Where there was no line, only names that cannot be fields are refused.

        Raises:
            UsageError: there is one; the message names it, the hint what there is.
        """
        known_starts = {name.partition(".")[0] for name in KNOWN_FIELDS}
        for name in self.missing:
            if not self.lines and name.partition(".")[0] in known_starts and "." in name:
                continue
            raise UsageError(f"--fields: no line has the field {name}", hint=self._hint(name, joined))

    def _hint(self, name: str, joined: Collection[str]) -> str:
        if name in joined:
            return f"{name} is a field of the input: --join adds all of them, and --fields names what else there is"
        names = [*KNOWN_FIELDS, *(seen for seen in self._seen if seen not in KNOWN_FIELDS)]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
        start = name.partition(".")[0]
        same = [known for known in names if known.startswith(f"{start}.")]
        listed = same or [known for known in names if "." not in known]
        more = f", +{len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
        there_is = f"there {'is' if len(listed) == 1 else 'are'} {', '.join(listed[:_MOST_SHOWN])}{more}"
        return f"did you mean {close[0]}? {there_is}" if close else there_is

    def _collect(self, line: Line, prefix: str, depth: int) -> None:
        for name, text in line.members.items():
            if len(self._seen) >= _MOST_NAMES:
                return
            whole = f"{prefix}{name}"
            self._seen.setdefault(whole)
            if depth > 1 and text[:1] == "{":
                self._collect(Line(_split(text)), f"{whole}.", depth - 1)
