r"""Splits blocks of bytes into lines, at ``\n`` only.

Holds at most one unfinished line, and only the hash of a line that is too long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llmbatch.core.calls import record
from llmbatch.inputs.rows import MAX_LINE_BYTES

__all__ = ["BadRecord", "LineSplitter", "LongLine"]


@record
class LongLine:
    """A line that was too long to hold; ``hash`` and length are those of the whole line."""

    hash: str
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes


@record
class BadRecord(LongLine):
    """A record that cannot be read; ``code`` starts with ``input_``. ``hash`` and length are those of its text."""

    code: str
    message: str

    def __len__(self) -> int:
        return self.size_bytes

    @classmethod
    def of(cls, text: bytes, code: str, message: str) -> BadRecord:
        """The record whose source is *text*."""
        return cls(hashlib.sha256(text).hexdigest()[:16], len(text), code, message)


class LineSplitter:
    """Line splitter: feed blocks in order, then call :meth:`finish`. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._long = hashlib.sha256()
        self._return = b""

    def feed(self, block: bytes) -> Sequence[bytes | LongLine]:
        r"""The lines that *block* completes, each without its ``\n``."""
        lines: list[bytes] = block.split(b"\n")
        rest = lines.pop()
        if not lines:
            self._hold(rest)
            return ()
        if not self._held_bytes:
            self._hold(rest)
            return lines
        self._hold(lines[0])
        first = self._release()
        self._hold(rest)
        return [first, *lines[1:]]

    def finish(self) -> Sequence[bytes | LongLine]:
        r"""The last line, where the input does not end in ``\n``."""
        return [self._release()] if self._held_bytes else ()

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        self._parts.append(part)
        self._held_bytes += len(part)
        # One byte above the limit may be a carriage return, which is not part of the line.
        if self._held_bytes > MAX_LINE_BYTES + 1:
            for held in self._parts:
                self._digest(held)
            self._parts.clear()

    def _digest(self, part: bytes) -> None:
        # A carriage return at the end of the line is not hashed, and only the next byte shows whether it is the end.
        part = self._return + part
        self._return = b"\r" if part.endswith(b"\r") else b""
        self._long.update(part.removesuffix(b"\r"))

    def _release(self) -> bytes | LongLine:
        line: bytes | LongLine
        if self._held_bytes > MAX_LINE_BYTES + 1:
            line = LongLine(self._long.hexdigest()[:16], self._held_bytes)
            self._long = hashlib.sha256()
            self._return = b""
        else:
            line = b"".join(self._parts)
            self._parts.clear()
        self._held_bytes = 0
        return line
