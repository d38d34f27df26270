"""Splits an output line into the JSON texts of its members; fast for lines as llmbatch writes them."""

from __future__ import annotations

import re
from typing import Final

from llmbatch.core.raw_json import RawJsonError, split_object

__all__ = ["line_members"]

_STRING: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_match_head = re.compile(
    r'\{"row":([1-9][0-9]*),"hash":("[0-9a-f]{16}"),"status":("success"|"failed"),'
    rf'"id":({_STRING}|-?[0-9]+),"custom_id":({_STRING}),"response":'
).match
_match_tail = re.compile(
    rf',"error":(null|\{{"code":{_STRING},"message":{_STRING}\}}),"text":(null|{_STRING}),'
    r'"usage":(null|\{[^{}]*\}),"cost_usd":(null|[-+.0-9eE]+),'
    rf'"model":(null|{_STRING}),"attempts":([0-9]+),"deferrals":([0-9]+),"latency_s":(null|[.0-9]+)(?=[,}}])'
).match
_NO_ERROR: Final = ',"error":null,"text":'
_ERROR: Final = ',"error":{"code":'
_NO_METADATA: Final = ',"metadata":null}'


def line_members(text: str, *, skips_response: bool) -> dict[str, str]:
    """The members of a whole output line and the source text of their values.

    With *skips_response* the text under ``response`` need not be valid JSON and must not be used: it is not looked at
    where the line is as llmbatch writes it, which is three times as fast.

    Raises:
        RawJsonError: the line is not a JSON object.
        NestingError: nested too deeply.
    """
    members = _by_layout(text) if skips_response else None
    if members is None:
        members = split_object(text)
    if members is None:
        raise RawJsonError("not an object")
    return members


def _by_layout(text: str) -> dict[str, str] | None:
    """The members of a line of exactly the layout of :func:`~llmbatch.core.rows.encode_line`; None for others."""
    head = _match_head(text)
    if head is None:
        return None
    # Inside a string the quotes are escaped. Deeper than the line's own members, in a body or in metadata, it is either
    # not the last one, or what follows has more closing braces than fit.
    at = text.rfind(_ERROR if head[3] == '"failed"' else _NO_ERROR)
    tail = _match_tail(text, at) if at >= head.end() else None
    if tail is None:
        return None
    number, digest, status, name, custom = head.groups()
    error, answer, usage, cost, model, attempts, deferrals, latency = tail.groups()
    members = {
        "row": number,
        "hash": digest,
        "status": status,
        "id": name,
        "custom_id": custom,
        "response": text[head.end() : at],
        "error": error,
        "text": answer,
        "usage": usage,
        "cost_usd": cost,
        "model": model,
        "attempts": attempts,
        "deferrals": deferrals,
        "latency_s": latency,
    }
    rest = text[tail.end() :]
    if rest == _NO_METADATA:
        members["metadata"] = "null"
        return members
    try:
        others = split_object(f"{{{rest[1:]}") if rest[0] == "," else None
    except RawJsonError:
        return None
    if others is None or not members.keys().isdisjoint(others):
        return None
    return members | others
