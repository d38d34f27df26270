"""Provider that keeps good answers in a file, and answers equal requests from it without a call.

Requests are equal if their origin, path, model and body are. Keys, and the account that pays, make no difference, nor
do other headers. What is stored is a digest of the request and the answer, not the prompt. Failures are never stored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from urllib.parse import urlsplit

from llmbatch.core.calls import Outcome, Request, Route, Usage
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Row
from llmbatch.storage.answer_cache import AnswerCache

__all__ = ["CachingProvider"]

_SIM = "sim/"
_SIM_ORIGIN = "sim"
"""Origin of the simulated provider, whose port differs from run to run."""


class CachingProvider:
    """Implements :class:`llmbatch.core.ports.Provider` around another one, which it closes.

    Args:
        inner: answers what is not in the cache.
        path: of the cache; opened at the first look.
        require_finish: whether an answer that was cut at its token limit is no good one.
        admit: checks an answer that is in the cache, and completes it; if it gives None the answer is not used.
        warn: called once if answers cannot be kept any more.
    """

    def __init__(
        self,
        inner: Provider,
        path: str,
        *,
        require_finish: bool,
        admit: Callable[[Outcome, Request], Outcome | None] | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._inner = inner
        self._path = path
        self._require_finish = require_finish
        self._admit = admit
        self._warn = warn
        self._opened: AnswerCache | None = None
        self._is_told = False
        self._last: tuple[Request, bytes] | None = None
        self.models = getattr(inner, "models", None)
        self.idle_fallbacks = getattr(inner, "idle_fallbacks", None)

    @property
    def _cache(self) -> AnswerCache:
        if self._opened is None:
            # With a check, a request whose answer is kept was sent because that did not fit.
            self._opened = AnswerCache(self._path, replaces=self._admit is not None)
        return self._opened

    def check_model(self) -> None:
        """See the inner provider."""
        check = getattr(self._inner, "check_model", None)
        if check is not None:
            check()

    def check_routes(self) -> None:
        """As the inner provider; and open the cache.

        Raises:
            UsageError: a route lacks something, or the cache cannot be used.
        """
        check = getattr(self._inner, "check_routes", None)
        if check is not None:
            check()
        assert self._cache  # noqa: S101 - opened now

    def routes(self, row: Row) -> Sequence[Route]:
        """See the inner provider."""
        return self._inner.routes(row)

    def request(self, row: Row, route: Route) -> Request:
        """See the inner provider."""
        return self._inner.request(row, route)

    def flight_key(self, request: Request) -> bytes | None:
        """What equal requests have in common."""
        if self._last is not None and self._last[0] is request:
            return self._last[1]
        address = urlsplit(request.url)
        model = request.route.model or request.route.label
        origin = _SIM_ORIGIN if model.startswith(_SIM) else f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
        path = f"{address.path}?{address.query}" if address.query else address.path
        digest = blake2b(digest_size=24)
        for part in (origin.encode(), path.encode(), model.encode(), request.body):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        key = digest.digest()
        self._last = (request, key)
        return key

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """The good answer to an equal request, of this run or another; None if there is none."""
        key = self.flight_key(request)
        kept = None if key is None else self._cache.get(key)
        known = None if kept is None else _read(kept)
        if known is not None and self._is_good(known):
            return known if self._admit is None else self._admit(known, request)
        return None

    def ping(self, like: Request) -> Request | None:
        """See the inner provider."""
        return self._inner.ping(like)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once by the inner provider, and keep a good answer to a row."""
        outcome = await self._inner.call(request, row, timeout=timeout)
        if row is not None and outcome.follow_up is None and self._is_good(outcome):
            key = self.flight_key(request.first or request)
            if key is not None:
                self._cache.put(key, _written(outcome))
        self._tell(self._cache)
        return outcome

    def _tell(self, cache: AnswerCache) -> None:
        if cache.fault and not self._is_told:
            self._is_told = True
            self._warn(f"{self._path}: answers are not kept in the cache any more ({cache.fault})")

    def _is_good(self, outcome: Outcome) -> bool:
        is_cut = self._require_finish and outcome.finish_reason == "length"
        is_success = outcome.verdict == "success" and not outcome.row_is_bad
        return is_success and outcome.body is not None and not is_cut

    async def commit(self) -> None:
        """Close the cache with all that was answered, and warn if some of it is not kept; idempotent.

        A later look opens it again.
        """
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.to_thread(opened.close)  # another process may have locked the file
            self._tell(opened)

    async def aclose(self) -> None:
        """Close the inner provider, and the cache as :meth:`commit`; idempotent."""
        try:
            await self._inner.aclose()
        finally:
            await self.commit()


def _written(outcome: Outcome) -> bytes:
    usage = outcome.usage
    members = {
        "status": outcome.status,
        "request_id": outcome.request_id,
        "body": outcome.body,
        "text": outcome.text,
        "usage": None if usage is None else [usage.input_tokens, usage.output_tokens],
        "finish_reason": outcome.finish_reason,
    }
    return json.dumps(members, separators=(",", ":")).encode()


def _read(kept: bytes) -> Outcome | None:
    try:
        members = json.loads(kept)
        usage = members["usage"]
        return Outcome(
            "success",
            status=members["status"],
            request_id=members["request_id"],
            body=members["body"],
            text=members["text"],
            usage=None if usage is None else Usage(*usage),
            finish_reason=members["finish_reason"],
            is_cached=True,
        )
    except (ValueError, LookupError, TypeError):
        return None  # written by nobody who should have: send the request
