"""Events of a run, as frozen records, and the ``Observer`` protocol that receives them.

Observers are called synchronously and cannot fail a run. Results go to the sink, not through events. All statistics are
computed from events (:mod:`llmbatch.report.stats`). ``at`` is the event loop's clock, in seconds.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Protocol, final

from llmbatch.core.batch_events import BatchEvent
from llmbatch.core.calls import LimitKind, Verdict, record
from llmbatch.core.rows import Status

__all__ = [
    "ROW_EVENTS",
    "CallEnded",
    "CallSent",
    "CircuitChanged",
    "Event",
    "LimitChanged",
    "LimitLearned",
    "Notice",
    "Observer",
    "ObserverFailed",
    "OptionChanged",
    "OutageEnded",
    "OutageStarted",
    "Progress",
    "RetryPlanned",
    "RowFinished",
    "RowJudged",
    "RowMoved",
    "RowParked",
    "RowsRequeued",
    "RunEnded",
    "RunPaused",
    "RunResumed",
    "RunStarted",
    "RunStopping",
    "Throttled",
]

CircuitState = Literal["closed", "open", "half_open"]


@record
class RunStarted:
    """The run begins. ``done_success`` and ``done_failed`` count the output lines of earlier runs."""

    at: float
    input: str
    output: str
    concurrency: int
    done_success: int
    done_failed: int
    total_rows: int | None
    """Rows in the input; None if they were not counted (a stream or a large file)."""
    max_outage: float | None = None
    """Longest wait for a route in an outage, in seconds; None: no limit."""
    own_limits: str = ""
    """Rate limits set by the user, as flags, such as ``--rpm 60``; empty if none."""
    limit: int | None = None
    """The most rows that are read (``--limit``); None: all."""
    done_beyond_limit: int = 0
    """Output lines of earlier runs whose rows are beyond the limit."""
    adapts: bool = False
    """Whether ``concurrency`` is only the ceiling of one that the run finds by itself (``--concurrency auto``)."""
    input_format: str | None = None
    """The format that the user has named for the input (``--input-format``); None: as its name says."""


@record
class Progress:
    """Progress of reading: ``rows`` read, and the ``fraction`` of the input's bytes, 0 to 1 (None for a stream)."""

    at: float
    rows: int
    fraction: float | None
    exhausted: bool


@final
@record
class CallSent:
    """A request is sent.

    ``row`` is 0 for a health check. ``probe``: it probes an open circuit. ``call`` numbers the calls of a route from 1;
    the matching :class:`CallEnded` has the same number. ``is_repair``: it asks again for an answer that did not fit.
    """

    at: float
    route: str
    row: int
    attempt: int
    probe: bool
    call: int = 0
    is_repair: bool = False


@final
@record
class CallEnded:
    """A request was answered, failed, or was canceled (``verdict`` None).

    ``cost_usd``: what it cost, US$; None if that is unknown, or if there is no answer to pay for. ``at_risk_usd``: the
    most that it can have cost if it was sent and got no answer, which the provider may bill all the same, or one that
    names no tokens.
    """

    at: float
    route: str
    row: int
    probe: bool
    verdict: Verdict | None
    code: str
    message: str
    status: int | None
    latency_s: float
    input_tokens: int
    output_tokens: int
    call: int = 0
    cost_usd: Decimal | None = None
    at_risk_usd: Decimal = Decimal(0)
    via: str = ""
    """``batch``: a line of a batch's results, which has no latency."""


@record
class RetryPlanned:
    """A row will be resent after ``delay`` seconds."""

    at: float
    route: str
    row: int
    delay: float
    code: str


@record
class RowParked:
    """A row was deferred. ``avoided``: it would otherwise have been sent now. ``retry_after`` is in seconds."""

    at: float
    route: str
    row: int
    retry_after: float
    reason: str
    avoided: bool


@record
class RowMoved:
    """A waiting row goes to another route: ``route`` takes none now, and ``to`` does."""

    at: float
    route: str
    row: int
    to: str


@record
class RowJudged:
    """A row ends as failed by evidence, not by what its last answer says alone. RowFinished follows.

    ``why``: how often it failed, and how rarely others do: ``failed 6 of 6 while 0.4% of other attempts failed``.
    """

    at: float
    route: str
    row: int
    code: str
    why: str


@record
class RowsRequeued:
    """Parked rows of a route are queued again."""

    at: float
    route: str
    count: int


@final
@record
class RowFinished:
    """The result of a row was passed to the sink. ``attempts`` and ``finish_reason``: as in the output line.

    ``has_no_text``: a success whose answer has neither text nor other content. ``tier``: as in the output line; empty
    if that has none. ``is_cached``: it cost no call. ``is_repaired``: its answer fits the schema since it was asked
    again.
    """

    at: float
    route: str
    row: int
    status: Status
    code: str
    attempts: int
    finish_reason: str | None = None
    has_no_text: bool = False
    tier: str = ""
    is_cached: bool = False
    is_repaired: bool = False


