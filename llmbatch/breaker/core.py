"""Implement the circuit as a pure state machine: acquire, settle, release, trip, close, hold.

It knows no clock, no lock and no loop: whoever drives it hands in ``now`` (seconds on any monotonic clock, never going
back) and keeps calls from overlapping. Three ideas carry it:

* **Generations.** Every change of state starts a new one; what a permit of an older one reports changes no state.
* **Serial numbers.** Calls are numbered when they are let in, so that whoever drives it can tell what was sent after
  what.
* **Leases.** A probe holds its place in the half-open circuit for a bounded time; then another may take it over.

It does not decide what is a failure, and it makes no calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Literal

from llmbatch.breaker.half_open import HalfOpen
from llmbatch.breaker.permit_state import PermitState, spent_error
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.window import CountWindow, TimeWindow, Window

__all__ = ["MIN_RETRY_AFTER", "Circuit", "SettleVerdict", "State"]

State = Literal["closed", "open", "half_open"]
SettleVerdict = Literal["success", "failure", "neutral", "throttled", "exhausted"]

MIN_RETRY_AFTER = 0.05
"""``retry_after`` is never told shorter than this, in seconds: a caller that loops on it must not spin."""


class Circuit:
    """One circuit. Not safe for concurrent use by itself; a cancelled caller must release its permit."""

    __slots__ = (
        "_answered_at",
        "_by_refusal",
        "_chance",
        "_closed_at",
        "_in_flight",
        "_level",
        "_named",
        "_policy",
        "_probes",
        "_unnamed",
        "_until",
        "_window",
        "changed_at",
        "forced",
        "generation",
        "phase",
        "reason",
        "serial",
    )

    def __init__(self, policy: BreakerPolicy, *, chance: Callable[[], float] = lambda: 0.0) -> None:
        self._policy = policy
        self._chance = chance
        self.phase: State = "closed"
        """The state as last changed, whatever the time."""
        self._closed_at = -math.inf
        self._level = 0
        self._until = -math.inf
        self._unnamed = 0
        """Consecutive failures of callers without a name."""
        self._named: set[Hashable] = set()
        """Callers with one that are in the same streak."""
        self._window: Window = (
            CountWindow(policy.rate_window) if policy.rate_seconds is None else TimeWindow(policy.rate_seconds)
        )
        self._in_flight: dict[PermitState, float] = {}
        """When the calls that have not come back were let in, oldest first; kept only where a stall opens."""
        self._answered_at = -math.inf
        self._probes = HalfOpen(policy)
        self._by_refusal = False
        self.forced: Literal["", "open", "disabled"] = ""
        """Whether an operator holds it open, or has switched it off."""
        self.changed_at = -math.inf
        """When the state changed last; minus infinity: never."""
        self.generation = 0
        self.serial = 0
        self.reason = ""

    # What one can ask.

    def state(self, now: float) -> State:
        """The state as of *now*: an open circuit whose time is over is half-open."""
        if self.phase == "open" and now >= self._until and not self.forced:
            return "half_open"
        return self.phase

    @property
    def is_closed(self) -> bool:
        """Whether calls pass freely."""
        return self.phase == "closed"

    @property
    def is_quiet(self) -> bool:
        """Whether a call that ends well now leaves nothing to note."""
        return bool(self.forced) or (not self.failures and not self._policy.has_window)

    @property
    def failures(self) -> int:
        """Consecutive failures, different callers counted once each.

        Those that opened the circuit stand until it closes; probes add none.
        """
        return self._unnamed + len(self._named)

    @property
    def until(self) -> float:
        """No probe goes before; meaningful while not closed."""
        return self._until

    @property
    def lease_until(self) -> float:
        """When the first of the probes that are out loses its lease; meaningful while one is."""
        return self._probes.first_expiry

    @property
    def probing(self) -> bool:
        """Whether a probe is out."""
        return bool(self._probes)

    def is_current(self, permit: PermitState) -> bool:
        """Whether the circuit is as it was when it gave *permit*, and a probe still holds its place."""
        return permit.generation == self.generation and (not permit.probe or permit in self._probes)

    def wait(self, now: float) -> float:
        """Seconds until a call may be let in, 0 for at once; infinite where an operator holds it open.

        Half-open with all probes out, it may be sooner: when one of them ends.
        """
        if self.phase == "closed":
            return 0.0
        if self.forced:
            return math.inf
        until = self._until
        if self._probes.is_full:
            until = max(until, self.lease_until)
        return max(0.0, until - now)

    def retry_after(self, now: float) -> float:
        """Seconds until asking again makes sense: at least 0.05, finite but where an operator holds it open."""
        return max(MIN_RETRY_AFTER, self.wait(now))

    # What changes it.

    def acquire(self, now: float, key: Hashable = None, *, lease: float | None = None) -> PermitState | None:
        """Let one call in, or None for a refusal. *key* names the caller; None: each call is its own.

        *lease* (seconds) replaces the policy's for a probe. Whoever gets a permit settles or releases it; a probe that
        does neither is replaced when its lease is over, each replacement holding twice as long as the one before.
        """
        if self.phase == "closed":
            if self._in_flight:
                self._check_stall(now)
            if self.phase == "closed":
                return self._admit(now, key)
        if self.forced or now < self._until:
            return None
        if self.phase == "open":
            self._enter("half_open", now)
            self._probes.start()
        if not self._probes.make_room(now):
            return None
        permit = self._admit(now, key, probe=True)
        self._probes.add(permit, now, lease)
        return permit

    def _admit(self, now: float, key: Hashable, *, probe: bool = False) -> PermitState:
        self.serial += 1
        permit = PermitState(self.serial, self.generation, key, now, probe=probe)
        if self._policy.stall_timeout is not None and not probe and not self.forced:
            self._in_flight[permit] = now
        return permit

    def make_permit(self, generation: int, now: float) -> PermitState:
        """The permit of an unnamed call that passed without one, while the circuit was closed in *generation*.

        A closed circuit writes nothing down when it lets a call in, unless its policy times calls.
        """
        self.serial += 1
        return PermitState(self.serial, generation, None, now, probe=False)

    def succeed(self, generation: int, now: float, count: int = 1) -> None:
        """Settle as successes *count* calls that :meth:`make_permit` would make permits for, at less cost.

        Only for policies that do not time calls.
        """
        if generation != self.generation or self.forced:
            return
        self._end_streak()
        if not self._policy.has_window:
            return
        if isinstance(self._window, CountWindow):
            self._window.add_successes(count)
        else:
            for _ in range(count):
                self._window.add(now, None, failed=False, slow=False)

    def settle(
        self, permit: PermitState, verdict: SettleVerdict, now: float, *, retry_after: float | None = None
    ) -> None:
        """Say what a call came to. *retry_after*: seconds that the server named; they only ever extend a wait.

        While closed, such a wait stops nothing: but should the circuit open before it is over, it lasts as long.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._spend(permit)
        if retry_after is not None:
            self.hold(now + min(retry_after, self._policy.longest_hint))
        if permit.generation != self.generation or self.forced:
            return
        if self.phase == "closed":
            self._settle_closed(permit, verdict, now)
        elif self._probes.remove(permit):
            self._settle_probe(permit, verdict, now)

    def release(self, permit: PermitState) -> None:
        """Give a permit back unused: the call was cancelled and says nothing.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._spend(permit)
        self._probes.remove(permit)

    def _spend(self, permit: PermitState) -> None:
        if permit.spent:
            raise spent_error(permit)
        permit.spent = True
        if self._in_flight:
            self._in_flight.pop(permit, None)

    def hold(self, until: float) -> None:
        """While not closed: no probe before *until*; a deadline never moves earlier.

        While closed it changes nothing at once, but an opening before *until* lasts at least so long. What is infinite
        or no number is ignored.
        """
        if self._until < until < math.inf:
            self._until = until

    def trip(self, now: float, reason: str, *, by_refusal: bool = False) -> None:
        """Open now, unless it is forced. *by_refusal*: refusals opened it, so another one is no sign of recovery."""
        if self.forced:
            return
        if self.phase == "closed" and now - self._closed_at >= self._policy.stable_time:
            self._level = 0
        self._by_refusal = by_refusal
        self._open(now, reason)

    def close(self, now: float, *, start_over: bool = False) -> None:
        """Close now, forced or not. *start_over*: the next opening starts with the shortest open time again."""
        self.forced = ""
        self._enter("closed", now)
        self._closed_at = now
        self._end_streak()
        self._window.clear()
        self.reason = ""
        if start_over:
            self._level = 0

    def force_open(self, now: float, reason: str) -> None:
        """Let nothing in until :meth:`reset`."""
        self._enter("open", now)
        self.forced = "open"
        self.reason = reason

    def disable(self, now: float) -> None:
        """Let everything in and count nothing until :meth:`reset`."""
        self.close(now)
        self.forced = "disabled"

    def reset(self, now: float) -> None:
        """Close and forget everything, waits that the server named included."""
        self.close(now, start_over=True)
        self._until = -math.inf

    def _open(self, now: float, reason: str) -> None:
        wait = self._policy.open_time(self._level, self._chance())
        # A wait that the server named before outlasts ours.
        self._until = max(self._until, now + wait)
        self._enter("open", now)
        self.reason = reason

    def _enter(self, state: State, now: float) -> None:
        self.phase = state
        self.changed_at = now
        self.generation += 1
        self._probes.clear()
        self._in_flight.clear()

    def _settle_closed(self, permit: PermitState, verdict: SettleVerdict, now: float) -> None:
        if verdict == "exhausted":
            self.trip(now, "the provider refuses the account", by_refusal=True)
        elif verdict == "failure":
            # A call of an unnamed caller stands for itself.
            if permit.key is None:
                self._unnamed += 1
            else:
                self._named.add(permit.key)
            count, threshold = self.failures, self._policy.failure_threshold
            if threshold is not None and count >= threshold:
                self.trip(now, "a call failed" if count == 1 else f"{count} calls in a row failed")
            elif self._policy.has_window:
                self._record(permit.key, permit.at, now, failed=True)
        else:
            self._answered_at = now
            if verdict == "success":
                if self._unnamed or self._named:
                    self._end_streak()
                if self._policy.has_window:
                    self._record(permit.key, permit.at, now, failed=False)
        if self._in_flight:
            self._check_stall(now)

    def _end_streak(self) -> None:
        self._unnamed = 0
        self._named.clear()

    def _record(self, key: Hashable, at: float, now: float, *, failed: bool) -> None:
        slow = self._is_slow(at, now)
        window, policy = self._window, self._policy
        is_news = window.add(now, key, failed=failed, slow=slow)
        if not (is_news and (failed or slow)) or window.calls < policy.minimum_calls:
            return
        span = f"the last {window.calls} calls" if policy.rate_seconds is None else f"{window.calls} calls"
        within = "" if policy.rate_seconds is None else f" in {policy.rate_seconds:g} s"
        # The quotients, not `failed >= rate * calls`: 0.07 * 100 is above 7.
        if policy.failure_rate is not None and window.failed / window.calls >= policy.failure_rate:
            self.trip(now, f"{window.failed} of {span}{within} failed")
        elif policy.slow_call_rate is not None and window.slow / window.calls >= policy.slow_call_rate:
            self.trip(now, f"{window.slow} of {span}{within} took over {policy.slow_call_duration:g} s")

    def _is_slow(self, at: float, now: float) -> bool:
        return self._policy.slow_call_rate is not None and now - at > self._policy.slow_call_duration

    def _check_stall(self, now: float) -> None:
        """Open if enough callers' calls are overdue and none has had an answer meanwhile. O(overdue calls)."""
        timeout = self._policy.stall_timeout
        if timeout is None or now - self._answered_at <= timeout:
            return
        callers = set[Hashable]()
        for permit, at in self._in_flight.items():
            if now - at <= timeout:
                return
            callers.add(permit if permit.key is None else permit.key)
            if len(callers) >= self._policy.stall_calls:
                what = "a call has" if len(callers) == 1 else f"{len(callers)} calls have"
                self.trip(now, f"{what} not come back for {timeout:g} s")
                return

    def _settle_probe(self, permit: PermitState, verdict: SettleVerdict, now: float) -> None:
        if verdict == "success" and not self._is_slow(permit.at, now):
            if self._probes.note_success():
                self.close(now)
        elif verdict == "neutral" and not self._by_refusal:
            # The provider is up, though it refused this request; several such answers mean that it works.
            if self._probes.note_neutral():
                self.close(now)
        elif verdict == "throttled":
            self._open(now, self.reason)
        else:
            self._by_refusal = self._by_refusal or verdict == "exhausted"
            if self._probes.note_failure() or verdict == "exhausted":
                self._level += 1
                self._open(now, self.reason)
