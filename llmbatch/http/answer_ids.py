"""Which answers of an origin were seen before, by the ids that it gives them: a copy is not the next answer.

It knows nothing of what an answer means, and cannot tell copies of a server that gives no ids, or repeats them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.core.calls import Reply

__all__ = ["AnswerIds"]

_MOST_IDS = 4096
"""Ids that are kept: the answers of the last seconds even of fast servers. About 100 bytes each."""

_TRUSTED_FROM = 8
"""Different ids in bodies before one that comes again tells anything: test servers give all answers the same."""

_BODY_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{6,200})"')
_SEARCHED_BYTES = 400
"""Where a body has its id, if anywhere; later ones may be in the model's own words."""


class AnswerIds:
    """The ids of an origin's latest answers, each with the connection that brought it; belongs to one event loop.

    ``repeat`` is whether the origin gives one id to several answers, so that a repeated one tells nothing.
    """

    __slots__ = ("_seen", "repeat")

    def __init__(self) -> None:
        self.repeat = False
        self._seen: dict[tuple[str | bytes, int, int], int] = {}

    def is_copy(self, reply: Reply, *, connection: int, is_reused: bool) -> bool:
        """Whether *connection* has brought this very answer before: same id, status and length.

        The id is that of the request in the headers, else, in a success, that of the body. One that comes again over
        another connection is no copy: then ids tell nothing here, from now on. O(1).
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
