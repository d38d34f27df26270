"""Provider that sends rows over HTTP and classifies the responses.

It sends once; retries and waits are the runner's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from hashlib import blake2b

from llmbatch.classify.classify import classify_reply
from llmbatch.classify.event_stream import looks_like_stream
from llmbatch.classify.faults import classify_fault
from llmbatch.classify.hints import KEY, hint_for_key
from llmbatch.classify.rate_headers import read_rate_limits
from llmbatch.classify.stated_limits import read_stated_limits
from llmbatch.core.calls import Outcome, Reply, Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.core.ports import Transport
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Row
from llmbatch.core.secrets import Mask
from llmbatch.core.token_estimate import input_tokens
from llmbatch.providers.formats.bodies import NOT_SENT, compose_body, content_member, to_bytes
from llmbatch.providers.formats.known_formats import knows_endpoint
from llmbatch.providers.formats.parameters import PARAMETERS, echoed_metadata
from llmbatch.providers.formats.ping import LIMITS, ping_body
from llmbatch.providers.formats.row_kind import ParsedRow, parse_kind
from llmbatch.providers.local_files import LocalFiles
from llmbatch.providers.model_use import ModelUse
from llmbatch.providers.plain_rows import PlainRows, RowKind
from llmbatch.providers.resolve import ProviderSettings, Resolver, Target

__all__ = ["HttpProvider"]

_USUAL_OUTPUT_TOKENS = 256
"""Estimated output tokens of an answer without a limit."""

_MOST_STREAMING = 256

_MUCH = 0.5
"""Part of a rate limit that is much."""

_ANSWERS_PER_LOOK = 16
"""Good answers of which one is looked at for rate limits while much of all remains."""

_KNOW_STREAM = frozenset({"chat", "responses", "completions", "messages"})
"""The endpoints that have a parameter ``stream``."""

_MOST_TOLD = 20
"""Members that are not sent, and are named in a warning."""

_SEVERAL = ("n", "best_of")
"""Members that ask for more than one answer."""

_SIZING = frozenset({*LIMITS, *_SEVERAL})

_NO_LIMIT_DIGITS = 9
"""Digits from which a token limit is ignored."""


class HttpProvider:
    """Implements :class:`llmbatch.core.ports.Provider` over a transport, which it owns and closes.

    Belongs to one event loop. A canceled :meth:`call` leaves nothing open.
    """

    def __init__(
        self, connection: ProviderSettings, transport: Transport, *, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._resolver = Resolver(connection)
        self._system = dumps(connection.system) if connection.system else None
        self._resolved: tuple[Row, ParsedRow, Target] | None = None
        self._found: tuple[Row, RowKind] | None = None
        """A plain row and its kind, between :meth:`routes` and :meth:`request`."""
        self._answers = 0
        self._streaming: set[str] = set()
        """URLs that stream unrequested and get ``stream: false`` from then on; at most :data:`_MOST_STREAMING`."""
        self._warn = warn
        self._is_raw = connection.endpoint == "raw"
        self._sent = {name: known | NOT_SENT | connection.params.keys() for name, known in PARAMETERS.items()}
        self._told: set[str] = set()
        endpoint = {} if connection.endpoint is None else {"endpoint": dumps(connection.endpoint)}
        system = {} if self._system is None else {"system": self._system}
        self._asker = None
        shape = {"(shape)": connection.shape} if connection.shape else {}
        if connection.schema is not None:
            from llmbatch.providers.structured.ask import SchemaAsker

            self._asker = SchemaAsker(connection.schema)
            shape["schema"] = self._asker.text
        shaping = {**system, **shape, **connection.params}
        self._settings = (_digest(shaping), _digest({**endpoint, **shaping}))
        """Digest of what shapes the requests of rows; the second one for rows whose endpoint the run forces."""
        self._settings_of_batch = (_digest(shape), _digest({**endpoint, **shape}))
        self._tiers = None
        if connection.tiers:
            from llmbatch.providers.tier_routes import TierRoutes

            self._tiers = TierRoutes(connection.tiers, warn=warn)
        self._files = LocalFiles(connection.allow_files, are_of_server=connection.server_files)
        is_usual = self._asker is None and self._tiers is None and not self._is_raw
        self._plain = PlainRows(takes_messages=self._system is None) if is_usual else None
        self.models = ModelUse()

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
        return cls(connection, transport, warn=warn)

    @property
    def run_model(self) -> str:
        """The model of the run, as it was named."""
        return self._connection.model or ""

    def alongside(self, connection: ProviderSettings) -> HttpProvider:
        """A provider with other settings that uses the transport of this one, which closes it."""
        return HttpProvider(connection, self._transport, warn=self._warn)

    def check_model(self) -> None:
        """Refuse a model of the run that no row could be sent to, before any row is read.

        Raises:
            UsageError: what is wrong with it, and what was meant.
        """
        self._resolver.check_run_model()

    def routes(self, row: Row) -> Sequence[Route]:
        """Return the one route of *row*, by its model and format; one for each tier if there are several.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        if self._plain is not None and (known := self._plain.find(row.fields)) is not None:
            self.models.add(row.number, is_own=known.has_model)
            self._found = row, known
            return known.routes
        kind, target = self._resolve(row)
        return (target.route,) if self._tiers is None else self._tiers.routes(kind, target)

    def request(self, row: Row, route: Route) -> Request:
        """Build the request for *row*. Costs a few microseconds, each time the row is sent.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        found, self._found = self._found, None
        known = found[1] if found is not None and found[0] is row else None
        if known is None and self._plain is not None:
            known = self._plain.find(row.fields)
        if known is not None:
            return known.request(row.fields[known.source])
        kind, target = self._resolve(row)
        self._resolved = None
        if self._asker is not None:
            self._asker.refuse_textless(target.endpoint)
        if kind.body is not None:
            self._files.refuse(kind.members)
            members, settings = kind.members, self._settings_of_batch[target.is_endpoint_forced]
            is_own = kind.model is not None and not self._connection.replaces_model
            body = kind.body.encode() if is_own else _with_model(kind.body, members, target.model)
        else:
            settings = self._settings[target.is_endpoint_forced]
            members = self._compose(row, kind, target)
            if self._tiers is not None:
                self._tiers.ask(kind, target, route, members)
            if self._asker is not None:
                self._asker.ask(target.provider, target.endpoint, members)
            if target.url in self._streaming:
                members.setdefault("stream", "false")
            files = self._files.place(members)
            body = to_bytes(members)
            if files is not None:
                body = files.fill(body)
        most, answers = (0 if target.endpoint == "embeddings" else None), 1
        if not _SIZING.isdisjoint(members):
            most, answers = _max_output_tokens(members, target.endpoint), _answers(members)
        request = Request(
            target.route if self._tiers is None else route,
            target.url,
            target.headers,
            body,
            target.endpoint,
            input_tokens(body) + (_USUAL_OUTPUT_TOKENS if most is None else most) * answers,
            settings,
            most,
            answers,
        )
        if self._plain is not None and kind.body is None:
            self._plain.learn(row.fields, request, has_model=kind.model is not None)
        return request

    def _compose(self, row: Row, kind: ParsedRow, target: Target) -> dict[str, str]:
        """The members of the request for a row that is no batch row.

        Raises:
            MalformedRowError: the row can be no request.
        """
        members = kind.members
        unsent = members.keys() - self._sent[target.endpoint]
        source = content_member(target.endpoint, members)
        if source is not None:
            unsent.discard(source)
        if unsent or kind.is_alpaca:
            self._echo(row, kind, target.endpoint, unsent)
        return compose_body(
            target.endpoint,
            members,
            source,
            model=target.model,
            system=self._system,
            params=self._connection.params,
            unsent=unsent,
        )

    def _echo(self, row: Row, kind: ParsedRow, endpoint: str, unsent: Set[str]) -> None:
        """The row's members that are not sent, for the result's metadata; warns of each member once."""
        if unsent:
            echoed = {name: text for name, text in kind.members.items() if name in unsent}
            row.fields["metadata"] = echoed_metadata(row.fields.get("metadata"), echoed)
        if kind.is_alpaca and "instruction" not in self._told:
            self._told.add("instruction")
            self._warn("rows with an instruction: it is sent as the prompt, followed by a blank line and the input")
        if not unsent <= self._told and len(self._told) < _MOST_TOLD:
            new = sorted(unsent - self._told)
            self._told.update(new)
            names = ", ".join(new[:_MOST_TOLD]) + (", …" if len(new) > _MOST_TOLD else "")
            self._warn(
                f"not sent, as they are no parameters of the {endpoint} endpoint: {names}; they are echoed in metadata "
                f"(to send one, name it: -P {new[0]}=…)"
            )

    def own_model(self, row: Row) -> str | None:
        """The model that *row* names itself, as JSON text; None if it leaves that to the run.

        Raises:
            MalformedRowError: the row can be no request.
        """
        return parse_kind(row.fields, model=self._resolver.run_model, raw=self._is_raw).model

    def carries(self, row: Row) -> bool:
        """Whether *row* can be sent here: the provider knows the wire format in which the row is written.

        A prompt or messages can be written in every provider's format; a batch row's body is in one.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key that is not there.
        """
        kind, target = self._resolve(row)
        if (kind.body is not None or kind.endpoint) and not knows_endpoint(target.provider, target.endpoint):
            return False
        if kind.body is None and not kind.members.get("prompt", "").startswith('"'):
            self._compose(row, kind, target)  # not all messages and lists can be written in every format
        return True

    def check_target(self) -> None:
        """Check that the run's model has an address and a key, before any row is read.

        Raises:
            UsageError: what is missing.
        """
        self._resolver.target(None, None, anthropic=False)

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """None: no answer is known without a call."""
        return None

    def _resolve(self, row: Row) -> tuple[ParsedRow, Target]:
        """The kind of *row* and its target; cached between :meth:`routes` and :meth:`request`."""
        resolved = self._resolved
        if resolved is not None and resolved[0] is row:
            return resolved[1], resolved[2]
        kind = parse_kind(row.fields, model=self._resolver.run_model, raw=self._is_raw)
        self.models.add(row.number, is_own=kind.model is not None)
        model = None if self._connection.replaces_model else kind.model
        target = self._resolver.target(model, kind.endpoint, anthropic=kind.anthropic, path=kind.path)
        self._resolved = (row, kind, target)
        return kind, target

    def flight_key(self, request: Request) -> bytes | None:
        """None: each request is sent."""
        return None

    def ping(self, like: Request) -> Request | None:
        """The smallest request that the route of *like* takes; None for paths of which nothing is known."""
        if like.endpoint == "raw":
            return None
        body = ping_body(like.endpoint, like.body)
        return Request(
            *(like.route, like.url, like.headers, body, like.endpoint, len(body) // 4 + 16), max_output_tokens=16
        )

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once and classify the outcome. Raises only cancellation."""
        try:
            reply = await self._transport.post(request, timeout=timeout)
        except TransportError as error:
            return classify_fault(error)
        if not reply.body.startswith(b"{") and request.endpoint in _KNOW_STREAM and _is_stream(reply):
            self._refuse_streams(request.url)
        outcome = self.judge(request, reply)
        if outcome.verdict == "success":
            # While much remains, now and then is enough.
            self._answers += 1
            below = math.inf if self._answers % _ANSWERS_PER_LOOK == 1 else _MUCH
            if limits := read_rate_limits(reply.headers, below=below):
                return replace(outcome, limits=limits)
        elif outcome.verdict == "throttled" and (limits := read_stated_limits(outcome.message)):
            return replace(outcome, limits=limits)
        return outcome

    def _refuse_streams(self, url: str) -> None:
        """Ask *url* for no streams: not every server knows the parameter, so only those that need it are told."""
        if len(self._streaming) < _MOST_STREAMING:
            self._streaming.add(url)
            if self._plain is not None:
                self._plain.forget()

    def judge(self, request: Request, reply: Reply) -> Outcome:
        """Classify *reply*, the answer to *request* as it came, or as a line of a batch's results holds it."""
        outcome = classify_reply(reply, endpoint=request.endpoint, mask=self._resolver.mask, asked=request.body)
        return outcome if outcome.hint != KEY else replace(outcome, hint=hint_for_key(request.headers))

    def target_of(self, row: Row, route: Route) -> Target:
        """Where *row* goes on *route*, one of its :meth:`routes`: URL, headers, provider.

        Raises:
            MalformedRowError: the row can be no request.
        """
        return self._resolve(row)[1]

    @property
    def mask(self) -> Mask:
        """Masks the keys of this provider."""
        return self._resolver.mask

    async def aclose(self) -> None:
        """Close the transport; idempotent."""
        await self._transport.aclose()


