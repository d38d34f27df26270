"""How the rows of an output spread: the slowest of them, and how many tokens they have. Bounded memory, one pass."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass

from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["RowSpread", "SlowRow", "TokenHistogram"]

MOST_SLOW = 15
_MOST_CHARACTERS = 300
_MOST_TOKENS = 10**12

_match_head = re.compile(
    rb'\{"row":([0-9]{1,18}),"hash":"[0-9a-f]+","status":"(?:success|failed)","id":("(?:[^"\\]|\\.)*"|[^,"]{1,100}),'
).match


@dataclass(frozen=True, slots=True)
class SlowRow:
    """One of the slowest rows. ``number`` is 0 where its line has none."""

    latency_s: float
    number: int
    id: JSON
    route: str
    input_tokens: int
    output_tokens: int
    failed: bool


class TokenHistogram:
    """Counts of token counts, in two ranges for each doubling."""

    __slots__ = ("_counts", "count", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0

    def add(self, tokens: int) -> None:
        """Add one count of tokens; what cannot be one counts as the nearest that can."""
        tokens = min(max(0, tokens), _MOST_TOKENS)
        bits = tokens.bit_length()
        at = tokens if bits < 2 else 2 * bits - 2 + ((tokens >> (bits - 2)) & 1)
        self._counts[at] = self._counts.get(at, 0) + 1
        self.count += 1
        self.total += tokens

    def bars(self) -> list[tuple[int, int, int]]:
        """From the lowest to the highest: least, first above, and count of each range."""
        counts = self._counts
        if not counts:
            return []
        return [(_least(at), _least(at + 1), counts.get(at, 0)) for at in range(min(counts), max(counts) + 1)]


class RowSpread:
    """The fold over rows. One writer. ``unpriced``: answers with tokens but without a price."""

    def __init__(self) -> None:
        self.input_tokens = TokenHistogram()
        self.output_tokens = TokenHistogram()
        self.unpriced = 0
        self._slow: list[tuple[float, int, SlowRow]] = []
        self._seen = 0

    def add(
        self,
        line: bytes,
        route: str,
        input_tokens: int,
        output_tokens: int,
        latency_s: float | None,
        *,
        is_priced: bool,
        failed: bool,
    ) -> None:
        """Count the row of *line*, of which the other arguments have been read before."""
        if input_tokens > 0 or output_tokens > 0:
            self.input_tokens.add(input_tokens)
            self.output_tokens.add(output_tokens)
            self.unpriced += not is_priced
        if latency_s is None or (len(self._slow) >= MOST_SLOW and not latency_s > self._slow[0][0]):
            return
        self._seen += 1
        number, name = _head(line)
        row = SlowRow(latency_s, number, name, route[:_MOST_CHARACTERS], input_tokens, output_tokens, failed)
        # Of equally slow rows the first one stays.
        if len(self._slow) < MOST_SLOW:
            heapq.heappush(self._slow, (latency_s, -self._seen, row))
        else:
            heapq.heapreplace(self._slow, (latency_s, -self._seen, row))

    def slowest(self) -> list[SlowRow]:
        """The slowest rows, the slowest first."""
        return [row for _, _, row in sorted(self._slow, key=lambda item: item[:2], reverse=True)]


def _least(at: int) -> int:
    if at < 2:
        return at
    bits = at // 2 + 1
    return (2 + at % 2) << (bits - 2)


def _head(line: bytes) -> tuple[int, JSON]:
    found = _match_head(line)
    if found is None:
        return 0, None
    try:
        name = parse(found[2].decode("utf-8", "replace"))
    except RawJsonError:
        name = None
    return int(found[1]), name[:_MOST_CHARACTERS] if isinstance(name, str) else name
