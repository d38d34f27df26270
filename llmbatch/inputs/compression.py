"""Detects compressed inputs by their first bytes and decompresses them block by block.

gzip (also with several members) and zstd (also with several or skippable frames). A file that ends early or is damaged
is an error: silently reading the good part would drop rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

__all__ = ["HEAD_BYTES", "CompressionError", "Inflater", "inflater_for", "is_compressed"]

HEAD_BYTES: Final = 4
"""How many bytes at the start identify a compressed file."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
_INFLATED_BYTES = 256 * 1024
# A zstd block of four bytes can decompress to 128 KiB, and the library has no limit: feeding small slices bounds the
# output of one call to 16 MiB.
_ZSTD_SLICE_BYTES = 512


class CompressionError(Exception):
    """The compressed data is damaged or ends early; the text says which."""


class Inflater(Protocol):
    """Decompresses the bytes of a file, given in order."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress *data*, in pieces; take them all before the next call.

        Raises:
            CompressionError: the data is damaged.
        """
        ...

    def finish(self) -> None:
        """Check that the data may end here.

        Raises:
            CompressionError: it is incomplete.
        """
        ...


def inflater_for(head: bytes) -> Inflater:
    """The decompressor for a file that starts with *head* (:data:`HEAD_BYTES` bytes, fewer if the file is shorter)."""
    if head[:2] == _GZIP_MAGIC:
        return _Gzip()
    if is_compressed(head):
        return _Zstd()
    return _Plain()


def is_compressed(head: bytes) -> bool:
    """Whether a file that starts with *head* is compressed."""
    skippable = head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F
    return head[:2] == _GZIP_MAGIC or head[:4] == _ZSTD_MAGIC or skippable


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        """Plain text may end anywhere."""


class _Gzip:
    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._between_members = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._between_members:
                data = data.lstrip(b"\0")  # padding that tapes and some writers leave; gzip ignores it too
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
                self._between_members = False
            try:
                inflated = self._member.decompress(data, _INFLATED_BYTES)
            except zlib.error as error:
                raise CompressionError(f"damaged gzip data ({error})") from None
            self._between_members = self._member.eof
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if inflated:
                yield inflated

    def finish(self) -> None:
        if not self._between_members:
            raise CompressionError("the gzip data ends early")


class _Zstd:
    def __init__(self) -> None:
        import zstandard  # loaded only if an input needs it

        self._decompressor = zstandard.ZstdDecompressor()
        self._error = zstandard.ZstdError
        self._frame: ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            piece = data[at : at + _ZSTD_SLICE_BYTES]
            try:
                inflated = self._frame.decompress(piece)
            except self._error as error:
                raise CompressionError(f"damaged zstd data ({error})") from None
            at += len(piece)
            if self._frame.eof:
                at -= len(self._frame.unused_data)
                self._frame = None
            # In pieces: the lines of a piece may take 34 times its size.
            for start in range(0, len(inflated), _INFLATED_BYTES):
                yield inflated[start : start + _INFLATED_BYTES]

    def finish(self) -> None:
        if self._frame is not None:
            raise CompressionError("the zstd data ends early")
