"""What a run looks like at one instant: plain values that every display renders, and their JSON form.

What it does not do: compute. The numbers come from :class:`llmbatch.report.stats.RunStats`, the words from
``llmbatch.display``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

from llmbatch.core.events import CircuitState, Notice
from llmbatch.core.raw_json import JSON

__all__ = ["RouteSnapshot", "RunState", "Snapshot", "as_json"]

RunState = Literal["starting", "running", "waiting", "stopping", "finished", "stopped"]
"""``waiting``: nothing is in flight because a circuit is not closed. ``finished``: every row has its line (exit
code 0 or 1). ``stopped``: the run is over and rows are left."""


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """One route now. Times are seconds; ``next_probe_s`` counts down while the circuit is open, else None."""

    label: str
    state: CircuitState
    reason: str
    next_probe_s: float | None
    in_flight: int
    limit: int | None
    """Requests that may be in flight, where pace has set a limit."""
    parked: int
    paused_s: float
    """How long nothing goes out because the provider asked for a slower pace; 0 when it may."""
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole run now. ``done_rows``, ``success`` and ``failed`` count all lines of the output, also earlier ones."""

    state: RunState
    elapsed_s: float
    input: str
    output: str
    total_rows: int | None
    """Rows of the input; None where nothing is known yet."""
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
    """Rows deferred now; they go when their circuit closes, or stand in the deferred file when the run stops."""
    waiting_retries: int
    in_flight: int
    calls: int
    """Requests sent, probes and canaries among them."""
    probes: int
    canaries: int
    """Probes that carried no row."""
    calls_avoided: int
    """Calls that would have gone to a provider that is down, and did not."""
    retries: int
    """Calls, probes left out, that carried a row which an earlier call had carried."""
    throttles: int
    outages: int
    """Episodes of all routes, each from the circuit's opening until it closes again."""
    outage_s: float
    """Seconds in which at least one circuit was not closed; overlapping outages count once."""
    input_tokens: int
    output_tokens: int
    latency_p50_s: float | None
    """Of calls that succeeded, as ``latency_p95_s``."""
    latency_p95_s: float | None
    rows_per_s: float
    """Over the last 20 s."""
    overall_rows_per_s: float
    eta_s: float | None
    """Seconds left, at the speed outside outages; None while it cannot be known: no total, no rate, or a circuit that
    is not closed."""
    work_left_s: float | None
    """As ``eta_s``, also while a circuit is not closed: seconds of work left once it answers."""
    errors_by_code: dict[str, int]
    """Attempts of this run that did not succeed."""
    failures_by_code: dict[str, int]
    """Rows of this run that ended as failed."""
    routes: tuple[RouteSnapshot, ...]
    """The routes in trouble first (open, probing, paused), then by name; at most 50."""
    routes_total: int
    """How many routes there are, those not in ``routes`` among them."""
    max_outage_s: float | None
    """How long the run waits for a route in an outage (``--max-outage``); None for no bound."""
    own_limits: str
    """The limits that the run was given, as flags: ``--rpm 60``; empty where there are none."""
    notices: tuple[Notice, ...]
    """The last few, oldest first."""
    stopping: str | None
    """Why no new rows are taken, once that is so."""
    exit_code: int | None

    def to_json(self) -> dict[str, JSON]:
        """The same as JSON values; what is not finite becomes null, fractions are cut to 3 digits."""
        value = as_json(self)
        assert isinstance(value, dict)  # noqa: S101 - tells the type checker what a dataclass becomes
        return value


def as_json(value: object) -> JSON:
    """*value* (dataclasses, dicts, sequences, numbers, text) as JSON values."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")
