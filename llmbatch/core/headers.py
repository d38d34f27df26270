"""Check the HTTP headers that a user adds to requests, and expand environment variables in their values.

``$NAME``, ``${NAME}`` and ``Bearer $NAME`` are replaced by the variable's value. No message shows a value.
:mod:`llmbatch.providers.resolve` decides which requests get the headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmbatch.core.errors import UsageError
from llmbatch.core.secrets import Secret

__all__ = ["Headers", "check_headers", "expand_headers", "header_variables", "is_secret_value"]

Headers = tuple[tuple[str, str], ...]
"""Pairs of name and value. Names are unique, ignoring case."""

_FORBIDDEN = frozenset(
    {"host", "authorization", "proxy-authorization", "content-length", "content-type", "content-encoding"}
    | {"transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect", "accept-encoding"}
)
"""Headers that decide where a request goes, who pays, and how its body is decoded."""

_VARIABLE = re.compile(r"((?:Bearer |Basic |Token )?)\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SECRET_WORDS = frozenset(
    {"key", "apikey", "token", "secret", "password", "auth", "authorization", "cookie", "credential", "credentials"}
)
_KEY = re.compile(
    r"(?:Bearer|Basic|Token) .|(?:sk|pk|gsk|csk|hf|fw|xai|pplx|nvapi|dapi|ghp|github_pat|AIza|eyJ)[\w.-]{12}", re.ASCII
)


def check_headers(value: object) -> Headers:
    """Check a mapping or pairs of names and values. If a name is repeated, the last one counts.

    Raises:
        TypeError: not a mapping or pairs, or not all text.
        ValueError: a name is invalid or not allowed, or a value is empty or contains invalid characters.
    """
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        raise TypeError
    found: dict[str, tuple[str, str]] = {}
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError
        name, text = item
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError
        if _NAME.fullmatch(name) is None or name.lower() in _FORBIDDEN or not text.strip():
            raise ValueError
        if not _is_sendable(text):
            raise ValueError
        found[name.lower()] = (name, text)
    return tuple(found.values())


def is_secret_value(name: str, text: str) -> bool:
    """Whether *text* is a key itself, judging by the header's *name* or the form of the text; False for ``$NAME``."""
    if _VARIABLE.fullmatch(text):
        return False
    return not _SECRET_WORDS.isdisjoint(re.split(r"[-_.]", name.lower())) or _KEY.match(text) is not None


def header_variables(headers: Headers) -> list[str]:
    """Names of the environment variables in the values."""
    return [found[2] or found[3] for _, text in headers if (found := _VARIABLE.fullmatch(text))]


def expand_headers(headers: Headers, environ: Mapping[str, str]) -> tuple[dict[str, str], list[Secret]]:
    """Replace variables by their values. Returns the headers to send, and the secrets among their values.

    Raises:
        UsageError: a variable is not set, or its value contains characters that are invalid in a header.
    """
    sent: dict[str, str] = {}
    secrets: list[Secret] = []
    for name, text in headers:
        found = _VARIABLE.fullmatch(text)
        if found is None:
            sent[name] = text
            if is_secret_value(name, text):
                secrets.append(Secret(text.partition(" ")[2] or text))
            continue
        variable = found[2] or found[3]
        value = environ.get(variable, "").strip()
        if not value:
            raise UsageError(
                f"the header {name} needs {variable}, which is not set", hint=f"export {variable}=… and run again"
            )
        if not _is_sendable(value):
            raise UsageError(
                f"the value of {variable} contains characters invalid in a header", hint=f"set {variable} again"
            )
        sent[name] = found[1] + value
        secrets.append(Secret(value))
    return sent, secrets


def _is_sendable(text: str) -> bool:
    return all(" " <= char <= "~" for char in text)
