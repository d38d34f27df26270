"""Validates base URLs and builds the URLs of endpoints.

Messages never show a URL that could contain a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import UsageError

__all__ = ["BaseUrl", "azure_url", "check_proxy", "endpoint_url", "parse_base_url", "proxy_secrets", "raw_url"]

_PATHS: dict[Endpoint, str] = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "embeddings": "/embeddings",
    "completions": "/completions",
    "messages": "/messages",
}

_AZURE_PER_DEPLOYMENT: frozenset[Endpoint] = frozenset({"chat", "embeddings", "completions"})


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """A base URL in parts: ``origin`` (scheme, host and port), ``path`` without a slash at its end, ``query``.

    ``endpoint`` is the wire format whose URL was given in place of a base URL.
    """

    origin: str
    path: str
    query: str
    endpoint: Endpoint | None = None

    @property
    def base(self) -> str:
        """The base URL for display: without the query, which may contain secrets."""
        return self.origin + self.path

    def url(self, path: str, query: str = "") -> str:
        """URL of *path* at the origin, with the base URL's query and *query*."""
        queries = "&".join(part for part in (self.query, query) if part)
        return f"{self.origin}{path}?{queries}" if queries else self.origin + path


_LACKS_SCHEME = re.compile(r"[A-Za-z0-9.-]{1,80}:\d{1,5}(?:/[a-z0-9/]{0,40})?")
"""A host with its port and path, which is no key and may be shown."""


def parse_base_url(url: str, *, name: str) -> BaseUrl:
    """Check a base URL. *name* is the flag or variable it came from, for the message.

    The URL of an endpoint (``…/v1/chat/completions``) is taken for the base URL that it begins with.

    Raises:
        UsageError: not an http(s) URL, or one with a user or password in it.
    """
    hint = f"set {name} to something like http://localhost:8000/v1"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UsageError(f"{name} is not a URL", hint=hint) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{name} contains a user name or a password", hint="keys come from the environment: see --api-key-env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        if _LACKS_SCHEME.fullmatch(url.strip()) is not None:
            hint = f"did you mean http://{url.strip()}?"
        raise UsageError(f"{name} is not an http(s) URL", hint=hint)
    if parts.netloc.endswith(":"):
        raise UsageError(f"{name} has a colon, and no port after it", hint="is a variable of the shell empty?")
    if any(char.isspace() or not char.isprintable() for char in url.strip()):
        raise UsageError(f"{name} contains whitespace or control characters", hint=hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
    path = parts.path.rstrip("/")
    endpoint = next((endpoint for endpoint, end in _PATHS.items() if path.endswith(end)), None)
    if endpoint is not None:
        path = path.removesuffix(_PATHS[endpoint]).rstrip("/")
    return BaseUrl(origin, path, parts.query, endpoint)


def check_proxy(url: str) -> None:
    """Check the URL of a proxy; it may contain a user and a password, and no message shows it.

    Raises:
        UsageError: not an http(s) URL.
    """
    hint = "set --proxy or LLMBATCH_PROXY to something like http://localhost:3128"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("the proxy is not a URL", hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError("the proxy is not an http(s) URL", hint=hint)
    if any(char.isspace() or not char.isprintable() for char in url):
        raise UsageError("the proxy's URL contains whitespace or control characters", hint=hint)


def proxy_secrets(url: str) -> list[str]:
    """The secrets in a proxy's URL: its password, as written and decoded."""
    password = urlsplit(url).password
    return [password, unquote(password)] if password else []


def endpoint_url(address: BaseUrl, endpoint: Endpoint, *, anthropic: bool) -> str:
    """URL of *endpoint* at *address*.

    OpenAI's formats follow the path of the base URL, or ``/v1`` if it has none, as on all compatible servers.
    Anthropic's base URL ends before ``/v1``, and so does every other one for the messages format.
    """
    root = address.path
    if not root or ((anthropic or endpoint == "messages") and not root.endswith("/v1")):
        root += "/v1"
    return address.url(root + _PATHS[endpoint])


def raw_url(address: BaseUrl, path: str) -> str:
    """Where *path*, below ``/v1/``, is at *address*, whose own path has the version where it has a path."""
    return address.url((address.path or "/v1") + path.removeprefix("/v1"))


def azure_url(address: BaseUrl, endpoint: Endpoint, *, model: str, api_version: str) -> str:
    """URL of *endpoint* at an Azure resource: the v1 endpoint, or with an API version the older paths."""
    if address.path:
        return address.url(address.path + _PATHS[endpoint], f"api-version={quote(api_version)}" if api_version else "")
    if not api_version:
        return address.url("/openai/v1" + _PATHS[endpoint])
    path = "/openai" + _PATHS[endpoint]
    if endpoint in _AZURE_PER_DEPLOYMENT:
        path = f"/openai/deployments/{quote(model, safe='')}" + _PATHS[endpoint]
    return address.url(path, f"api-version={quote(api_version)}")
