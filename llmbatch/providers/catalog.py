"""Table of known providers: base URL, environment variables of key and URL, authentication, wire format.

:mod:`llmbatch.providers.resolve` reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from llmbatch.core.calls import Endpoint

__all__ = [
    "CHECKED",
    "ENDPOINTS",
    "KEY_VARIABLES",
    "POOL_PREFIX",
    "PROVIDERS",
    "Auth",
    "KnownProvider",
    "Structured",
    "split_model",
]

POOL_PREFIX = "pool/"
"""What the name of a model begins with that is a pool of the configuration."""

ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

Auth = Literal["bearer", "x-api-key", "api-key", "none"]
"""How the key is sent: ``Authorization: Bearer``, Anthropic's header, Azure's header, or no key at all."""

Structured = Literal["schema", "object", "response_format"]
"""How it is asked for an answer that fits a schema.

``schema``: as the wire format has it. ``object``: it knows ``{"type": "json_object"}`` alone, so that the schema goes
into the system prompt. ``response_format``: it has chat's parameter on the responses endpoint too.
"""


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """One provider. ``base_url`` is empty if only a variable or a running server provides it."""

    name: str
    base_url: str
    """May hold ``{account}``, which stands for the value of ``account_env``."""
    key_env: str
    """The variable of its key; empty where it wants none (``--api-key-env`` still names one)."""
    base_env: str = ""
    """The variable that replaces ``base_url``."""
    auth: Auth = "bearer"
    endpoint: Endpoint = "chat"
    """The wire format of rows that leave the choice."""
    other_key_env: str = ""
    """Another usual name of the key's variable, looked at where ``key_env`` is not set."""
    title: str = ""
    """Its name as it writes it itself."""
    example: str = ""
    """A model to show in messages, without the prefix."""
    own_models_only: bool = False
    """It serves the models of its own maker alone, so that another maker's name is not for it."""
    needs_key: bool = True
    """False for servers on this machine, which may have a key or not."""
    account_env: str = ""
    """A variable whose value is part of the URL."""
    host_path: str = ""
    """The path that follows the host in ``base_env`` where that names a host alone."""
    aliases: tuple[str, ...] = ()
    """Prefixes by which other tools call it; never split off, only understood for a suggestion."""
    structured: Structured = "schema"
    """How it is asked for structured answers."""
    note: str = ""
    """What is different there, for the documentation."""
    source: str = ""
    """Where the facts were read; on the date of :data:`CHECKED`."""

    def key_variable(self, environ: Mapping[str, str]) -> str:
        """The variable that holds the key in *environ*; ``key_env`` if none does."""
        if self.other_key_env and not environ.get(self.key_env, "").strip():
            return self.other_key_env if environ.get(self.other_key_env, "").strip() else self.key_env
        return self.key_env


CHECKED = "2026-11"
"""When the facts of the table were looked up."""

