"""Estimates the input tokens of a request: one for four bytes of text, and the usual number for pictures and sound.

It is corrected by the tokens that answers report; :mod:`llmbatch.money.estimate` has an upper bound.
"""

from __future__ import annotations

import re

__all__ = ["input_tokens"]

_BYTES_PER_TOKEN = 4
_LONG_BODY_BYTES = 16_384
_find_base64 = re.compile(rb'"(?:data:[^",]{0,200},)?([A-Za-z0-9+/=_-]{1000})').search
_DATA = b'"data'
"""Before the base64 of all wire formats: that of a member ``data``, or of a data URL."""
_PDF = b"JVBERi"
"""How every PDF begins in base64."""
_PDF_BYTES_PER_TOKEN = 40
"""A page takes some 2,000 tokens, and 60 kB of a PDF, in base64 80 kB."""
_MEDIA_TOKENS = 1000
"""A picture takes up to 765 (GPT-4o) to 1,600 tokens (Claude), whatever the size of its file."""
_MEDIA_BYTES_PER_TOKEN = 1000
"""MP3 of 128 kbit/s is 21 kB a second in base64, and 10 (OpenAI) to 32 tokens (Gemini)."""


def input_tokens(body: bytes) -> int:
    """Input tokens that the request *body* usually has. Cost: one search, in bodies above 16 kB."""
    if len(body) < _LONG_BODY_BYTES or _DATA not in body:
        return len(body) // _BYTES_PER_TOKEN
    size, tokens = len(body), 0
    found = _find_base64(body)
    while found is not None:
        start, end = found.start(1), body.find(b'"', found.end())
        if end < 0:
            break
        size -= end - start
        if body.startswith(_PDF, start):
            tokens += (end - start) // _PDF_BYTES_PER_TOKEN
        else:
            tokens += max(_MEDIA_TOKENS, (end - start) // _MEDIA_BYTES_PER_TOKEN)
        found = _find_base64(body, end)
    return size // _BYTES_PER_TOKEN + tokens
