"""Strict JSON parsing that keeps values as raw text, so that they can be passed on byte for byte.

It uses the standard parser without its leniencies: ``NaN`` and ``Infinity`` are refused, integers may have any
number of digits, bytes must be UTF-8. Lone surrogate escapes are valid JSON (a model cut in the middle of an emoji
sends them) and are accepted.

Values are not re-encoded. :func:`split_object` returns the source text of each member, so a 30-digit integer or
``1.10`` is passed on unchanged.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.encoder import encode_basestring
from typing import NoReturn

__all__ = [
    "JSON",
    "NestingError",
    "RawJson",
    "RawJsonError",
    "dumps",
    "one_line",
    "parse",
    "split_array",
    "split_object",
]

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None
"""A parsed JSON value."""


class RawJsonError(ValueError):
    """The text is not exactly one JSON value."""


class NestingError(RawJsonError):
    """The value is nested more deeply than the parser supports."""


class RawJson(str):
    """Raw JSON text, usable where a value is expected: :func:`dumps` writes it unchanged."""

    __slots__ = ()


def _refuse_constant(name: str) -> NoReturn:
    raise RawJsonError(f"{name} is not JSON")


def _any_int(digits: str) -> int | str:
    # CPython refuses to convert integers of more than 4,300 digits; llmbatch does not compute with them.
    return int(digits) if len(digits) <= 4300 else digits


# The C scanners of the standard parser, without its Python layers. Each returns a value and the offset of its end, and
# raises StopIteration if no value starts there.
_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
_scan_any_int = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_any_int).scan_once  # type: ignore[attr-defined]
_scan_for_the_end = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str, parse_float=str).scan_once  # type: ignore[attr-defined]
_readable = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_whitespace = re.compile(r"[ \t\r\n]*").match
_plain_key = re.compile(r'[ \t\r\n]*"([^"\\\x00-\x1f]*)"[ \t\r\n]*:[ \t\r\n]*').match
_STARTS = frozenset('{["-0123456789tfn')
"""First characters of JSON values."""


def parse(text: str) -> JSON:
    """Parse one JSON value, all of *text*.

    Raises:
        RawJsonError: not JSON, or ``NaN``/``Infinity`` in it.
        NestingError: nested too deeply.
    """
    try:
        at = 0 if text[:1] in _STARTS else _whitespace(text).end()  # type: ignore[union-attr]
        try:
            value, end = _scan(text, at)
        except (RawJsonError, json.JSONDecodeError):
            raise
        except ValueError:
            value, end = _scan_any_int(text, at)
    except RawJsonError:
        raise
    except (json.JSONDecodeError, StopIteration, RecursionError) as error:
        raise _translated(error) from None
    if end != len(text):
        _only_space_after(text, end)
    return value  # type: ignore[no-any-return]


def _translated(error: json.JSONDecodeError | StopIteration | RecursionError) -> RawJsonError:
    """The error for one of the scanner's."""
    if isinstance(error, json.JSONDecodeError):
        return RawJsonError(f"{error.msg.removesuffix(' at')} at column {error.pos + 1}")
    if isinstance(error, StopIteration):
        return RawJsonError(f"Expecting value at column {error.value + 1}")
    return NestingError("nested too deeply")


def split_object(text: str) -> dict[str, str] | None:
    """Split a JSON object into its keys and the source text of their values, in order; None for another JSON value.

    If a key is repeated, the last one counts, as in every common parser. Cost: one C-level scan of each value.

    Raises:
        RawJsonError: *text* is not exactly one JSON value.
        NestingError: nested too deeply.
    """
    start = 0 if text[:1] == "{" else _whitespace(text).end()  # type: ignore[union-attr]
    if text[start : start + 1] != "{":
        parse(text)
        return None
    members: dict[str, str] = {}
    at, plain_key, scan = start + 1, _plain_key, _scan_for_the_end
    try:
        while True:
            plain = plain_key(text, at)
            if plain is not None:
                key, at = plain[1], plain.end()
            else:
                start = _whitespace(text, at).end()  # type: ignore[union-attr]
                if not members and text[start : start + 1] == "}":
                    _only_space_after(text, start + 1)
                    return members
                key, at = _any_key(text, start)
            _, end = scan(text, at)
            members[key] = text[at:end]
            mark = text[end : end + 1]
            if mark != "," and mark != "}":
                end = _whitespace(text, end).end()  # type: ignore[union-attr]
                mark = text[end : end + 1]
            at = end + 1
            if mark == "}":
                if at != len(text):
                    _only_space_after(text, at)
                return members
            if mark != ",":
                raise RawJsonError(f"Expecting ',' or '}}' at column {at}")
    except RawJsonError:
        raise
    except (json.JSONDecodeError, StopIteration, RecursionError) as error:
        raise _translated(error) from None


def _any_key(text: str, at: int) -> tuple[str, int]:
    """Scan the key (with escapes) that starts at *at*; return it and the offset of its value."""
    if text[at : at + 1] != '"':
        raise RawJsonError(f"Expecting a property name at column {at + 1}")
    key, at = scanstring(text, at + 1, True)
    at = _whitespace(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != ":":
        raise RawJsonError(f"Expecting ':' at column {at + 1}")
    return key, _whitespace(text, at + 1).end()  # type: ignore[union-attr]


def split_array(text: str) -> list[str] | None:
    """Split a JSON array into the source text of its items, in order; None for another JSON value. Two C-level scans.

    Raises:
        RawJsonError: *text* is not exactly one JSON value.
        NestingError: nested too deeply.
    """
    if not isinstance(parse(text), list):
        return None
    # The text is a valid array, so only items, commas and the end can follow.
    items: list[str] = []
    at = _whitespace(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    while text[at] != "]":
        _, end = _scan_for_the_end(text, at)
        items.append(text[at:end])
        at = _whitespace(text, end).end()  # type: ignore[union-attr]
        if text[at] == ",":
            at = _whitespace(text, at + 1).end()  # type: ignore[union-attr]
    return items


def _only_space_after(text: str, at: int) -> None:
    end = _whitespace(text, at).end()  # type: ignore[union-attr]
    if end != len(text):
        raise RawJsonError(f"Extra data at column {end + 1}")


def one_line(text: str) -> str:
    """Replace line breaks in *text* (valid JSON) by spaces: they can only stand between tokens."""
    return text.replace("\r", " ").replace("\n", " ")


def dumps(value: object) -> str:
    """Encode as compact JSON. Non-ASCII text is not escaped, except lone surrogates, which UTF-8 cannot encode.

    Raises:
        ValueError: ``NaN`` or an infinity.
        TypeError: a value that JSON cannot represent.
    """
    if value is None:
        return "null"
    if type(value) is str and value.isascii():
        return encode_basestring(value)
    if isinstance(value, RawJson):
        return str(value)
    text = _readable.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ascii.encode(value)
    return text
