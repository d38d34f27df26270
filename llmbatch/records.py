"""The values that pass between the floors: a row, its route, its request, what came of it, and its line.

Everything here is data: no behaviour but the encoding of a result line. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, dataclass_transform

from llmbatch.jsontext import JSON, dumps, parse

__all__ = [
    "Caller",
    "Malformed",
    "Outcome",
    "Reply",
    "Request",
    "Result",
    "Route",
    "Row",
    "Scope",
    "Transport",
    "Usage",
    "Verdict",
    "encode_line",
    "per_row",
]

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def per_row(cls: type[_T]) -> type[_T]:
    """A slotted dataclass for what every row has at least one of: frozen for the type checker alone.

    Freezing it at run time as well would cost five times as much a record.
    """
    return dataclass(slots=True)(cls)


@dataclass(slots=True)
class Row:
    """One input row, as read.

    ``number`` is the physical line number from 1 (for rows that come from Python, their place in the iterable).
    ``hash`` is the first 16 hex digits of the SHA-256 of the line. ``id_json`` is the row's name as JSON text.
    ``fields`` holds the source text of each member of the row's object, without the member that names it; a bare
    string is ``{"prompt": …}`` and a top-level list ``{"messages": …}``. ``value`` is the Python object a caller
    handed in, where one did. ``offset`` is where the source can read the row again, in bytes; -1 where it cannot.
    ``size`` is the length of its line in bytes, 0 for rows that come from Python.
    """

    number: int
    hash: str
    id_json: str
    fields: dict[str, str]
    value: object = None
    offset: int = -1
    size: int = 0

    @property
    def id(self) -> str:
        """The row's name as text."""
        return self.id_json if self.id_json[:1] != '"' else str(parse(self.id_json))


@dataclass(slots=True)
class Malformed:
    """An input line that is no request; ``code`` starts with ``input_``."""

    number: int
    hash: str
    id_json: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests of one kind go: one base URL and one model, one circuit.

    ``label`` is what people see (``openai/gpt-5-mini``). ``account`` is shared by the routes that one key pays for.
    """

    label: str
    account: str
    base_url: str = ""


@dataclass(slots=True)
class Request:
    """One HTTP POST, ready to be sent any number of times. ``tokens`` is an estimate of input plus output."""

    route: Route
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    endpoint: str
    tokens: int


@dataclass(slots=True)
class Reply:
    """A whole HTTP answer; the body is as it came, inflated.

    ``headers`` finds lower-case names, however the provider spells them; only who goes through it meets its spelling.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport(Protocol):
    """What carries a request: the HTTP client, or the simulated provider under virtual time."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        """Send once and read the whole answer within *timeout* seconds.

        Raises:
            TransportError: no whole HTTP answer came.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open; idempotent."""
        ...


Verdict = Literal["success", "failure", "neutral", "throttled", "exhausted", "local"]
"""What an answer says about the provider.

