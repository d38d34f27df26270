"""Counts calls and rows, and error codes in bounded memory.

Codes come from providers, so there may be any number of them: above the limit, new ones count as ``other``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmbatch.core.events import RowFinished

__all__ = ["OTHER", "CodeCounter", "Codes", "Counts"]

OTHER = "other"


class CodeCounter:
    """Counts by code; at most *cap* codes, and :data:`OTHER` for the rest. One writer, any number of readers.

    *longest*: characters of a code that are kept.
    """

    __slots__ = ("_cap", "_counts", "_longest")

    def __init__(self, cap: int = 100, *, longest: int = 80) -> None:
        self._cap = cap
        self._longest = longest
        self._counts: dict[str, int] = {}

    def add(self, code: str, times: int = 1) -> None:
        """Count a *code* once, or so often; an empty one is ``unknown``, a long one is cut."""
        code = code[: self._longest] or "unknown"
        counts = self._counts
        if code not in counts and len(counts) >= self._cap:
            code = OTHER
        counts[code] = counts.get(code, 0) + times

    def top(self, count: int | None = None) -> dict[str, int]:
        """The codes by descending count (all, or the first *count*), ties ordered by name."""
        pairs = sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return dict(pairs[:count])


@dataclass(slots=True)
class Codes:
    """Counts by code: attempts that did not succeed, rows that failed, and rows by the tier that their lines name."""

    errors: CodeCounter = field(default_factory=CodeCounter)
    failures: CodeCounter = field(default_factory=CodeCounter)
    tiers: CodeCounter = field(default_factory=CodeCounter)


@dataclass(slots=True)
class Counts:
    """What a run has counted so far; :class:`~llmbatch.report.snapshot.Snapshot` says what each number means."""

    success: int = 0
    failed: int = 0
    probes: int = 0
    canaries: int = 0
    avoided: int = 0
    retries: int = 0
    throttles: int = 0
    in_flight: int = 0
    cut_answers: int = 0
    answers_without_text: int = 0
    cached: int = 0
    repairs: int = 0
    repaired: int = 0

    def add_kinds(self, event: RowFinished) -> None:
        """Count what is special about a row that has succeeded."""
        self.cut_answers += event.finish_reason == "length"
        self.answers_without_text += event.has_no_text
        self.cached += event.is_cached
        self.repaired += event.is_repaired

    @property
    def rows(self) -> int:
        """Rows of this run that have ended."""
        return self.success + self.failed
