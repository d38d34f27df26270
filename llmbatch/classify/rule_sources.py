"""Where each rule of :mod:`llmbatch.classify.body_rules` comes from, and when that was read: for docs/providers.md.

``owner/repository#number`` is a thread on GitHub. The sources of single words stand beside them in
:mod:`llmbatch.classify.patterns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["SOURCES", "Source"]


class Source(NamedTuple):
    """A document or a thread, and the month in which it was read or written."""

    where: str
    date: str


_OPENAI = "platform.openai.com/docs/guides/error-codes"
_ANTHROPIC = "docs.claude.com/en/api/errors"
_GEMINI = "ai.google.dev/gemini-api/docs/rate-limits"
_OPENROUTER = "openrouter.ai/docs/api/reference/errors-and-debugging"
_GROQ = "console.groq.com/docs/errors"
_MINIMAX = "platform.minimax.io/docs/api-reference/errorcode"
_AZURE_GATEWAY = "learn.microsoft.com/azure/api-management/quota-policy"
_HTTP = "RFC 9110, section 15"

SOURCES: Mapping[str, Source] = {
    "quota of a day spent (Gemini)": Source(_GEMINI, "2026-11"),
    "spend limit of the month reached (Anthropic)": Source(_ANTHROPIC, "2026-11"),
    "own spend limit reached (Anthropic)": Source(_ANTHROPIC, "2026-11"),
    "credit on its way (OpenRouter)": Source(_OPENROUTER, "2026-11"),
    "tokens of a minute under a code of quota (DashScope)": Source(
        "help.aliyun.com/en/model-studio/error-code-start", "2026-11"
    ),
    "quota until it is replenished (Azure API Management)": Source(_AZURE_GATEWAY, "2026-11"),
    "no money, no quota": Source(f"{_OPENAI}; BerriAI/litellm#4139; continuedev/continue#11823", "2026-11"),
    "no money, in words": Source("continuedev/continue#10373; huggingface/agents-course#386", "2026-11"),
    "account closed": Source("anthropics/claude-code#19028; songquanpeng/one-api#1764", "2026-11"),
    "no quota at all (Gemini, Databricks, OpenAI: a limit of 0)": Source(
        "google-gemini/gemini-cli#22486; 666ghj/BettaFish#609 (DashScope)", "2026-11"
    ),
    "quota of a day, a week or a month that names no wait": Source(
        "docs.cohere.com/docs/rate-limits; diegosouzapw/OmniRoute#6980 (Cloudflare)", "2026-11"
    ),
    "no capacity in the flex tier (OpenAI, Azure OpenAI, Groq, Gemini)": Source(
        "developers.openai.com/api/docs/guides/flex-processing", "2026-11"
    ),
    "too long": Source(f"{_OPENAI}; lmstudio-ai/lmstudio-bug-tracker#237", "2026-11"),
    "one request above the limit of a whole minute (OpenAI, Groq)": Source(_GROQ, "2026-11"),
    "filtered": Source("UKGovernmentBEIS/inspect_ai#2267 (xAI); anthropics/claude-code#6195", "2026-11"),
    "broken generation (Groq)": Source(_GROQ, "2026-11"),
    "key expired": Source("googleapis/googleapis, google/api/error_reason.proto", "2026-11"),
    "key refused": Source(
        f"{_OPENAI}; ai.google.dev/gemini-api/docs/generate-content/api-errors; {_MINIMAX}", "2026-11"
    ),
    "country or region not served": Source("google-gemini/gemini-cli#1993", "2025-06"),
    "what no provider of the model offers (OpenRouter)": Source(
        "dnakov/anon-kode#2; zed-industries/zed#36094", "2025-08"
    ),
    "no such model": Source(f"{_OPENAI}; anthropics/claude-code#1466 (Bedrock); cline/cline#5098", "2026-11"),
    "wrong address": Source("lmstudio-ai/lmstudio-bug-tracker#618", "2026-11"),
    "blocked before it came to the provider": Source(
        "developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/detect-response", "2026-11"
    ),
    "not from this network (Azure)": Source(
        "Azure-Samples/azure-sql-db-chatbot#3; continuedev/continue#12547", "2026-06"
    ),
    "what this server lacks": Source("github.com/abetlen/llama-cpp-python, server", "2026-11"),
    "streams and background answers": Source("platform.openai.com/docs/guides/background", "2026-11"),
    "invalid parameters inside a 200 (MiniMax)": Source(
        "BigPizzaV3/CodexPlusPlus#267; adrianlyjak/obsidian-aloud-tts#114", "2026-05"
    ),
    "growing too fast (OpenAI)": Source(_OPENAI, "2026-11"),
    "rate limit": Source(f"{_OPENAI}; anthropics/claude-code#1466 (Bedrock); {_MINIMAX}", "2026-11"),
    "overloaded": Source(_ANTHROPIC, "2026-11"),
    "model down under another status (NVIDIA NIM, LM Studio)": Source(
        "Alishahryar1/free-claude-code#1012; lmstudio-ai/lmstudio-bug-tracker#932", "2026-07"
    ),
    "400": Source(_HTTP, "2022-06"),
    "401, 403 key refused": Source(_OPENAI, "2026-11"),
    "402 pay": Source(_OPENROUTER, "2026-11"),
    "404, 410": Source(f"{_OPENAI}; {_ANTHROPIC}", "2026-11"),
    "405, 407, 426 no API here": Source(_HTTP, "2022-06"),
    "408, 424, 425, 499": Source("docs.aws.amazon.com/bedrock (424); RFC 9110; RFC 8470", "2026-11"),
    "409": Source("openai/openai-python, _base_client.py (retried)", "2026-11"),
    "413 of a small request": Source(f"{_HTTP}; limits of proxies", "2022-06"),
    "413": Source(_ANTHROPIC, "2026-11"),
    "429": Source("RFC 6585, section 4", "2012-04"),
    "498, 503, 529 overloaded": Source(f"{_GROQ} (498); {_ANTHROPIC} (529)", "2026-11"),
    "501": Source(_HTTP, "2022-06"),
    "3xx another address": Source(_HTTP, "2022-06"),
    "other 4xx": Source(_HTTP, "2022-06"),
    "anything else": Source(_HTTP, "2022-06"),
}
"""By the name of the rule."""
