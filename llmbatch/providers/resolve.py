"""Resolves settings and environment to targets: URL, headers and key of a model's requests.

The provider is chosen in this order: the row's own ``PROVIDER/``, the run's (``-m``), ``--base-url`` (a server without
a name), the format of the row. A row never decides which key is sent to ``--base-url``: it is that of
``--api-key-env``, or of the provider that ``-m`` names.

No message shows a key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from llmbatch.core.calls import Endpoint, Route
from llmbatch.core.errors import MalformedRowError, MissingKeyError, UsageError
from llmbatch.core.headers import Headers, check_headers, expand_headers
from llmbatch.core.raw_json import RawJsonError, dumps, parse
from llmbatch.core.secrets import Mask, Secret
from llmbatch.providers.catalog import ENDPOINTS, KEY_VARIABLES, PROVIDERS, KnownProvider, split_model
from llmbatch.providers.formats.row_kind import FORBIDDEN
from llmbatch.providers.misnamed import Misnamed, find_misnamed, provider_alone, unknown_scenario
from llmbatch.providers.urls import (
    BaseUrl,
    azure_url,
    check_proxy,
    endpoint_url,
    parse_base_url,
    proxy_secrets,
    raw_url,
)

if TYPE_CHECKING:
    from llmbatch.providers.structured.schema import AnswerSchema

__all__ = ["ProviderSettings", "Resolver", "Target", "tiers_of"]

_ANTHROPIC_VERSION = "2023-06-01"

_MOST_TARGETS = 1024
"""Models whose targets are cached, half a kilobyte each."""

_EXAMPLES = {
    "azure": "export AZURE_OPENAI_ENDPOINT=https://NAME.openai.azure.com",
    "databricks": "export DATABRICKS_HOST=https://NAME.cloud.databricks.com",
}

_CUSTOM = KnownProvider("", "", "")
"""Name of the server behind ``--base-url`` if no provider is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """Base URL, key, model and format settings; validated when created, except what depends on a row.

    Raises :class:`~llmbatch.core.errors.UsageError` for an invalid value.
    """

    model: str | None = None
    """``PROVIDER/MODEL`` or a bare name, for rows without a ``model``."""
    base_url: str | None = None
    """Replaces the base URL of the provider that is chosen, except ``sim``."""
    proxy: str | None = field(default=None, repr=False)
    """The URL of an HTTP proxy for every request; it may contain a user and a password. None: no proxy."""
    api_key_env: str | None = None
    """The variable that holds the key; None: the provider's own."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """HTTP headers to send too, where ``api_key_env`` counts; ``$NAME`` stands for the value of a variable."""
    endpoint: Endpoint | None = None
    """The wire format; None: that of the row and the provider."""
    system: str | None = None
    """A system prompt for rows that have none; not for batch rows."""
    shape: str = ""
    """What makes requests of records (template, columns), as text; only told from others."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Request parameters as JSON text, for rows that do not set them; not for batch rows."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    """The environment that keys and base URLs are read from."""
    replaces_model: bool = False
    """Whether ``model`` counts for rows that name their own too, as that of a fallback or of a pool does."""
    allow_files: str | None = None
    """The folder below which local files that rows name are read; None: such rows are refused."""
    server_files: bool = False
    """Whether the server reads such files, so that their URLs are sent as they are."""
    tiers: tuple[str, ...] = ()
    """The service tiers to ask for, preferred first: ``flex``, and maybe ``standard``; empty: the standard one."""
    schema: AnswerSchema | None = None
    """What answers must be: rows that are not sent as they are ask for it."""
    sim_url: Callable[[], str] | None = field(default=None, repr=False)
    """Gives the simulated provider's base URL, called once and only if a row needs it."""
    sim_scenarios: Callable[[], tuple[str, ...]] | None = field(default=None, repr=False)
    """Gives the names that the simulated provider has answers for; every other one is refused. None: all are taken."""

    def __post_init__(self) -> None:
        if not _is_text(self.model or ""):
            raise UsageError(f"model is {self.model!a}, which is not text", hint="name one with -m PROVIDER/MODEL")
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise UsageError(f"endpoint is {self.endpoint!r}, must be one of {', '.join(ENDPOINTS)}")
        if self.schema is not None and self.endpoint in ("embeddings", "raw"):
            raise UsageError(
                f"--schema checks texts, and answers of --endpoint {self.endpoint} have none", hint="leave out --schema"
            )
        if self.base_url:
            parse_base_url(self.base_url, name="--base-url")
        if self.proxy is not None:
            check_proxy(self.proxy)
        for name, text in self.params.items():
            if name in FORBIDDEN:
                raise UsageError(f"parameter {name!r} cannot be sent", hint="see --base-url and --api-key-env")
            if name == "model":
                raise UsageError("the model is not a parameter", hint="use -m PROVIDER/MODEL")
            if name in ("prompt", "messages"):
                raise UsageError(
                    f"{name} is not a parameter, but what each row sends",
                    hint="-t TEXT (--template) makes the prompt from a row's fields, -s TEXT is the system prompt",
                )
            try:
                value = parse(text)
            except RawJsonError as error:
                raise UsageError(f"parameter {name!r} is not JSON: {error}") from None
            if name == "service_tier" and self.tiers:
                raise UsageError(
                    f"--tier {','.join(self.tiers)} and -P service_tier contradict each other",
                    hint="leave one of them out",
                )
            if name == "stream" and value is True:
                raise UsageError(
                    "parameter 'stream' is true, but a result line cannot hold a stream",
                    hint="leave it out: answers are read whole",
                )


