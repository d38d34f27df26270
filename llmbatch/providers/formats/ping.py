"""Builds the smallest request for a route (a health check), modeled on the last request sent there.

Its success proves only that the provider is up.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbatch.core.raw_json import split_object
from llmbatch.providers.formats.bodies import to_bytes, user_message

__all__ = ["LIMITS", "ping_body"]

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Fields that limit the output tokens."""

_PING = '"ping"'


def ping_body(endpoint: str, like: bytes) -> bytes:
    """Build a body for *endpoint* with the model and the service tier of *like*, if any.

    For chat also with its field for the limit.
    """
    members = split_object(like.decode()) or {}
    small: dict[str, str] = {name: members[name] for name in ("model", "service_tier") if name in members}
    match endpoint:
        case "chat":
            small["messages"] = user_message(_PING)
            small |= _limit_as_in(members)
        case "responses":
            small |= {"input": _PING, "max_output_tokens": "16"}
        case "embeddings":
            small["input"] = _PING
        case "completions":
            small |= {"prompt": _PING, "max_tokens": "1"}
        case "messages":
            small |= {"messages": user_message(_PING), "max_tokens": "1"}
    return to_bytes(small)


def _limit_as_in(members: Mapping[str, str]) -> dict[str, str]:
    # Models refuse a field that they do not know, and reasoning models a limit too small for reasoning.
    if "max_completion_tokens" in members:
        return {"max_completion_tokens": "16"}
    return {"max_tokens": "1"} if "max_tokens" in members else {}
