"""Cuts rows into chunks: runs of unfinished rows of one model and endpoint, within 95 % of the provider's limits.

Pure: it is fed row by row and says when the chunk is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

__all__ = ["ChunkBuilder", "ChunkLimits"]

_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """The most that one batch may hold. ``tokens``: of input; None: no limit is known."""

    rows: int
    size_bytes: int
    row_bytes: int
    tokens: int | None = None
    inputs: int | None = None

    @classmethod
    def within(
        cls,
        *,
        max_rows: int,
        max_bytes: int,
        max_row_bytes: int,
        max_inputs: int | None = None,
        own_rows: int | None = None,
        own_bytes: int | None = None,
    ) -> ChunkLimits:
        """95 % of the provider's limits, or less where the user wants smaller chunks."""
        rows = max(1, int(max_rows * _SHARE))
        size = int(max_bytes * _SHARE)
        size = size if own_bytes is None else min(size, own_bytes)
        return cls(
            rows=rows if own_rows is None else min(rows, own_rows),
            size_bytes=size,
            row_bytes=min(int(max_row_bytes * _SHARE), size),
            inputs=None if max_inputs is None else int(max_inputs * _SHARE),
        )

    def scaled(self, share: float, tokens: int | None) -> ChunkLimits:
        """Limits of smaller chunks: *share* of the rows and bytes, and at most *tokens*."""
        return ChunkLimits(
            rows=max(1, int(self.rows * share)),
            size_bytes=max(self.row_bytes, int(self.size_bytes * share)),
            row_bytes=self.row_bytes,
            tokens=None if tokens is None else max(1, int(tokens * _SHARE)),
            inputs=self.inputs,
        )

    def within_tokens(self, tokens: int | None) -> ChunkLimits:
        """The same with at most *tokens*, where that is a number."""
        most = [limit for limit in (self.tokens, tokens) if limit is not None]
        return replace(self, tokens=max(1, min(most))) if most else self


class ChunkBuilder:
    """Counts the rows of one chunk. Not thread-safe."""

    def __init__(self, limits: ChunkLimits) -> None:
        self.limits = limits
        self.first = self.last = self.rows = self.size_bytes = self.tokens = self.inputs = 0
        self._digest = sha256()

    def __repr__(self) -> str:
        return f"<ChunkBuilder rows {self.first} to {self.last}, {self.rows} of them, {self.size_bytes} bytes>"

    def takes(self, size_bytes: int, tokens: int, inputs: int = 1) -> bool:
        """Whether the next row fits; the first one always does."""
        limits = self.limits
        if not self.rows:
            return True
        return (
            self.rows < limits.rows
            and self.size_bytes + size_bytes <= limits.size_bytes
            and (limits.tokens is None or self.tokens + tokens <= limits.tokens)
            and (limits.inputs is None or self.inputs + inputs <= limits.inputs)
        )

    def add(self, number: int, name: str, size_bytes: int, tokens: int, inputs: int = 1) -> None:
        """Add a row with its ``custom_id``."""
        self.first = self.first or number
        self.last = number
        self.rows += 1
        self.size_bytes += size_bytes
        self.tokens += tokens
        self.inputs += inputs
        self._digest.update(name.encode() + b"\n")

    @property
    def digest(self) -> str:
        """8 hexadecimal digits for the rows' ids."""
        return self._digest.hexdigest()[:8]
