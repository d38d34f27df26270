"""Make what a provider said safe to show: keys masked, one line, no control characters, bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from llmbatch.core.raw_json import RawJsonError, one_line, parse

__all__ = ["ID_HEADERS", "Masker", "request_id", "safe_body", "shorten", "token"]

Masker = Callable[[str], str]
"""Masks the keys in a text."""


def safe_body(text: str, mask: Masker) -> str | None:
    """The masked body on one line; None if the mask leaves no JSON."""
    masked = mask(text)
    if masked != text:
        try:
            parse(masked)
        except RawJsonError:
            # The mask changed more than the inside of a string: rather no body than a broken line.
            return None
    return one_line(masked) if "\n" in masked or "\r" in masked else masked


_ID_NAMES = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray")
ID_HEADERS = frozenset(_ID_NAMES)
_usual_id = re.compile("[!-~]{1,200}").fullmatch


def request_id(headers: Mapping[str, str], mask: Masker) -> str | None:
    """The id that the provider gave to the answer, masked; None if it gave none."""
    for name in _ID_NAMES:
        value = headers.get(name)
        if value:
            value = mask(value)
            return value if _usual_id(value) else token(value) or None
    return None


def shorten(text: str, most: int = 300) -> str:
    """*text* on one line, without control characters, of at most *most* characters. Mask keys first: it truncates."""
    text = text[: 10 * most]
    if not text.isprintable():
        # A space for each, so that a key with such characters in between is not joined again.
        text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def token(text: str) -> str:
    """*text* as an error code: letters, digits, ``_``, ``.`` and ``-`` only, at most 64."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_")[:64]
