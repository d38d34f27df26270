"""HTTP headers that a user adds to requests: which names are allowed, and values that come from the environment.

A value ``$NAME``, ``${NAME}`` or ``Bearer $NAME`` stands for a variable's. No message shows a value. Where headers go
is decided in :mod:`llmbatch.providers.resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmbatch.core.errors import UsageError
from llmbatch.core.secrets import Secret

__all__ = ["Headers", "check_headers", "expand_headers", "header_variables", "is_secret_value"]

Headers = tuple[tuple[str, str], ...]
"""Names and values, each name once whatever its case."""

_FORBIDDEN = frozenset(
    {"host", "authorization", "proxy-authorization", "content-length", "content-type", "content-encoding"}
    | {"transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect", "accept-encoding"}
)
"""What says where a request goes, who pays, and how its bytes are to be read."""

_VARIABLE = re.compile(r"((?:Bearer |Basic |Token )?)\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SECRET_WORDS = frozenset(
    {"key", "apikey", "token", "secret", "password", "auth", "authorization", "cookie", "credential", "credentials"}
)
_KEY = re.compile(
    r"(?:Bearer|Basic|Token) .|(?:sk|pk|gsk|csk|hf|fw|xai|pplx|nvapi|dapi|ghp|github_pat|AIza|eyJ)[\w.-]{12}", re.ASCII
)


def check_headers(value: object) -> Headers:
    """Take a mapping, or pairs, of names and values; of two of one name the later one counts.

    Raises:
        TypeError: it is neither, or holds what is no text.
        ValueError: a name that is none or may not be set, or a value that no header can have.
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
    """Whether the header *name* holds a key in *text* itself, by its name or by its looks."""
    if _VARIABLE.fullmatch(text):
        return False
    return not _SECRET_WORDS.isdisjoint(re.split(r"[-_.]", name.lower())) or _KEY.match(text) is not None


def header_variables(headers: Headers) -> list[str]:
    """The environment variables that values come from."""
    return [found[2] or found[3] for _, text in headers if (found := _VARIABLE.fullmatch(text))]


def expand_headers(headers: Headers, environ: Mapping[str, str]) -> tuple[dict[str, str], list[Secret]]:
    """The headers with their variables' values, and what of them must not be shown.

    Raises:
        UsageError: a variable is not set, or holds what no header can have.
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
                f"the value of {variable} contains characters that no header can have", hint=f"set {variable} again"
            )
        sent[name] = found[1] + value
        secrets.append(Secret(value))
    return sent, secrets


def _is_sendable(text: str) -> bool:
    return all(" " <= char <= "~" for char in text)
