"""Input rows, malformed lines, results, and the encoding of output lines."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, cast

from llmbatch.core.calls import Parsed, Usage
from llmbatch.core.errors import RowFailedError
from llmbatch.core.raw_json import JSON, dumps, parse

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    RowT_co = TypeVar("RowT_co", covariant=True, default=Any)
    ValueT_co = TypeVar("ValueT_co", covariant=True, default=Any)
else:  # a default needs Python 3.13, and only type checkers look at it
    from typing import TypeVar

    RowT_co = TypeVar("RowT_co", covariant=True)
    ValueT_co = TypeVar("ValueT_co", covariant=True)

__all__ = ["Malformed", "Result", "Row", "Status", "encode_line"]


Status = Literal["success", "failed", "deferred"]


@dataclass(slots=True)
class Row:
    """One input row.

    ``number`` is the physical line number from 1 (for rows that come from Python, their position in the iterable).
    ``hash`` is the first 16 hex digits of the SHA-256 of the line. ``id_json`` is the row's id as JSON text.
    ``fields`` holds the source text of each member of the row's object, without the member with its id; a bare
    string is ``{"prompt": …}`` and a top-level list ``{"messages": …}``. ``value`` is the Python object
    of rows that come from Python. ``offset`` is where the source can read the row again, in bytes; -1 if it cannot.
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
        """The row's id as text."""
        return self.id_json if self.id_json[:1] != '"' else str(parse(self.id_json))


@dataclass(slots=True)
class Malformed:
    """An input line that is not a request. ``code`` starts with ``input_``; ``excerpt`` is the start of the line.

    ``value`` is the Python object of rows that come from Python.
    """

    number: int
    hash: str
    id_json: str
    code: str
    message: str
    excerpt: str = field(default="", repr=False)
    value: object = field(default=None, repr=False)


@dataclass(slots=True)
class Result(Generic[RowT_co, ValueT_co]):
    """Result of a row: its answer, its error, or why it is deferred.

    ``number`` is the row's position from 1, which is the line number in a file, and ``row`` the object that the caller
    gave (None for rows of a file). ``value`` is what a function returned for it; None if it did not succeed, and for
    answers of a provider. ``body`` is the provider's answer as JSON text (see :meth:`json`), ``metadata_json`` the
    row's own metadata. ``attempts`` counts the requests that carried the row, without failed probes; ``deferrals`` how
    often it was parked. ``finish_reason`` is why the answer ended, if that is no normal stop: ``length`` if its token
    limit cut it, else the provider's word. ``fit`` is the answer that fits the schema of the run (see :attr:`parsed`).
    ``cached``: it is the answer to an equal request, and cost no call.
    ``route`` is the label of the route that answered, if a pool or a fallback was used. ``tier`` is the service tier
    that the provider says it billed, if one was asked for or it is another than the standard one. ``via`` is ``batch``,
    and ``batch_id`` names the batch, if a batch API answered. ``retry_after`` is in
    seconds from when the run stopped, ``retry_at`` is the same as a time (ISO 8601, UTC).
    """

    number: int
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
    value: ValueT_co | None = None
    retry_at: str | None = None
    settings: str = ""
    finish_reason: str | None = None
    fit: Parsed | None = field(default=None, repr=False)
    cached: bool = False
    route: str | None = None
    tier: str | None = None
    via: str | None = None
    batch_id: str | None = None
    row: RowT_co = field(default=cast("RowT_co", None), repr=False)

    def __repr__(self) -> str:
        members = (f"{member.name}={_shown(getattr(self, member.name))}" for member in fields(self) if member.repr)
        return f"{type(self).__name__}({', '.join(members)})"

    @property
    def id(self) -> str:
        """The row's id as text."""
        return self.id_json if self.id_json[:1] != '"' else str(parse(self.id_json))

    @property
    def ok(self) -> bool:
        """Whether the row succeeded."""
        return self.status == "success"

    @property
    def error(self) -> dict[str, str] | None:
        """Code and message, as in the output line; None for a success."""
        if self.error_code is None:
            return None
        return {"code": self.error_code, "message": self.error_message or ""}

    @property
    def parsed(self) -> Any:
        """The answer as the run's schema has it: an instance of its model, or a JSON value; None if it does not fit."""
        return None if self.fit is None else self.fit.value

    def unwrap(self) -> ValueT_co:
        """Return ``value``, typed as the function returns it.

        Raises:
            RowFailedError: the row failed or is deferred; it has ``code`` and ``message``.
        """
        if self.status != "success":
            raise RowFailedError(self.id, self.error_code or self.status, self.error_message or self.reason or "")
        return cast("ValueT_co", self.value)

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        from llmbatch.core.notebook_html import result_html

        return result_html(self)

    def json(self) -> JSON:
        """Parse the provider's answer; None if there was none."""
        return None if self.body is None else parse(self.body)


def _plain(amount: float) -> str:
    """*amount* as a JSON number without an exponent, with the digits that it shows."""
    text = repr(amount)
    return f"{Decimal(text):f}" if "e" in text else text


def _shown(value: object) -> str:
    """The ``repr`` of *value*, which may be any object that a function returned."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a foreign __repr__ may do anything
        return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"


def encode_line(result: Result) -> bytes:
    r"""Encode *result* as one output line with its ``\n``: fixed prefix first, the body inserted as text.

    The prefix ``{"row":N,"hash":"…","status":"…"`` is what resuming reads; its order and spelling must not change.
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
        cost = _plain(result.cost_usd)
    metadata = result.metadata_json or "null"
    settings = f',"settings":{dumps(result.settings)}' if result.settings else ""
    finish = f',"finish_reason":{dumps(result.finish_reason)}' if result.finish_reason else ""
    if result.fit is not None:
        finish += f',"parsed":{result.fit.json}'
    if result.cached or result.route or result.tier:
        finish += ',"cached":true' if result.cached else ""
        finish += f',"route":{dumps(result.route)}' if result.route else ""
        finish += f',"tier":{dumps(result.tier)}' if result.tier else ""
    if result.via is not None:
        finish += f',"via":{dumps(result.via)},"batch_id":{dumps(result.batch_id)}'
    line = (
        f'{{"row":{result.number},"hash":"{result.hash}","status":"{result.status}","id":{name},"custom_id":{custom},'
        f'"response":{response},"error":{error},"text":{dumps(result.text)},"usage":{usage},'
        f'"cost_usd":{cost},"model":{dumps(result.model)},"attempts":{result.attempts},'
        f'"deferrals":{result.deferrals},"latency_s":{latency}{settings}{finish},"metadata":{metadata}}}\n'
    )
    return line.encode()
