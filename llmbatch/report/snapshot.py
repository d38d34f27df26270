"""Snapshot of a run at one instant: plain values that every display renders, and their JSON form.

:class:`llmbatch.report.stats.RunStats` computes the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Literal

from llmbatch.core.events import CircuitState, Notice
from llmbatch.core.raw_json import JSON
from llmbatch.report.spending import Spending

__all__ = ["RouteSnapshot", "RunState", "Snapshot", "as_json"]

RunState = Literal["starting", "running", "waiting", "paused", "stopping", "finished", "stopped"]
"""``waiting``: nothing is in flight because a circuit is not closed. ``paused``: its user has paused it, and requests
in flight end. ``finished``: every row is finished (exit code 0 or 1). ``stopped``: the run has ended and rows are
left."""


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """Snapshot of one route. Times are seconds; ``next_probe_s`` counts down while the circuit is open, else None."""

    label: str
    state: CircuitState
    reason: str
    next_probe_s: float | None
    in_flight: int
    limit: int | None
    """Requests that may be in flight, if there is an adaptive limit."""
    parked: int
    paused_s: float
    """Seconds for which nothing is sent because the provider throttles; 0 if requests may be sent."""
    calls: int
    success: int
    failed: int
    throttles: int
    outages: int
    outage_s: float
    recovered_s: float | None
    """Seconds since the circuit last closed after an outage; None if it never did."""
    open_s: float | None = None
    """Seconds since the circuit opened; None while it is closed."""
    pause_code: str = ""
    """The code of the answer that asked for the slower pace; empty when nothing is paused."""
    pause_is_named: bool = False
    """Whether the provider named the wait; False where it is llmbatch's own backoff, or nothing is paused."""
    pause_is_limit: bool = False
    """Whether nothing was refused: ``pause_code`` is the rate limit that is kept, the user's or a reported one."""
    learned_limits: tuple[str, ...] = ()
    """Rate limits that the provider reported, such as ``600 requests a minute``."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Snapshot of the whole run. ``done_rows``, ``success`` and ``failed`` count all lines of the output."""

    state: RunState
    elapsed_s: float
    input: str
    output: str
    total_rows: int | None
    """Rows of the input; None if not known yet."""
    total_is_estimate: bool
    rows_read: int
    done_rows: int
    """Lines in the output: ``success`` plus ``failed``."""
    success: int
    failed: int
    already_done: int
    """Lines that an earlier run left."""
    this_run_success: int
    this_run_failed: int
    parked: int
    """Rows deferred now; they are resent when their circuit closes, or listed in the deferred file at the end."""
    waiting_retries: int
    in_flight: int
    calls: int
    """Requests sent, including probes and pings."""
    probes: int
    canaries: int
    """Probes that carried no row."""
    calls_avoided: int
    """Calls to a provider that was down that the open circuit avoided."""
    retries: int
    """Repeated calls for a row, without probes."""
    throttles: int
    outages: int
    """Outages of all routes, each from the circuit's opening until it closes again."""
    outage_s: float
    """Seconds in which at least one circuit was not closed; overlapping outages count once."""
    input_tokens: int
    output_tokens: int
    spending: Spending
    """What the calls of this run cost."""
    latency_p50_s: float | None
    """Of calls that succeeded, as ``latency_p95_s``."""
    latency_p95_s: float | None
    rows_per_s: float
    """Over the last 20 s."""
    overall_rows_per_s: float
    eta_s: float | None
    """Seconds left, at the speed outside outages; None while it cannot be known: no total, no rate, or a circuit that
    is not closed, or a pause."""
    work_left_s: float | None
    """As ``eta_s``, also while a circuit is not closed: seconds of work left once it answers."""
    errors_by_code: dict[str, int]
    """Attempts of this run that did not succeed."""
    failures_by_code: dict[str, int]
    """Rows of this run that ended as failed."""
    cut_answers: int
    """Successes of this run whose answers were cut at their token limit (finish reason ``length``)."""
    answers_without_text: int
    """Successes of this run whose answers have neither text nor other content."""
    cached: int
    """Rows of this run that were answered from a cache."""
    repairs: int
    """Calls that asked again for an answer that did not fit the schema."""
    repaired: int
    """Rows of this run whose answers fit the schema since they were asked again."""
    tiers: dict[str, int]
    """Rows of this run by the service tier that their lines name (``--tier``)."""
    routes: tuple[RouteSnapshot, ...]
    """The routes in trouble first (open, probing, paused), then by name; at most 50."""
    routes_total: int
    """How many routes there are, those not in ``routes`` among them."""
    max_outage_s: float | None
    """How long the run waits for a route in an outage (``--max-outage``); None for no bound."""
    own_limits: str
    """The limits that the run was given, as flags: ``--rpm 60``; empty where there are none."""
    adapts: bool
    """Whether the run finds its concurrency by itself (``--concurrency auto``)."""
    notices: tuple[Notice, ...]
    """The most recent ones, oldest first."""
    stopping: str | None
    """Why the run is stopping; None while it is not."""
    exit_code: int | None
    pause_s: float | None = None
    """Seconds since the run was paused by its user; None if it is not."""
    paused_s: float = 0.0
    """Seconds of all pauses of this run."""

    @property
    def cost(self) -> float:
        """US$ of the calls of this run whose cost is known."""
        return float(self.spending.cost_usd or 0)

    def to_json(self) -> dict[str, JSON]:
        """Convert to JSON values; values that are not finite become null, fractions are rounded to 3 digits."""
        value = as_json(self)
        assert isinstance(value, dict)  # noqa: S101 - tells the type checker what a dataclass becomes
        return value


def as_json(value: object) -> JSON:
    """*value* (dataclasses, dicts, sequences, numbers, text) as JSON values."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, Decimal):  # money, whose last digit counts
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    raise TypeError(f"no JSON representation of {type(value).__name__}")
