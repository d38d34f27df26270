"""Detects model names without a known provider that are meant for another company than the one they would go to.

Names are judged only where they would go to a provider of one maker's models at its own address: a gateway, a host of
many makers' models and ``--base-url`` take any name. Does not resolve anything, and reads no environment.
"""

from __future__ import annotations

import difflib
import re

from llmbatch.core.calls import record
from llmbatch.providers.catalog import PROVIDERS, KnownProvider

__all__ = ["Misnamed", "find_misnamed", "provider_alone", "unknown_scenario"]

_NEAR = 0.8
"""How alike two names are, 0 to 1, where one is taken for the other misspelt: ``opneai`` is 0.83 of ``openai``."""

_ALIASES = {alias: provider.name for provider in PROVIDERS.values() for alias in provider.aliases}

_GATEWAY = "llmbatch reaches it only through an OpenAI-compatible gateway: --base-url URL"
_HOSTED = "name who hosts it, such as together/{model} or ollama/…, or your own server with --base-url URL"

# Prefixes of other tools, and organizations whose models many hosts serve, with what to do instead.
_FOREIGN: dict[str, str] = {
    **dict.fromkeys(
        [
            "ai21",
            "aleph_alpha",
            "amazon",
            "amazon-bedrock",
            "anyscale",
            "aws",
            "baseten",
            "bedrock",
            "clarifai",
            "cohere",
            "cohere_chat",
            "custom_openai",
            "dashscope",
            "featherless",
            "friendliai",
            "gradient",
            "hyperbolic",
            "lambda",
            "litellm",
            "litellm_proxy",
            "minimax",
            "moonshot",
            "novita",
            "oci",
            "openai_like",
            "openai-compatible",
            "petals",
            "publishers",
            "predibase",
            "replicate",
            "sagemaker",
            "siliconflow",
            "snowflake",
            "vercel",
            "volcengine",
            "voyage",
            "watsonx",
            "writer",
            "zai",
            "zhipu",
            "zhipuai",
        ],
        _GATEWAY,
    ),
    **dict.fromkeys(
        [
            "01-ai",
            "allenai",
            "bigcode",
            "coherelabs",
            "cohereforai",
            "eleutherai",
            "facebook",
            "huggingfaceh4",
            "huggingfacetb",
            "ibm",
            "ibm-granite",
            "internlm",
            "lgai-exaone",
            "meta",
            "meta-llama",
            "microsoft",
            "minimaxai",
            "moonshotai",
            "nousresearch",
            "openchat",
            "qwen",
            "sentence-transformers",
            "stabilityai",
            "thebloke",
            "thudm",
            "tiiuae",
            "unsloth",
            "z-ai",
            "zai-org",
        ],
        _HOSTED,
    ),
    **dict.fromkeys(
        ("github", "github-models", "github_models", "githubmodels"),
        "GitHub Models was retired on 30 July 2026: choose another provider",
    ),
}

_IN_BEDROCK = re.compile(
    r"((us|eu|apac|jp|au|ca|global|us-gov)\.)?"
    r"(ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshot|nvidia|openai|qwen|stability|writer)\.[a-z]"
)
"""``us.anthropic.claude-…``: model ids of Amazon Bedrock."""

_FILE = re.compile(r"(\.{0,2}/|~)|.*\.(gguf|safetensors|bin|onnx)$")
_FILE_HINT = "a model in a file needs a server: llama-server -m FILE, then -m llamacpp/NAME or --base-url URL"

# Names that say whose model it is without a provider. The maker's own provider comes second; "" where it is hosted.
_FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), provider)
    for pattern, provider in (
        (r"claude-", "anthropic"),
        (r"gemini-", "gemini"),
        (r"grok-\d", "xai"),
        (r"(open-)?(mistral|mixtral|ministral|magistral|codestral|devstral|pixtral)-", "mistral"),
        (r"deepseek-", "deepseek"),
        (r"(gpt-\d|gpt-4o|chatgpt-|o[134](-|$)|text-embedding-(ada|3))", "openai"),
        (r"sonar(-|$)", "perplexity"),
        (r"databricks-", "databricks"),
        (r"@cf/", "cloudflare"),
        (r"accounts/fireworks/", "fireworks"),
        (r"(llama|llama-?\d|meta-llama|codellama|qwen|qwq|gemma|phi|kimi|glm|gpt-oss|command-r|nova)[-\d.:]", ""),
    )
)


