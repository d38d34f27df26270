"""Define and validate the options of a circuit: when it opens, for how long, and how it is probed.

Pure data. All rules for opening can be combined; the first that applies opens the circuit.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypedDict, Unpack

__all__ = ["BreakerPolicy"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmbatch.breaker.classify import ErrorJudge, ErrorRule, ResultJudge
    from llmbatch.breaker.gate import CircuitBoard

    class PolicyOptions(TypedDict, total=False):
        """The options that :class:`CircuitBreaker` takes by keyword only; see :class:`BreakerPolicy`."""

        failure_rate: float | None
        slow_call_rate: float | None
        slow_call_duration: float
        rate_window: int
        rate_seconds: float | None
        minimum_calls: int
        stall_timeout: float | None
        stall_calls: int
        open_on_retry_after: bool | float
        first_recovery_timeout: float | None
        growth: float
        jitter: float
        stable_time: float
        longest_hint: float
        failed_probes: int
        probes: int
        probe_lease: float | None
        neutral_probes: int

    class AllOptions(PolicyOptions, total=False):
        """All options of :class:`BreakerPolicy`."""

        failure_threshold: int | None
        recovery_timeout: float
        success_threshold: int

    class BreakerOptions(AllOptions, total=False):
        """All options of :class:`CircuitBreaker`."""

        name: str
        policy: BreakerPolicy | None
        count_error: ErrorRule | None
        judge_error: ErrorJudge | None
        judge_result: ResultJudge | None
        clock: Callable[[], float]
        shared: CircuitBoard | None


class BreakerPolicy:
    """Options of one circuit, keyword only. Immutable. Durations are in seconds, ratios from 0 to 1.

    Raises:
        ValueError: an option is out of range; the message shows the value and the range.
        TypeError: unknown option.
    """

    # Not a dataclass: importing dataclasses would take longer than importing the rest of the breaker.

    failure_threshold: int | None = 5
    """Consecutive failures of different callers that open the circuit, at least 1; None: rule off."""
    failure_rate: float | None = None
    """Share of failures in the window that opens the circuit, above 0 to 1; None: rule off."""
    slow_call_rate: float | None = None
    """Share of slow calls in the window that opens the circuit, above 0 to 1; None: rule off. With this rule,
    a slow successful probe counts as failed."""
    slow_call_duration: float = 60.0
    """Seconds above which a call is slow, above 0."""
    rate_window: int = 100
    """Number of last calls that the rates are computed over, at least ``minimum_calls``."""
    rate_seconds: float | None = None
    """Seconds that the rates are computed over, instead of a number of calls, above 0; up to a tenth more is included.
    Choose at least the duration of the slowest calls. None: ``rate_window`` applies."""
    minimum_calls: int = 20
    """Minimum calls in the window before a rate applies, at least 1."""
    stall_timeout: float | None = None
    """Seconds after which a call in flight is overdue, above 0; None: rule off."""
    stall_calls: int = 5
    """Overdue calls of different callers that open the circuit if no call was answered for ``stall_timeout``, at least
    1. Calls that their callers cancel after ``stall_timeout`` count until the next answer."""
    open_on_retry_after: bool | float = False
    """Open for the wait that a server names (``Retry-After``), whatever the verdict: True for every wait, or the least
    number of seconds that opens, above 0. False: a named wait alone does not open."""

    recovery_timeout: float = 60.0
    """Open time, or its upper bound if it grows; above 0. A wait that the server names may be longer."""
    first_recovery_timeout: float | None = None
    """Open time of the first opening, above 0 and at most ``recovery_timeout``; it grows with each failed probe.
    None: the open time is constant."""
    growth: float = 2.0
    """Factor of a growing open time after each failed probe, 1 to 10."""
    jitter: float = 0.0
    """Largest random addition, as a share of the open time, 0 to 1. A growing open time stays within its bound."""
    stable_time: float = 60.0
    """Seconds of being closed after which a grown open time starts over, at least 0."""
    longest_hint: float = 86_400.0
    """Longest wait accepted from the server, above 0; longer ones are cut to it."""

    success_threshold: int = 1
    """Successful probes that close the circuit, at least 1."""
    failed_probes: int = 1
    """Failed probes that open the circuit again, at least 1."""
    probes: int = 1
    """Maximum probes in flight, at least 1."""
    probe_lease: float | None = None
    """Seconds that a probe may take before it is replaced, above 0; doubles with each replacement, up to four times.
    None: ``recovery_timeout``."""
    neutral_probes: int = 3
    """Neutral probes that close the circuit, at least 1."""

    def __init__(self, **options: Unpack[AllOptions]) -> None:
        unknown = [name for name in options if name not in BreakerPolicy.__annotations__]
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(BreakerPolicy.__annotations__)}")
        vars(self).update(options)
        self._check()

    def replace(self, **options: Unpack[AllOptions]) -> BreakerPolicy:
        """Return a copy with some options changed.

        Raises:
            ValueError: an option is out of range.
        """
        return BreakerPolicy(**{**vars(self), **options})

    def _check(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not (_is_whole(value) and value >= 1) and not (value is None and name == "failure_threshold"):
                raise ValueError(f"{name} is {value!r}, must be a whole number of at least 1")
        for name in _DURATIONS:
            value = getattr(self, name)
            if not (_is_number(value) and value > 0) and not (value is None and name in _MAY_BE_NONE):
                raise ValueError(f"{name} is {value!r}, must be a finite number of seconds above 0")
        least = self.open_on_retry_after
        if not isinstance(least, bool) and not (_is_number(least) and least > 0):
            raise ValueError(f"open_on_retry_after is {least!r}, must be True, False or a number of seconds above 0")
        for name in ("failure_rate", "slow_call_rate"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise ValueError(f"{name} is {value!r}, must be above 0 and at most 1")
        if self.first_recovery_timeout is not None and self.first_recovery_timeout > self.recovery_timeout:
            raise ValueError(
                f"first_recovery_timeout is {self.first_recovery_timeout!r}, "
                f"must be at most recovery_timeout ({self.recovery_timeout!r})"
            )
        if not _is_number(self.growth) or not 1 <= self.growth <= 10:
            raise ValueError(f"growth is {self.growth!r}, must be from 1 to 10")
        if not _is_number(self.stable_time) or self.stable_time < 0:
            raise ValueError(f"stable_time is {self.stable_time!r}, must be a finite number of seconds, at least 0")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter!r}, must be from 0 to 1")
        if not _is_whole(self.rate_window) or self.rate_window < 1:
            raise ValueError(f"rate_window is {self.rate_window!r}, must be a whole number of at least 1")
        if self.rate_seconds is None and self.rate_window < self.minimum_calls:
            raise ValueError(
                f"rate_window is {self.rate_window!r}, must be at least minimum_calls ({self.minimum_calls}), "
                "or no rate would ever apply"
            )

    @property
    def has_window(self) -> bool:
        """Whether a rule needs a window of calls, so that every call is recorded."""
        return self.failure_rate is not None or self.slow_call_rate is not None

    @property
    def times_calls(self) -> bool:
        """Whether a rule needs the durations of calls."""
        return self.slow_call_rate is not None or self.stall_timeout is not None

    @property
    def lease(self) -> float:
        """Seconds that a probe may take."""
        return self.recovery_timeout if self.probe_lease is None else self.probe_lease

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a policy is immutable: use replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a policy is immutable: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, BreakerPolicy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"BreakerPolicy({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in BreakerPolicy.__annotations__)

    def open_time(self, level: int, chance: float) -> float:
        """Return the seconds to stay open after *level* failed probes; *chance* is a random draw, 0 to 1.

        Constant: ``recovery_timeout · (1 + jitter · chance)``. Growing: exponential backoff with upward jitter,
        ``min(cap, first · growth^level) · (1 + jitter · chance)``, where ``cap`` leaves room for the jitter below
        ``recovery_timeout``.
        """
        stretch = 1 + self.jitter * chance
        if self.first_recovery_timeout is None:
            return min(self.recovery_timeout * stretch, sys.float_info.max)
        cap = self.recovery_timeout / (1 + self.jitter)
        try:
            wait = self.first_recovery_timeout * float(self.growth) ** level
        except OverflowError:
            wait = cap
        return min(cap, wait) * stretch


_COUNTS = (
    "failure_threshold",
    "success_threshold",
    "failed_probes",
    "probes",
    "minimum_calls",
    "stall_calls",
    "neutral_probes",
)
_DURATIONS = (
    "recovery_timeout",
    "first_recovery_timeout",
    "probe_lease",
    "slow_call_duration",
    "rate_seconds",
    "stall_timeout",
    "longest_hint",
)
_MAY_BE_NONE = frozenset({"first_recovery_timeout", "probe_lease", "rate_seconds", "stall_timeout"})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