def _digest(settings: Mapping[str, str]) -> str:
    """Eight hexadecimal digits for *settings* (JSON texts by name), in any order; ``0`` for none."""
    return blake2b(to_bytes(dict(sorted(settings.items()))), digest_size=4).hexdigest() if settings else "0"


def _is_stream(reply: Reply) -> bool:
    is_good = 200 <= reply.status < 300
    return is_good and looks_like_stream(reply.headers, reply.body[:4000].decode(errors="replace"))


def _with_model(body: str, members: Mapping[str, str], model: str) -> bytes:
    """A batch row's *body*, which names no model, with *model*; the rest is as it was."""
    if members:
        return to_bytes({**members, "model": model}) if "model" in members else f'{{"model":{model},{body[1:]}'.encode()
    return f'{{"model":{model}}}'.encode()


def _max_output_tokens(members: Mapping[str, str], endpoint: str) -> int | None:
    """The limit that the request sets for the tokens of one answer; None if it sets none."""
    if endpoint == "embeddings":
        return 0
    for name in LIMITS:
        limit = members.get(name)
        if limit is not None and limit.isdecimal() and len(limit) < _NO_LIMIT_DIGITS:
            return int(limit)
    return None


def _answers(members: Mapping[str, str]) -> int:
    """The answers that the request asks for: ``n``, or more that are made to choose from."""
    most = 1
    for name in _SEVERAL:
        text = members.get(name)
        if text is not None and text.isdecimal() and len(text) < _NO_LIMIT_DIGITS:
            most = max(most, int(text))
    return most
