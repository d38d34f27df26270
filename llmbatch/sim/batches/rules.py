"""Describe how the simulated batch APIs behave: speeds, limits and faults (:class:`BatchRules`, :class:`BatchFault`).

Pure data. All times are seconds of the provider's clock; batches are numbered in the order of creation, from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, get_args

from llmbatch.core.errors import UsageError

__all__ = ["BatchCall", "BatchFault", "BatchFaultKind", "BatchRules"]

BatchCall = Literal["upload", "file", "files", "create", "list", "retrieve", "cancel", "content", "delete"]
"""A call of the control plane. ``file`` and ``files`` read one or the list of files; ``content`` downloads results."""

BatchFaultKind = Literal[
    "create_lost",  # the batch is made, but its answer is lost: closed, or answered with one of `statuses`
    "create_refused",  # create is refused with 429, `times` times
    "queue_full",  # as if the queue were full: at OpenAI the batch fails after validation, at Anthropic 429
    "not_found",  # 404 for `seconds` after the creation
    "results_not_found",  # 404 for its results for `seconds` after its end
    "unlisted",  # absent from the listing for `seconds` after the creation
    "expire",  # stops after `share` of its rows and expires at the end of its window
    "missing",  # `share` of its rows never run and have no line in any file
    "duplicate",  # `share` of its result lines come twice
    "foreign",  # `rows` result lines more, of rows that nobody sent
    "torn",  # the first `times` downloads break off after `share` of the bytes
    "short",  # the first `times` downloads end well, but after `share` of the bytes
    "error_only",  # every row fails with one of `statuses`: there is no output file
    "empty_error_id",  # without errors `error_file_id` is "" (OpenAI)
    "empty_error_file",  # without errors `error_file_id` names an empty file (OpenAI, as at Azure)
    "bad_line",  # validation fails and names line number `rows` (OpenAI)
    "refused",  # every row is refused for `reason`: the key, or no credit
    "unsupported",  # the model cannot be used in batches
    "finalizing",  # stays in finalizing for `seconds` more
    "stuck",  # nothing happens for `seconds` after the creation
    "slow_cancel",  # a cancel takes `seconds`, and `share` of the rows that are left still run
    "list_moves",  # while pages of the list are read, items repeat or are left out
    "control_errors",  # `calls` are answered with one of `statuses` between `from_s` and `to_s`
    "file_pending",  # an uploaded file is not processed, and cannot be used, for `seconds`
]

_DRAWN_PER_CALL: frozenset[BatchFaultKind] = frozenset({"control_errors", "list_moves", "create_refused"})


@dataclass(frozen=True, slots=True)
class BatchFault:
    """One kind of trouble, of some batches or some calls.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    kind: BatchFaultKind
    rate: float = 1.0
    """Share of the batches (of the calls for ``control_errors``, ``list_moves`` and ``create_refused``), 0 to 1."""
    batches: tuple[int, ...] = ()
    """The numbers of the batches that have it, from 1, instead of ``rate``; ``file_pending``: of the uploads."""
    seconds: float = 60.0
    """How long it lasts, at least 0; may be infinite."""
    share: float = 0.5
    """Which part of the rows, lines or bytes, 0 to 1."""
    rows: int = 1
    """Number of rows, or of a line, at least 1."""
    times: int = 1
    """How often it happens, at least 1."""
    statuses: tuple[int, ...] = ()
    """Statuses of the answers, 400 to 599; the usual one of the kind if empty."""
    reason: Literal["key", "credit"] = "credit"
    calls: tuple[BatchCall, ...] = ()
    """Which calls ``control_errors`` hits; empty: all."""
    from_s: float = 0.0
    to_s: float = math.inf
    """When ``control_errors`` happens, in seconds since the first call of the control plane."""
    retry_after: float | None = None
    """Seconds that a refusal asks to wait, above 0; None: it names none."""

    def __post_init__(self) -> None:
        known = get_args(BatchFaultKind)
        if self.kind not in known:
            raise UsageError(f"kind is {self.kind!r}, which is unknown", hint=f"one of: {', '.join(known)}")
        for name, share in (("rate", self.rate), ("share", self.share)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is {share!r}, must be 0 to 1")
        if not all(number >= 1 for number in self.batches):
            raise UsageError(f"batches is {list(self.batches)!r}, must be whole numbers from 1")
        if not self.seconds >= 0:
            raise UsageError(f"seconds is {self.seconds!r}, must be 0 or more")
        for name, count in (("rows", self.rows), ("times", self.times)):
            if count < 1:
                raise UsageError(f"{name} is {count!r}, must be a whole number of at least 1")
        if not all(400 <= status <= 599 for status in self.statuses):
            raise UsageError(f"statuses is {list(self.statuses)!r}, must be 400 to 599 each")
        if self.reason not in ("key", "credit"):
            raise UsageError(f"reason is {self.reason!r}, must be key or credit")
        for call in self.calls:
            if call not in get_args(BatchCall):
                raise UsageError(f"calls has {call!r}, which is unknown", hint=f"of: {', '.join(get_args(BatchCall))}")
        if not 0 <= self.from_s <= self.to_s:
            raise UsageError(f"from_s is {self.from_s!r} and to_s {self.to_s!r}, must be 0 or more and in order")
        if self.retry_after is not None and not 0 < self.retry_after < math.inf:
            raise UsageError(f"retry_after is {self.retry_after!r}, must be above 0")

    def has(self, number: int, seed: int) -> bool:
        """Whether the batch (or call) of that *number* meets it; the same for the same *seed*."""
        if self.batches:
            return number in self.batches
        return self.rate >= 1 or Random(f"{seed}:batch fault:{self.kind}:{number}").random() < self.rate

    def compressed(self, speed: float) -> BatchFault:
        """The same fault passing *speed* times faster."""
        hint = None if self.retry_after is None else self.retry_after / speed
        times = {"seconds": self.seconds / speed, "from_s": self.from_s / speed, "to_s": self.to_s / speed}
        return replace(self, **times, retry_after=hint)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Speeds, limits and faults of the batch APIs. Without any the APIs work well, and fast enough to try them.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    validate_s: float = 1.0
    """Seconds from creation until a batch runs or has failed its validation, at least 0."""
    rows_per_s: float = 1000.0
    """Rows per second that each batch answers, above 0."""
    finalize_s: float = 1.0
    """Seconds between the last answer and the results, at least 0."""
    cancel_s: float = 1.0
    """Seconds that a cancel takes, at least 0."""
    window_s: float = 86_400.0
    """Seconds from creation until a batch expires, above 0."""
    queue_tokens: int | None = None
    """Input tokens of one model that may be enqueued; a batch above them fails validation (Anthropic: 429)."""
    queue_rows: int | None = None
    """Rows that may be enqueued in all batches; create is refused above them with 429."""
    creations_per_h: int | None = None
    """Batches that may be made in an hour; create is refused above them with 429."""
    keep_s: float = 2_592_000.0
    """Seconds that files and results are kept, above 0."""
    max_rows: int | None = None
    """Rows of one batch; None: 50,000 at OpenAI, 100,000 at Anthropic."""
    max_mb: float | None = None
    """Megabytes of one batch; None: 200 at OpenAI, 256 at Anthropic."""
    faults: tuple[BatchFault, ...] = ()

    def __post_init__(self) -> None:
        for name in ("validate_s", "finalize_s", "cancel_s"):
            seconds = getattr(self, name)
            if not 0 <= seconds < math.inf:
                raise UsageError(f"{name} is {seconds!r}, must be 0 or more seconds")
        for name in ("rows_per_s", "window_s", "keep_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}, must be above 0")
        for name in ("queue_tokens", "queue_rows", "creations_per_h", "max_rows", "max_mb"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise UsageError(f"{name} is {limit!r}, must be above 0")

    def fault(self, kind: BatchFaultKind, number: int, seed: int) -> BatchFault | None:
        """The first fault of that *kind* that batch (or call) *number* meets; None if it meets none."""
        return next((fault for fault in self.every(kind) if fault.has(number, seed)), None)

    def every(self, kind: BatchFaultKind) -> Iterator[BatchFault]:
        """The faults of that *kind*."""
        return (fault for fault in self.faults if fault.kind == kind)

    def compressed(self, speed: float) -> BatchRules:
        """The same rules passing *speed* times faster; limits stay, but for that of creations per hour."""
        return replace(
            self,
            validate_s=self.validate_s / speed,
            rows_per_s=self.rows_per_s * speed,
            finalize_s=self.finalize_s / speed,
            cancel_s=self.cancel_s / speed,
            window_s=self.window_s / speed,
            keep_s=self.keep_s / speed,
            faults=tuple(fault.compressed(speed) for fault in self.faults),
        )
