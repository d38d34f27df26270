"""Parses the body of a 2xx answer: its text, tokens and finish reason, or why it is no success.

It is lenient with fields that servers such as vLLM, Ollama and llama.cpp leave out, and strict where it matters: a 200
with an ``error`` next to the answer, no choices, no data or no content is no success.
:mod:`llmbatch.classify.error_bodies` reads the bodies of errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmbatch.classify.finish_reasons import ends_by_row
from llmbatch.classify.usage import read_usage
from llmbatch.core.calls import Usage
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["BadBody", "ParsedAnswer", "names_error", "read_success"]


@dataclass(slots=True)
class ParsedAnswer:
    """A complete success. ``text`` is None if there is none (tool calls, embeddings).

    ``finish_reason`` is the provider's word (see :mod:`llmbatch.classify.finish_reasons`). ``is_empty``: the answer has
    neither text nor other content. ``is_refusal``: its text is the model's refusal to answer.
    """

    text: str | None
    usage: Usage | None
    finish_reason: str | None
    is_empty: bool = False
    is_refusal: bool = False


@dataclass(slots=True)
class BadBody:
    """A body that is not a success although the status says so. ``error`` is the body to classify instead, if any.

    ``row``: this row's answer went wrong, which says nothing about the provider and may succeed the next time.
    """

    code: str
    message: str
    error: JSON = None
    row: bool = False


_TextOf = Callable[[dict[str, JSON], str | None], str | BadBody | None]


def read_success(endpoint: str, document: JSON, asked: bytes = b"") -> ParsedAnswer | BadBody:
    """Read *document*, the body of a 2xx answer of *endpoint* to the body *asked*. Cost: a few dictionary lookups.

    Of embeddings, each is looked through.
    """
    if not isinstance(document, dict):
        return BadBody("invalid_body", "the answer is not a JSON object", document)
    error = document.get("error")
    if (error and names_error(error)) or document.get("type") == "error" or document.get("object") == "error":
        return BadBody("error_in_200", "a success status with an error inside", document)
    if endpoint == "chat":
        read = _read_choice(document, _chat_text)
    else:
        read = _read_embeddings(document, asked) if endpoint == "embeddings" else _read(endpoint, document)
    if isinstance(read, BadBody) and read.error is None and not _ERROR_MEMBERS.isdisjoint(document):
        # A message or code of the provider's own: {"code": 1113, "msg": "…"}, {"base_resp": {…}}, {"detail": "…"}.
        read.error = document
    return read


def names_error(error: JSON) -> bool:
    """Whether *error*, the member of an answer, says anything: gateways send ``{"code": 0, "message": ""}`` if not."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


_ERROR_MEMBERS = frozenset({"code", "error_code", "msg", "message", "error_msg", "detail", "errors", "base_resp"})


def _read(endpoint: str, document: dict[str, JSON]) -> ParsedAnswer | BadBody:
    if endpoint == "completions":
        return _read_choice(document, _completion_text)
    if endpoint == "responses":
        return _read_response(document)
    if endpoint == "messages":
        return _read_message(document)
    if endpoint == "candidates":
        missing = BadBody("no_candidates", "an answer without candidates", row=True)
        return ParsedAnswer(None, None, None) if document.get("candidates") else _blocked(document) or missing
    if endpoint == "raw":
        base = document.get("base_resp")
        if isinstance(base, dict) and base.get("status_code"):
            return BadBody("error_in_200", "a success status with an error inside", document)
        return ParsedAnswer(None, read_usage(document.get("usage")), None)
    return _read_embeddings(document, b"")


def _read_choice(document: dict[str, JSON], text_of: _TextOf) -> ParsedAnswer | BadBody:
    choices = document.get("choices")
    if choices == []:
        # Gemini's compatible endpoint answers a blocked prompt so, and some that it merely dislikes (2025, 2026).
        return _blocked(document) or BadBody("no_choices", "an answer with an empty list of choices", row=True)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return BadBody("no_choices", "a success status without choices")
    if (error := choice.get("error")) and names_error(error):
        return BadBody("error_in_200", "a success status with an error inside", {"error": error})
    finish = _string(choice.get("finish_reason"))
    if finish not in _GOOD_ENDS or "native_finish_reason" in choice:
        native = _string(choice.get("native_finish_reason"))
        finish = native if ends_by_row(native) else finish
        broken = _broken_off(finish) or _broken_off(native)
        if broken is not None:
            return broken
    text = text_of(choice, finish)
    if isinstance(text, BadBody):
        return text
    usage = read_usage(document.get("usage"))
    message = choice.get("message")
    if text and isinstance(message, dict) and message.get("content") is text:
        return ParsedAnswer(text, usage, finish)
    if not text and not _says_something(message) and _is_usual_end(finish) and _made_nothing(usage):
        return BadBody("empty_answer", "an answer without text and without tokens")
    if text_of is _chat_text and isinstance(message, dict) and _is_refused(message):
        return ParsedAnswer(text, usage, finish, is_refusal=True)
    return ParsedAnswer(text, usage, finish, is_empty=not text and not _has_content(message))


