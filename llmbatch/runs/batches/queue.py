"""The provider's queue: whether another batch may be submitted now, and what a full queue teaches. Pure.

A full queue is nobody's fault. While batches of this job are in it, they are waited for; else chunks are halved.
"""

from __future__ import annotations

import re

__all__ = ["QUEUE_FULL", "Queue", "stated_limit"]

_FIRST_WAIT = 30.0
_MOST_WAIT = 600.0
_STATED = re.compile(r"limit:?\s*([0-9][0-9,_.]{2,})\s*(?:enqueued|input|prompt)?\s*tokens?", re.IGNORECASE)
_SMALLEST_SHARE = 1 / 4096

QUEUE_FULL = frozenset({"token_limit_exceeded", "queue_full", "enqueued_token_limit_exceeded"})
"""Codes of a refusal, also of a whole batch that was created before, that mean a full queue."""


class Queue:
    """The queue of one route at the provider. *tokens*: how many may be in it, where the user has said so."""

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens
        self.share = 1.0
        """Part of a usual chunk that chunks have now."""
        self.not_before = 0.0
        self._wait = 0.0

    def __repr__(self) -> str:
        return f"<Queue of {self.tokens} tokens, chunks of {self.share:.0%}>"

    def may_submit(self, now: float) -> bool:
        """Whether the next chunk may be submitted, as far as waits are concerned."""
        return now >= self.not_before

    def room(self, queued_tokens: int) -> int | None:
        """Tokens that still fit; None: no limit is known."""
        return None if self.tokens is None else max(0, self.tokens - queued_tokens)

    def was_full(self, now: float, message: str, *, has_own: bool, chunk_tokens: int) -> None:
        """The provider has refused a chunk of *chunk_tokens*; *has_own*: batches of this job are in the queue."""
        self.failed(now)
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


def stated_limit(message: str) -> int | None:
    """The tokens that a refusal says may be queued: ``Limit: 2,000,000 enqueued tokens``."""
    found = _STATED.search(message)
    if found is None:
        return None
    digits = re.sub(r"[^0-9]", "", found[1])
    return int(digits) if digits and len(digits) < 13 else None