@record
class Misnamed:
    """Message for a misnamed model, and the name to type instead."""

    message: str
    hint: str


def find_misnamed(name: str, goes_to: KnownProvider, *, is_rows: bool) -> Misnamed | None:
    """Judge *name*, which names no known provider and would be sent whole to *goes_to*; None if it is plausible.

    A row's own name (*is_rows*) of an organization whose models many hosts serve is left alone: ``meta-llama/…`` is
    what such files say, and the provider is chosen by the command.
    """
    prefix, slash, rest = name.partition("/")
    word = prefix.lower()
    if slash and rest:
        meant = word if word in PROVIDERS else _ALIASES.get(word, "")
        advice = "" if meant else _FOREIGN.get(word, "")
        if is_rows and advice == _HOSTED:
            return None
        meant = meant or ("" if advice else _nearest(word))
        if meant or advice:
            advice = advice or f"did you mean {meant}/{rest}?"
            return _misnamed(f"model {name!a}: {prefix!a} is not a known provider", advice, name, goes_to)
    other = _other_spelling(name)
    if other is not None:
        return _misnamed(*other, name, goes_to)
    for pattern, maker in _FAMILIES:
        if pattern.match(name.lower()):
            advice = f"did you mean {maker}/{name}?" if maker else _HOSTED
            what = f"model {name!a} names no provider, and is not one of {goes_to.title}'s"
            return _misnamed(what, advice, name, goes_to) if maker != goes_to.name else None
    return None


def _other_spelling(name: str) -> tuple[str, str] | None:
    """What is wrong with a name as other tools spell it (``anthropic:claude-…``, ``models/gemini-…``), and a hint."""
    prefix, colon, rest = name.partition(":")
    word = prefix.lower()
    if colon and rest and (word in PROVIDERS or word in _ALIASES):
        return f"model {name!a} has a colon", f"did you mean {_ALIASES.get(word, word)}/{rest}?"
    if colon and rest and _FOREIGN.get(word) == _GATEWAY:
        return f"model {name!a}: {prefix!a} is not a known provider", _GATEWAY
    if name.startswith("models/gemini"):
        return f"model {name!a}: 'models' is not a known provider", f"did you mean gemini/{name[7:]}?"
    if _IN_BEDROCK.match(name.lower()):
        return f"model {name!a} is a name of Amazon Bedrock", _GATEWAY
    return (f"model {name!a} is a file", _FILE_HINT) if _FILE.match(name) else None


def _misnamed(message: str, advice: str, name: str, goes_to: KnownProvider) -> Misnamed:
    forced = f"to send it to {goes_to.title} all the same: {goes_to.name}/{name}"
    known = "known providers: " + ", ".join(PROVIDERS)
    advice = advice.replace("{model}", name)
    return Misnamed(message, f"{advice}{'' if advice.endswith('?') else ';'} {forced}; {known}")


def provider_alone(name: str) -> Misnamed | None:
    """Whether *name* is a provider without a model, such as ``openai`` or ``openai/``."""
    word = name.strip().rstrip("/").lower()
    found = PROVIDERS.get(word) or PROVIDERS.get(_ALIASES.get(word, ""))
    if found is None:
        return None
    return Misnamed(
        f"model {name!a} names a provider, but no model", f"name one after it, for example {found.name}/{found.example}"
    )


def unknown_scenario(model: str, scenarios: tuple[str, ...]) -> Misnamed | None:
    """Whether *model*, of the simulated provider, is none of *scenarios*: the names that it has answers for."""
    if model in scenarios:
        return None
    word = model.lower()
    close = [name for name in scenarios if name.startswith(f"{word}-")] if word[1:].isdecimal() else []
    close = close or difflib.get_close_matches(word, scenarios, n=1, cutoff=_NEAR)
    meant = f"did you mean sim/{close[0]}? " if close else ""
    return Misnamed(
        f"model {f'sim/{model}'!a}: there is no scenario {model!a}",
        f"{meant}there are {', '.join(scenarios)}; llmbatch sim scenarios tells what happens in each",
    )


def _nearest(word: str) -> str:
    close = difflib.get_close_matches(word, [*PROVIDERS, *_ALIASES], n=1, cutoff=_NEAR)
    return _ALIASES.get(close[0], close[0]) if close else ""
