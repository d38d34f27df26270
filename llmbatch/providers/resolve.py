"""Where requests go and which key pays: settings and environment resolved to targets.

Who answers is decided in this order: the row's own ``PROVIDER/``, the run's (``-m``), ``--base-url`` (a server without
a name), the format of the row. What a row says never decides which key goes to ``--base-url``: there it is the one of
``--api-key-env``, or of the provider that ``-m`` names.

This module sends nothing, and no message of it shows a key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmbatch.core.calls import Route
from llmbatch.core.errors import MalformedRowError, MissingKeyError, UsageError
from llmbatch.core.raw_json import RawJsonError, dumps, parse
from llmbatch.core.secrets import Mask, Secret
from llmbatch.providers.catalog import ENDPOINTS, PROVIDERS, Endpoint, KnownProvider, split_model
from llmbatch.providers.formats.row_kind import FORBIDDEN
from llmbatch.providers.urls import (
    BaseUrl,
    azure_url,
    check_proxy,
    endpoint_url,
    parse_base_url,
    proxy_secrets,
    raw_url,
)

__all__ = ["ProviderSettings", "Resolver", "Target"]

_ANTHROPIC_VERSION = "2023-06-01"

_MOST_TARGETS = 1024
"""Models whose targets are remembered, half a kilobyte each."""

_CUSTOM = KnownProvider("", "", "")
"""The server behind ``--base-url`` when no name says whose it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """What the user said about where to send; checked at birth, but for what needs a row.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value that cannot be meant.
    """

    model: str | None = None
    """``PROVIDER/MODEL`` or a bare name, for rows without a ``model``."""
    base_url: str | None = None
    """Replaces the base URL of whichever provider is chosen, except ``sim``."""
    proxy: str | None = field(default=None, repr=False)
    """The URL of an HTTP proxy for every request; it may hold a user and a password. None: no proxy."""
    api_key_env: str | None = None
    """The variable that holds the key; None: the provider's own."""
    endpoint: Endpoint | None = None
    """The wire format; None: as the row and the provider have it."""
    system: str | None = None
    """A system prompt for rows that have none; not for batch rows."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Request parameters as JSON text, for rows that do not set them; not for batch rows."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    """Where keys and base URLs are read from."""
    sim_url: Callable[[], str] | None = field(default=None, repr=False)
    """Gives the simulated provider's base URL, called once and only if a row needs it."""

    def __post_init__(self) -> None:
        if not _is_text(self.model or ""):
            raise UsageError(f"model is {self.model!a}, which is no text", hint="name one with -m PROVIDER/MODEL")
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise UsageError(f"endpoint is {self.endpoint!r}, must be one of {', '.join(ENDPOINTS)}")
        if self.base_url:
            parse_base_url(self.base_url, name="--base-url")
        if self.proxy is not None:
            check_proxy(self.proxy)
        for name, text in self.params.items():
            if name in FORBIDDEN:
                raise UsageError(f"parameter {name!r} cannot be sent", hint="see --base-url and --api-key-env")
            if name == "model":
                raise UsageError("the model is no parameter", hint="use -m PROVIDER/MODEL")
            try:
                value = parse(text)
            except RawJsonError as error:
                raise UsageError(f"parameter {name!r} is not JSON: {error}") from None
            if name == "stream" and value is True:
                raise UsageError("parameter 'stream' is true, but a result line cannot hold a stream")


@dataclass(slots=True)
class Target:
    """Where one model is reached over one endpoint. ``model`` is the name that is sent, as JSON text."""

    route: Route
    url: str
    headers: Mapping[str, str] = field(repr=False)
    endpoint: Endpoint
    model: str


