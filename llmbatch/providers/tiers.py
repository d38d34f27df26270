"""Table of the providers that have a cheaper tier for live requests, ``flex``, and on which endpoints.

All of them take ``"service_tier": "flex"`` in the body. What they answer without capacity is in
:mod:`llmbatch.classify.body_rules`, and where they say what they billed in :mod:`llmbatch.classify.tiers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import UsageError
from llmbatch.providers.catalog import KnownProvider, split_model

__all__ = ["FLEX", "FlexTier", "check_has_flex", "has_flex", "who_has_flex"]


@dataclass(frozen=True, slots=True)
class FlexTier:
    """The flex tier of one provider. ``lack``: what it answers while that has no capacity."""

    provider: str
    endpoints: frozenset[Endpoint]
    price: str
    lack: str
    note: str
    source: str
    checked: str
    """When this was looked up."""


_GENERATING: frozenset[Endpoint] = frozenset({"chat", "responses"})
_CHAT: frozenset[Endpoint] = frozenset({"chat"})

_TABLE = (
    FlexTier(
        "openai",
        _GENERATING,
        price="half",
        lack="429 `resource_unavailable`, not billed",
        note="Some models only; the others refuse it with 400.",
        source="https://developers.openai.com/api/docs/guides/flex-processing",
        checked="2026-11",
    ),
    FlexTier(
        "azure",
        _GENERATING,
        price="half",
        lack="429 `resource_unavailable`",
        note="Preview, for Global Standard deployments; other models refuse it with 400.",
        source="https://learn.microsoft.com/azure/foundry/openai/how-to/flex-processing",
        checked="2026-11",
    ),
    FlexTier(
        "gemini",
        _CHAT,
        price="half",
        lack="503 `UNAVAILABLE`, or 429 that names no quota",
        note="Preview. Documented for the native API; on the OpenAI-compatible endpoint see each line's `tier`, which "
        "is what the header `x-gemini-service-tier` says was billed.",
        source="https://ai.google.dev/gemini-api/docs/flex-inference",
        checked="2026-11",
    ),
    FlexTier(
        "openrouter",
        _GENERATING,
        price="half",
        lack="what the model's own provider answers",
        note="For models of providers that have it; the answer names the tier that is billed.",
        source="https://openrouter.ai/docs/guides/features/service-tiers",
        checked="2026-11",
    ),
    FlexTier(
        "groq",
        _CHAT,
        price="the same",
        lack="498 `capacity_exceeded`",
        note="Ten times the rate limits instead of a lower price; paid accounts.",
        source="https://console.groq.com/docs/flex-processing",
        checked="2026-11",
    ),
    FlexTier(
        "cerebras",
        _CHAT,
        price="the same",
        lack="429",
        note="Private preview: lowest priority, for what does not fit into the limits of other tiers.",
        source="https://inference-docs.cerebras.ai/capabilities/service-tiers",
        checked="2026-11",
    ),
    FlexTier(
        "sim",
        _GENERATING,
        price="none",
        lack="never lacks any",
        note="Part of llmbatch.",
        source="docs/tiers.md",
        checked="2026-11",
    ),
)

FLEX: Mapping[str, FlexTier] = MappingProxyType({row.provider: row for row in _TABLE})


def has_flex(provider: KnownProvider, endpoint: Endpoint) -> bool:
    """Whether *provider* takes requests of *endpoint* in a flex tier; of a server without a name that is not known."""
    if not provider.name:
        return endpoint in _GENERATING
    return provider.name in FLEX and endpoint in FLEX[provider.name].endpoints


def who_has_flex() -> str:
    """The providers that have a flex tier, in words."""
    *names, last = [name for name in FLEX if name != "sim"]
    return f"{', '.join(names)} and {last}"


def check_has_flex(models: list[str], *, all_of_them: bool) -> None:
    """Check that the providers of *models* have a flex tier: all of those that are named, or at least one.

    A model without a provider is judged row by row, as its rows choose the provider.

    Raises:
        UsageError: it is missing.
    """
    named = [(model, split_model(model)[0]) for model in models]
    lacking = [(model, provider) for model, provider in named if provider is not None and provider.name not in FLEX]
    if not lacking or (not all_of_them and len(lacking) < len(named)):
        return
    model, provider = lacking[0]
    is_first = model == models[0]
    what = "--tier" if is_first else f"--tier, of the route {model}"
    other = "leave it out" if is_first or not all_of_them else "use --tier flex,standard"
    raise UsageError(
        f"{what}: {provider.title} has no flex tier", hint=f"{who_has_flex()} have one; for other providers {other}"
    )