# Finish reasons of the provider's own problems: DeepSeek's insufficient_system_resource, Zhipu's and OpenRouter's
# network_error (pi#8511, hax#15, 2026), vLLM's abort.
_failed_end = re.compile(
    r"\w*(error|fail\w*|abort\w*|timed?_?out|insufficient_\w*resource|overload\w*|interrupted|unavailable|crash\w*)\w*",
    re.IGNORECASE,
).fullmatch
# Finish reasons of a model's mistakes: Gemini's ``function_call_filter: MALFORMED_FUNCTION_CALL`` (pydantic-ai#3300,
# 2025). The provider is well, and the same request may pass.
_slip_end = re.compile(r"malformed|unexpected_tool_call|too_many_tool_calls|invalid_tool_call", re.IGNORECASE).search


_GOOD_ENDS = frozenset(
    {
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "completed",
    }
)


def _broken_off(finish: str | None) -> BadBody | None:
    """Why an answer with finish reason *finish* is not a success, None if it is one."""
    if finish is None or finish in _GOOD_ENDS or ends_by_row(finish):
        return None
    if _slip_end(finish):
        return BadBody("malformed_answer", f"the model's answer broke off ({finish[:60]})", row=True)
    if _failed_end(finish):
        code = "finish_reason_error" if finish == "error" else finish.lower()
        return BadBody(code, f"the provider broke off the answer ({finish[:60]})")
    return None


def _is_usual_end(finish: str | None) -> bool:
    return finish is None or finish.lower() in (
        "stop",
        "end_turn",
        "eos",
        "eos_token",
        "completed",
        "stop_sequence",
        "",
    )


def _made_nothing(usage: Usage | None) -> bool:
    """Whether the provider itself reports that it generated no token (pollinations#9345, 2026)."""
    return usage is not None and usage.output_tokens == 0


def _says_something(message: JSON) -> bool:
    """Whether a message without text has other content: tool calls, a refusal, audio, images, reasoning."""
    names = ("tool_calls", "function_call", "refusal", "audio", "images", "reasoning_content", "reasoning")
    return isinstance(message, dict) and any(message.get(name) for name in names)


def _has_content(message: JSON) -> bool:
    """Whether a message without text has something else to use. A model's reasoning alone is no answer."""
    names = ("tool_calls", "function_call", "refusal", "audio", "images")
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return any(message.get(name) for name in names) or any(_is_other_content(part) for part in parts)


_THOUGHTS_AND_TEXT = frozenset({"text", "output_text", "message", "reasoning", "thinking", "redacted_thinking"})


def _is_other_content(part: JSON) -> bool:
    """Whether a part of an answer is neither text nor thoughts, such as a tool call or an image."""
    return isinstance(part, dict) and part.get("type") not in _THOUGHTS_AND_TEXT


def _is_refused(message: dict[str, JSON]) -> bool:
    """Whether the message of a choice is a refusal and nothing else."""
    content = message.get("content")
    if isinstance(content, list):
        return _is_all_refusal(content) and not message.get("tool_calls")
    return not content and bool(message.get("refusal")) and not message.get("tool_calls")


def _is_all_refusal(parts: list[JSON]) -> bool:
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    return "refusal" in kinds and all(kind in ("refusal", "reasoning") for kind in kinds)


def _blocked(document: dict[str, JSON]) -> BadBody | None:
    """Whether a filter blocked the prompt, in any of Gemini's, Vertex's and Azure's spellings."""
    for name in ("promptFeedback", "prompt_feedback"):
        feedback = document.get(name)
        reason = feedback.get("blockReason", feedback.get("block_reason")) if isinstance(feedback, dict) else None
        if reason:
            return _filtered(str(reason))
    reason = document.get("block_reason", document.get("blockReason"))
    if reason:
        return _filtered(str(reason))
    results = document.get("prompt_filter_results")
    for result in results if isinstance(results, list) else []:
        ratings = result.get("content_filter_results") if isinstance(result, dict) else None
        for name, rating in ratings.items() if isinstance(ratings, dict) else []:
            if isinstance(rating, dict) and rating.get("filtered") is True:
                return _filtered(name)
    return None


def _filtered(reason: str) -> BadBody:
    message = f"the prompt was blocked ({reason[:60]})"
    return BadBody("content_filter", message, {"error": {"code": "content_filter", "message": message}})


def _chat_text(choice: dict[str, JSON], finish: str | None) -> str | BadBody | None:
    message = choice.get("message")
    if not isinstance(message, dict):
        # Filtered and spent answers may come without a message, but then they say why they ended.
        is_cut = message is None and finish not in (None, "", "stop")
        return None if is_cut else BadBody("no_message", "a choice without a message")
    content = message.get("content")
    if isinstance(content, str):
        return content or (None if message.get("tool_calls") else content)
    if isinstance(content, list):
        return _joined(content, ("refusal",) if _is_all_refusal(content) else ("text", "output_text"))
    return _string(message.get("refusal"))


