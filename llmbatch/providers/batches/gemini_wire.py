"""Translates chat bodies into Gemini's requests, and its answers into those of its OpenAI-compatible endpoint. Pure.

Only what means the same in both is translated: texts, and the parameters below. Of any other body nothing is made, so
that its row goes live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["chat_answer", "gemini_obstacle", "gemini_request", "status_of"]

_ROLES = {"user": "user", "assistant": "model"}
_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"), "content_filter"),
}
_STATUS = {2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503}
"""HTTP statuses of google.rpc codes; 16 is 401, and 1 (cancelled) means that the row did not run."""

_STATUS[16] = 401


def _is_number(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: JSON) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_PARAMETERS: Mapping[str, tuple[str, Callable[[JSON], bool]]] = {
    "temperature": ("temperature", _is_number),
    "top_p": ("topP", _is_number),
    "max_tokens": ("maxOutputTokens", _is_count),
    "max_completion_tokens": ("maxOutputTokens", _is_count),
    "seed": ("seed", _is_count),
    "presence_penalty": ("presencePenalty", _is_number),
    "frequency_penalty": ("frequencyPenalty", _is_number),
    "stop": ("stopSequences", _is_texts),
}


class _UntranslatableError(Exception):
    """A body has a member that is not translated: its text, in words."""


def gemini_request(body: bytes) -> dict[str, JSON] | None:
    """The request that means what the chat *body* means; None if that is not certain."""
    try:
        return _translated(body)
    except _UntranslatableError:
        return None


def gemini_obstacle(body: bytes) -> str:
    """What of the chat *body* is not translated, such as ``tools``; empty if all of it is."""
    try:
        _translated(body)
    except _UntranslatableError as error:
        return str(error)
    return ""


def _translated(body: bytes) -> dict[str, JSON]:
    try:
        chat = parse(body.decode())
    except (RawJsonError, UnicodeDecodeError):
        chat = None
    if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
        raise _UntranslatableError("a body without messages")
    config: dict[str, JSON] = {}
    for name, value in chat.items():
        if name in ("model", "messages") or (name == "n" and value == 1) or (name == "stream" and value is False):
            continue
        target, is_valid = _PARAMETERS.get(name, ("", _is_number))
        given: JSON = [value] if name == "stop" and isinstance(value, str) else value
        if not target or target in config or not is_valid(given):
            raise _UntranslatableError(name[:80])
        config[target] = given
    request = _contents(chat["messages"])
    if request is None:
        raise _UntranslatableError("messages that are more than text, or of other roles")
    if config:
        request["generationConfig"] = config
    return request


def _contents(messages: JSON) -> dict[str, JSON] | None:
    system: list[JSON] = []
    contents: list[JSON] = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return None
        parts, role = _parts(message["content"]), str(message["role"])
        if not parts:
            return None
        if role in ("system", "developer") and not contents:
            system += parts
        elif role in _ROLES:
            contents.append({"role": _ROLES[role], "parts": parts})
        else:
            return None
    if not contents:
        return None
    return {"contents": contents, **({"systemInstruction": {"parts": system}} if system else {})}


def _parts(content: JSON) -> list[JSON] | None:
    if isinstance(content, str):
        return [{"text": content}]
    parts: list[JSON] = []
    for part in content if isinstance(content, list) else ():
        is_text = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
        if not isinstance(part, dict) or not is_text or not isinstance(part["text"], str):
            return None
        parts.append({"text": part["text"]})
    return parts


def chat_answer(response: Mapping[str, JSON], model: str) -> dict[str, JSON]:
    """*response* as the OpenAI-compatible endpoint would have answered; a blocked prompt has no choices there."""
    usage = response.get("usageMetadata")
    usage = usage if isinstance(usage, dict) else {}
    candidates = response.get("candidates")
    choices: list[JSON] = [
        _choice(index, candidate)
        for index, candidate in enumerate(candidates if isinstance(candidates, list) else ())
        if isinstance(candidate, dict)
    ]
    sent, made, total = (_tokens(usage, f"{name}TokenCount") for name in ("prompt", "candidates", "total"))
    counts: dict[str, JSON] = {
        "prompt_tokens": sent,
        "completion_tokens": made,
        "total_tokens": max(total, sent + made),
    }
    cached = _tokens(usage, "cachedContentTokenCount")
    if cached:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    answer: dict[str, JSON] = {
        "id": str(response.get("responseId") or ""),
        "object": "chat.completion",
        "model": model,
        "choices": choices,
        "usage": counts,
    }
    if not choices and response.get("promptFeedback"):
        answer["promptFeedback"] = response["promptFeedback"]
    return answer


def _choice(index: int, candidate: Mapping[str, JSON]) -> dict[str, JSON]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    texts = [
        str(part["text"])
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("thought") is not True
    ]
    finish = str(candidate.get("finishReason") or "STOP")
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(texts)},
        "finish_reason": _FINISH.get(finish, finish),
    }


def _tokens(usage: Mapping[str, JSON], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def status_of(code: JSON) -> int | None:
    """The HTTP status of an error's *code*, google.rpc's or HTTP's; None: the row did not run."""
    if code in (1, 499):
        return None
    known = code if isinstance(code, int) else 2
    return known if 400 <= known <= 599 else _STATUS.get(known, 500)