@record
class CircuitChanged:
    """A circuit changed its state. ``retry_after``: seconds until the next probe, 0 when closed.

    ``usual``: where a run's circuit opens, how attempts fare otherwise: ``0.4% of attempts of good rows fail``.
    """

    at: float
    route: str
    old: CircuitState
    new: CircuitState
    reason: str
    retry_after: float
    usual: str = ""


@record
class OutageStarted:
    """A probe confirmed that a circuit opened because of an outage. ``since``: when it opened, on the clock of ``at``.

    An opening that the next probe disproves is not an outage and causes no such event.
    """

    at: float
    route: str
    since: float
    reason: str
    retry_after: float = 0.0
    """Seconds until the next probe."""
    goes_to: str = ""
    """Another route to which its rows go meanwhile; empty: they wait."""


@record
class OutageEnded:
    """The outage that began at ``since`` ended after ``seconds``."""

    at: float
    route: str
    since: float
    seconds: float


@record
class LimitChanged:
    """The concurrency limit of a route changed: by throttling, by a ramp, or by latency."""

    at: float
    route: str
    limit: int
    reason: str = ""
    """What sets it: ``start`` (a search has just begun), ``latency``, ``refusals``, ``ramp`` (after a wait) or
    ``ceiling``."""


@record
class LimitLearned:
    """The provider told a rate limit of ``route``: ``limit`` of ``kind`` in ``window_s`` seconds (None: unknown).

    ``kind`` is ``requests``, ``tokens``, ``input_tokens`` or ``output_tokens``. Emitted once, and when it has changed.
    """

    at: float
    route: str
    kind: LimitKind
    limit: float
    window_s: float | None
    source: Literal["headers", "refusal", "delivered"] = "headers"
    """Where: in the headers of good answers, or in the words of a refusal; or nowhere, and ``limit`` is an estimate
    from the rate at which requests are delivered without refusals."""


@record
class Throttled:
    """Nothing is sent to ``route`` for ``pause`` seconds: the provider throttles, or a rate limit is kept before."""

    at: float
    route: str
    pause: float
    code: str
    is_named: bool = True
    """Whether the provider named the wait; False where it is llmbatch's own backoff."""
    is_refusal: bool = True
    """Whether calls were refused; False where ``code`` is the name of a rate limit that is kept before they are."""


@record
class Notice:
    """A message for the user: a local fault, a key that may have been revoked."""

    at: float
    level: Literal["info", "warning", "error"]
    message: str
    hint: str = ""


@record
class ObserverFailed(Notice):
    """An observer raised and is not called any more. Who emits it has logged the exception."""


@record
class RunPaused:
    """A user has paused the run: no call begins before :class:`RunResumed`. Those in flight end as usual."""

    at: float


@record
class RunResumed:
    """The run goes on after a pause of ``seconds``."""

    at: float
    seconds: float


@record
class OptionChanged:
    """A user has changed an option of the run: ``old`` and ``new`` are its values in words, such as ``40``.

    ``own_limits``: as in :class:`RunStarted`, from now on.
    """

    at: float
    name: str
    old: str
    new: str
    own_limits: str = ""


@record
class RunStopping:
    """The run stops and takes no new rows. ``reason`` is a phrase for humans."""

    at: float
    reason: str


@record
class RunEnded:
    """The run has ended; the last event. ``exit_code``: of the process. ``deferred``: number of deferred rows."""

    at: float
    exit_code: int
    reason: str
    deferred: int


Event = (
    RunStarted
    | Progress
    | CallSent
    | CallEnded
    | RetryPlanned
    | RowParked
    | RowMoved
    | RowJudged
    | RowsRequeued
    | RowFinished
    | CircuitChanged
    | OutageStarted
    | OutageEnded
    | LimitChanged
    | LimitLearned
    | Throttled
    | Notice
    | RunPaused
    | RunResumed
    | OptionChanged
    | RunStopping
    | RunEnded
    | BatchEvent
)


ROW_EVENTS: frozenset[type[Event]] = frozenset({CallSent, CallEnded, RowFinished})
"""The events that every row has."""


class Observer(Protocol):
    """Receives the events of a run, on the event loop: return quickly.

    One that raises is not called any more in that run; the exception is logged, and the run goes on. One with an
    attribute ``skips``, a set of kinds of events such as :data:`ROW_EVENTS`, is not called for these.
    """

    def observe(self, event: Event) -> None:
        """Handle one event."""
        ...
