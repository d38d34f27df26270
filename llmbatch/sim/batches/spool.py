"""Bytes of a simulated file: in memory while they are few, else in an unnamed temporary file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Part", "Spool"]

_IN_MEMORY_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024


class Spool:
    """Appended to, then read at any place. Not thread-safe. Closed when it is dropped."""

    __slots__ = ("_at", "_file", "size")

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed by __del__
        self.size = 0
        self._at = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.close()

    def append(self, data: bytes) -> None:
        """Add *data* at the end."""
        if self._at != self.size:
            self._file.seek(self.size)
        self._file.write(data)
        self._at = self.size = self.size + len(data)

    def read(self, start: int, size: int) -> bytes:
        """Up to *size* bytes from *start*."""
        self._file.seek(start)
        self._at = -1
        return self._file.read(size)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from *start* to *stop*, in pieces of up to 256 KiB."""
        stop = self.size if stop is None else min(stop, self.size)
        while start < stop and (piece := self.read(start, min(_PIECE_BYTES, stop - start))):
            yield piece
            start += len(piece)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with the offset of its start, without its newline; blank ones too."""
        at, rest = 0, b""
        for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield at, line
                at += len(line) + 1
        if rest:
            yield at, rest


@dataclass(frozen=True, slots=True)
class Part:
    """The first ``size`` bytes of a spool: what a download sends."""

    spool: Spool
    size: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, in pieces."""
        return self.spool.pieces(0, self.size)
