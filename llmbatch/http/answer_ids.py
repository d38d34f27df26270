"""Detects repeated answers of an origin by their ids, so that a copy is not taken for the next answer.

It cannot detect copies of a server that gives no ids, or repeats them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.core.calls import Reply

__all__ = ["AnswerIds"]

_MOST_IDS = 4096
"""Ids kept per origin: the answers of the last seconds, even of fast servers. About 100 bytes each."""

_TRUSTED_FROM = 8
"""Different ids in bodies before a repeated one means anything: test servers give all answers the same id."""

_BODY_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{6,200})"')
_SEARCHED_BYTES = 400
"""Part of a body in which its id is found; further on, an id may be part of the model's text."""


class AnswerIds:
    """Ids of an origin's latest answers, each with the connection that delivered it; belongs to one event loop.

    ``repeat`` is whether the origin gives one id to several answers, so that a repeated one means nothing.
    """

    __slots__ = ("_seen", "repeat")

    def __init__(self) -> None:
        self.repeat = False
        self._seen: dict[tuple[str | bytes, int, int], int] = {}

    def is_copy(self, reply: Reply, *, connection: int, is_reused: bool) -> bool:
        """Whether *connection* has delivered this answer before: same id, status and length.

        The id is the request id in the headers, else, in a success, that of the body. One that is repeated over another
        connection is not a copy: from then on, ids of this origin are ignored. O(1).
        """
        if self.repeat:
            return False
        headers = reply.headers
        name: str | bytes = headers.get("x-request-id") or headers.get("request-id") or ""
        if not name:
            found = _BODY_ID.search(reply.body, 0, _SEARCHED_BYTES) if reply.status == 200 else None
            if found is None:
                return False
            name = found[1]
        answer = (name, reply.status, len(reply.body))
        known = self._seen.get(answer)
        if known is None:
            self._seen[answer] = connection
            if len(self._seen) > _MOST_IDS:
                del self._seen[next(iter(self._seen))]
            return False
        if known != connection or not is_reused or (isinstance(name, bytes) and len(self._seen) < _TRUSTED_FROM):
            self.repeat = True
            self._seen.clear()
            return False
        return True
