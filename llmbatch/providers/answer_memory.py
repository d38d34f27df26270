"""The memory that all answers in flight share: where it is used up, the largest answer is cut.

Counted are bodies as they arrive, from the second piece on (a piece has up to 256 kB), and as they inflate. An answer
that is whole and inflated leaves the count; it is judged at once, one at a time, which takes a few times its size.
"""

from __future__ import annotations

from llmbatch.errors import TransportError
from llmbatch.providers.protocol import AnswerProtocol

__all__ = ["DEFAULT_LIMIT_BYTES", "AnswerMemory"]

DEFAULT_LIMIT_BYTES = 512_000_000


class AnswerMemory:
    """How much the answers in flight hold, by their connections; belongs to one event loop.

    The rule is fair to ordinary answers: the one that is cut is always the largest, never the one that happens to ask
    for the last byte.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._total = 0
        self._held: dict[AnswerProtocol, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grow(self, protocol: AnswerProtocol, size: int) -> None:
        """Count *size* more bytes for the answer over *protocol*, and cut the largest while all are too large.

        O(answers in flight) for each that is cut. Who calls looks at ``protocol.ended_by`` afterwards.
        """
        self._held[protocol] = self._held.get(protocol, 0) + size
        self._total += size
        while self._total > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            held = self._held[largest]
            self.release(largest)
            words = f"the answer was the largest in flight, {held} bytes, when all together passed {self._limit} bytes"
            hint = "raise --max-answer-memory, or lower --concurrency"
            largest.give_up(TransportError("too_large", words, sent=True, hint=hint))

    def release(self, protocol: AnswerProtocol) -> None:
        """Count the answer over *protocol* no longer."""
        if protocol in self._held:
            self._total -= self._held.pop(protocol)
