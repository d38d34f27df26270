"""Answer questions about a circuit: its state, how long it lasts, and whether a permit still counts.

Changes are in :mod:`llmbatch.breaker.core`. Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

from llmbatch.breaker.half_open import HalfOpen
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.rates import Rates
from llmbatch.breaker.stall import StallWatch

__all__ = ["MIN_RETRY_AFTER", "Cause", "CircuitState", "Condition", "Forced", "Memory", "SettleVerdict", "State"]

State = Literal["closed", "open", "half_open"]
Forced = Literal["", "open", "disabled"]
"""What an operator has set by hand: forced open, disabled, or nothing."""
Condition = tuple[State, Forced, bool]
"""State, what is set by hand, and whether it would have opened: a change of any of them is an event."""
Cause = Literal["rule", "refusal", "hand"]
"""What opened a circuit: one of its rules, refusals by the provider, or an operator."""
SettleVerdict = Literal["success", "failure", "neutral", "throttled", "exhausted"]

MIN_RETRY_AFTER = 0.05
"""Minimum of ``retry_after``, in seconds, so that a caller that sleeps for it in a loop does not spin."""


class Memory(NamedTuple):
    """What a circuit can hand over to another one, in a later process. Durations are seconds."""

    state: State
    reason: str
    cause: Cause
    failures: int
    """Consecutive failures."""
    wait: float
    """Until the earliest probe, as far as a rule or the server named it."""
    level: int
    """How often the open time has grown."""
    since: float | None
    """Since the state last changed; None: it never did."""
    forced: Forced
    forced_for: float
    """How long it stays forced open: 0 if it is not, infinite until a reset."""
    would_have_opened: bool


class CircuitState:
    """What a circuit remembers. Not safe for concurrent use.

    *chance* draws the jitter, 0 to 1. Default: no jitter.
    """

    __slots__ = (
        "_by_hand",
        "_by_refusal",
        "_chance",
        "_closed_at",
        "_forced_until",
        "_level",
        "_named",
        "_policy",
        "_probes",
        "_rates",
        "_stall",
        "_unnamed",
        "_until",
        "changed_at",
        "forced",
        "generation",
        "phase",
        "reason",
        "serial",
        "would_have_opened",
    )

    def __init__(self, policy: BreakerPolicy, *, chance: Callable[[], float] = lambda: 0.0) -> None:
        self._policy = policy
        self._chance = chance
        self.phase: State = "closed"
        """State at the last change; see :meth:`state` for the state now."""
        self._closed_at = -math.inf
        self._level = 0
        self._until = -math.inf
        self._unnamed = 0
        """Consecutive failures of calls without a key."""
        self._named: set[Hashable] = set()
        """Keys of the callers that failed in the same streak."""
        self._rates = Rates(policy) if policy.has_window else None
        self._stall = None if policy.stall_timeout is None else StallWatch(policy.stall_timeout, policy.stall_calls)
        self._probes = HalfOpen(policy)
        self._by_refusal = False
        self._by_hand = False
        """Whether it was opened by hand, so that its reason is the operator's."""
        self.forced: Forced = ""
        """What is set by hand. Forcing open for a time ends with the first probe after it."""
        self._forced_until = -math.inf
        self.would_have_opened = False
        """Whether a rule would have opened it since it was disabled; ``reason`` says which."""
        self.changed_at = -math.inf
        """When the state last changed; minus infinity: never."""
        self.generation = 0
        self.serial = 0
        self.reason = ""

    def state(self, now: float) -> State:
        """State at *now*: an open circuit whose open time has passed is half-open."""
        if self.phase == "open" and now >= self.until:
            return "half_open"
        return self.phase

    @property
    def condition(self) -> Condition:
        """State at the last change, what is set by hand, and whether it would have opened."""
        return self.phase, self.forced, self.would_have_opened

    @property
    def is_closed(self) -> bool:
        """Whether calls pass without probing."""
        return self.phase == "closed"

    @property
    def is_by_hand(self) -> bool:
        """Whether an operator has opened or disabled it."""
        return self._by_hand or bool(self.forced)

    @property
    def is_quiet(self) -> bool:
        """Whether a success would change nothing, so that it need not be recorded."""
        return not self.failures and self._rates is None

    @property
    def awaits_success(self) -> bool:
        """Whether the next success may change more than the window: it ends a streak or may complete a rate."""
        return self.failures > 0 or (self._rates is not None and self._rates.awaits_calls)

    def window(self, now: float) -> tuple[int, int, int] | None:
        """Calls, failures and slow calls in the window at *now*; None if no rule needs a window."""
        return None if self._rates is None else self._rates.counts(now)

    def is_forced(self, now: float) -> bool:
        """Whether it is disabled, or forced open at *now*."""
        return self.forced == "disabled" or (self.forced == "open" and now < self._forced_until)

    def memory(self, now: float) -> Memory:
        """What :meth:`Circuit.restore` needs, as of *now*."""
        return Memory(
            state=self.state(now),
            reason=self.reason,
            cause="hand" if self._by_hand else "refusal" if self._by_refusal else "rule",
            failures=self.failures,
            wait=max(0.0, self._until - now),
            level=self._level,
            since=now - self.changed_at if self.generation else None,
            forced=self.forced if self.is_forced(now) else "",
            forced_for=max(0.0, self._forced_until - now) if self.forced == "open" else 0.0,
            would_have_opened=self.would_have_opened,
        )

    @property
    def failures(self) -> int:
        """Number of consecutive failures; each keyed caller counts once.

        Those that opened the circuit count until it closes; probes add none.
        """
        return self._unnamed + len(self._named)

    @property
    def until(self) -> float:
        """Earliest time of the next probe, infinite while forced open for good; meaningful while not closed."""
        return max(self._until, self._forced_until) if self.forced == "open" else self._until

    @property
    def lease_until(self) -> float:
        """When the first probe in flight loses its lease; 0 if there is none."""
        return self._probes.first_expiry

    @property
    def probing(self) -> bool:
        """Whether a probe is in flight."""
        return bool(self._probes)

    def is_current(self, permit: PermitState) -> bool:
        """Whether the state has not changed since *permit* was acquired; a probe must also still hold its slot."""
        return permit.generation == self.generation and (not permit.probe or permit in self._probes)

    def wait(self, now: float) -> float:
        """Seconds until a call may be admitted, 0 for now; infinite while forced open for good.

        If all probe slots are taken, this is until the first lease ends; it may be sooner, when a probe ends.
        """
        if self.phase == "closed":
            return 0.0
        until = self.until
        if self._probes.is_full:
            until = max(until, self.lease_until)
        return max(0.0, until - now)

    def retry_after(self, now: float) -> float:
        """Seconds until a refused call should try again: at least 0.05; infinite while forced open for good."""
        return max(MIN_RETRY_AFTER, self.wait(now))