``success`` it works; ``failure`` it is sick; ``neutral`` it refused this request; ``throttled`` slow down;
``exhausted`` only the operator can help (money, key, model name, base URL); ``local`` this machine is at fault.
"""

Scope = Literal["row", "key", "model", "provider", "machine"]
"""Whose the trouble is."""


@per_row
class Usage:
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int


@per_row
class Outcome:
    """What one attempt came to.

    ``retry``: sending the same row again by itself may help. ``final``: the refusal names the row's own content (too
    long, filtered) and needs no further evidence. ``auth``: the key was refused. ``pause``: seconds that the provider
    named, None where it named none; never shortened. ``least_wait``: seconds this row waits at least before it goes
    again. ``body``: the answer's JSON, one line, keys masked; None where there was none. ``sent``: False only where
    the request certainly never left. ``unreachable``: the request never reached any provider, as there was no
    connection; ``code`` tells why (``unknown_host``, ``dns_failed``, ``connection_failed``, ``connect_timeout``,
    ``no_network``). ``certain``: False where a refusal of the account rests on this one answer's words, or on a 402,
    and so may be this row's alone: it takes several rows. ``advice``: what an operator can do. ``value``: what a
    function in place of a provider returned.
    """

    verdict: Verdict
    scope: Scope = "provider"
    retry: bool = False
    final: bool = False
    auth: bool = False
    pause: float | None = None
    least_wait: float = 0.0
    code: str = ""
    message: str = ""
    advice: str = ""
    status: int | None = None
    request_id: str | None = None
    body: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    usage: Usage | None = None
    value: object = field(default=None, repr=False)
    sent: bool = True
    unreachable: bool = False
    certain: bool = True


class Caller(Protocol):
    """What the runner sends rows with: a provider over HTTP, or any async function."""

    def prepare(self, row: Row) -> Request:
        """What *row* becomes on the wire.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        ...

    def canary(self, like: Request) -> Request | None:
        """The smallest request that the route of *like* takes, or None where there is no such thing."""
        ...

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once (*row* is None for a canary) and judge what comes. Raises nothing but cancellation."""
        ...

    async def aclose(self) -> None:
        """Close connections; idempotent."""
        ...


Status = Literal["success", "failed", "deferred"]


@dataclass(slots=True)
class Result:
    """What a row ended as, or, for ``deferred``, how it waits.

    ``body`` is the provider's answer as JSON text (see :meth:`json`), ``metadata_json`` the row's own metadata.
    ``attempts`` counts the requests that carried the row, failed probes left out; ``deferrals`` how often it was
    parked. ``retry_after`` is in seconds from when the run stopped, ``retry_at`` is that instant (ISO 8601, UTC).
    """

    row: int
    hash: str
    status: Status
    id_json: str
    attempts: int = 0
    deferrals: int = 0
    status_code: int | None = None
    request_id: str | None = None
    body: str | None = field(default=None, repr=False)
    error_code: str | None = None
    error_message: str | None = None
    text: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    model: str | None = None
    latency_s: float | None = None
    metadata_json: str | None = None
    retry_after: float | None = None
    reason: str | None = None
    value: object = None
    retry_at: str | None = None

    @property
    def id(self) -> str:
        """The row's name."""
        return self.id_json if self.id_json[:1] != '"' else str(parse(self.id_json))

    @property
    def ok(self) -> bool:
        """Whether the row succeeded."""
        return self.status == "success"

    @property
    def error(self) -> dict[str, str] | None:
        """The error as the output line has it, None for a success."""
        if self.error_code is None:
            return None
        return {"code": self.error_code, "message": self.error_message or ""}

    def json(self) -> JSON:
        """The provider's answer, parsed; None where there was none."""
        return None if self.body is None else parse(self.body)


def encode_line(result: Result) -> bytes:
    r"""*result* as one output line with its ``\n``: fixed prefix first, the body spliced in as text.

    The prefix ``{"row":N,"hash":"…","status":"…"`` is what resuming reads; its order and spelling are a promise.
    A deferred result has the shorter form of the deferred file.
    """
    name = result.id_json
    if result.status == "deferred":
        wait, reason = dumps(round(result.retry_after or 0.0, 3)), dumps(result.reason or "")
        instant = dumps(result.retry_at)
        line = f'{{"id":{name},"status":"deferred","retry_after":{wait},"retry_at":{instant},"reason":{reason}}}\n'
        return line.encode()
    custom = name if name[:1] == '"' else dumps(name)
    response = usage = latency = error = cost = "null"
    if result.status_code is not None:
        request_id = "null" if result.request_id is None else dumps(result.request_id)
        body = "null" if result.body is None else result.body
        response = f'{{"status_code":{result.status_code},"request_id":{request_id},"body":{body}}}'
    if result.usage is not None:
        usage = f'{{"input_tokens":{result.usage.input_tokens},"output_tokens":{result.usage.output_tokens}}}'
    if result.latency_s is not None:
        latency = f"{result.latency_s:.3f}"
    if result.error_code is not None:
        error = dumps(result.error)
    if result.cost_usd is not None:
        cost = dumps(result.cost_usd)
    line = (
        f'{{"row":{result.row},"hash":"{result.hash}","status":"{result.status}","id":{name},"custom_id":{custom},'
        f'"response":{response},"error":{error},"text":{dumps(result.text)},"usage":{usage},'
        f'"cost_usd":{cost},"model":{dumps(result.model)},"attempts":{result.attempts},'
        f'"deferrals":{result.deferrals},"latency_s":{latency},"metadata":{result.metadata_json or "null"}}}\n'
    )
    return line.encode()
