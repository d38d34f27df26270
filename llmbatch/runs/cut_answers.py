"""Recognizes lines of an output whose answers were cut at their token limit, so that their rows can be resent.

A line names its finish reason; lines of versions that did not write it are read from the provider's answer in them.
"""

from __future__ import annotations

import re
from typing import Final

from llmbatch.classify.finish_reasons import LENGTH_WORDS, abnormal_end
from llmbatch.classify.responses import ParsedAnswer, read_success
from llmbatch.classify.results import endpoint_of
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["is_cut_answer"]

_LENGTH: Final = "length"

_may_be_cut = re.compile(rb'"(?:' + LENGTH_WORDS.encode() + rb')"\s*[,}\]]', re.IGNORECASE).search
"""Whether such a word is a value anywhere in a line; without one nothing need be parsed."""


def is_cut_answer(line: bytes, *, reads_body: bool) -> bool:
    """Whether *line*, that of a success, has an answer that was cut at its token limit.

    *reads_body*: if the line has no ``finish_reason``, read that of the provider's answer. Cost: one search of the
    line; a line that has a word for it is parsed.
    """
    if _may_be_cut(line) is None:
        return False
    try:
        value = parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):  # somebody has edited it, or its body nests too deeply
        return False
    if not isinstance(value, dict):
        return False
    if "finish_reason" in value:
        return value["finish_reason"] == _LENGTH
    response = value.get("response")
    return reads_body and isinstance(response, dict) and _is_cut_body(response.get("body"))


def _is_cut_body(body: JSON) -> bool:
    endpoint = endpoint_of(body) if isinstance(body, dict) else None
    read = None if endpoint is None else read_success(endpoint, body)
    return isinstance(read, ParsedAnswer) and abnormal_end(read.finish_reason) == _LENGTH
