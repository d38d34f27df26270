"""What a run may be told, checked at birth."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from llmbatch.errors import UsageError
from llmbatch.runner.tenant_keys import check_path

__all__ = ["OnOutage", "RunOptions"]

OnOutage = Literal["wait", "defer", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How rows are sent. Durations are seconds.

    Raises :class:`~llmbatch.errors.UsageError` for a value out of range.
    """

    concurrency: int = 40
    """Requests in flight at most, 1 to 100,000."""
    rpm: float | None = None
    """Requests a minute at most, above 0; None: no bound."""
    tpm: float | None = None
    """Tokens (input and output) a minute at most, above 0; None: no bound."""
    timeout: float = 120.0
    """One attempt, above 0."""
    max_attempts: int = 3
    """Failed attempts that end a row where errors are rare, at least 1; more where good rows fail by chance too."""
    failure_threshold: int = 5
    """Different rows that have to fail in a row before the circuit opens, at least 1; more where errors are usual."""
    recovery_timeout: float = 60.0
    """The longest wait between probes that is ours to choose, above 0."""
    success_threshold: int = 1
    """Good probes that close the circuit, at least 1."""
    on_outage: OnOutage = "wait"
    """What to do with parked rows: wait for recovery, stop and leave them deferred, or end them as failed."""
    max_outage: float | None = None
    """How long one outage is waited for, above 0; then as ``defer``. None: for ever."""
    circuit_key: str | None = None
    """The dotted name of a member of the rows, such as ``metadata.tenant``: each of its values has a circuit of its own
    on each route. None: one circuit a route."""
    seed: int | None = None
    """Seed of every random draw; None: a new one each run."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("concurrency", 1, 100_000),
            ("max_attempts", 1, 1_000_000),
            ("failure_threshold", 1, 1_000_000),
            ("success_threshold", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise UsageError(f"{name} is {value!r}, must be a whole number from {least} to {most}")
        for name in ("rpm", "tpm", "timeout", "recovery_timeout", "max_outage"):
            value = getattr(self, name)
            if value is None and name not in ("timeout", "recovery_timeout"):
                continue
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise UsageError(f"{name} is {value!r}, must be a number above 0")
        if self.circuit_key is not None:
            check_path(self.circuit_key)
        if self.on_outage not in ("wait", "defer", "fail"):
            raise UsageError(f"on_outage is {self.on_outage!r}, must be one of wait, defer, fail")

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options' names."""
        return frozenset(item.name for item in fields(cls))