class Resolver:
    """Finds the target of a model, once for each: later rows cost one dictionary look-up.

    Not for several threads at once.
    """

    def __init__(self, connection: ProviderSettings) -> None:
        self._connection = connection
        name = (connection.model or "").strip()
        self.run_provider, self.run_model = split_model(name)
        self._sim_base: str | None = None
        self._targets: dict[tuple[str | None, Endpoint | None, bool, str], Target] = {}
        self._headers: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        """The few sets of headers that a run sends: one object each, however many models there are."""
        keys = {name for provider in PROVIDERS.values() for name in (provider.key_env, provider.other_key_env)}
        keys.add(connection.api_key_env or "")
        secrets = [Secret(connection.environ[key]) for key in keys if connection.environ.get(key)]
        if connection.proxy is not None:
            secrets += map(Secret, proxy_secrets(connection.proxy))
        self.mask = Mask(secrets)

    def target(self, model: str | None, endpoint: Endpoint | None, *, anthropic: bool, path: str = "") -> Target:
        """The target for a row's own *model* (JSON text) or the run's.

        *endpoint* is what the row itself says, *anthropic* whether it is in Anthropic's format, *path* where ``raw``
        rows go below the base URL.

        Raises:
            UsageError: no model, no key, or a base URL that is none.
            MalformedRowError: a model's name that cannot be one.
        """
        asked = (model, endpoint, anthropic, path)
        found = self._targets.get(asked)
        if found is None:
            if len(self._targets) >= _MOST_TARGETS:
                # Rows may name any number of models; what is forgotten is only worked out again.
                self._targets.clear()
            found = self._targets[asked] = self._resolve(model, endpoint, anthropic, path)
        return found

    def _resolve(self, model: str | None, endpoint: Endpoint | None, anthropic: bool, path: str) -> Target:
        connection = self._connection
        named, name = split_model(str(parse(model))) if model is not None else (None, self.run_model)
        if model is not None and not (name.strip() and _is_text(name)):
            raise MalformedRowError("input_bad_model", f"model is {parse(model)!a}, which names none")
        if not name:
            raise UsageError(
                "no model", hint="name one with -m PROVIDER/MODEL, with LLMBATCH_MODEL, or as the row's `model`"
            )
        endpoint = endpoint if connection.endpoint == "raw" else connection.endpoint or endpoint
        provider = named or self.run_provider
        if provider is None:
            by_format = PROVIDERS["anthropic" if anthropic or endpoint == "messages" else "openai"]
            provider = _CUSTOM if connection.base_url else by_format
        endpoint = endpoint or provider.endpoint
        address, is_default = self._address(provider)
        key_env = self._key_env(provider)
        key = self._key(key_env, required=is_default or key_env == connection.api_key_env)
        return Target(
            route=Route(
                label=f"{provider.name}/{name}" if provider.name else name,
                account=f"{address.base} {key_env}".rstrip(),
                base_url=address.base,
            ),
            url=raw_url(address, path) if path else self._url(provider, address, endpoint, name),
            headers=self._shared(_headers(provider, endpoint, key)),
            endpoint=endpoint,
            model=dumps(name),
        )

    def _shared(self, headers: dict[str, str]) -> dict[str, str]:
        return self._headers.setdefault(tuple(headers.items()), headers)

    def _address(self, provider: KnownProvider) -> tuple[BaseUrl, bool]:
        """The provider's base URL, and whether it is the one of its own that certainly wants a key."""
        connection = self._connection
        if provider.name == "sim":
            if self._sim_base is None:
                if connection.sim_url is None:
                    raise UsageError("there is no simulated provider here", hint="choose another model than sim/…")
                self._sim_base = connection.sim_url()
            return parse_base_url(self._sim_base, name="the simulated provider's URL"), False
        if connection.base_url:
            return parse_base_url(connection.base_url, name="--base-url"), False
        configured = connection.environ.get(provider.base_env, "").strip() if provider.base_env else ""
        if configured:
            return parse_base_url(configured, name=provider.base_env), provider.name == "azure"
        if not provider.base_url:
            raise UsageError(
                f"no base URL: {provider.base_env} is not set",
                hint=f"export {provider.base_env}=https://NAME.openai.azure.com",
            )
        return parse_base_url(provider.base_url, name=provider.name), True

    def _key_env(self, provider: KnownProvider) -> str:
        """The variable of the key that pays, empty for none."""
        connection = self._connection
        if provider.auth == "none":
            return ""
        if connection.base_url:
            own = self.run_provider.key_variable(connection.environ) if self.run_provider else ""
            return connection.api_key_env or own
        if connection.api_key_env and self.run_provider in (None, provider):
            return connection.api_key_env
        return provider.key_variable(connection.environ)

    def _key(self, variable: str, *, required: bool) -> Secret | None:
        value = self._connection.environ.get(variable, "") if variable else ""
        if not value.strip():
            if required and variable:
                raise MissingKeyError(f"no API key: {variable} is not set", hint=f"export {variable}=… and run again")
            return None
        if not all(" " <= char <= "~" for char in value):
            raise UsageError(
                f"the key in {variable} has characters that no key has",
                hint=f"set {variable} again, without line breaks, quotes or dots that stand for hidden characters",
            )
        return Secret(value)

    def _url(self, provider: KnownProvider, address: BaseUrl, endpoint: Endpoint, model: str) -> str:
        if provider.name == "azure":
            if not model.strip("."):
                raise MalformedRowError("input_bad_model", f"model is {model!r}, which is no deployment's name")
            version = self._connection.environ.get("AZURE_OPENAI_API_VERSION", "").strip()
            return azure_url(address, endpoint, model=model, api_version=version)
        return endpoint_url(address, endpoint, anthropic=provider.name == "anthropic")


def _headers(provider: KnownProvider, endpoint: Endpoint, key: Secret | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "llmbatch",
    }
    if endpoint == "messages":
        headers["anthropic-version"] = _ANTHROPIC_VERSION
    if key is None:
        return headers
    # Anthropic's own key header goes with its own format; its OpenAI-compatible endpoints take a bearer. A server
    # without a name gets both for messages, as some compatible servers look at one and some at the other.
    custom = not provider.name
    if provider.auth == "api-key":
        headers["api-key"] = key.reveal()
    elif endpoint == "messages" and (provider.auth == "x-api-key" or custom):
        headers["x-api-key"] = key.reveal()
    if provider.auth == "bearer" or (provider.auth == "x-api-key" and endpoint != "messages"):
        headers["Authorization"] = f"Bearer {key.reveal()}"
    return headers


def _is_text(name: str) -> bool:
    """Whether *name* can be written out: JSON and command lines can hold halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in name)
