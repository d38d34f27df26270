"""The provider's queue: whether another batch may be submitted now, and what a full queue teaches. Pure.

A full queue is nobody's fault. While batches of this job are in it, they are waited for; else chunks are halved.
"""

from __future__ import annotations

import re

__all__ = ["QUEUE_FULL", "RUNNING", "TOO_MANY_ROWS", "Queue", "says_too_many", "stated_limit"]

_FIRST_WAIT = 30.0
_MOST_WAIT = 600.0
_STATED = re.compile(r"limit:?\s*([0-9][0-9,_.]{2,})\s*(?:enqueued|input|prompt)?\s*tokens?", re.IGNORECASE)
_TOO_MANY = re.compile(r"at most [0-9,]+ (?:items|requests|rows)", re.IGNORECASE)
_SMALLEST_SHARE = 1 / 4096
_FITS_SECONDS = 3600.0
"""How long what a refusal has taught holds: the provider counts tokens otherwise, or others have filled the queue."""

QUEUE_FULL = frozenset({"token_limit_exceeded", "queue_full", "enqueued_token_limit_exceeded"})
"""Codes of a refusal, also of a whole batch that was created before, that mean a full queue."""


RUNNING = frozenset({"in_progress", "running"})
"""Statuses of batches that have passed the check of the queue."""

TOO_MANY_ROWS = "too_many_tasks"
"""The code of a batch with more rows than the provider takes."""


class Queue:
    """The queue of one route at the provider. *tokens*: how many may be in it, where the user has said so."""

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens
        self.share = 1.0
        """Part of a usual chunk that chunks have now."""
        self.not_before = 0.0
        self._wait = 0.0
        self._fits: int | None = None
        """Tokens that were in the queue when it took no more."""
        self._fits_until = 0.0
        self._usual_tokens = 0
        """Tokens of the largest chunk so far."""

    def __repr__(self) -> str:
        return f"<Queue of {self.tokens} tokens, chunks of {self.share:.0%}>"

    def may_submit(self, now: float, queued_tokens: int) -> bool:
        """Whether the next chunk may be submitted: no wait is on, and there is room for half of a usual one.

        Nothing of this job being queued, any room will do.
        """
        room = self.room(now, queued_tokens)
        return now >= self.not_before and (
            room is None or (room > 0 if not queued_tokens else 2 * room >= max(1, self._usual_tokens))
        )

    def room(self, now: float, queued_tokens: int) -> int | None:
        """Tokens that still fit; None: no limit is known."""
        fits = max(0, self._fits - queued_tokens) if self._fits is not None and now < self._fits_until else None
        return min((room for room in (self.stated_room(queued_tokens), fits) if room is not None), default=None)

    def stated_room(self, queued_tokens: int) -> int | None:
        """Tokens that still fit by the limit that the user or the provider has named; None: neither has."""
        return None if self.tokens is None else max(0, self.tokens - queued_tokens)

    def sent(self, chunk_tokens: int) -> None:
        """A chunk is submitted."""
        self._usual_tokens = max(self._usual_tokens, chunk_tokens)

    def was_full(self, now: float, message: str, *, has_own: bool, chunk_tokens: int, taken_tokens: int = 0) -> None:
        """The provider has refused a chunk of *chunk_tokens*; *has_own*: batches of this job are in the queue.

        *taken_tokens*: of those that it has taken before. For an hour no more is sent than fitted then.
        """
        self.failed(now)
        if has_own and taken_tokens:
            self._fits, self._fits_until = taken_tokens, now + _FITS_SECONDS
        stated = stated_limit(message)
        if stated is not None:
            self.tokens = stated if self.tokens is None else min(self.tokens, stated)
        if not has_own and (stated is None or chunk_tokens <= stated):
            self.share = max(_SMALLEST_SHARE, self.share / 2)

    def failed(self, now: float) -> None:
        """A submission failed: wait 30 s before the next one, and twice as long each time, up to 10 minutes."""
        self._wait = min(_MOST_WAIT, max(_FIRST_WAIT, 2 * self._wait))
        self.not_before = now + self._wait

    def was_too_large(self) -> None:
        """The provider takes no chunks of this size."""
        self.share = max(_SMALLEST_SHARE, self.share / 2)

    def took(self) -> None:
        """A batch was accepted: it has passed the check of the queue."""
        self._wait = 0.0

    def has_moved(self, now: float) -> None:
        """A batch of this job has ended, so there is room."""
        self.not_before = min(self.not_before, now)


def says_too_many(message: str) -> bool:
    """Whether a refusal is for the number of rows: ``List should have at most 100000 items``."""
    return _TOO_MANY.search(message) is not None


def stated_limit(message: str) -> int | None:
    """The tokens that a refusal says may be queued: ``Limit: 2,000,000 enqueued tokens``."""
    found = _STATED.search(message)
    if found is None:
        return None
    digits = re.sub(r"[^0-9]", "", found[1])
    return int(digits) if digits and len(digits) < 13 else None
