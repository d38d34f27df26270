"""Hold API keys without ever printing them, and mask them in text.

Only the literal keys of this run are masked, not text that looks like a key, so that no answer is altered by a guess.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

__all__ = ["Mask", "Secret"]

_HIDDEN = "***"

_SHORTEST = 7

# Placeholders for local servers that need no key. They are ordinary words and would occur in answers.
_PLACEHOLDERS = frozenset(
    {"anything", "changeme", "default", "dummy-key", "localhost", "lm-studio", "lmstudio", "no-key", "not-needed"}
    | {"nothing", "placeholder", "required", "sk-no-key-required", "unnecessary", "unused", "your-api-key"}
)


class Secret:
    """An API key that prints as ``***``; only :meth:`reveal` returns the value. Immutable."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the header that sends it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_HIDDEN!r})"

    def __str__(self) -> str:
        return _HIDDEN

    def __format__(self, spec: str) -> str:
        return _HIDDEN


class Mask:
    """Replaces the literal keys of a run by ``***`` wherever they occur in a text.

    Values under 7 characters and the usual placeholders of local servers (``EMPTY``, ``none``, ``ollama``,
    ``lm-studio``, ``dummy``…) are not secrets and not masked. Immutable, so safe to share between threads and tasks.
    """

    __slots__ = ("_escape", "_escaped", "_spellings")

    def __init__(self, keys: Iterable[Secret | str] = ()) -> None:
        values = {(key.reveal() if isinstance(key, Secret) else key).strip() for key in keys}
        real = {value for value in values if len(value) >= _SHORTEST and value.lower() not in _PLACEHOLDERS}
        spellings = {spelling for value in real for spelling in _spellings(value)}
        # Longest first: if a key starts with another key, its end must not remain.
        self._spellings = tuple(sorted(spellings, key=lambda spelling: (-len(spelling), spelling)))
        # A cheap test first: answers have many escapes, but rarely of the characters of keys.
        self._escape = "\\u00" if all(map(str.isascii, real)) else "\\u"
        longest_first = sorted(real, key=len, reverse=True)
        self._escaped = re.compile("|".join(map(_escaped, longest_first))) if real else None

    def mask(self, text: str) -> str:
        """Replace keys in *text*; returns the same object without any. Cost: one substring search per spelling."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, _HIDDEN)
        if self._escaped is not None and (self._escape in text or "&#" in text):
            text = self._escaped.sub(_HIDDEN, text)
        return text

    __call__ = mask

    def __repr__(self) -> str:
        return f"<Mask of {len(self._spellings)} spellings>"


def _spellings(value: str) -> set[str]:
    """Return the spellings of *value* in plain text, in a (nested) JSON string, in a URL and in HTML."""
    plain = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    plain |= {json.dumps(spelling)[1:-1] for spelling in plain}
    quoted = {quote(value), quote(value, safe=""), quote_plus(value), html.escape(value)}
    return plain | quoted | {spelling.replace("/", "\\/") for spelling in plain}


def _escaped(value: str) -> str:
    """Return a pattern for *value* in a (nested) JSON string or in HTML, in which any character may be escaped."""
    parts = []
    for character in value:
        units = character.encode("utf-16-be").hex()
        escape = "".join(rf"\\{{1,3}}u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4))
        code = ord(character)
        named = html.escape(character)
        entity = rf"&#(?:(?i:x0{{0,4}}{code:x})|0{{0,4}}{code});" + ("" if named == character else f"|{named}")
        parts.append(rf"(?:\\{{0,3}}{re.escape(character)}|{escape}|{entity})")
    return "".join(parts)
