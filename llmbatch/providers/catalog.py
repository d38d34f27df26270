"""The well-known providers, as data: where they live, which variable holds their key, how they want to be asked.

It does not read the environment and builds no requests; :mod:`llmbatch.providers.resolve` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

__all__ = ["ENDPOINTS", "PROVIDERS", "Auth", "Endpoint", "KnownProvider", "split_model"]

Endpoint = Literal["chat", "responses", "embeddings", "completions", "messages", "raw"]
"""A wire format: four of OpenAI's, Anthropic's messages, and batch rows to other paths, which are only passed on."""

ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

Auth = Literal["bearer", "x-api-key", "api-key", "none"]
"""How the key travels: ``Authorization: Bearer``, Anthropic's header, Azure's header, or no key at all."""


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """One provider. ``base_url`` is empty where only a variable or a running server can tell it."""

    name: str
    base_url: str
    key_env: str
    base_env: str = ""
    auth: Auth = "bearer"
    endpoint: Endpoint = "chat"
    other_key_env: str = ""
    """Another usual name of the key's variable, looked at where ``key_env`` is not set."""

    def key_variable(self, environ: Mapping[str, str]) -> str:
        """The variable that holds the key in *environ*; ``key_env`` where none does."""
        if self.other_key_env and not environ.get(self.key_env, "").strip():
            return self.other_key_env if environ.get(self.other_key_env, "").strip() else self.key_env
        return self.key_env


PROVIDERS: Mapping[str, KnownProvider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            KnownProvider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", base_env="OPENAI_BASE_URL"),
            KnownProvider(
                "anthropic",
                "https://api.anthropic.com",
                "ANTHROPIC_API_KEY",
                base_env="ANTHROPIC_BASE_URL",
                auth="x-api-key",
                endpoint="messages",
            ),
            KnownProvider(
                "gemini",
                "https://generativelanguage.googleapis.com/v1beta/openai",
                "GEMINI_API_KEY",
                other_key_env="GOOGLE_API_KEY",
            ),
            KnownProvider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
            KnownProvider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
            KnownProvider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
            KnownProvider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
            KnownProvider("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
            KnownProvider("azure", "", "AZURE_OPENAI_API_KEY", base_env="AZURE_OPENAI_ENDPOINT", auth="api-key"),
            KnownProvider("sim", "", "", auth="none"),
        )
    }
)


def split_model(name: str) -> tuple[KnownProvider | None, str]:
    """Part ``PROVIDER/MODEL`` where PROVIDER is known; any other name (``meta-llama/…``, ``gpt-5-mini``) is whole."""
    prefix, slash, rest = name.partition("/")
    provider = PROVIDERS.get(prefix)
    if not slash or provider is None:
        return None, name
    return provider, rest
