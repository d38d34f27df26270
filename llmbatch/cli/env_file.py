"""``--env-file``: variables such as keys, read from a file that the user names. It is never looked for unasked.

A line is ``NAME=VALUE``, with ``export`` before it if need be; values may be in single or double quotes, and ``#``
begins a comment. Nothing is expanded or executed. No message shows a value.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from llmbatch.cli.terminal import shown
from llmbatch.core.errors import UsageError

__all__ = ["load_env_file", "parse_env"]

_MOST_BYTES = 1 << 20
_LINE = re.compile(
    r"""(?:export[ \t]+)?
    (?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*
    (?: '(?P<single>[^']*)' | "(?P<double>[^"\\]*)" | (?P<bare>[^'"\s#][^\s]*|) )
    [ \t]*(?:(?<![^\s'"=])\#.*)?""",
    re.VERBOSE,
)


def load_env_file(path: str, environ: MutableMapping[str, str]) -> None:
    """Set in *environ* what the file *path* says and *environ* has not, or has empty.

    Raises:
        UsageError: it cannot be read, or a line is not understood; the message has the line's number.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode()
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"--env-file {shown(path)} cannot be read: {why}", hint="name a file of NAME=VALUE lines"
        ) from None
    if len(text) > _MOST_BYTES:
        raise UsageError(f"--env-file {shown(path)} is larger than 1 MiB", hint="name a file of NAME=VALUE lines")
    for name, value in parse_env(text, path).items():
        if not environ.get(name):
            environ[name] = value


def parse_env(text: str, path: str) -> dict[str, str]:
    """The variables in *text*; *path* is for messages.

    Raises:
        UsageError: a line is not understood.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None or "\0" in stripped:
            raise UsageError(
                f"--env-file {shown(path)}:{number}: the line is not NAME=VALUE",
                hint='write NAME=value or NAME="value", without $ or backslash escapes',
            )
        found[match["name"]] = match["single"] or match["double"] or match["bare"] or ""
    return found
