"""The circuit as a pure state machine: acquire, settle, release, trip, hold.

It knows no clock, no lock and no loop: whoever drives it hands in ``now`` (seconds on any monotonic clock) and keeps
calls from overlapping. Three ideas carry it:

* **Generations.** Every change of state starts a new one; what a permit of an older one reports changes no state.
* **Serial numbers.** Calls are numbered when they are let in, so that whoever drives it can tell what was sent after
  what.
* **Leases.** A probe holds the half-open circuit for a bounded time; when that has passed, another may take over.

It does not decide what is a failure, and it makes no calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal

from llmbatch.breaker.policy import BreakerPolicy

__all__ = ["Circuit", "Permit", "State", "Verdict"]

State = Literal["closed", "open", "half_open"]
Verdict = Literal["success", "failure", "neutral", "throttled", "exhausted"]

LEAST_WAIT = 0.05
"""``retry_after`` is never told shorter than this, in seconds: a caller that loops on it must not spin."""


class Permit:
    """The right to make one call. Settled or released exactly once."""

    __slots__ = ("generation", "key", "probe", "serial", "spent")

    def __init__(self, serial: int, generation: int, key: Hashable, probe: bool) -> None:
        self.serial = serial
        self.generation = generation
        self.key = key
        self.probe = probe
        self.spent = False

    def __repr__(self) -> str:
        kind = "probe" if self.probe else "call"
        return f"<Permit {kind} {self.serial}{' spent' if self.spent else ''}>"


class Circuit:
    """One circuit. Not safe for concurrent use by itself; a cancelled caller must release its permit."""

    __slots__ = (
        "_chance",
        "_closed_at",
        "_lease_until",
        "_level",
        "_neutral",
        "_opened_by_refusal",
        "_policy",
        "_probe",
        "_state",
        "_streak",
        "_successes",
        "_takeovers",
        "_until",
        "_window",
        "_window_failed",
        "generation",
        "reason",
        "serial",
    )

    def __init__(self, policy: BreakerPolicy, *, chance: Callable[[], float] = lambda: 0.0) -> None:
        self._policy = policy
        self._chance = chance
        self._state: State = "closed"
        self._closed_at = float("-inf")
        self._level = 0
        self._until = 0.0
        self._streak: set[Hashable] = set()
        self._window: deque[tuple[Hashable, bool]] = deque()
        self._window_failed: set[Hashable] = set()
        self._probe: Permit | None = None
        self._lease_until = 0.0
        self._takeovers = 0
        self._successes = 0
        self._neutral = 0
        self._opened_by_refusal = False
        self.generation = 0
        self.serial = 0
        self.reason = ""

    # What one can ask.

    def state(self, now: float) -> State:
        """The state as of *now*: an open circuit whose time is over is half-open."""
        if self._state == "open" and now >= self._until:
            return "half_open"
        return self._state

    @property
    def phase(self) -> State:
        """The state as last changed, whatever the time."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether calls pass freely."""
        return self._state == "closed"

    @property
    def failures(self) -> int:
        """Consecutive failures, different callers counted once each.

        Those that opened the circuit stand until it closes; probes add none.
        """
        return len(self._streak)

    @property
    def until(self) -> float:
        """When the next probe may go; meaningful while open."""
        return self._until

    @property
    def lease_until(self) -> float:
        """When the probe that is out loses its lease; meaningful while one is."""
        return self._lease_until

    @property
    def probing(self) -> bool:
        """Whether a probe is out."""
        return self._probe is not None

    def retry_after(self, now: float) -> float:
        """Seconds until asking again makes sense: finite, at least 0.05."""
        if self._state == "open":
            return max(LEAST_WAIT, self._until - now)
        if self._state == "half_open" and self._probe is not None:
            return max(LEAST_WAIT, self._lease_until - now)
        return LEAST_WAIT

    # What changes it.

    def acquire(self, now: float, key: Hashable = None, *, lease: float | None = None) -> Permit | None:
        """Let one call in, or None for a refusal. *key* names the caller; None: each call is its own.

        *lease* (seconds) replaces the policy's for a probe. Whoever gets a permit settles or releases it; a probe that
        does neither is replaced when its lease is over, each replacement holding twice as long as the one before.
        """
        if self._state == "closed":
            return self._admit(key, probe=False)
        if self._state == "open":
            if now < self._until:
                return None
            self._state = "half_open"
            self.generation += 1
            self._successes = self._neutral = self._takeovers = 0
            self._probe = None
        if self._probe is not None:
            if now < self._lease_until:
                return None
            # The probe hangs. Its answer, should it ever come, is stale from here on.
            self._takeovers += 1
        self._probe = self._admit(key, probe=True)
        length = self._policy.probe_lease if lease is None else lease
        self._lease_until = now + length * 2.0 ** min(self._takeovers, 30)
        return self._probe

    def _admit(self, key: Hashable, *, probe: bool) -> Permit:
        self.serial += 1
        return Permit(self.serial, self.generation, key, probe)

    def settle(self, permit: Permit, verdict: Verdict, now: float, *, retry_after: float | None = None) -> None:
        """Say what a call came to. *retry_after*: seconds that the server named; they only ever extend a wait.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._spend(permit)
        if permit.generation == self.generation and self._state != "open":
            if self._state == "closed":
                self._settle_closed(permit, verdict, now)
            elif permit is self._probe:
                self._probe = None
                self._settle_probe(verdict, now)
        if retry_after is not None and self._state == "open":
            self.hold(now + retry_after)

    def release(self, permit: Permit) -> None:
        """Give a permit back unused: the call was cancelled and says nothing.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._spend(permit)
        if permit is self._probe:
            self._probe = None

    def _spend(self, permit: Permit) -> None:
        if permit.spent:
            raise RuntimeError(f"{permit!r} was settled or released before")
        permit.spent = True

    def hold(self, until: float) -> None:
        """While open: no probe before *until*; a deadline never moves earlier.

        While closed it changes nothing at once, but an opening before *until* lasts at least so long.
        """
        if until > self._until:
            self._until = until

    def trip(self, now: float, reason: str, *, by_refusal: bool = False) -> None:
        """Open now. *by_refusal*: refusals opened it, so another refusal is no sign of recovery."""
        if self._state == "closed" and now - self._closed_at >= self._policy.stable_time:
            self._level = 0
        self._opened_by_refusal = by_refusal
        self._open(now, reason)

    def close(self, now: float, *, start_over: bool = False) -> None:
        """Close now. *start_over*: the next opening starts with the shortest open time again."""
        self._state = "closed"
        self.generation += 1
        self._closed_at = now
        self._probe = None
        self._streak.clear()
        self._window.clear()
        self._window_failed.clear()
        self.reason = ""
        if start_over:
            self._level = 0

    def _open(self, now: float, reason: str) -> None:
        wait = self._policy.open_time(self._level, self._chance())
        # A wait that the server named before outlasts ours.
        self._until = max(self._until, now + wait)
        self._state = "open"
        self.generation += 1
        self._probe = None
        self.reason = reason

    def _settle_closed(self, permit: Permit, verdict: Verdict, now: float) -> None:
        # A call of an unnamed caller stands for itself, and for no key that someone may have chosen.
        key = permit if permit.key is None else permit.key
        if verdict == "success":
            if self._streak:
                self._streak.clear()
            if self._policy.failure_rate is not None:
                self._remember(key, failed=False)
        elif verdict == "failure":
            self._streak.add(key)
            if len(self._streak) >= self._policy.failure_threshold:
                count = len(self._streak)
                self.trip(now, "a call failed" if count == 1 else f"{count} calls in a row failed")
            elif self._policy.failure_rate is not None:
                self._remember(key, failed=True)
                self._check_rate(now)
        elif verdict == "exhausted":
            self.trip(now, "the provider refuses the account", by_refusal=True)

    def _remember(self, key: Hashable, *, failed: bool) -> None:
        if failed:
            if key in self._window_failed:
                return
            self._window_failed.add(key)
        self._window.append((key, failed))
        if len(self._window) > self._policy.rate_window:
            old, had_failed = self._window.popleft()
            if had_failed:
                self._window_failed.discard(old)

    def _check_rate(self, now: float) -> None:
        calls = len(self._window)
        failed = len(self._window_failed)
        rate = self._policy.failure_rate
        # The quotient, not `failed >= rate * calls`: 0.07 * 100 is above 7.
        if rate is not None and calls >= self._policy.minimum_calls and failed / calls >= rate:
            self.trip(now, f"{failed} of the last {calls} calls failed")

    def _settle_probe(self, verdict: Verdict, now: float) -> None:
        if verdict == "success":
            self._successes += 1
            if self._successes >= self._policy.success_threshold:
                self.close(now)
        elif verdict == "neutral" and not self._opened_by_refusal:
            # The provider is up, though it refused this request; several such answers mean that it works.
            self._neutral += 1
            if self._neutral >= self._policy.neutral_probes:
                self.close(now)
        elif verdict == "throttled":
            self._open(now, self.reason)
        else:
            self._level += 1
            self._open(now, self.reason)
