"""Splits a streamed answer into lines, in constant memory."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import AsyncIterator

from llmbatch.core.errors import TransportError

__all__ = ["MAX_LINE_BYTES", "stream_lines"]

MAX_LINE_BYTES = 64 * 1024 * 1024


async def stream_lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    r"""Yield the lines of *blocks*, split at ``\n``, without blank ones and without a byte order mark before the first.

    A last line may have no line end.

    Raises:
        TransportError: a line is longer than 64 MiB; and what *blocks* raises.
    """
    parts: list[bytes] = []
    size = 0
    is_first = True
    async for block in blocks:
        *whole, rest = block.split(b"\n")
        for piece in whole:
            line = b"".join((*parts, piece)) if parts else piece
            parts, size = [], 0
            if is_first:
                line, is_first = line.removeprefix(BOM_UTF8), False
            if line.strip():
                yield line
        if rest:
            parts.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                raise TransportError("too_large", f"a line of results is longer than {MAX_LINE_BYTES} bytes", sent=True)
    line = b"".join(parts)
    if is_first:
        line = line.removeprefix(BOM_UTF8)
    if line.strip():
        yield line
