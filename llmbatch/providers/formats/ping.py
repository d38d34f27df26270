"""The smallest request that a route takes, made after the last one that went there.

It proves that the provider is up, nothing else; it does not decide when one is sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbatch.core.raw_json import split_object
from llmbatch.providers.formats.bodies import to_bytes, user_message

__all__ = ["LIMITS", "ping_body"]

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The members that bound what a model writes."""

_PING = '"ping"'


def ping_body(endpoint: str, like: bytes) -> bytes:
    """A body for *endpoint* with the model of *like*; for chat also with its way to name a limit, if it had one."""
    members = split_object(like.decode()) or {}
    small = {"model": members["model"]} if "model" in members else {}
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
    # Models refuse the spelling that they do not know, and reasoning models a budget too small to think in.
    if "max_completion_tokens" in members:
        return {"max_completion_tokens": "16"}
    return {"max_tokens": "1"} if "max_tokens" in members else {}