@dataclass(slots=True)
class Target:
    """Target of requests for one model and endpoint. ``model`` is the name that is sent, as JSON text.

    ``is_endpoint_forced``: without ``--endpoint``, they would go to another endpoint.
    """

    route: Route
    url: str
    headers: Mapping[str, str] = field(repr=False)
    endpoint: Endpoint
    model: str
    is_endpoint_forced: bool
    provider: KnownProvider


def tiers_of(option: str) -> tuple[str, ...]:
    """The tiers of the option ``--tier``, preferred first; empty for the standard one alone."""
    return () if option == "standard" else tuple(option.split(","))


class Resolver:
    """Finds the target of a model, once for each: later rows cost one dictionary lookup.

    Not thread-safe.
    """

    def __init__(self, connection: ProviderSettings) -> None:
        self._connection = connection
        name = (connection.model or "").strip()
        self.run_provider, self.run_model = split_model(name)
        self._run_fault = self._fault_of_run_model(name)
        self._sim_base: str | None = None
        self._targets: dict[tuple[str | None, Endpoint | None, bool, str], Target] = {}
        self._headers: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        """The few sets of headers of a run: one object each, however many models there are."""
        keys = {*KEY_VARIABLES, connection.api_key_env or ""}
        secrets = [Secret(connection.environ[key]) for key in keys if connection.environ.get(key)]
        self._added, of_headers = expand_headers(_checked(connection.headers), connection.environ)
        secrets += of_headers
        if connection.proxy is not None:
            secrets += map(Secret, proxy_secrets(connection.proxy))
        self.mask = Mask(secrets)

    def check_run_model(self) -> None:
        """Refuse the run's model if no row could be sent to it, whatever the row.

        Raises:
            UsageError: it names a provider alone, another company's, or a scenario that there is not.
        """
        if self._run_fault is not None:
            raise UsageError(self._run_fault.message, hint=self._run_fault.hint)

    def target(self, model: str | None, endpoint: Endpoint | None, *, anthropic: bool, path: str = "") -> Target:
        """The target for a row's own *model* (JSON text) or the run's.

        *endpoint* is what the row itself says, *anthropic* whether it is in Anthropic's format, *path* where ``raw``
        rows go below the base URL.

        Raises:
            UsageError: no model, or the run's is another company's; no key; a base URL that is none.
            MalformedRowError: a row's model that cannot be one, or is another company's.
        """
        asked = (model, endpoint, anthropic, path)
        found = self._targets.get(asked)
        if found is None:
            if len(self._targets) >= _MOST_TARGETS:
                # Rows may name any number of models; evicted targets are computed again.
                self._targets.clear()
            found = self._targets[asked] = self._resolve(model, endpoint, anthropic, path)
        return found

    def _fault_of_run_model(self, name: str) -> Misnamed | None:
        """The error for a run's model that suits no row: a provider alone, another company's, no scenario."""
        has_model = self.run_provider is not None and self.run_model.strip("/ ")
        found = None if self._connection.base_url or has_model else provider_alone(name)
        if found is None and self.run_provider is None and self._is_own_address(PROVIDERS["openai"]):
            by_format = [find_misnamed(name, PROVIDERS[other], is_rows=False) for other in ("openai", "anthropic")]
            found = by_format[0] if all(by_format) else None
        scenarios = self._connection.sim_scenarios
        if found is None and self.run_provider is PROVIDERS["sim"] and scenarios is not None:
            found = unknown_scenario(self.run_model, scenarios())
        return found

    def _is_own_address(self, provider: KnownProvider) -> bool:
        """Whether requests go to *provider* itself, and not to a gateway that may serve anybody's models."""
        connection = self._connection
        return not (
            connection.base_url or (provider.base_env and connection.environ.get(provider.base_env, "").strip())
        )

    def _check_name(self, name: str, provider: KnownProvider, *, is_named: bool, is_rows: bool) -> None:
        """Refuse a model that was meant for another company than *provider*, or a scenario that there is not.

        Raises:
            MalformedRowError: the row says so.
            UsageError: the run's model says so.
        """
        found: Misnamed | None = None
        if provider.name == "sim":
            scenarios = self._connection.sim_scenarios
            found = unknown_scenario(name, scenarios()) if scenarios is not None else None
        elif not is_named and provider.own_models_only and self._is_own_address(provider):
            found = (provider_alone(name) if "/" not in name else None) or find_misnamed(
                name, provider, is_rows=is_rows
            )
        if found is None:
            return
        if is_rows:
            raise MalformedRowError("input_unknown_provider", f"{found.message}; {found.hint}")
        raise UsageError(found.message, hint=found.hint)

    def _resolve(self, model: str | None, endpoint: Endpoint | None, anthropic: bool, path: str) -> Target:
        connection = self._connection
        self.check_run_model()
        named, name = split_model(str(parse(model))) if model is not None else (None, self.run_model)
        if model is not None and not (name.strip() and _is_text(name)):
            raise MalformedRowError("input_bad_model", f"model is {parse(model)!a}, which is not a name")
        if not name:
            raise UsageError(
                "no model", hint="name one with -m PROVIDER/MODEL, with LLMBATCH_MODEL, or as the row's `model`"
            )
        own = endpoint
        endpoint = own if connection.endpoint == "raw" else connection.endpoint or own
        provider = named or self.run_provider
        if provider is None:
            by_format = PROVIDERS["anthropic" if anthropic or endpoint == "messages" else "openai"]
            provider = _CUSTOM if connection.base_url else by_format
        is_named = named is not None if model is not None else self.run_provider is not None
        self._check_name(name, provider, is_named=is_named, is_rows=model is not None)
        address, is_default = self._address(provider)
        endpoint = endpoint or address.endpoint or provider.endpoint
        key_env = self._key_env(provider)
        key = self._key(key_env, required=is_default or key_env == connection.api_key_env)
        # Scenarios of the simulated provider share nothing, not even an account.
        account = f"{address.base} {name if provider.name == 'sim' else key_env}".rstrip()
        return Target(
            route=Route(
                label=f"{provider.name}/{name}" if provider.name else name,
                account=account,
                base_url=address.base,
            ),
            url=raw_url(address, path) if path else self._url(provider, address, endpoint, name),
            headers=self._shared(self._with_added(_headers(provider, endpoint, key), provider)),
            endpoint=endpoint,
            model=dumps(name),
            is_endpoint_forced=endpoint != (own or address.endpoint or provider.endpoint),
            provider=provider,
        )

    def _with_added(self, headers: dict[str, str], provider: KnownProvider) -> dict[str, str]:
        """*headers* plus the user's, which apply to the server or provider that the run names."""
        if not self._added or not (self._connection.base_url or self.run_provider in (None, provider)):
            return headers
        replaced = {name.lower() for name in self._added}
        return {name: text for name, text in headers.items() if name.lower() not in replaced} | self._added

    def _shared(self, headers: dict[str, str]) -> dict[str, str]:
        return self._headers.setdefault(tuple(headers.items()), headers)

    def _address(self, provider: KnownProvider) -> tuple[BaseUrl, bool]:
        """The provider's base URL, and whether it is the provider's own, which certainly needs a key."""
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
            return self._configured(provider, configured), not provider.base_url
        if not provider.base_url:
            raise UsageError(f"no base URL: {provider.base_env} is not set", hint=_EXAMPLES[provider.name])
        if provider.account_env:
            return parse_base_url(self._with_account(provider), name=provider.name), True
        return parse_base_url(provider.base_url, name=provider.name), provider.needs_key

    def _configured(self, provider: KnownProvider, url: str) -> BaseUrl:
        """The URL that the provider's own variable holds; it may be a host alone where the path is always the same."""
        if provider.host_path and "://" not in url:
            url = f"https://{url}"
        address = parse_base_url(url, name=provider.base_env)
        return address if address.path else replace(address, path=provider.host_path)

    def _with_account(self, provider: KnownProvider) -> str:
        account = self._connection.environ.get(provider.account_env, "").strip()
        if not account:
            raise UsageError(
                f"{provider.account_env} is not set",
                hint=f"export {provider.account_env}=…, as {provider.title} shows it",
            )
        return provider.base_url.replace("{account}", quote(account, safe=""))

    def _key_env(self, provider: KnownProvider) -> str:
        """The environment variable of the key, empty for none."""
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
        value = value.strip(" ")
        if not all("!" <= char <= "~" for char in value):
            raise UsageError(
                f"the key in {variable} contains whitespace or invalid characters",
                hint=f"set {variable} again: the key alone, without spaces, line breaks, or dots of a masked key",
            )
        return Secret(value)

    def _url(self, provider: KnownProvider, address: BaseUrl, endpoint: Endpoint, model: str) -> str:
        if provider.name == "azure":
            if not model.strip("."):
                raise MalformedRowError("input_bad_model", f"model is {model!r}, which is not the name of a deployment")
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


def _checked(headers: Mapping[str, str]) -> Headers:
    try:
        return check_headers(headers)
    except (TypeError, ValueError):
        raise UsageError("headers hold a name or a value that cannot be sent", hint="see --header") from None


def _is_text(name: str) -> bool:
    """Whether *name* can be encoded: JSON and command lines may contain lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in name)
