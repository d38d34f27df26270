"""Pool of idle connections to one origin; decides whether to reuse them and detects repeated answers."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from llmbatch.http.answer_ids import AnswerIds

if TYPE_CHECKING:
    from llmbatch.core.calls import Reply
    from llmbatch.http.connection import Connection

__all__ = ["Origin"]

_TRUST = 2.0
"""Stale connections before connections are no longer reused."""

_TRUST_BY_REUSE = 0.05
"""What one good reuse adds to this: an origin may have one stale connection in twenty."""

_DISTRUST_SECONDS = 60.0
"""Seconds for which connections are not reused then; after that a single stale one is enough."""

_DOUBT_SECONDS = 1.0
"""Seconds for which no request is resent after a resent one failed on a new connection too: that is an outage."""


class Origin:
    """Idle connections to one origin, most recently used last; belongs to one event loop."""

    __slots__ = ("_doubted_until", "_fresh_until", "_ids", "_kept", "_proof", "_trust")

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Connection]] = deque()
        self._trust = _TRUST
        self._fresh_until = 0.0
        self._doubted_until = 0.0
        self._proof: asyncio.Future[bool] | None = None
        """Outcome of the request that was resent first, for those that wait to be resent."""
        self._ids = AnswerIds()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, now: float) -> Connection | None:
        """Take an idle connection on which nothing was received meanwhile, or None."""
        while self._kept:
            until, connection = self._kept.pop()
            # Bytes, or the end, may have arrived meanwhile and would be taken for the next response.
            if now < until and connection.is_open:
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection, *, now: float, seconds: float) -> bool:
        """Keep *connection* for the next request, for *seconds*; False if it was closed instead."""
        if now < self._fresh_until:
            connection.abort()
            return False
        self._kept.append((now + seconds, connection))
        return True

    def drop(self, now: float) -> None:
        """Close the connections that were idle for too long."""
        while self._kept and self._kept[0][0] <= now:
            self._kept.popleft()[1].abort()

    def reused(self) -> None:
        """Note that a reused connection delivered a response."""
        if self._trust < _TRUST:
            self._trust += _TRUST_BY_REUSE

    def met_stale(self, now: float) -> None:
        """Note that a reused connection was lost before the first byte; too many stop reuse for a minute."""
        self._trust -= 1.0
        if self._trust < 0.0:
            self._trust = 0.0
            self._fresh_until = now + _DISTRUST_SECONDS
            self.drop(float("inf"))

    async def may_resend(self, deadline: float) -> bool:
        """Whether a request may be resent after its connection was stale; if so, call :meth:`resent` afterwards.

        One is resent first, and others wait for its response, at most until their *deadline*: if all connections are
        lost at once, it may be an outage, in which not every request should be sent twice.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._doubted_until:
            return False
        if self._proof is None:
            self._proof = loop.create_future()
            return True
        proof = self._proof
        await asyncio.wait([proof], timeout=deadline - loop.time())
        return proof.done() and proof.result()

    def resent(self, *, is_answered: bool) -> None:
        """Note the outcome of a request that was resent."""
        if not is_answered:
            self._doubted_until = asyncio.get_running_loop().time() + _DOUBT_SECONDS
        proof, self._proof = self._proof, None
        if proof is not None and not proof.done():
            proof.set_result(is_answered)

    def is_copy(self, connection: Connection, reply: Reply, *, is_reused: bool) -> bool:
        """Whether this connection has delivered *reply* before, see :class:`AnswerIds`."""
        return self._ids.is_copy(reply, connection=connection.number, is_reused=is_reused)