_TABLE = (
    KnownProvider(
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        base_env="OPENAI_BASE_URL",
        title="OpenAI",
        example="gpt-5-mini",
        own_models_only=True,
        aliases=("chatgpt", "open-ai", "oai", "text-completion-openai"),
        source="https://platform.openai.com/docs/api-reference",
    ),
    KnownProvider(
        "anthropic",
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        base_env="ANTHROPIC_BASE_URL",
        auth="x-api-key",
        endpoint="messages",
        title="Anthropic",
        example="claude-haiku-4-5",
        own_models_only=True,
        aliases=("claude",),
        source="https://docs.anthropic.com/en/api/messages",
    ),
    KnownProvider(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        other_key_env="GOOGLE_API_KEY",
        title="Google Gemini",
        example="gemini-2.5-flash",
        own_models_only=True,
        aliases=(
            *("google", "googleai", "google-genai", "google_genai", "google-ai-studio"),
            *("vertex", "vertexai", "vertex-ai", "vertex_ai"),
        ),
        note="The Gemini API; Vertex AI needs `--base-url`.",
        source="https://ai.google.dev/gemini-api/docs/openai",
    ),
    KnownProvider(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        title="OpenRouter",
        example="openai/gpt-5-mini",
        aliases=("open-router",),
        source="https://openrouter.ai/docs/api-reference/overview",
    ),
    KnownProvider(
        "groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        title="Groq",
        example="openai/gpt-oss-20b",
        source="https://console.groq.com/docs/openai",
    ),
    KnownProvider(
        "mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        title="Mistral",
        example="mistral-small-latest",
        own_models_only=True,
        aliases=("mistralai", "mistral-ai", "codestral"),
        source="https://docs.mistral.ai/api/",
    ),
    KnownProvider(
        "together",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        title="Together AI",
        example="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        aliases=("together_ai", "together-ai", "togetherai", "togethercomputer"),
        source="https://docs.together.ai/docs/openai-api-compatibility",
    ),
    KnownProvider(
        "deepseek",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        title="DeepSeek",
        example="deepseek-chat",
        own_models_only=True,
        aliases=("deepseek-ai",),
        structured="object",
        source="https://api-docs.deepseek.com/",
    ),
    KnownProvider(
        "azure",
        "",
        "AZURE_OPENAI_API_KEY",
        base_env="AZURE_OPENAI_ENDPOINT",
        auth="api-key",
        title="Azure OpenAI",
        example="my-deployment",
        aliases=("azure_openai", "azure-openai", "azureopenai", "azure_ai", "azure-ai"),
        note="The model is the name of a deployment.",
        source="https://learn.microsoft.com/azure/ai-foundry/openai/reference",
    ),
    KnownProvider(
        "xai",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        title="xAI",
        example="grok-4",
        own_models_only=True,
        aliases=("x-ai", "x.ai", "grok", "xai-org"),
        source="https://docs.x.ai/api/integrations",
    ),
    KnownProvider(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        title="Fireworks AI",
        example="accounts/fireworks/models/gpt-oss-120b",
        aliases=("fireworks_ai", "fireworks-ai", "fireworksai"),
        source="https://docs.fireworks.ai/tools-sdks/openai-compatibility",
    ),
    KnownProvider(
        "deepinfra",
        "https://api.deepinfra.com/v1/openai",
        "DEEPINFRA_API_KEY",
        other_key_env="DEEPINFRA_TOKEN",
        title="DeepInfra",
        example="meta-llama/Meta-Llama-3.1-8B-Instruct",
        aliases=("deep-infra", "deep_infra"),
        source="https://deepinfra.com/docs/openai_api",
    ),
    KnownProvider(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        title="Cerebras",
        example="gpt-oss-120b",
        source="https://inference-docs.cerebras.ai/resources/openai",
    ),
    KnownProvider(
        "nebius",
        "https://api.tokenfactory.nebius.com/v1",
        "NEBIUS_API_KEY",
        title="Nebius Token Factory",
        example="Qwen/Qwen3-235B-A22B-Instruct-2507",
        aliases=("nebius-ai", "nebius_ai", "nebius-token-factory"),
        source="https://docs.tokenfactory.nebius.com/api-reference/introduction",
    ),
    KnownProvider(
        "huggingface",
        "https://router.huggingface.co/v1",
        "HF_TOKEN",
        other_key_env="HUGGINGFACE_HUB_TOKEN",
        title="Hugging Face Inference Providers",
        example="openai/gpt-oss-120b:cerebras",
        aliases=("hf", "hugging-face", "hugging_face", "huggingface_hub"),
        note="Chat only. A model may name its host: `MODEL:HOST`.",
        source="https://huggingface.co/docs/inference-providers/index",
    ),
    KnownProvider(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        title="NVIDIA NIM",
        example="meta/llama-3.3-70b-instruct",
        aliases=("nvidia_nim", "nvidia-nim", "nim"),
        note="NVIDIA's own models begin with its name once more: `nvidia/nvidia/…`.",
        source="https://build.nvidia.com/",
    ),
    KnownProvider(
        "perplexity",
        "https://api.perplexity.ai/v1",
        "PERPLEXITY_API_KEY",
        other_key_env="PPLX_API_KEY",
        endpoint="responses",
        title="Perplexity",
        example="perplexity/sonar",
        aliases=("pplx", "perplexity-ai", "perplexityai"),
        structured="response_format",
        note="The Agent API: the responses format. Chat completions (Sonar) ended on 27 September 2026.",
        source="https://docs.perplexity.ai/docs/agent-api/migrate-from-sonar/overview",
    ),
    KnownProvider(
        "sambanova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
        title="SambaNova Cloud",
        example="Meta-Llama-3.3-70B-Instruct",
        aliases=("sambacloud", "sambanova-cloud", "sambanovasystems"),
        source="https://docs.sambanova.ai/docs/en/features/openai-compatibility",
    ),
    KnownProvider(
        "databricks",
        "",
        "DATABRICKS_TOKEN",
        base_env="DATABRICKS_HOST",
        host_path="/serving-endpoints",
        title="Databricks model serving",
        example="databricks-meta-llama-3-3-70b-instruct",
        note="The model is the name of a serving endpoint.",
        source="https://docs.databricks.com/machine-learning/model-serving/score-foundation-models.html",
    ),
    KnownProvider(
        "cloudflare",
        "https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1",
        "CLOUDFLARE_API_TOKEN",
        other_key_env="CLOUDFLARE_API_KEY",
        account_env="CLOUDFLARE_ACCOUNT_ID",
        title="Cloudflare Workers AI",
        example="@cf/openai/gpt-oss-120b",
        aliases=("workers-ai", "workersai", "cloudflare-ai", "cloudflare-workers-ai", "@cf"),
        source="https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility",
    ),
    KnownProvider(
        "ollama",
        "http://localhost:11434/v1",
        "",
        needs_key=False,
        title="Ollama",
        example="llama3.2",
        aliases=("ollama_chat", "ollama-chat"),
        note="A server on this machine; elsewhere: `--base-url`.",
        source="https://docs.ollama.com/api/openai-compatibility",
    ),
    KnownProvider(
        "vllm",
        "http://localhost:8000/v1",
        "VLLM_API_KEY",
        needs_key=False,
        title="vLLM",
        example="Qwen/Qwen3-8B",
        aliases=("hosted_vllm", "hosted-vllm"),
        note="A server on this machine; elsewhere: `--base-url`.",
        source="https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html",
    ),
    KnownProvider(
        "lmstudio",
        "http://localhost:1234/v1",
        "",
        needs_key=False,
        title="LM Studio",
        example="qwen/qwen3-8b",
        aliases=("lm_studio", "lm-studio"),
        note="A server on this machine; elsewhere: `--base-url`.",
        source="https://lmstudio.ai/docs/developer/openai-compat",
    ),
    KnownProvider(
        "llamacpp",
        "http://localhost:8080/v1",
        "LLAMA_API_KEY",
        needs_key=False,
        title="llama.cpp server",
        example="my-model",
        aliases=("llama-cpp", "llama.cpp", "llama_cpp", "llama-server", "llamafile"),
        note="A server on this machine; elsewhere: `--base-url`. Embeddings need `llama-server --embeddings`.",
        source="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
    ),
    KnownProvider(
        "sim",
        "",
        "",
        auth="none",
        needs_key=False,
        title="Simulated provider",
        example="steady",
        aliases=("simulated", "simulator"),
        note="Part of llmbatch; the model is a scenario (`llmbatch sim scenarios`).",
        source="docs/outages.md",
    ),
)

PROVIDERS: Mapping[str, KnownProvider] = MappingProxyType({provider.name: provider for provider in _TABLE})

KEY_VARIABLES: frozenset[str] = frozenset(
    name for provider in _TABLE for name in (provider.key_env, provider.other_key_env) if name
)
"""The environment variables of all providers' keys."""


def split_model(name: str) -> tuple[KnownProvider | None, str]:
    """Split ``PROVIDER/MODEL`` if PROVIDER is known; any other name (``meta-llama/…``, ``gpt-5-mini``) stays whole."""
    prefix, slash, rest = name.partition("/")
    provider = PROVIDERS.get(prefix)
    if not slash or provider is None:
        return None, name
    return provider, rest
