"""Idle connections to one origin: whether they are reused, and whether what they deliver is a repeated answer."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llmbatch.core.calls import Reply
from llmbatch.core.errors import TransportError
from llmbatch.http.connection import Connection

__all__ = ["KEEPALIVE_SECONDS", "Origin"]

KEEPALIVE_SECONDS = 4.0
"""Seconds that an idle connection is kept. Less than the 5 s after which uvicorn, and so vLLM, closes it: a POST sent
on a closing connection has to be sent twice."""

_TRUST = 2.0
"""Stale connections before connections are no longer reused."""

_TRUST_BY_REUSE = 0.05
"""What one good reuse adds to this: an origin may have one stale connection in twenty."""

_DISTRUST_SECONDS = 60.0
"""Seconds for which connections are not reused then; after that a single stale one is enough."""

_DOUBT_SECONDS = 1.0
"""Seconds for which no request is resent after a resent one failed on a new connection too: that is an outage."""

_MOST_IDS = 4096
"""Answer ids kept per origin: the answers of the last seconds, even of fast servers. About 100 bytes each."""

_TRUSTED_FROM = 8
"""Different ids in bodies before a repeated one means anything: test servers give all answers the same id."""

_BODY_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{6,200})"')
_SEARCHED_BYTES = 400
"""Part of a body in which its id is found; further on, an id may be part of the model's text."""


class Origin:
    """Idle connections to one origin, most recently used last, and the ids of its latest answers.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._idle: deque[Connection] = deque()
        self._trust = _TRUST
        self._fresh_until = self._doubted_until = 0.0
        self._resending: asyncio.Future[None] | None = None
        """Done when the latest resent request has ended."""
        self._ids: dict[tuple[str | bytes, int, int], int] = {}
        """Id, status and length of answers, with the number of the connection that delivered them."""
        self._ids_repeat = False
        """Whether several answers have the same id, so that a repeated one means nothing."""

    def take(self) -> Connection | None:
        """Take an idle connection on which nothing was received meanwhile, or None."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            # Bytes, or the end, may have arrived meanwhile and would be taken for the next response.
            if connection.is_open and now < connection.due:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection, *, is_answered: bool) -> None:
        """End the exchange on *connection*, and keep the connection for the next request if possible."""
        if is_answered and connection.is_reused and self._trust < _TRUST:
            self._trust += _TRUST_BY_REUSE
        is_wanted = is_answered and asyncio.get_running_loop().time() >= self._fresh_until
        if connection.finish(keep_seconds=KEEPALIVE_SECONDS if is_wanted else 0.0):
            connection.is_reused = True
            self._idle.append(connection)
        while self._idle and not self._idle[0].is_open:
            self._idle.popleft()

    def met_stale(self) -> None:
        """Note that a reused connection was lost before the first byte; too many stop reuse for a minute."""
        self._trust -= 1.0
        if self._trust < 0.0:
            self._trust = 0.0
            self._fresh_until = asyncio.get_running_loop().time() + _DISTRUST_SECONDS
            self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()

    @asynccontextmanager
    async def resending(self, lost: TransportError, deadline: float) -> AsyncIterator[None]:
        """Surround the resending of a request whose connection was stale, as *lost* says.

        One is resent first, and others wait for its answer, at most until their *deadline*: if all connections are lost
        at once, it may be an outage, in which not every request should be sent twice.

        Raises:
            TransportError: *lost*, if the request should not be resent; or what is raised inside, sent if *lost* was.
        """
        loop = asyncio.get_running_loop()
        if (first := self._resending) is not None:
            await asyncio.wait([first], timeout=deadline - loop.time())
            if not first.done():
                raise lost
        if loop.time() < self._doubted_until:
            raise lost
        self._resending = ended = loop.create_future()
        try:
            yield
        except BaseException as error:
            self._doubted_until = loop.time() + _DOUBT_SECONDS
            if isinstance(error, TransportError):
                error.sent = error.sent or lost.sent
            raise
        finally:
            ended.set_result(None)
            if self._resending is ended:
                self._resending = None

    def is_copy(self, reply: Reply, connection: Connection) -> bool:
        """Whether *connection* has delivered this answer before: same id, status and length.

        The id is the request id in the headers, else, in a success, that of the body. One that is repeated over another
        connection is not a copy: from then on, ids of this origin are ignored. Copies of a server that gives no ids
        cannot be detected. O(1).
        """
        if self._ids_repeat:
            return False
        name: str | bytes | None = reply.headers.get("x-request-id") or reply.headers.get("request-id")
        if not name and reply.status == 200 and (found := _BODY_ID.search(reply.body, 0, _SEARCHED_BYTES)):
            name = found[1]
        if not name:
            return False
        answer = (name, reply.status, len(reply.body))
        known = self._ids.get(answer)
        if known is None:
            self._ids[answer] = connection.number
            if len(self._ids) > _MOST_IDS:
                del self._ids[next(iter(self._ids))]
            return False
        is_certain = isinstance(name, str) or len(self._ids) >= _TRUSTED_FROM
        if known == connection.number and connection.is_reused and is_certain:
            return True
        self._ids_repeat = True
        self._ids.clear()
        return False
