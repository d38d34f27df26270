"""Parses an input line or a Python object into a row; pure.

A row is kept as the raw text of its members, so that they are passed on unchanged. Parsing checks only whether there is
something to send and finds the row's id; parameters are not validated.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from llmbatch.core.raw_json import NestingError, RawJsonError, dumps, split_array, split_object
from llmbatch.core.rows import Malformed, Row

if TYPE_CHECKING:
    from llmbatch.inputs.shape import Shaper

__all__ = [
    "EXCERPT_CHARS",
    "MAX_LINE_BYTES",
    "NAMING_MEMBERS",
    "PROMPT_MEMBERS",
    "line_digest",
    "members_of",
    "parse_line",
    "parse_record",
    "row_from_value",
    "strip_bom",
    "too_long",
]

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Maximum length of a line that is parsed, without its line end."""

EXCERPT_CHARS: Final = 300
"""How much of a malformed line is kept, to tell what format it is of."""

NAMING_MEMBERS: Final = ("id", "custom_id", "key", "row_id")
"""Members that name a row, the first one that is there."""

PROMPT_MEMBERS: Final = ("prompt", "messages", "input", "body", "params", "instruction")
_NOTHING = "the row has no prompt, messages, input, body or params with anything in it"
_UTF8_BOM = b"\xef\xbb\xbf"
_JSON_SPACE = " \t\r\n"

_is_empty = re.compile(r'null|""|\[[ \t\r\n]*\]').fullmatch


def strip_bom(raw: bytes) -> bytes:
    """*raw*, the first line of a file, without a UTF-8 byte order mark."""
    return raw.removeprefix(_UTF8_BOM)


def line_digest(raw: bytes) -> str:
    r"""Hash that links an output line to its input line: 16 hex digits of SHA-256, without one ``\r`` at the end."""
    if raw[-1:] == b"\r":
        raw = raw[:-1]
    return hashlib.sha256(raw).hexdigest()[:16]


def parse_line(number: int, raw: bytes, shaper: Shaper | None = None) -> Row | Malformed | None:
    r"""Parse physical line *number*, *raw* being the line without its ``\n``; None for a blank line.

    *shaper*: makes the row of the line's members; None: they are the row's.

    Never raises: an invalid row is a :class:`~llmbatch.core.rows.Malformed`. The caller strips the byte order mark of a
    file's first line (:func:`strip_bom`).
    """
    if raw[-1:] == b"\r":
        raw = raw[:-1]
    if not raw or raw.isspace():
        return None
    row = _parse(number, raw, shaper)
    if isinstance(row, Malformed):
        row.excerpt = raw[: 4 * EXCERPT_CHARS].decode(errors="replace")[:EXCERPT_CHARS]
    return row


def parse_record(number: int, raw: bytes, shaper: Shaper) -> Row | Malformed:
    """The row of a record of data, *raw* being its columns as a JSON object of our own making."""
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return shaper.row(number, digest, split_object(raw.decode()) or {})


def members_of(raw: bytes) -> dict[str, str]:
    """The members of a line of JSON; a bare string is ``prompt``, a list ``messages``. None if it is malformed."""
    try:
        text = raw.decode().strip(_JSON_SPACE)
        members = split_object(text)
    except (RawJsonError, UnicodeDecodeError):
        return {}
    if members is not None:
        return members
    return {'"': {"prompt": text}, "[": {"messages": text}}.get(text[0], {})


def too_long(number: int, digest: str) -> Malformed:
    """The malformed row for a line or record longer than :data:`MAX_LINE_BYTES`."""
    limit = MAX_LINE_BYTES // (1024 * 1024)
    return Malformed(number, digest, _unnamed(number), "input_too_long", f"the row is longer than {limit} MiB")


def row_from_value(
    number: int, value: object, *, opaque: bool = False, shaper: Shaper | None = None
) -> Row | Malformed:
    """Convert a Python object (a dict, a string or a list of messages) into a row that also holds *value* itself.

    Models, dataclasses, dates and the like, also inside a dict, are converted by
    :func:`~llmbatch.core.json_form.json_form`. With *opaque* (rows for a function of the user's) nothing is malformed:
    an object that :mod:`json` does not take, or with nothing to send, is a row without fields. Never raises. *shaper*:
    as for :func:`parse_line`.
    """
    try:
        row = _parse(number, _text_of(value, opaque=opaque).encode(), shaper)
    except RecursionError:
        row = _no_json(number, value, "input_too_deep", "nested too deeply")
    except Exception as error:  # noqa: BLE001 - a method of a foreign object may raise anything
        message = f"the row cannot be represented as JSON: {_shown(error)}"
        row = _no_json(number, value, "input_bad_json", message)
    row.value = value
    if opaque and isinstance(row, Malformed):
        return Row(number, row.hash, row.id_json, {}, value)
    return row


