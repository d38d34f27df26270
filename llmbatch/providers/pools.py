"""Pools and fallbacks: what a configuration says about them, checked, and the providers that it makes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmbatch.core.errors import UsageError
from llmbatch.providers.catalog import POOL_PREFIX, PROVIDERS, split_model
from llmbatch.providers.formats.known_formats import knows_endpoint
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.providers.urls import parse_base_url

if TYPE_CHECKING:
    from llmbatch.providers.several import Member, SeveralProviders

__all__ = ["PoolRoute", "Pools", "make_providers", "read_pools"]

_MEMBERS = ("model", "base_url", "api_key_env", "weight", "rpm", "tpm", "rpd")
_EXAMPLE = 'write [pools.cheap], and below it routes = [{model = "openai/gpt-5-mini", api_key_env = "OPENAI_KEY_A"}, …]'


_match_count = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmg]?)", re.ASCII | re.IGNORECASE).fullmatch
_is_variable = re.compile(r"[A-Z][A-Z0-9]{0,15}(?:_[A-Z0-9]{1,15}){0,6}", re.ASCII).fullmatch
"""Whether a text can only be the name of a variable, as those of keys are written."""
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRoute:
    """One route of a pool. ``weight``: its share of the rows, relative to the other routes; above 0.

    ``rpm``, ``tpm``, ``rpd``: requests and tokens per minute and requests per day at most; None: no limit of its own.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    weight: float = 1.0
    rpm: float | None = None
    tpm: float | None = None
    rpd: float | None = None


Pools = Mapping[str, tuple[PoolRoute, ...]]
"""The routes of each pool, by the name that follows ``pool/``."""


