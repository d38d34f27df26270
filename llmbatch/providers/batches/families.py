"""Table of batch APIs: shape, limits, and how each differs from the first of its shape.

Limits are the documented ones, or where a client's table is all there is, that. Sources, looked up in November 2026:
OpenAI, Azure, Anthropic, Nebius, Doubleword: their documentation; Groq and Together: their SDKs (1.7.0, 3.1.1);
DeepInfra: batchlane 0.2.0; Mistral and Gemini: their documentation and SDKs (3.7.0, 3.6.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["FAMILIES", "BatchFamily", "family_of", "providers_with_batches"]

_MB = 1_000_000
_OPENAI = ("chat", "responses", "embeddings", "completions")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFamily:
    """One provider's batch API. Sizes are per batch."""

    name: str
    title: str
    shape: Literal["openai", "anthropic", "mistral", "gemini"] = "openai"
    endpoints: tuple[str, ...] = _OPENAI
    max_rows: int = 50_000
    max_bytes: int = 200 * _MB
    max_row_bytes: int = 64 * 1024 * 1024
    max_embedding_inputs: int | None = None
    discount: str = "50 %"
    label: Literal["metadata", "file name", "none"] = "metadata"
    """Where the listing shows the label of a batch."""
    pages: bool = True
    """Whether the listing has pages."""
    lists_files: bool = True
    """Whether uploaded files can be listed by their names."""
    upload_path: str = "/files"
    purpose: str = "batch"
    expires_after_s: int | None = None
    """Seconds after which uploaded files expire by themselves; None: it knows no such parameter."""
    output_expires_after_s: int | None = None
    window: str = "24h"
    least_poll_s: float = 15.0
    """Shortest time between two listings."""
    hosts: tuple[str, ...] = ()
    """Ends of host names, for servers that are named by ``--base-url`` only."""


FAMILIES: tuple[BatchFamily, ...] = (
    BatchFamily(
        name="openai",
        title="OpenAI",
        max_embedding_inputs=50_000,
        expires_after_s=30 * 86_400,
        output_expires_after_s=30 * 86_400,
        hosts=("api.openai.com",),
    ),
    BatchFamily(
        name="azure", title="Azure OpenAI", max_rows=100_000, expires_after_s=30 * 86_400, hosts=("openai.azure.com",)
    ),
    BatchFamily(
        name="anthropic",
        title="Anthropic",
        shape="anthropic",
        endpoints=("messages",),
        max_rows=100_000,
        max_bytes=256 * _MB,
        label="none",
        hosts=("api.anthropic.com",),
    ),
    BatchFamily(
        name="groq", title="Groq", endpoints=("chat",), max_bytes=100 * _MB, pages=False, hosts=("api.groq.com",)
    ),
    BatchFamily(
        name="together",
        title="Together AI",
        endpoints=("chat", "completions"),
        max_bytes=100 * _MB,
        discount="up to 50 %",
        label="file name",
        pages=False,
        upload_path="/files/upload",
        purpose="batch-api",
        hosts=("api.together.xyz", "api.together.ai"),
    ),
    BatchFamily(name="deepinfra", title="DeepInfra", discount="20 %", label="file name", hosts=("api.deepinfra.com",)),
    BatchFamily(name="doubleword", title="Doubleword", discount="up to 90 %", hosts=("doubleword.ai",)),
    BatchFamily(
        name="nebius",
        title="Nebius Token Factory",
        max_rows=5_000_000,
        max_bytes=10_000 * _MB,
        label="file name",
        hosts=("nebius.com", "nebius.ai"),
    ),
    BatchFamily(
        name="mistral",
        title="Mistral",
        shape="mistral",
        endpoints=("chat", "embeddings"),
        max_rows=1_000_000,
        max_bytes=512 * _MB,
        hosts=("api.mistral.ai",),
    ),
    BatchFamily(
        name="gemini",
        title="Google Gemini",
        shape="gemini",
        endpoints=("chat",),
        max_rows=100_000,
        max_bytes=2_000 * _MB,
        label="file name",
        hosts=("generativelanguage.googleapis.com",),
    ),
    BatchFamily(name="sim", title="Simulated provider", expires_after_s=30 * 86_400, least_poll_s=1.0),
    BatchFamily(
        name="sim",
        title="Simulated provider",
        least_poll_s=1.0,
        shape="anthropic",
        endpoints=("messages",),
        max_rows=100_000,
        max_bytes=256 * _MB,
        label="none",
    ),
    BatchFamily(name="", title="this server"),
    BatchFamily(
        name="",
        title="this server",
        shape="anthropic",
        endpoints=("messages",),
        max_rows=100_000,
        max_bytes=256 * _MB,
        label="none",
    ),
)


def family_of(provider: str, endpoint: str, url: str) -> BatchFamily | None:
    """The batch API of *provider* for rows of *endpoint*; None if it has none. A server without a name by its host.

    One whose host is unknown too is taken to have OpenAI's batch API, or for messages Anthropic's.
    """
    if not provider:
        host = urlsplit(url).hostname or ""
        for family in FAMILIES:
            if any(host == known or host.endswith("." + known) for known in family.hosts):
                return family if endpoint in family.endpoints else None
    return next((one for one in FAMILIES if one.name == provider and endpoint in one.endpoints), None)


def providers_with_batches() -> str:
    """The known providers that have batch APIs, for messages."""
    return ", ".join(dict.fromkeys(family.name for family in FAMILIES if family.name and family.name != "sim"))
