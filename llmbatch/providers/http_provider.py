"""Provider that sends rows over HTTP and classifies the responses.

It sends once; retries and waits are the runner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmbatch.classify.classify import classify_fault, classify_reply
from llmbatch.core.calls import Outcome, Reply, Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.core.ports import Transport
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Row
from llmbatch.providers.formats.bodies import compose_body, to_bytes
from llmbatch.providers.formats.ping import LIMITS, ping_body
from llmbatch.providers.formats.row_kind import ParsedRow, parse_kind
from llmbatch.providers.resolve import ProviderSettings, Resolver, Target

__all__ = ["HttpProvider"]

_USUAL_OUTPUT_TOKENS = 256
"""Estimated output tokens of an answer without a limit."""

_MOST_STREAMING = 256

_KNOW_STREAM = frozenset({"chat", "responses", "completions", "messages"})
"""The endpoints that have a parameter ``stream``."""

_NO_LIMIT_DIGITS = 9
"""Digits from which a token limit is ignored."""


class HttpProvider:
    """Implements :class:`llmbatch.core.ports.Provider` over a transport, which it owns and closes.

    Belongs to one event loop. A canceled :meth:`call` leaves nothing open.
    """

    def __init__(self, connection: ProviderSettings, transport: Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._resolver = Resolver(connection)
        self._system = dumps(connection.system) if connection.system else None
        self._resolved: tuple[Row, ParsedRow, Target] | None = None
        self._streaming: set[str] = set()
        """URLs that stream where nobody asked for it, and are asked not to; at most :data:`_MOST_STREAMING`."""

    @classmethod
    def over_http(
        cls,
        connection: ProviderSettings,
        *,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
        max_answer_memory: int | None = None,
    ) -> HttpProvider:
        """Create a provider with a new :class:`~llmbatch.http.HttpTransport`; loads the HTTP client."""
        from llmbatch.http import DEFAULT_ANSWER_MEMORY, HttpTransport

        limit = DEFAULT_ANSWER_MEMORY if max_answer_memory is None else max_answer_memory
        transport = HttpTransport(
            proxy=connection.proxy, before_sending=before_sending, warn=warn, max_answer_memory=limit
        )
        return cls(connection, transport)

    def routes(self, row: Row) -> Sequence[Route]:
        """Give the one route of *row*, by its model and format.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        return (self._resolve(row)[1].route,)

    def request(self, row: Row, route: Route) -> Request:
        """Build the request for *row*. Costs a few microseconds, each time the row is sent.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        kind, target = self._resolve(row)
        self._resolved = None
        members = kind.members
        if kind.body is not None:
            body = kind.body.encode()
        else:
            members = compose_body(
                target.endpoint, members, model=target.model, system=self._system, params=self._connection.params
            )
            if target.url in self._streaming:
                members.setdefault("stream", "false")
            body = to_bytes(members)
        return Request(
            target.route, target.url, target.headers, body, target.endpoint, _tokens(body, members, target.endpoint)
        )

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """None: no answer is known without a call."""
        return None

    def _resolve(self, row: Row) -> tuple[ParsedRow, Target]:
        """The kind of *row* and its target; cached between :meth:`routes` and :meth:`request`."""
        resolved = self._resolved
        if resolved is not None and resolved[0] is row:
            return resolved[1], resolved[2]
        kind = parse_kind(row.fields, model=self._resolver.run_model)
        target = self._resolver.target(kind.model, kind.endpoint, anthropic=kind.anthropic)
        self._resolved = (row, kind, target)
        return kind, target

    def ping(self, like: Request) -> Request:
        """Build the smallest request for the route of *like*."""
        body = ping_body(like.endpoint, like.body)
        return Request(like.route, like.url, like.headers, body, like.endpoint, len(body) // 4 + 16)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once and classify the outcome. Raises only cancellation."""
        try:
            reply = await self._transport.post(request, timeout=timeout)
        except TransportError as error:
            return classify_fault(error)
        if _is_stream(reply) and request.endpoint in _KNOW_STREAM and len(self._streaming) < _MOST_STREAMING:
            # Every endpoint that has the parameter takes it, but not every server knows it: only those that need it.
            self._streaming.add(request.url)
        return classify_reply(reply, endpoint=request.endpoint, mask=self._resolver.mask, asked=request.body)

    async def aclose(self) -> None:
        """Close the transport; idempotent."""
        await self._transport.aclose()


def _is_stream(reply: Reply) -> bool:
    return 200 <= reply.status < 300 and (
        "text/event-stream" in reply.headers.get("content-type", "") or reply.body.startswith((b"data:", b"event:"))
    )


def _tokens(body: bytes, members: dict[str, str], endpoint: str) -> int:
    """Estimate input plus output tokens: four bytes per token, and the output limit of the row."""
    size = len(body) // 4
    if endpoint == "embeddings":
        return size
    for name in LIMITS:
        limit = members.get(name)
        if limit is not None and limit.isdecimal() and len(limit) < _NO_LIMIT_DIGITS:
            return size + int(limit)
    return size + _USUAL_OUTPUT_TOKENS
