"""Where the board is, as users write it: ``redis://…``, ``rediss://…``, ``unix:PATH``, ``ray:NAME``, or ``env:NAME``.

Passwords belong in the environment: ``env:NAME`` reads the whole address from a variable, and ``$NAME`` in an address
stands for a variable's value, so that no list of processes shows it. No message shows a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from llmbatch.core.errors import UsageError

if TYPE_CHECKING:
    from llmbatch.peers.carrier import Carrier

__all__ = ["SharedAddress", "is_address", "read_address", "shown_address"]

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_DATABASE = re.compile(r"/[0-9]{1,5}/?")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_OPTIONS = frozenset(
    {"name", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
"""What may follow a question mark: the name of the board, and how TLS is spoken."""
_FORMS = "redis://HOST:PORT/0, rediss://… for TLS, or env:NAME for the variable that holds it"


@dataclass(frozen=True, slots=True)
class SharedAddress:
    """Address of a board. *url* may hold a password: only :attr:`shown` may be shown."""

    kind: str
    """``redis``, ``unix`` or ``ray``."""
    url: str
    """The URL, the path of a socket, or the name of a coordinator."""
    name: str = "default"
    """Which of the boards of a store."""

    def __repr__(self) -> str:
        return f"<SharedAddress {self.shown}>"

    @property
    def shown(self) -> str:
        """The address without a password."""
        return _without_password(self.url) if self.kind == "redis" else f"{self.kind}:{self.url}"

    def carrier(self) -> Carrier:
        """A new carrier to the board.

        Raises:
            UsageError: the extra ``redis`` or ``ray`` is not installed.
        """
        if self.kind == "unix":
            from llmbatch.peers.unix import UnixCarrier

            return UnixCarrier(self.url)
        if self.kind == "ray":
            from llmbatch.peers.ray import RayCarrier

            return RayCarrier(self.url)
        from llmbatch.peers.redis import RedisCarrier

        return RedisCarrier(self.url, self.name, self.shown)

    def check_installed(self) -> None:
        """Check that what the address needs is installed.

        Raises:
            UsageError: the extra ``redis`` or ``ray`` is not.
        """
        if self.kind == "redis":
            from llmbatch.peers.redis import load_client

            load_client()
        elif self.kind == "ray":
            from llmbatch.peers.ray import load_ray

            load_ray()


def read_address(text: str, environ: Mapping[str, str], *, source: str = "--shared", name: str = "") -> SharedAddress:
    """Read an address, as users write it. *name* replaces the ``name=`` of the URL.

    Raises:
        UsageError: it is no address, or a variable is not set. The message shows no password.
    """
    if text.startswith("env:"):
        variable = text.removeprefix("env:")
        found = environ.get(variable, "").strip()
        if not found or found.startswith("env:"):
            raise UsageError(
                f"{source}: the environment variable {variable or '(no name)'} holds no address",
                hint=f"set it to {_FORMS.split(',')[0]}",
            )
        text, source = found, f"{source} env:{variable}"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("//") else path
        if not path or "\0" in path:
            raise UsageError(f"{source}: unix: names no socket", hint="write unix:/path/to/socket")
        return SharedAddress("unix", path)
    if text.startswith("ray:") and not text.startswith("ray://"):
        board = text.removeprefix("ray:")
        if not _NAME.fullmatch(board):
            raise UsageError(
                f"{source}: {board!r} may have letters, digits, dots and dashes only", hint="write ray:NAME"
            )
        return SharedAddress("ray", board)
    parts = _split(text, source)
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise UsageError(f"{source}: {_shown(text)} is no address of a shared store", hint=f"write {_FORMS}")
    query = _query(parts.query, source)
    if parts.path.strip("/") and not _DATABASE.fullmatch(parts.path):
        raise UsageError(f"{source}: {_shown(text)} names no database by its number", hint=f"write {_FORMS}")
    name = name or query.pop("name", "") or "default"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{source}: name={name!r} may have letters, digits, dots and dashes only")
    netloc = _expand(parts.netloc, environ, source)
    query.pop("name", None)
    return SharedAddress("redis", urlunsplit((scheme, netloc, parts.path, urlencode(query), "")), name)


def is_address(text: str) -> bool:
    """Whether *text* may be an address, as far as can be told without the environment."""
    if text.startswith("env:"):
        return len(text) > 4 and "env:" not in text[4:]
    if text.startswith("unix:"):
        return bool(text.removeprefix("unix:").strip("/")) and "\0" not in text
    if text.startswith("ray:"):
        return _NAME.fullmatch(text.removeprefix("ray:")) is not None
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme.lower() in _SCHEMES and bool(parts.hostname)


def shown_address(text: str) -> str:
    """*text* without anything that may be a password, for messages."""
    return _hidden(text)


def _split(text: str, source: str) -> Any:
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        raise UsageError(f"{source}: {_shown(text)} is no address", hint=f"write {_FORMS}") from None
    return parts


def _query(text: str, source: str) -> dict[str, str]:
    """The options in the query of an address: a misspelled ``name=`` would share with other jobs."""
    query = dict(parse_qsl(text, keep_blank_values=True))
    unknown = next((option for option in query if option not in _OPTIONS), None)
    if unknown is not None:
        raise UsageError(
            f"{source}: the address has an unknown option {_hidden(unknown)!r}",
            hint=f"known are {', '.join(sorted(_OPTIONS))}: redis://HOST:PORT/0?name=JOB",
        )
    if query.get("name") == "":
        raise UsageError(f"{source}: name= is empty", hint="write ?name=JOB, or leave it out")
    return query


def _expand(netloc: str, environ: Mapping[str, str], source: str) -> str:
    def value(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        if variable not in environ:
            raise UsageError(f"{source}: the environment variable {variable} is not set")
        return quote(environ[variable], safe="")

    return _VARIABLE.sub(value, netloc)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _hidden(text: str) -> str:
    return re.sub(r"(?<=//)[^/]*@", "…@", text) if "//" in text else text.split("@")[-1]


def _shown(text: str) -> str:
    return repr(_hidden(text))
