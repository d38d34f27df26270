"""What the finish reasons of providers mean: a normal stop, an answer cut at its token limit, filtered or refused.

Those that say that the provider broke an answer off are read in :mod:`llmbatch.classify.responses`.
"""

from __future__ import annotations

import re

from llmbatch.classify.safe_text import token

__all__ = ["LENGTH_WORDS", "abnormal_end", "ends_by_row", "withheld"]

LENGTH_WORDS = (
    r"length|max_?length|max_?\w{0,20}tokens(?:_\w{1,20})?|token_limit\w{0,20}|model_length"
    r"|(?:model_)?context_(?:window|length)\w{0,20}|error_limit"
)
"""A pattern of the finish reasons that say that a token limit cut the answer, in any case.

OpenAI ``length`` and ``max_output_tokens``, Anthropic ``max_tokens`` and ``model_context_window_exceeded``, Gemini
``MAX_TOKENS``, Mistral ``model_length``, Cohere ``ERROR_LIMIT`` (of the context).
"""

_is_length = re.compile(LENGTH_WORDS, re.IGNORECASE).fullmatch
_NORMAL_ENDS = frozenset(
    {
        *("", "stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed", "end", "finished"),
        *("tool_calls", "tool_call", "tool_use", "function_call", "null", "none", "finish_reason_unspecified"),
    }
)


def abnormal_end(finish: str | None) -> str | None:
    """``length`` if finish reason *finish* says that a token limit cut the answer, None for a normal stop, else itself.

    What is no word keeps its letters, digits, ``_``, ``.`` and ``-``, at most 64.
    """
    if finish is None or finish.lower() in _NORMAL_ENDS:
        return None
    return "length" if _is_length(finish) else token(finish) or None


_is_refusal = re.compile("refusal|refused", re.IGNORECASE).fullmatch
# OpenAI, Azure; Gemini's own reasons, which some gateways pass on; Zhipu; Bedrock; Cohere's ERROR_TOXIC.
_is_filter = re.compile(
    r"content_?filter.*|safety|\w+_safety|recitation|blocklist|prohibited_content|spii|sensitive|language|blocked"
    r"|\w*guardrail\w*|content_policy\w*|moderation|(?:error_)?toxic\w{0,20}",
    re.IGNORECASE,
).fullmatch


_is_of_row = re.compile(r"error_(?:toxic\w{0,20}|limit)", re.IGNORECASE).fullmatch


def ends_by_row(finish: str | None) -> bool:
    """Whether *finish* is called an error, but comes again for the same row: too long, or filtered (Cohere)."""
    return _is_of_row(finish or "") is not None


def withheld(finish: str | None, *, is_refusal: bool) -> tuple[str, str]:
    """Code and message of an answer that was filtered, or in which the model refused to answer; else both empty.

    *finish* is the finish reason as it was sent, *is_refusal* whether the answer is nothing but a refusal.
    """
    if is_refusal or _is_refusal(finish or ""):
        return "refusal", "the model refused to answer"
    if _is_filter(finish or ""):
        return "content_filter", "the provider filtered the answer"
    return "", ""
