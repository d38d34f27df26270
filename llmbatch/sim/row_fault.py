"""Choose the rows that always fail, are throttled, or are answered late, cut short or with what was not asked for.

The row's text alone decides, so that all attempts of a row get the same response, in any order and process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

from llmbatch.core.errors import UsageError

__all__ = ["Content", "RowBehavior", "RowFault", "find_fault"]

RowBehavior = Literal[
    "errors", "throttle", "slow", "length", "misfit", "misfit_once", "fenced", "refusal", "content_filter"
]
Content = Literal["misfit", "fenced", "refusal", "content_filter"]
"""What is wrong with the content of an answer that is good otherwise."""

PING = "ping"
"""The text of llmbatch's smallest request, which is no row and never at fault."""

_number = re.compile(r"row (\d+)\Z").search


@dataclass(frozen=True, slots=True)
class RowFault:
    """Rows that always get one kind of bad response when the scenario would answer them well.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    behavior: RowBehavior = "errors"
    """``errors``: one of ``statuses`` (500); ``throttle``: 429; ``slow``: a good answer, ``stall`` seconds late;
    ``length``: a good answer, cut at a token limit of 1; ``misfit``: JSON that does not fit the schema that is asked
    for, with ``misfit_once`` until the row is asked again in the same conversation; ``fenced``: JSON in a code fence,
    after some words; ``refusal``: the model refuses; ``content_filter``: the answer is filtered."""
    share: float = 0.0
    """Share of the rows, 0 to 1, chosen by a hash of their text."""
    numbers: tuple[int, int] | None = None
    """Instead of ``share``: the rows whose text ends in ``row N``, N from the first number to the last."""
    statuses: tuple[int, ...] = (500,)
    """Statuses of ``errors``, 400 to 599; a row always gets the same one."""
    retry_after: float | None = None
    """Seconds in the response's ``Retry-After``, above 0; None: no such header."""
    stall: float = 300.0
    """Seconds before the first byte of a ``slow`` answer, at least 0."""

    def __post_init__(self) -> None:
        known = get_args(RowBehavior)
        if self.behavior not in known:
            raise UsageError(f"behavior is {self.behavior!r}, which is unknown", hint=f"one of: {', '.join(known)}")
        if not 0 <= self.share <= 1:
            raise UsageError(f"share is {self.share!r}, must be 0 to 1")
        if self.numbers is not None and not 0 <= self.numbers[0] <= self.numbers[1]:
            raise UsageError(f"numbers is {list(self.numbers)!r}, must be two whole numbers: from and to")
        if not self.statuses or not all(400 <= status <= 599 for status in self.statuses):
            raise UsageError(f"statuses is {self.statuses!r}, must be 400 to 599 each")
        if self.retry_after is not None and not 0 < self.retry_after < math.inf:
            raise UsageError(f"retry_after is {self.retry_after!r}, must be above 0")
        if not 0 <= self.stall < math.inf:
            raise UsageError(f"stall is {self.stall!r}, must be 0 or more seconds")

    def status_of(self, text: str) -> int:
        """The status of the bad response to the row with this *text*."""
        return 429 if self.behavior == "throttle" else self.statuses[_draw(text, "status") % len(self.statuses)]

    def is_fatal(self, timeout: float) -> bool:
        """Whether such a row cannot succeed within *timeout* seconds per attempt."""
        if self.behavior == "slow":
            return self.stall >= timeout
        return self.behavior in ("errors", "throttle", "refusal", "content_filter")

    def content(self, turns: int) -> Content | None:
        """What is wrong with an answer after *turns* turns of the assistant; None: nothing."""
        match self.behavior:
            case "misfit_once":
                return None if turns else "misfit"
            case "misfit" | "fenced" | "refusal" | "content_filter":
                return self.behavior
            case _:
                return None


def find_fault(faults: Sequence[RowFault], text: str) -> RowFault | None:
    """The first of *faults* that has the row with this *text*; None for a good row. Their shares do not overlap."""
    if text == PING:
        return None
    lot = _draw(text, "fault") / 2**64
    number = _number(text)
    for fault in faults:
        if fault.numbers is not None:
            if number is not None and fault.numbers[0] <= int(number[1]) <= fault.numbers[1]:
                return fault
            continue
        if 0 <= lot < fault.share:
            return fault
        lot -= fault.share
    return None


def _draw(text: str, purpose: str) -> int:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big")
