"""Sends control calls over an :class:`~llmbatch.core.exchange.Exchanger` and classifies what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from llmbatch.classify.classify import classify_reply
from llmbatch.classify.faults import classify_fault
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.errors import TransportError
from llmbatch.core.exchange import Exchanger, HttpCall, StreamedReply, Upload
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse
from llmbatch.providers.batches.port import ControlError

__all__ = ["Control"]

_MOST_JSON_BYTES = 32 * 1024 * 1024
_SILENCE_SECONDS = 120.0
_MOST_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AMBIGUOUS = frozenset({408, 409, 425, 499})
"""Statuses below 500 after which a call may have been carried out."""


class Control:
    """Control calls to one base URL with one key.

    *base*: the URL that paths follow; its query is kept. *headers*: those of a row's request. *mask* masks keys.
    """

    def __init__(self, exchanger: Exchanger, base: str, headers: Mapping[str, str], mask: Callable[[str], str]) -> None:
        self._exchanger = exchanger
        self._parts = urlsplit(base)
        self._headers = {name: text for name, text in headers.items() if name.lower() != "content-type"}
        self.mask = mask
        self.calls = 0

    @property
    def base(self) -> str:
        """The base URL without its query."""
        return urlunsplit(self._parts._replace(query=""))

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of each call, with the key."""
        return self._headers

    def moved(self, base: str, headers: Mapping[str, str]) -> Control:
        """The same for another *base* and other *headers*."""
        return Control(self._exchanger, base, headers, self.mask)

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The URL of *path* below the base."""
        pairs = [*parse_qsl(self._parts.query), *(query or {}).items()]
        return urlunsplit(self._parts._replace(path=self._parts.path + path, query=urlencode(pairs)))

    async def json(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JSON = None,
    ) -> JSON:
        """Send a call with a JSON *body*, if any, and give the JSON of its answer.

        Raises:
            ControlError: no answer, or a refusal.
        """
        data = b"" if body is None else dumps(body).encode()
        return await self.send(what, method, path, data, "application/json", query=query)

    async def send(
        self,
        what: str,
        method: str,
        path: str,
        body: bytes | Upload,
        content_type: str,
        *,
        query: Mapping[str, str] | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> JSON:
        """As :meth:`json`, with a *body* of any type; *path* may be a whole URL, which on other hosts gets no key.

        Raises:
            ControlError: no answer, or a refusal.
        """
        url = path if path.startswith(("https://", "http://")) else self.url(path, query)
        is_own = urlsplit(url)[:2] == self._parts[:2]
        headers = {**(self._headers if is_own else {}), **(more_headers or {})}
        async with self._open(what, method, url, body, content_type, headers=headers) as reply:
            data = await self._whole(what, reply)
        try:
            return parse(data.decode())
        except (RawJsonError, UnicodeDecodeError):
            outcome = Outcome("failure", code="invalid_body", message="the answer is not JSON", status=reply.status)
            raise ControlError(what, outcome, may_have_arrived=True) from None

    async def header(self, what: str, path: str, body: bytes, headers: Mapping[str, str], name: str) -> str:
        """POST a JSON *body* with more *headers*; the answer's header *name*, or nothing.

        Raises:
            ControlError: no answer, or a refusal.
        """
        sent = {**self._headers, **headers}
        async with self._open(what, "POST", self.url(path), body, "application/json", headers=sent) as reply:
            await self._whole(what, reply)
            return reply.headers.get(name, "")

    @asynccontextmanager
    async def download(self, what: str, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Fetch *url* as a stream of blocks. A redirection to another host is followed without the key.

        Raises:
            ControlError: no answer, or a refusal; also while it is read.
        """
        headers: Mapping[str, str] | None = None
        for _ in range(_MOST_REDIRECTS):
            async with self._open(what, "GET", url, b"", "", headers=headers) as reply:
                if reply.status not in _REDIRECTS:
                    yield self._blocks(what, reply)
                    return
                target = urljoin(url, reply.headers.get("location", ""))
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                headers = {"Accept-Encoding": "identity", "User-Agent": "llmbatch"}
            url = target
        outcome = Outcome("failure", code="redirected", message="redirected too often")
        raise ControlError(what, outcome, may_have_arrived=False)

    async def _blocks(self, what: str, reply: StreamedReply) -> AsyncIterator[bytes]:
        try:
            async for block in reply.blocks():
                yield block
        except TransportError as error:
            raise ControlError(what, classify_fault(error), may_have_arrived=True) from error

    @asynccontextmanager
    async def _open(
        self,
        what: str,
        method: str,
        url: str,
        body: bytes | Upload,
        content_type: str,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[StreamedReply]:
        sent = dict(self._headers if headers is None else headers)
        if body:
            sent["Content-Type"] = content_type
        self.calls += 1
        try:
            async with self._exchanger.exchange(HttpCall(method, url, sent, body), timeout=_SILENCE_SECONDS) as reply:
                is_redirect = method == "GET" and reply.status in _REDIRECTS and "location" in reply.headers
                if not (200 <= reply.status < 300 or is_redirect):
                    raise await self._refusal(what, reply)
                yield reply
        except TransportError as error:
            raise ControlError(what, classify_fault(error), may_have_arrived=error.sent) from error

    async def _refusal(self, what: str, reply: StreamedReply) -> ControlError:
        data = await self._whole(what, reply)
        outcome = classify_reply(Reply(reply.status, reply.headers, data), endpoint="raw", mask=self.mask)
        return ControlError(what, outcome, may_have_arrived=reply.status >= 500 or reply.status in _AMBIGUOUS)

    async def _whole(self, what: str, reply: StreamedReply) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for block in reply.blocks():
            parts.append(block)
            size += len(block)
            if size > _MOST_JSON_BYTES:
                outcome = Outcome("failure", code="answer_too_large", message="the answer is too large")
                raise ControlError(what, outcome, may_have_arrived=True)
        return b"".join(parts)
