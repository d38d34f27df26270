"""Bodies that came compressed although none was asked for: inflated whole, within a cap, or not at all.

Only what the standard library inflates is known: gzip and deflate.
"""

from __future__ import annotations

import zlib

__all__ = ["CODINGS", "CorruptBodyError", "OversizeBodyError", "inflate"]

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


class CorruptBodyError(ValueError):
    """The compressed body is damaged, cut, or followed by something else."""


class OversizeBodyError(ValueError):
    """The inflated body passes the cap."""


def inflate(body: bytes, coding: str, *, max_bytes: int) -> bytes:
    """*body* without its *coding*, never more than *max_bytes* in memory.

    Raises:
        CorruptBodyError: there is no proper end, or something behind it.
        OversizeBodyError: too large.
    """
    parts: list[bytes] = []
    size = 0
    rest = body
    while rest:
        # A gzip body may have several members; each must end properly.
        stream = zlib.decompressobj(wbits=_window(rest, coding))
        try:
            part = stream.decompress(rest, max_bytes - size + 1)
        except zlib.error as error:
            raise CorruptBodyError(str(error)) from None
        size += len(part)
        if size > max_bytes:
            raise OversizeBodyError(f"more than {max_bytes} bytes")
        if not stream.eof:
            raise CorruptBodyError("cut short")
        parts.append(part)
        rest = stream.unused_data
        if rest and coding == "deflate":
            raise CorruptBodyError("data behind the end")
    if not parts:
        raise CorruptBodyError("empty")
    return b"".join(parts)


def _window(body: bytes, coding: str) -> int:
    if coding != "deflate":
        return 16 + zlib.MAX_WBITS
    # Half of the servers that say deflate mean a bare stream, without the zlib header.
    has_header = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
