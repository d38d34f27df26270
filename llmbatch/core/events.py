"""What happens in a run, as frozen records, and who may watch.

Events are news: synchronous, cheap, unable to fail a run. Results are data and travel another way. All numbers that
anybody sees come from one fold over these (:mod:`llmbatch.report.stats`). ``at`` is the event loop's clock, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, final

from llmbatch.core.calls import Verdict, record
from llmbatch.core.rows import Status

__all__ = [
    "CallEnded",
    "CallSent",
    "CircuitChanged",
    "Event",
    "LimitChanged",
    "Notice",
    "Observer",
    "OutageEnded",
    "OutageStarted",
    "Progress",
    "RetryPlanned",
    "RowFinished",
    "RowParked",
    "RowsRequeued",
    "RunEnded",
    "RunStarted",
    "RunStopping",
    "Throttled",
]

CircuitState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Before the first row. ``done_success`` and ``done_failed`` are lines that an earlier run left."""

    at: float
    input: str
    output: str
    concurrency: int
    done_success: int
    done_failed: int
    total_rows: int | None
    """Rows in the input where they were counted, None for a stream or a large file."""
    max_outage: float | None = None
    """Seconds that a run waits for a route in an outage; None for no bound."""
    own_limits: str = ""
    """The limits that the run was given, as flags: ``--rpm 60``."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far reading is: ``rows`` read in all, and ``fraction`` (0 to 1) of the input's bytes; None for a stream."""

    at: float
    rows: int
    fraction: float | None
    exhausted: bool


@final
@record
class CallSent:
    """A request goes out. ``row`` is 0 for a canary; ``probe`` says that the circuit is being tried."""

    at: float
    route: str
    row: int
    attempt: int
    probe: bool


@final
@record
class CallEnded:
    """A request came back, failed, or was cancelled (``verdict`` None)."""

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


@dataclass(frozen=True, slots=True)
class RetryPlanned:
    """A row will go again after ``delay`` seconds."""

    at: float
    route: str
    row: int
    delay: float
    code: str


@dataclass(frozen=True, slots=True)
class RowParked:
    """A row was deferred. ``avoided`` says that a call which would have been made now was not."""

    at: float
    route: str
    row: int
    retry_after: float
    reason: str
    avoided: bool


@dataclass(frozen=True, slots=True)
class RowsRequeued:
    """Parked rows of a route may go again."""

    at: float
    route: str
    count: int


@final
@record
class RowFinished:
    """A row has its line (handed to the writer). ``attempts`` as in the line."""

    at: float
    route: str
    row: int
    status: Status
    code: str
    attempts: int


@dataclass(frozen=True, slots=True)
class CircuitChanged:
    """A circuit changed its state. ``retry_after``: seconds to the next probe, 0 when closed."""

    at: float
    route: str
    old: CircuitState
    new: CircuitState
    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class OutageStarted:
    """A probe showed that a circuit opened with good reason. ``since``: when it opened, on the clock of ``at``.

    An opening that the next probe disproves is no outage and has no such event.
    """

    at: float
    route: str
    since: float
    reason: str
    retry_after: float = 0.0
    """Seconds until the next probe."""


@dataclass(frozen=True, slots=True)
class OutageEnded:
    """The outage that began at ``since`` is over after ``seconds``."""

    at: float
    route: str
    since: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The number of requests that may be in flight on a route changed (throttling, ramp)."""

    at: float
    route: str
    limit: int


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider asked for a slower pace: nothing goes to ``route`` for ``pause`` seconds."""

    at: float
    route: str
    pause: float
    code: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should read: a local fault, a key that may have been revoked."""

    at: float
    level: Literal["info", "warning", "error"]
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RunStopping:
    """No new rows from now on. ``reason`` is a phrase for people."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of a run. ``exit_code`` as the contract has them."""

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
    | RowsRequeued
    | RowFinished
    | CircuitChanged
    | OutageStarted
    | OutageEnded
    | LimitChanged
    | Throttled
    | Notice
    | RunStopping
    | RunEnded
)


class Observer(Protocol):
    """Watches a run. Called from the event loop: return soon. An exception is logged once and changes nothing."""

    def observe(self, event: Event) -> None:
        """Take one event."""
        ...
