"""Builds the body of a row that is not a batch row, in each of the five wire formats.

Fields are passed on in their order as raw JSON; only the one that holds the content may be renamed or wrapped:

=============  ================  ==========================================  =========================================
endpoint       content member    made from ``prompt``                        made from the others
=============  ================  ==========================================  =========================================
chat           ``messages``      one user message                            ``input``, a string: one user message
messages       ``messages``      the same                                    the same
responses      ``input``         as it is; parts become one user message     ``messages`` as they are
embeddings     ``input``         as it is                                    –
completions    ``prompt``        –                                           –
=============  ================  ==========================================  =========================================

A list as ``prompt`` is a list of messages, or of content parts. Parameters are not translated between the formats.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import lru_cache

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.raw_json import dumps, parse, split_array, split_object

__all__ = ["NOT_SENT", "compose_body", "content_member", "to_bytes", "to_text", "user_message"]

_CONTENT: dict[Endpoint, str] = {
    "chat": "messages",
    "messages": "messages",
    "responses": "input",
    "embeddings": "input",
    "completions": "prompt",
}

NOT_SENT = frozenset({"metadata", "url", "method", "id", "custom_id", "key", "row_id"})
"""Fields that are never sent: ids (a row may have several), metadata, and fields of batch rows."""

_SYSTEM_ROLES = frozenset({"system", "developer"})

_MAX_TOKENS = "4096"
"""Default ``max_tokens`` for Anthropic's format, which requires it."""


def compose_body(
    endpoint: Endpoint,
    fields: Mapping[str, str],
    source: str | None = None,
    *,
    model: str,
    system: str | None,
    params: Mapping[str, str],
    unsent: Container[str] = (),
) -> dict[str, str]:
    """Build the fields of the request body, as raw JSON, without those named in *unsent*.

    *source*: the member that holds the content, where it is known already.

    ``model`` (JSON text) takes the place of the row's own, or the first one. ``system`` (JSON text) is added where the
    row has no system message; ``params`` where the row has no such member.

    Raises:
        MalformedRowError: the row has no content, or one that the endpoint does not accept.
    """
    target = _CONTENT[endpoint]
    source = source or content_member(endpoint, fields)
    if source is None:
        raise MalformedRowError("input_no_prompt", "the row has no prompt, messages or input")
    sent = {} if "model" in fields else {"model": model}
    for name, text in fields.items():
        if name == "model":
            sent[name] = model
        elif name == source:
            if endpoint == "responses" and name == "prompt" and text.startswith("{"):
                sent[name] = text  # a stored prompt, by its id
            else:
                sent[target] = _content(endpoint, name, text)
        elif name not in NOT_SENT and name not in unsent:
            sent[name] = text
    for name, text in params.items():
        sent.setdefault(name, text)
    if endpoint == "chat":
        _system_for_chat(sent, system)
    elif endpoint == "responses":
        _system_for_responses(sent, system)
    elif endpoint == "messages":
        _system_for_messages(sent, system)
        sent.setdefault("max_tokens", _MAX_TOKENS)
    return sent


def content_member(endpoint: Endpoint, fields: Container[str]) -> str | None:
    """The member that holds the content of a row for *endpoint*; None where there is none."""
    for source in (_CONTENT[endpoint], "messages", "prompt", "input"):
        if source in fields:
            return source
    return None


def to_text(members: Mapping[str, str]) -> str:
    """*members* as the text of one JSON object."""
    return "{" + ",".join([_key(name) + text for name, text in members.items()]) + "}"


def to_bytes(members: Mapping[str, str]) -> bytes:
    """*members* as one JSON object."""
    return to_text(members).encode()


def user_message(content: str) -> str:
    """A list of one user message around *content*, JSON text."""
    return '[{"role":"user","content":' + content + "}]"


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    return dumps(name) + ":"


def _content(endpoint: Endpoint, source: str, text: str) -> str:
    is_string, is_list = text.startswith('"'), text.startswith("[")
    if is_list and not text[1:-1].strip():
        raise MalformedRowError("input_no_prompt", f"{source} is an empty list")
    if endpoint in ("chat", "messages"):
        if is_string and source != "messages":
            return user_message(text)
        if is_list and source == "messages":
            return text
        if is_list and source == "prompt":
            return _messages_or_parts(text)
    elif endpoint == "responses":
        if (is_string and source != "messages") or (is_list and source != "prompt"):
            return text
        if is_list:
            return _messages_or_parts(text)
    elif (is_string or is_list) and source in ("prompt", _CONTENT[endpoint]):
        return text
    raise MalformedRowError(
        "input_no_prompt", f"{source} is {_kind(text)}, which the {endpoint} endpoint does not accept"
    )


def _messages_or_parts(text: str) -> str:
    first = parse((split_array(text) or [""])[0])
    if isinstance(first, dict):
        if "role" in first:
            return text
        if "type" in first:
            return user_message(text)
    raise MalformedRowError("input_no_prompt", "prompt is a list, but not one of messages or content parts")


def _kind(text: str) -> str:
    kinds = {'"': "a string", "[": "a list", "{": "an object", "t": "true", "f": "false", "n": "null"}
    return kinds.get(text[:1], "a number")


def _system_for_chat(sent: dict[str, str], system: str | None) -> None:
    # Chat has no `system` field and every provider refuses it, but users write rows that have it.
    if sent.get("system", "").startswith('"'):
        system = sent.pop("system")
    elif system is None or _has_system_message(sent["messages"]):
        return
    sent["messages"] = '[{"role":"system","content":' + system + "}," + sent["messages"][1:]


def _system_for_responses(sent: dict[str, str], system: str | None) -> None:
    if sent.get("system", "").startswith('"') and "instructions" not in sent:
        sent["instructions"] = sent.pop("system")
    elif system is not None and "instructions" not in sent and not _has_system_message(sent.get("input", "")):
        sent["instructions"] = system


def _system_for_messages(sent: dict[str, str], system: str | None) -> None:
    if _may_have_system(sent["messages"]):
        items = split_array(sent["messages"]) or []
        pieces: list[str] = []
        for item in items:
            if _role(item) not in _SYSTEM_ROLES:
                break
            pieces.append((split_object(item) or {}).get("content", '""'))
        if pieces:
            if len(pieces) == len(items):
                raise MalformedRowError("input_no_prompt", "messages contains only system messages")
            sent["messages"] = "[" + ",".join(items[len(pieces) :]) + "]"
            sent["system"] = _one_system([sent["system"], *pieces] if "system" in sent else pieces)
            return
    if system is not None:
        sent.setdefault("system", system)


def _one_system(pieces: list[str]) -> str:
    if len(pieces) == 1:
        return pieces[0]
    blocks = [f'{{"type":"text","text":{piece}}}' if piece.startswith('"') else piece[1:-1].strip() for piece in pieces]
    return "[" + ",".join(block for block in blocks if block) + "]"


def _has_system_message(messages: str) -> bool:
    return _may_have_system(messages) and any(_role(item) in _SYSTEM_ROLES for item in split_array(messages) or [])


def _may_have_system(messages: str) -> bool:
    # Most rows have none, which is known without parsing; an escaped spelling takes the slow path.
    return messages.startswith("[") and ('"system"' in messages or '"developer"' in messages or "\\u" in messages)


def _role(item: str) -> str:
    message = parse(item)
    role = message.get("role") if isinstance(message, dict) else None
    return role if isinstance(role, str) else ""
