"""Bodies of answers: decompression (servers compress even unrequested), and the memory that all of them share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmbatch.core.errors import TransportError

if TYPE_CHECKING:
    from llmbatch.http.connection import Connection

__all__ = ["DEFAULT_ANSWER_MEMORY", "AnswerMemory", "Decompressor", "decompressor"]

DEFAULT_ANSWER_MEMORY = 512_000_000
"""Default limit of bytes that all answers in flight share."""

_GZIP = 16 + zlib.MAX_WBITS
CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}
"""Window bits by content coding."""

UNCODED = frozenset({"", "identity", "none", "utf-8", "utf8", "binary", "chunked"})
"""What servers name in ``content-encoding`` though the body is not compressed."""

_LONGEST_CODING = 8

_INPUT_BYTES = 16 * 1024
_OUTPUT_BYTES = 1024 * 1024
"""Maximum bytes of input, and of output, per step."""


def decompressor(encoding: str, first: int) -> Decompressor | None:
    """Return what decompresses a body with this ``content-encoding`` and *first* byte; None if it is not compressed.

    Raises:
        ValueError: the coding was not requested. The text names it, but a long one, which may be anything, even a key.
    """
    coding = encoding.strip().lower()
    if coding in UNCODED:
        return None
    if coding not in CODINGS:
        name = f" ({coding})" if len(coding) <= _LONGEST_CODING else ""
        raise ValueError(f"an encoding that was not requested{name}")
    return Decompressor(coding, first)


class Decompressor:
    """Decompresses one body in a content coding of :data:`CODINGS`; *first* is its first byte.

    ``stream.eof`` is whether the compressed data has ended properly.
    """

    def __init__(self, coding: str, first: int) -> None:
        self._wbits = CODINGS[coding]
        if coding == "deflate" and first & 0x0F != zlib.DEFLATED:
            # Half of the servers that send deflate send a raw stream, without the zlib header.
            self._wbits = -zlib.MAX_WBITS
        self.stream = zlib.decompressobj(self._wbits)
        self._added: list[bytes] = []
        self._steps: Iterator[bytes] | None = None

    def add(self, data: bytes) -> None:
        """Keep the next piece of the body until :meth:`parts` is asked for it."""
        self._added.append(data)

    def parts(self) -> Iterator[bytes]:
        """Decompress what was added, at most a megabyte per step; a second call goes on where the first was left.

        Raises:
            zlib.error: as :meth:`feed`.
        """
        while self._steps is not None or self._added:
            if self._steps is None:
                self._steps = self.feed(self._added.pop(0))
            for part in self._steps:  # noqa: UP028 - "yield from" would end the steps where the caller stops
                yield part
            self._steps = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next piece of the body, at most a megabyte per step.

        Raises:
            zlib.error: the data is damaged, or followed by something else.
        """
        for start in range(0, len(data), _INPUT_BYTES):
            rest, part = data[start : start + _INPUT_BYTES], b""
            while rest or (len(part) == _OUTPUT_BYTES and not self.stream.eof):
                if self.stream.eof:
                    if self._wbits != _GZIP:
                        raise zlib.error("data after the end")
                    # A gzip body may have several members; each must end properly.
                    self.stream = zlib.decompressobj(self._wbits)
                part = self.stream.decompress(rest, _OUTPUT_BYTES)
                yield part
                rest = self.stream.unconsumed_tail or self.stream.unused_data


class AnswerMemory:
    """Limits of answers: of each body, and of the memory that all in flight share. Belongs to one event loop.

    It counts bodies that do not arrive at once, and compressed ones as they are decompressed. Above *limit_bytes* the
    largest answer is cut off, not the one that needs the last byte.
    """

    def __init__(self, limit_bytes: int, *, max_body_bytes: int) -> None:
        self.held_bytes = 0
        self._limit, self.max_body_bytes = limit_bytes, max_body_bytes
        self._held: dict[Connection, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grow(self, connection: Connection, size: int) -> None:
        """Note that the answer over *connection* has *size* bytes now; fails each connection that is cut off.

        O(answers in flight) for each that is cut off.
        """
        self.held_bytes += size - self._held.get(connection, 0)
        self._held[connection] = size
        if size > self.max_body_bytes:
            self._cut_off(connection, f"the answer of {connection.place} is larger than {self.max_body_bytes} bytes")
        while self.held_bytes > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            held = self._held[largest]
            words = f"the answer was the largest in flight ({held} bytes) when all exceeded {self._limit} bytes"
            self._cut_off(largest, words, hint="raise --max-answer-memory, or lower --concurrency")

    def release(self, connection: Connection) -> None:
        """Stop counting the answer over *connection*."""
        self.held_bytes -= self._held.pop(connection, 0)

    def _cut_off(self, connection: Connection, words: str, *, hint: str = "") -> None:
        self.release(connection)
        connection.fail(TransportError("too_large", words, sent=True, hint=hint))
