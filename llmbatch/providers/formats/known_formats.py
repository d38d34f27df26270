"""Which wire formats a provider knows, so that a row written in one of them can go to it instead of another."""

from __future__ import annotations

from llmbatch.core.calls import Endpoint
from llmbatch.providers.catalog import KnownProvider

__all__ = ["knows_endpoint"]

_KNOWN: dict[Endpoint, frozenset[str]] = {
    "messages": frozenset({"anthropic", "sim"}),
    "responses": frozenset(
        {
            *("azure", "databricks", "fireworks", "groq", "huggingface", "lmstudio", "ollama", "openai"),
            *("openrouter", "perplexity", "sim", "vllm", "xai"),
        }
    ),
}
"""Providers that know a format which most do not, as their documentation said on the date of ``CHECKED``."""

_UNKNOWN: dict[Endpoint, frozenset[str]] = {
    "completions": frozenset({"anthropic", "gemini", "groq", "perplexity", "xai"}),
    "embeddings": frozenset({"anthropic", "cerebras", "groq", "perplexity", "xai"}),
}
"""Providers that do not know a format which most do."""


def knows_endpoint(provider: KnownProvider, endpoint: Endpoint) -> bool:
    """Whether *provider* takes rows in the format of *endpoint*; a server without a name is trusted to.

    Rows of ``raw`` name a path of their own, which means nothing elsewhere.
    """
    if endpoint == "raw":
        return False
    if not provider.name:
        return True
    known = _KNOWN.get(endpoint)
    return provider.name in known if known is not None else provider.name not in _UNKNOWN.get(endpoint, ())
