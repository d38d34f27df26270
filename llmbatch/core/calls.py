"""Values of one call: route, request, reply, and the outcome into which it is classified. Durations are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeVar, dataclass_transform

__all__ = [
    "CIRCUIT_OPEN",
    "EMPTY_BODY",
    "WEB_PAGE",
    "Endpoint",
    "LimitKind",
    "Outcome",
    "Parsed",
    "RateLimit",
    "Reply",
    "Request",
    "Route",
    "Scope",
    "Usage",
    "UsageDetails",
    "Verdict",
    "record",
]


_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_T]) -> type[_T]:
    """A slotted dataclass for values that every row creates: frozen for the type checker only.

    Freezing it at run time too would make it five times as expensive to create.
    """
    return dataclass(slots=True)(cls)


@dataclass(frozen=True, slots=True)
class Route:
    """Destination of requests: a base URL and a model. Each route has its own circuit.

    ``label`` is the displayed name (``openai/gpt-5-mini``). ``account`` is shared by all routes that use one API key.
    """

    label: str
    account: str
    base_url: str = ""
    model: str = ""
    """``PROVIDER/MODEL`` for the output line where the label says more than that; empty: the label."""
    rank: int = 0
    """Of several routes of a row those of the lowest rank that take it are used; those of one rank are a pool."""
    weight: float = 1.0
    """Share of the rows that this route of a pool gets, relative to the others."""
    rpm: float | None = None
    """Maximum requests per minute of this route alone; None: no limit. So are the others."""
    tpm: float | None = None
    rpd: float | None = None
    tier: str = ""
    """The service tier that its requests ask for, of a row that may go to one of several: ``flex`` or ``standard``."""


@dataclass(slots=True)
class Request:
    """One HTTP POST request, which can be sent any number of times. ``tokens`` is an estimate of input plus output."""

    route: Route
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    endpoint: str
    tokens: int
    settings: str = ""
    """A digest of the run's settings that shaped it (system prompt, parameters, endpoint); empty if it tells none."""
    max_output_tokens: int | None = None
    """The output tokens that one answer has at most; None: unknown."""
    answers: int = 1
    """The answers that it asks for, each with so many tokens."""
    follow_ups: int = 0
    """Number of follow-ups of its row up to this request; 0 if there was none."""
    first: Request | None = field(default=None, repr=False)
    """Of a follow-up: the request that began the conversation."""


@dataclass(slots=True)
class Reply:
    """A complete HTTP response; the body is decompressed and otherwise unchanged.

    The names of ``headers`` are in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


CIRCUIT_OPEN = "circuit_open"
"""Code of a call that a circuit breaker inside a function refused."""

WEB_PAGE = "web_page"
"""Code of a success status that came with an HTML page."""

EMPTY_BODY = "empty_body"
"""Code of a success status that came without a body."""

Verdict = Literal["success", "failure", "rejected", "throttled", "account_refused", "local"]
"""What an outcome says about the provider.

``success``: it works. ``failure``: it is failing. ``rejected``: it refused this request. ``throttled``: slow down.
``account_refused``: an operator must act (money, key, model name, base URL). ``local``: this machine is at fault.
"""


Endpoint = Literal["chat", "responses", "embeddings", "completions", "messages", "raw"]
"""A wire format: four of OpenAI's, Anthropic's messages, and batch rows to other paths, which are only passed on."""


Scope = Literal["row", "key", "model", "provider", "machine"]
"""What is at fault for an outcome that is not a success."""


LimitKind = Literal["requests", "tokens", "input_tokens", "output_tokens"]
"""What a rate limit counts."""


@record
class UsageDetails:
    """Kinds of tokens among those of a :class:`Usage`, and what else is billed for a call.

    ``cached_tokens``, ``cache_write_tokens`` (of which ``cache_write_1h_tokens`` are kept for an hour) and
    ``input_audio_tokens`` are parts of the input, ``cached_audio_tokens`` of both the cached and the audio tokens;
    ``reasoning_tokens`` and ``output_audio_tokens`` are parts of the output. ``searches``: made for the answer.
    ``reported_cost``: US$, where the provider tells the cost itself.
    """

    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    cached_audio_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    searches: int = 0
    reported_cost: Decimal | None = None


@record
class Usage:
    """Token counts that the provider reported: all that it bills, cached and reasoning tokens too.

    ``details`` is None where plain tokens are all.
    """

    input_tokens: int
    output_tokens: int
    details: UsageDetails | None = None


@record
class Parsed:
    """An answer that fits the schema of the run: its JSON, in one line, and its value (a model, or a JSON value)."""

    json: str
    value: object


@record
class RateLimit:
    """One rate limit as an answer reports it. ``kind`` is what is counted, ``limit`` how much of it is allowed.

    ``remaining`` is what is left. ``reset_s``: seconds until all of it is there again; ``window_s``: the period of the
    limit in seconds, if the header's name says it. None: unknown.
    """

    kind: LimitKind
    limit: float
    remaining: float
    reset_s: float | None = None
    window_s: float | None = None


@record
class Outcome:
    """Outcome of one attempt.

    ``retry``: resending the row may help. ``row_is_bad``: the refusal names the row's own content (too long, filtered)
    and needs no further evidence; of a success, that the answer is of no use: for the route the call was good, and the
    row fails with ``code``. ``key_refused``: the API key was refused. ``retry_after``: wait in seconds that the
    provider named, never shortened; None if it named none. ``min_backoff``: minimum seconds before this row is resent.
    ``body``: the response's JSON in one line, keys masked; None if there was none. ``text``: the answer's text; empty
    if the answer has neither text nor other content, None if it has no text to have (tool calls, embeddings).
    ``finish_reason``: why the answer ended, if that is no normal stop: ``length`` at its token limit, else the
    provider's word. ``unreachable``: there was no connection to the provider; ``code`` says why (``unknown_host``,
    ``dns_failed``, ``connection_failed``, ``connect_timeout``, ``no_network``). ``certain``: False if only the wording
    of this response, or a 402, says that the account is refused; then it takes several rows. ``hint``: what an operator
    can do; for an exception of the program's own its type, its message, and where it was raised. ``value``: what an
    async function returned. ``limits``: rate limits that a good answer reported or a refusal stated. ``tier``: that the
    provider says it billed, ``standard`` for its default; None if it says nothing. ``lacks_capacity``: the cheaper tier
    that was asked for has none now, which says nothing about the row. ``is_cached``: it is the
    answer to an equal request, and cost no call. ``parsed``: the answer's value, if it fits the schema of the run.
    """

    verdict: Verdict
    scope: Scope = "provider"
    retry: bool = False
    row_is_bad: bool = False
    key_refused: bool = False
    retry_after: float | None = None
    min_backoff: float = 0.0
    code: str = ""
    message: str = ""
    hint: str = ""
    status: int | None = None
    request_id: str | None = None
    body: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    usage: Usage | None = None
    value: object = field(default=None, repr=False)
    finish_reason: str | None = None
    unreachable: bool = False
    certain: bool = True
    limits: tuple[RateLimit, ...] = ()
    is_cached: bool = False
    follow_up: Request | None = None
    tier: str | None = None
    lacks_capacity: bool = False
    parsed: Parsed | None = field(default=None, repr=False)

    @property
    def is_withheld(self) -> bool:
        """Whether a circuit breaker inside a function refused the call: nothing was sent, and nobody is at fault."""
        return self.verdict == "throttled" and self.code == CIRCUIT_OPEN and self.status is None