def read_pools(value: object, where: str) -> dict[str, tuple[PoolRoute, ...]]:
    """Read a table of pools, each with a list ``routes``; *where* names its source.

    Raises:
        UsageError: it is not one, or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is not a table of pools", hint=_EXAMPLE)
    return {str(name): _read_pool(pool, f"{where}.{name}") for name, pool in value.items()}


def _read_pool(pool: object, where: str) -> tuple[PoolRoute, ...]:
    if isinstance(pool, tuple):
        return pool  # read already
    if not isinstance(pool, Mapping):
        raise UsageError(f"{where} is not a table", hint=_EXAMPLE)
    unknown = next((str(key) for key in pool if key != "routes"), None)
    if unknown is not None:
        raise UsageError(f"{where}.{unknown:.40} is not a setting: a pool has routes alone", hint=_EXAMPLE)
    routes = pool.get("routes", [])
    if not isinstance(routes, list | tuple):
        raise UsageError(f"{where}.routes is not a list", hint=_EXAMPLE)
    if not routes:
        raise UsageError(f"{where} has no routes", hint=_EXAMPLE)
    return tuple(_read_route(route, f"{where}.routes[{at}]") for at, route in enumerate(routes))


def _read_route(route: object, where: str) -> PoolRoute:
    if not isinstance(route, Mapping):
        raise UsageError(f"{where} is not a table", hint=_EXAMPLE)
    for key in route:
        if key not in _MEMBERS:
            close = difflib.get_close_matches(str(key), _MEMBERS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(_MEMBERS)}"
            raise UsageError(f"{where}.{key!s:.40} is not a setting of a route", hint=hint)
    texts: dict[str, str | None] = {}
    for key in ("model", "base_url", "api_key_env"):
        text = route.get(key)
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise UsageError(f"{where}.{key} is not text", hint=_EXAMPLE)
        texts[key] = text
    model = texts["model"]
    if model is None:
        raise UsageError(f"{where} names no model", hint=_EXAMPLE)
    if texts["base_url"] is not None:
        parse_base_url(texts["base_url"], name=f"{where}.base_url")
    elif model.startswith(POOL_PREFIX):
        raise UsageError(f"{where}.model is {model:.80}: a pool has no pools in it", hint=_EXAMPLE)
    elif "/" in model and split_model(model)[0] is None:
        raise UsageError(
            f"{where}.model is {model:.80}, which names no known provider",
            hint="write PROVIDER/MODEL, such as openai/gpt-5-mini; for another server add base_url",
        )
    numbers = {key: _number(route[key], f"{where}.{key}") for key in ("weight", "rpm", "tpm", "rpd") if key in route}
    return PoolRoute(model=model, base_url=texts["base_url"], api_key_env=texts["api_key_env"], **numbers)


def _number(value: object, what: str) -> float:
    if isinstance(value, str) and (found := _match_count(value.strip())):
        value = float(found[1]) * _SCALES[found[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{what} is {value!r:.40}, must be a number above 0", hint='such as 5000, or "5k"')
    return float(value)


def make_providers(
    settings: ProviderSettings,
    make: Callable[[ProviderSettings], HttpProvider],
    *,
    fallback: Sequence[str] = (),
    pools: Pools,
) -> HttpProvider | SeveralProviders:
    """The provider of a run; *make* creates that of one address.

    Raises:
        UsageError: an unknown pool, a fallback without a provider, or one that is the model itself.
    """
    model = (settings.model or "").strip()
    if settings.tiers:
        _check_tiers(settings.tiers, [model], fallback, pools)
    if not fallback and not pools and not model.startswith(POOL_PREFIX):
        return make(settings)
    from llmbatch.providers.several import Member, SeveralProviders

    run_pool: tuple[PoolRoute, ...] = ()
    base = settings
    if model.startswith(POOL_PREFIX):
        run_pool = _pool(model, pools, "the model")
        if settings.base_url or settings.api_key_env:
            flag = "--base-url" if settings.base_url else "--api-key-env"
            raise UsageError(
                f"{flag} and the model {model} contradict each other",
                hint="each route of a pool has its own base_url and api_key_env",
            )
        base = replace(settings, model=None)
    _check_key_names(pools, settings.environ)
    first = make(base)
    taken: dict[str, tuple[str | None, str | None]] = {}

    def members(routes: Sequence[PoolRoute]) -> list[Member]:
        suffixes = _suffixes(routes, taken)
        return [
            Member(first.alongside(_settings(settings, route)), suffix, route.weight, (route.rpm, route.tpm, route.rpd))
            for route, suffix in zip(routes, suffixes, strict=True)
        ]

    own_place = _own_place(settings)
    made = {name: members(routes) for name, routes in pools.items()}
    named = [(name, _fallback(name, "" if own_place else model, pools)) for name in fallback]
    for at, name in enumerate(fallback):
        if name in fallback[:at]:
            raise UsageError(f"--fallback {name} is given twice", hint="name each route once")
    return SeveralProviders(
        first,
        run_pool=made[model.removeprefix(POOL_PREFIX)] if run_pool else (),
        pools=made,
        fallbacks=[made.get(name.removeprefix(POOL_PREFIX)) or members(routes) for name, routes in named],
        own_place=own_place,
    )


def _check_tiers(tiers: Sequence[str], models: Sequence[str], fallback: Sequence[str], pools: Pools) -> None:
    """Check that what the run names has a flex tier: each of its routes, unless there is a standard one to go to.

    Raises:
        UsageError: it has none.
    """
    from llmbatch.providers.tiers import check_has_flex

    named: list[str] = []
    for name in (*models, *fallback):
        routes = pools.get(name.removeprefix(POOL_PREFIX), ()) if name.startswith(POOL_PREFIX) else ()
        named += [route.model for route in routes] if name.startswith(POOL_PREFIX) else [name] * bool(name)
    if named:
        check_has_flex(named, all_of_them=len(tiers) == 1)


def _check_key_names(pools: Pools, environ: Mapping[str, str]) -> None:
    """Check that no key stands where the name of its variable should, as names are shown.

    Raises:
        UsageError: one may be a key; it is not shown.
    """
    for name, routes in pools.items():
        for at, route in enumerate(routes):
            variable = route.api_key_env
            if variable is not None and variable not in environ and not _is_variable(variable):
                raise UsageError(
                    f"pools.{name}.routes[{at}].api_key_env is not the name of an environment variable that is set",
                    hint="give the name of a variable, such as OPENAI_KEY_A, never the key itself",
                )


def _pool(name: str, pools: Pools, what: str) -> tuple[PoolRoute, ...]:
    found = pools.get(name.removeprefix(POOL_PREFIX))
    if found is None:
        known = ", ".join(f"{POOL_PREFIX}{other}" for other in pools)
        hint = f"known: {known}" if known else f"{_EXAMPLE} in a configuration file"
        raise UsageError(f"{what} is {name}, and there is no such pool", hint=hint)
    return found


def _fallback(name: str, model: str, pools: Pools) -> tuple[PoolRoute, ...]:
    if name == model:
        raise UsageError(f"--fallback {name} is the model itself", hint="name another one, or leave it out")
    if name.startswith(POOL_PREFIX):
        return _pool(name, pools, "--fallback")
    provider, rest = split_model(name)
    if provider is None or not rest.strip():
        raise UsageError(
            f"--fallback {name:.80} names no known provider",
            hint="write PROVIDER/MODEL, such as openrouter/openai/gpt-5-mini; for another server, a pool with base_url",
        )
    return (PoolRoute(model=name),)


def _settings(settings: ProviderSettings, route: PoolRoute) -> ProviderSettings:
    """The settings of one route: those of the run, but for what leads somewhere."""
    provider = split_model(route.model)[0] or PROVIDERS["openai"]
    endpoint = settings.endpoint
    knows = endpoint is None or route.base_url is not None or knows_endpoint(provider, endpoint)
    return replace(
        settings,
        model=route.model,
        base_url=route.base_url,
        api_key_env=route.api_key_env,
        headers={},
        endpoint=endpoint if knows else None,
        replaces_model=True,
    )


def _own_place(settings: ProviderSettings) -> str:
    """What sets the model of ``-m`` apart from a fallback of the same name: its host, its key, or its headers."""
    if settings.base_url:
        return f" ({_host(settings.base_url)})"
    if settings.api_key_env:
        return f" ({settings.api_key_env})"
    return " (--header)" if settings.headers else ""


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _suffixes(routes: Sequence[PoolRoute], taken: dict[str, tuple[str | None, str | None]]) -> list[str]:
    """What follows the model in the label of each route of a pool: its key, or its host, and a number if need be.

    No two routes of a pool have the same label, nor have routes of other pools that lead elsewhere; *taken* has the
    base URL and the key of each label.
    """
    suffixes: list[str] = []
    labels: set[str] = set()
    for route in routes:
        host = _host(route.base_url) if route.base_url else ""
        base = suffix = f" ({route.api_key_env or host})" if route.api_key_env or host else ""
        place = (route.base_url, route.api_key_env)
        number = 1
        while (label := f"{route.model}{suffix}") in labels or taken.setdefault(label, place) != place:
            number += 1
            suffix = f"{base} #{number}"
        labels.add(label)
        suffixes.append(suffix)
    return suffixes
