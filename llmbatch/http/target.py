"""Per-URL data of requests, computed once: server address, proxy, and the request head up to the body."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

__all__ = ["Address", "Target"]

_KEPT_CHARACTERS = "%/:?#[]@!$&'()*+,;=~|"


class Address(NamedTuple):
    """Address of a server: ``host`` is looked up, and the certificate must be for it."""

    host: str
    port: int
    is_tls: bool

    @property
    def place(self) -> str:
        """HOST:PORT, for messages and for CONNECT."""
        return f"{_bracketed(self.host)}:{self.port}"


class Target:
    """One URL with one set of headers.

    ``head`` is the request up to the value of its ``Content-Length``. ``proxy`` is connected to instead of ``address``;
    for an https URL, ``connect_head`` opens a tunnel through it.

    Raises:
        ValueError: the URL or a header cannot be sent.
    """

    __slots__ = ("address", "connect_head", "head", "headers", "place", "proxy")

    def __init__(self, url: str, headers: Mapping[str, str], *, proxy: str | None) -> None:
        target, via = urlsplit(url), urlsplit(proxy) if proxy is not None else None
        self.headers = headers
        self.address = _address(target)
        self.proxy = _address(via) if via is not None else None
        self.place = self.address.place
        asked = quote(target.path or "/", safe=_KEPT_CHARACTERS)
        asked += "?" + quote(target.query, safe=_KEPT_CHARACTERS) if target.query else ""
        is_default = self.address.port == (443 if self.address.is_tls else 80)
        host = _bracketed(self.address.host) if is_default else self.place
        sent, to_proxy = {"Host": host, **headers}, {}
        if via is not None and via.username is not None:
            words = f"{unquote(via.username)}:{unquote(via.password or '')}"
            to_proxy["Proxy-Authorization"] = "Basic " + b64encode(words.encode()).decode()
        if via is not None and not self.address.is_tls:
            # A proxy forwards plain requests itself and needs the whole URL; TLS goes through a tunnel.
            asked = f"http://{host}{asked}"
            sent |= to_proxy
        self.head = _head(f"POST {asked} HTTP/1.1", sent) + b"Content-Length: "
        self.connect_head = _head(f"CONNECT {self.place} HTTP/1.1", {"Host": self.place, **to_proxy}) + b"\r\n"


def _head(first: str, fields: Mapping[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields.items())]
    if not all(map(str.isprintable, lines)):
        raise ValueError("a header or the URL has control characters in it")
    return ("\r\n".join(lines) + "\r\n").encode()


def _address(url: SplitResult) -> Address:
    host = url.hostname
    if not host or url.scheme not in ("http", "https"):
        raise ValueError("the URL is not an http(s) URL")
    # Certificates are for names without the dot that makes them absolute.
    host = host.rstrip(".") or host
    is_tls = url.scheme == "https"
    port = url.port if url.port is not None else 443 if is_tls else 80
    return Address(host if host.isascii() else host.encode("idna").decode(), port, is_tls)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