def _completion_text(choice: dict[str, JSON], finish: str | None) -> str | BadBody | None:
    text = choice.get("text")
    if text is None and not finish:
        return BadBody("no_text", "a choice without text")
    return _string(text)


def _read_response(document: dict[str, JSON]) -> ParsedAnswer | BadBody:
    status = document.get("status")
    if status in ("queued", "in_progress"):
        return BadBody(f"response_{status}", "the answer is not finished: the row asks for background mode")
    if status in ("failed", "cancelled"):
        return BadBody(f"response_{status}", f"the response was {status}")
    output = document.get("output")
    if not isinstance(output, list):
        return BadBody("no_output", "a success status without output")
    finish = _string(status)
    if status == "incomplete":
        details = document.get("incomplete_details")
        finish = (_string(details.get("reason")) if isinstance(details, dict) else None) or finish
        broken = _broken_off(finish)
        if broken is not None:
            return broken
    parts: list[str] = []
    contents: list[JSON] = []
    for item in output:
        if isinstance(item, dict) and item.get("type") == "message":
            content = item.get("content")
            content = content if isinstance(content, list) else []
            contents += content
            text = _joined(content, ("output_text", "text", "refusal"))
            parts += [] if text is None else [text]
    made = read_usage(document.get("usage"))
    if not output and _is_usual_end(finish) and _made_nothing(made):
        return BadBody("empty_answer", "an answer without text and without tokens")
    is_other = any(_is_other_content(item) for item in output)
    return ParsedAnswer(
        "".join(parts) if parts else None,
        made,
        finish,
        is_empty=not any(parts) and not is_other and not any(map(_is_other_content, contents)),
        is_refusal=not is_other and _is_all_refusal(contents),
    )


def _read_message(document: dict[str, JSON]) -> ParsedAnswer | BadBody:
    content = document.get("content")
    if not isinstance(content, list):
        return BadBody("no_content", "a success status without content")
    tokens = read_usage(document.get("usage"), cached_apart=True)
    finish = _string(document.get("stop_reason"))
    broken = _broken_off(finish)
    if broken is not None:
        return broken
    if not content and _is_usual_end(finish) and _made_nothing(tokens):
        return BadBody("empty_answer", "an answer without text and without tokens")
    text = _joined(content, ("text",))
    return ParsedAnswer(text, tokens, finish, is_empty=not text and not any(map(_is_other_content, content)))


def _read_embeddings(document: dict[str, JSON], asked: bytes) -> ParsedAnswer | BadBody:
    data = document.get("data")
    if not isinstance(data, list) or not data:
        return BadBody("no_data", "a success status without data")
    for item in data:
        if isinstance(item, dict) and (item.get("object") == "error" or names_error(item.get("error"))):
            return BadBody("error_in_200", "a success status with an error inside", {"error": item.get("error", item)})
    if any(map(_is_hollow, data)):
        return BadBody("empty_embedding", "an embedding without numbers")
    if len(data) < (count := _texts_in(asked)):
        return BadBody("missing_embeddings", f"{len(data)} embeddings of {count} texts")
    usage = document.get("usage")
    if isinstance(usage, dict):
        usage = {**usage, "completion_tokens": 0}
    return ParsedAnswer(None, read_usage(usage), None)


_has_list = re.compile(rb'"input"\s*:\s*\[').search


def _texts_in(asked: bytes) -> int:
    """How many texts a request asks to embed, each a string or a list of tokens; 0 if that is not known."""
    if _has_list(asked) is None:
        return 0
    try:
        body = parse(asked.decode())
    except (RawJsonError, UnicodeDecodeError):
        return 0
    texts = body.get("input") if isinstance(body, dict) else None
    return len(texts) if isinstance(texts, list) and all(isinstance(text, str | list) for text in texts) else 0


def _is_hollow(item: JSON) -> bool:
    """Whether an embedding has nothing in it, or nulls or texts among its numbers."""
    if not isinstance(item, dict):
        return True
    # Jina's models of several vectors say "embeddings"; others name the kind: "sparse_embedding".
    found = item.get("embedding", item.get("embeddings"))
    if found is None:
        return "embedding" in item or not any("embedding" in name for name in item)
    if isinstance(found, list):
        return not found or None in found or any(isinstance(number, str) for number in found[:1])
    return not found


def _joined(parts: list[JSON], types: tuple[str, ...]) -> str | None:
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") in types:
            text = part.get("text", part.get("refusal"))
            if isinstance(text, str):
                texts.append(text)
    return "".join(texts) if texts else None


def _string(value: JSON) -> str | None:
    return value if isinstance(value, str) else None
