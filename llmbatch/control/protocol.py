"""What goes over the control socket: one JSON line with a command, and one with the answer. Pure.

A command is ``{"command":"pause"}``, ``resume``, ``drain``, or ``{"command":"set","values":{"rpm":"60"}}``
with the values as typed. The answer is ``{"ok":true,"message":…}`` or ``{"ok":false,"message":…,"hint":…}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field

from llmbatch.core.calls import record
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = [
    "COMMANDS",
    "MOST_BYTES",
    "Answer",
    "Command",
    "read_answer",
    "read_command",
    "write_answer",
    "write_command",
]

COMMANDS = ("pause", "resume", "set", "drain")

MOST_BYTES = 64 * 1024
"""Longest line that is read, in bytes."""

_MOST_VALUES = 20
_MOST_CHARACTERS = 2000


@record
class Command:
    """A command; ``values``: those of ``set``, by name, as typed."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)


@record
class Answer:
    """What the run says to a command. ``ok``: it was carried out; else ``hint`` says what to do."""

    ok: bool
    message: str
    hint: str = ""


def read_command(line: bytes) -> Command | Answer:
    """The command in *line*, or the refusal of what is none."""
    value = _mapping(line)
    if value is None:
        return Answer(False, "that is no command: one line with a JSON object is expected", _EXAMPLE)
    name, values = value.get("command"), value.get("values", {})
    if name not in COMMANDS or not isinstance(name, str):
        return Answer(False, f"{str(name)[:80]!r} is no command", f"these are: {', '.join(COMMANDS)}")
    if not isinstance(values, dict) or len(values) > _MOST_VALUES or (name == "set") != bool(values):
        return Answer(False, f"{name} has the wrong values", _EXAMPLE)
    texts = {key: text for key, text in values.items() if isinstance(text, str) and len(text) <= _MOST_CHARACTERS}
    if len(texts) != len(values):
        return Answer(False, "values are texts, as typed", _EXAMPLE)
    return Command(name, texts)


_EXAMPLE = 'such as {"command":"set","values":{"concurrency":"80"}}'


def write_command(command: Command) -> bytes:
    """*command* as a line."""
    value: dict[str, JSON] = {"command": command.name}
    if command.values:
        value["values"] = dict[str, JSON](command.values)
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def write_answer(answer: Answer) -> bytes:
    """*answer* as a line."""
    value: dict[str, JSON] = {"ok": answer.ok, "message": answer.message[:_MOST_CHARACTERS]}
    if answer.hint:
        value["hint"] = answer.hint[:_MOST_CHARACTERS]
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def read_answer(line: bytes) -> Answer | None:
    """The answer in *line*; None if there is none."""
    value = _mapping(line)
    if value is None or not isinstance(value.get("message"), str):
        return None
    hint = value.get("hint")
    return Answer(value.get("ok") is True, str(value["message"]), hint if isinstance(hint, str) else "")


def _mapping(line: bytes) -> dict[str, JSON] | None:
    if not line.endswith(b"\n") or len(line) > MOST_BYTES:
        return None
    try:
        value = parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None
