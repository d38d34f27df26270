"""Service tiers: which one an answer says was billed, and whether a request asked for flex."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmbatch.classify.safe_text import token
from llmbatch.core.raw_json import JSON

__all__ = ["STANDARD", "asks_for_tier", "billed_tier", "is_flex_request"]

STANDARD = "standard"

_DEFAULTS = frozenset({"default", "standard", "on_demand", "standard_only"})
"""Names of the standard tier: OpenAI's and OpenRouter's, Gemini's and Anthropic's, Groq's."""

_HEADER = "x-gemini-service-tier"
_PARAMETER = b'"service_tier"'

# In JSON text, quotes inside a string are escaped: a prompt cannot look like this.
_asks_for_flex = re.compile(rb'(?<!\\)"service_tier"\s*:\s*"flex"').search


def billed_tier(document: JSON, headers: Mapping[str, str]) -> str | None:
    """The tier that an answer says was billed: ``standard`` for the provider's default; None if it names none.

    OpenAI's formats have it at the top of the body, Anthropic's in its usage; Gemini sends a header.
    """
    named: JSON = headers.get(_HEADER)
    if not named and isinstance(document, dict):
        named = document.get("service_tier")
        usage = document.get("usage")
        if not named and isinstance(usage, dict):
            named = usage.get("service_tier")
    if named is None or not isinstance(named, str) or not named.strip():
        return None
    name = named.strip().lower()
    return STANDARD if name in _DEFAULTS else token(name) or None


def asks_for_tier(body: bytes) -> bool:
    """Whether a request with *body* names a service tier. Cost: one search."""
    return _PARAMETER in body


def is_flex_request(body: bytes) -> bool:
    """Whether a request with *body* asks for the flex tier."""
    return _PARAMETER in body and _asks_for_flex(body) is not None
