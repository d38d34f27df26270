"""Names: what is a provider and what is part of a model's name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmbatch.providers.catalog import ENDPOINTS, PROVIDERS, split_model


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("openai/gpt-5-mini", "openai", "gpt-5-mini"),
        ("anthropic/claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("openrouter/openai/gpt-5-mini", "openrouter", "openai/gpt-5-mini"),
        ("together/meta-llama/Llama-4", "together", "meta-llama/Llama-4"),
        ("sim/fast", "sim", "fast"),
        ("gpt-5-mini", None, "gpt-5-mini"),
        ("meta-llama/Llama-4", None, "meta-llama/Llama-4"),
        ("mistralai/Mixtral-8x7B", None, "mistralai/Mixtral-8x7B"),
        ("openai", None, "openai"),
        ("OpenAI/gpt", None, "OpenAI/gpt"),
        ("/openai/gpt", None, "/openai/gpt"),
        ("", None, ""),
    ],
)
def test_only_a_known_provider_is_split_off(name: str, provider: str | None, model: str) -> None:
    """The prefix goes where it names a known provider; every other name is whole."""
    found, rest = split_model(name)

    assert (found.name if found else None, rest) == (provider, model)


def test_table_is_consistent() -> None:
    """Each provider is listed under its name, has a key variable of its own unless it wants no key, and https."""
    variables = [
        name
        for provider in PROVIDERS.values()
        for name in (provider.key_env, provider.other_key_env)
        if name or (provider.needs_key and name is provider.key_env)
    ]

    assert all(name == provider.name for name, provider in PROVIDERS.items())
    assert all(variables)
    assert len(set(variables)) == len(variables)
    assert all(
        provider.base_url.startswith("https://" if provider.needs_key else "http://localhost:")
        for provider in PROVIDERS.values()
        if provider.base_url
    )
    assert all(provider.base_url or provider.base_env or provider.name == "sim" for provider in PROVIDERS.values())
    assert all(provider.endpoint in ENDPOINTS for provider in PROVIDERS.values())
    assert all(provider.title and provider.example and provider.source for provider in PROVIDERS.values())


def test_no_alias_is_a_provider_or_means_two() -> None:
    """What other tools call a provider leads to one suggestion."""
    aliases = [alias for provider in PROVIDERS.values() for alias in provider.aliases]

    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & PROVIDERS.keys()


def test_importing_providers_loads_no_http_client() -> None:
    """The client is loaded by those who send, not by those who look names up."""
    code = (
        "import sys, llmbatch.providers, llmbatch.providers.catalog, llmbatch.providers.http_provider;"
        "print([name for name in ('aiohttp', 'httptools', 'typer', 'rich') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
