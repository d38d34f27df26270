"""Decompresses gzip and deflate bodies (which servers send even unrequested), with a size limit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

__all__ = ["CODINGS", "CorruptBodyError", "OversizeBodyError", "decompress"]

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})

_SLICE_BYTES = 64 * 1024
_INFLATED_BYTES = 1024 * 1024
"""Bytes of input, and of output, per step."""


class CorruptBodyError(ValueError):
    """The compressed body is damaged, truncated, or followed by something else."""


class OversizeBodyError(ValueError):
    """The decompressed body exceeds the limit."""


def decompress(body: bytes, coding: str, *, max_bytes: int, grow: Callable[[int], None] = lambda size: None) -> bytes:
    """Decompress *body*, encoded with *coding*; never more than *max_bytes* in memory (and a megabyte while working).

    *grow* is called with the size of each decompressed piece, and may raise to stop.

    Raises:
        CorruptBodyError: the body is incomplete, or followed by something else.
        OversizeBodyError: too large.
    """
    if not body:
        raise CorruptBodyError("empty")
    parts: list[bytes] = []
    try:
        for part in _parts(body, coding, max_bytes):
            grow(len(part))
            parts.append(part)
        return b"".join(parts)
    finally:
        parts.clear()  # an error's traceback would keep them alive


def _parts(body: bytes, coding: str, max_bytes: int) -> Iterator[bytes]:
    size = at = 0
    view = memoryview(body)
    while at < len(body):
        # A gzip body may have several members; each must end properly.
        stream = zlib.decompressobj(wbits=_window(body[at : at + 2], coding))
        rest: bytes | memoryview = b""
        while not stream.eof:
            if not rest:
                rest = view[at : at + _SLICE_BYTES]
                at += len(rest)
            is_last = not rest
            try:
                part = stream.decompress(rest, _INFLATED_BYTES)
            except zlib.error as error:
                raise CorruptBodyError(str(error)) from None
            rest = stream.unconsumed_tail
            size += len(part)
            if size > max_bytes:
                raise OversizeBodyError(f"more than {max_bytes} bytes")
            if part:
                yield part
            elif is_last and not stream.eof:
                raise CorruptBodyError("cut short")
        at -= len(stream.unused_data)
        if at < len(body) and coding == "deflate":
            raise CorruptBodyError("data after the end")


def _window(body: bytes, coding: str) -> int:
    if coding != "deflate":
        return 16 + zlib.MAX_WBITS
    # Half of the servers that send deflate send a raw stream, without the zlib header.
    has_header = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
