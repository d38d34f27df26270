"""Finds JSON values in an answer that has other text around them: in fences, or in prose. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

__all__ = ["find_json"]

_fences = re.compile(r"```[ \t]*[\w+.-]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL).finditer
_next_start = re.compile(r"[{\[]").search
_scan = json.JSONDecoder().raw_decode

_MOST_TRIES = 200
"""Brackets in the text that are tried as the start of a value."""

_MOST_SCANNED = 8
"""How often the length of the text may be scanned in vain."""


def find_json(text: str) -> Iterator[str]:
    """Values in *text* that may be JSON, the last one first: models reason before they answer.

    Contents of fences come first, then outermost objects and arrays. Cost: linear in the text.
    """
    fenced = [match[1].strip() for match in _fences(text)]
    yield from reversed([content for content in fenced if content])
    yield from reversed([value for value in _outermost(text) if value not in fenced])


def _outermost(text: str) -> list[str]:
    found: list[str] = []
    at, tries, left = 0, 0, _MOST_SCANNED * len(text)
    while tries < _MOST_TRIES and left > 0 and (start := _next_start(text, at)) is not None:
        at = start.start()
        try:
            _, end = _scan(text, at)
        except json.JSONDecodeError as error:
            tries += 1
            left -= error.pos - at
            at += 1
        except (ValueError, RecursionError):  # an integer of thousands of digits, too deep
            tries += 1
            left -= len(text) - at
            at += 1
        else:
            found.append(text[at:end])
            at = end
    return found
