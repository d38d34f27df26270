"""Base URLs: checked, then extended to the URL of an endpoint.

It knows no keys, and its messages never show a URL that could hold one.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from llmbatch.core.errors import UsageError
from llmbatch.providers.catalog import Endpoint

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
    """A base URL in parts: ``origin`` (scheme, host and port), ``path`` without a slash at its end, ``query``."""

    origin: str
    path: str
    query: str

    @property
    def base(self) -> str:
        """The base URL as people may see it: without the query, which may hold what is not for showing."""
        return self.origin + self.path

    def url(self, path: str, query: str = "") -> str:
        """The URL of *path* at the origin, with the base URL's own query and *query*."""
        queries = "&".join(part for part in (self.query, query) if part)
        return f"{self.origin}{path}?{queries}" if queries else self.origin + path


def parse_base_url(url: str, *, name: str) -> BaseUrl:
    """Check a base URL. *name* is the flag or variable it came from, for the message.

    Raises:
        UsageError: no http or https URL, or one with a user or password in it.
    """
    hint = f"set {name} to something like http://localhost:8000/v1"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UsageError(f"{name} is not a URL", hint=hint) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{name} holds a user name or a password", hint="keys come from the environment: see --api-key-env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{name} is no http:// or https:// URL", hint=hint)
    if any(char.isspace() or not char.isprintable() for char in url.strip()):
        raise UsageError(f"{name} has white space or control characters in it", hint=hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
    return BaseUrl(origin, parts.path.rstrip("/"), parts.query)


def check_proxy(url: str) -> None:
    """Check the URL of a proxy; it may hold a user and a password, and no message shows it.

    Raises:
        UsageError: no http or https URL.
    """
    hint = "set --proxy or LLMBATCH_PROXY to something like http://localhost:3128"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("the proxy is not a URL", hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError("the proxy is no http:// or https:// URL", hint=hint)
    if any(char.isspace() or not char.isprintable() for char in url):
        raise UsageError("the proxy's URL has white space or control characters in it", hint=hint)


def proxy_secrets(url: str) -> list[str]:
    """What of a proxy's URL must not be shown: its password, as written and decoded."""
    password = urlsplit(url).password
    return [password, unquote(password)] if password else []


def endpoint_url(address: BaseUrl, endpoint: Endpoint, *, anthropic: bool) -> str:
    """Where *endpoint* is at *address*.

    OpenAI's formats follow the path of the base URL, ``/v1`` where it has none: all compatible servers live there.
    Anthropic's base URL stops before ``/v1``, and so does every other for the messages format.
    """
    root = address.path
    if not root or ((anthropic or endpoint == "messages") and not root.endswith("/v1")):
        root += "/v1"
    return address.url(root + _PATHS[endpoint])


def raw_url(address: BaseUrl, path: str) -> str:
    """Where *path*, below ``/v1/``, is at *address*, whose own path has the version where it has a path."""
    return address.url((address.path or "/v1") + path.removeprefix("/v1"))


def azure_url(address: BaseUrl, endpoint: Endpoint, *, model: str, api_version: str) -> str:
    """Where *endpoint* is at an Azure resource: the v1 endpoint, or with an API version the older paths."""
    if address.path:
        return address.url(address.path + _PATHS[endpoint], f"api-version={quote(api_version)}" if api_version else "")
    if not api_version:
        return address.url("/openai/v1" + _PATHS[endpoint])
    path = "/openai" + _PATHS[endpoint]
    if endpoint in _AZURE_PER_DEPLOYMENT:
        path = f"/openai/deployments/{quote(model, safe='')}" + _PATHS[endpoint]
    return address.url(path, f"api-version={quote(api_version)}")