def _text_of(value: object, *, opaque: bool) -> str:
    """*value* as JSON text. Raises whatever converting it raises."""
    members = getattr(value, "_asdict", None)
    if isinstance(value, tuple) and callable(members):
        value = members()  # a named tuple, such as a row of DataFrame.itertuples()
    try:
        return dumps(value)
    except (TypeError, ValueError, RecursionError):
        if opaque:  # a function gets the object itself: spare the conversion of what may be an image
            raise
    from llmbatch.core.json_form import json_form  # decimals and the like, which few rows need

    return dumps(json_form(value))


def _shown(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        return type(error).__name__


def _parse(number: int, raw: bytes, shaper: Shaper | None = None) -> Row | Malformed:
    digest = hashlib.sha256(raw).hexdigest()[:16]
    if len(raw) > MAX_LINE_BYTES:
        return too_long(number, digest)
    try:
        text = raw.decode()
        members = split_object(text)
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} of the line is not UTF-8"
        return Malformed(number, digest, _unnamed(number), "input_bad_utf8", message)
    except NestingError as error:
        return Malformed(number, digest, _unnamed(number), "input_too_deep", str(error))
    except RawJsonError as error:
        return Malformed(number, digest, _unnamed(number), "input_bad_json", str(error))
    if members is None:
        row = _bare(number, digest, text.strip(_JSON_SPACE))
        return row if shaper is None or isinstance(row, Malformed) else shaper.row(number, digest, row.fields)
    if shaper is not None:
        return _checked(shaper.row(number, digest, members))
    id_json = _unnamed(number) if members.keys().isdisjoint(NAMING_MEMBERS) else _take_name(number, members)
    for member in PROMPT_MEMBERS:
        source = members.get(member)
        if source is not None and not _is_empty(source):
            return Row(number, digest, id_json, members)
    return Malformed(number, digest, id_json, "input_no_prompt", _NOTHING)


def _checked(row: Row | Malformed) -> Row | Malformed:
    """*row*, unless there is nothing in it to send."""
    if isinstance(row, Malformed) or any(not _is_empty(row.fields.get(member, "null")) for member in PROMPT_MEMBERS):
        return row
    return Malformed(row.number, row.hash, row.id_json, "input_no_prompt", _NOTHING)


def _bare(number: int, digest: str, text: str) -> Row | Malformed:
    if text[0] not in '"[':
        message = "the line is neither an object nor a string nor a list of messages"
        return Malformed(number, digest, _unnamed(number), "input_not_a_row", message)
    member, kind = ("prompt", "string") if text[0] == '"' else ("messages", "list")
    if _is_empty(text):
        return Malformed(number, digest, _unnamed(number), "input_no_prompt", f"the {kind} is empty")
    if kind == "list" and not _is_of_messages(text):
        return Malformed(number, digest, _unnamed(number), "input_not_a_row", "the list is not one of messages")
    return Row(number, digest, _unnamed(number), {member: text})


def _is_of_messages(text: str) -> bool:
    """Whether a list holds messages: its first item is an object, and no row by itself."""
    if not text[1:].lstrip(_JSON_SPACE).startswith("{"):
        return False
    first = split_object((split_array(text) or ["{}"])[0]) or {}
    return "role" in first or "type" in first or first.keys().isdisjoint(PROMPT_MEMBERS)


def _take_name(number: int, members: dict[str, str]) -> str:
    if members.keys().isdisjoint(NAMING_MEMBERS):
        return _unnamed(number)
    # Remove all id members: none of them is ever a request parameter, whichever of them named the row.
    name = other = ""
    for member in NAMING_MEMBERS:
        source = members.pop(member, "null")
        if source == "null" or name:
            continue
        if source[0] == '"' or source.lstrip("-").isdigit():
            name = source
        else:
            other = other or dumps(source)
    return name or other or _unnamed(number)


def _unnamed(number: int) -> str:
    return f'"row-{number}"'


def _no_json(number: int, value: object, code: str, message: str) -> Malformed:
    try:
        described = repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything, and one row must not end the run
        described = type(value).__qualname__
    names = {member: dumps(name) for member in NAMING_MEMBERS if _is_name(name := _member(value, member))}
    id_json = _take_name(number, names)
    return Malformed(number, line_digest(described.encode(errors="backslashreplace")), id_json, code, message)


def _member(value: object, name: str) -> object:
    try:
        return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    except Exception:  # noqa: BLE001 - a property of a foreign class may do anything
        return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and value.bit_length() < 64)
