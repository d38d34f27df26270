"""Implement the circuit as a pure state machine: acquire, settle, release, trip, close, hold.

It has no clock, lock or event loop: the caller passes ``now`` (seconds on a monotonic clock) and prevents concurrent
use. Three concepts:

* **Generation**: number of the current state. A permit of an older generation no longer changes the state.
* **Serial number**: calls are numbered in the order of their admission.
* **Lease**: a probe holds its slot for a bounded time; then the next call may replace it.

Failures are classified by the caller.
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
"""Minimum of ``retry_after``, in seconds, so that a caller that sleeps for it in a loop does not spin."""


class Circuit:
    """One circuit. Not safe for concurrent use; a canceled caller must release its permit.

    *chance* draws the jitter, 0 to 1. Default: no jitter.
    """

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
        """State at the last change; see :meth:`state` for the state now."""
        self._closed_at = -math.inf
        self._level = 0
        self._until = -math.inf
        self._unnamed = 0
        """Consecutive failures of calls without a key."""
        self._named: set[Hashable] = set()
        """Keys of the callers that failed in the same streak."""
        self._window: Window = (
            CountWindow(policy.rate_window) if policy.rate_seconds is None else TimeWindow(policy.rate_seconds)
        )
        self._in_flight: dict[PermitState, float] = {}
        """Admission times of calls in flight, oldest first; kept only if the policy has a stall rule."""
        self._answered_at = -math.inf
        self._probes = HalfOpen(policy)
        self._by_refusal = False
        self.forced: Literal["", "open", "disabled"] = ""
        """``open`` if an operator forced it open, ``disabled`` if an operator switched it off; else empty."""
        self.changed_at = -math.inf
        """When the state last changed; minus infinity: never."""
        self.generation = 0
        self.serial = 0
        self.reason = ""

    # Queries.

    def state(self, now: float) -> State:
        """State at *now*: an open circuit whose open time has passed is half-open."""
        if self.phase == "open" and now >= self._until and not self.forced:
            return "half_open"
        return self.phase

    @property
    def is_closed(self) -> bool:
        """Whether calls pass without probing."""
        return self.phase == "closed"

    @property
    def is_quiet(self) -> bool:
        """Whether a success would change nothing, so that it need not be recorded."""
        return bool(self.forced) or (not self.failures and not self._policy.has_window)

    @property
    def failures(self) -> int:
        """Number of consecutive failures; each keyed caller counts once.

        Those that opened the circuit count until it closes; probes add none.
        """
        return self._unnamed + len(self._named)

    @property
    def until(self) -> float:
        """Earliest time of the next probe; meaningful while not closed."""
        return self._until

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
        """Seconds until a call may be admitted, 0 for now; infinite while forced open.

        If all probe slots are taken, this is until the first lease ends; it may be sooner, when a probe ends.
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
        """Seconds until a refused call should try again: at least 0.05; infinite while forced open."""
        return max(MIN_RETRY_AFTER, self.wait(now))

    # Changes.

    def acquire(self, now: float, key: Hashable = None, *, lease: float | None = None) -> PermitState | None:
        """Admit one call and return its permit; None if it is refused.

        *key* names the caller; None: every call counts on its own. *lease* (seconds) replaces the policy's for a probe.
        Settle or release each permit exactly once. A probe that does neither is replaced when its lease ends; each
        replacement gets twice the lease, up to four times.
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
        """Return a permit for a call that took the fast path in *generation*, while the circuit was closed.

        A closed circuit records nothing when it admits a call, unless its policy times calls.
        """
        self.serial += 1
        return PermitState(self.serial, generation, None, now, probe=False)

    def succeed(self, generation: int, now: float, count: int = 1) -> None:
        """Count *count* successes of calls that took the fast path in *generation*; cheaper than a permit for each.

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
        self,
        permit: PermitState,
        verdict: SettleVerdict,
        now: float,
        *,
        retry_after: float | None = None,
        by_refusal: bool = False,
    ) -> None:
        """Count the outcome of an admitted call. *retry_after*: a wait in seconds that the server named.

        *by_refusal*: the server refused the caller's key or model, which may be that caller's own mistake. A neutral
        one then counts as a failure of a caller with a key, once, and no failed one reopens a half-open circuit that
        other failures had opened.

        The wait only ever extends an open time. While closed it stops no call, but an opening before its end lasts at
        least that long.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._spend(permit)
        if retry_after is not None:
            self.hold(now + min(retry_after, self._policy.longest_hint))
        if permit.generation != self.generation or self.forced:
            return
        if self.phase == "closed":
            self._settle_closed(permit, verdict, now, by_refusal=by_refusal)
        elif self._probes.remove(permit):
            self._settle_probe(permit, "neutral" if by_refusal and verdict == "failure" else verdict, now)

    def progress(self, permit: PermitState, seconds: float, now: float) -> None:
        """Note that a part of the answer to *permit*'s call came after *seconds*, not counting the caller's own time.

        The first part is an answer: the call is no longer overdue, nor are others for a while. Every part renews the
        lease of a probe. From the first part on, the longest wait says whether the call is slow, not its duration.
        No effect on the circuit if the permit is spent or the state has changed.
        """
        is_answer = permit.longest_wait is None
        permit.note_wait(seconds)
        if permit.spent or permit.generation != self.generation:
            return
        if is_answer:
            self._answered_at = now
            self._in_flight.pop(permit, None)
        self._probes.renew(permit, now)

    def release(self, permit: PermitState) -> None:
        """Return a permit without counting its call, which was canceled or never made.

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
        """Send no probe before *until*; never shortens a wait.

        While closed, calls still pass, but an opening before *until* lasts at least until then. Infinity and NaN are
        ignored.
        """
        if self._until < until < math.inf:
            self._until = until

    def trip(self, now: float, reason: str, *, by_refusal: bool = False) -> None:
        """Open the circuit, unless it is forced. *by_refusal*: because of refusals, so a refused probe has failed."""
        if self.forced:
            return
        if self.phase == "closed" and now - self._closed_at >= self._policy.stable_time:
            self._level = 0
        self._by_refusal = by_refusal
        self._open(now, reason)

    def close(self, now: float, *, start_over: bool = False) -> None:
        """Close the circuit, forced or not. *start_over*: the next opening starts at the shortest open time again."""
        self.forced = ""
        self._enter("closed", now)
        self._closed_at = now
        self._end_streak()
        self._window.clear()
        self.reason = ""
        if start_over:
            self._level = 0

    def force_open(self, now: float, reason: str) -> None:
        """Refuse every call until :meth:`reset`."""
        self._enter("open", now)
        self.forced = "open"
        self.reason = reason

    def disable(self, now: float) -> None:
        """Admit every call and count none until :meth:`reset`."""
        self.close(now)
        self.forced = "disabled"

    def reset(self, now: float) -> None:
        """Close and forget all failures and waits, also those that the server named."""
        self.close(now, start_over=True)
        self._until = -math.inf

    def _open(self, now: float, reason: str) -> None:
        wait = self._policy.open_time(self._level, self._chance())
        # A longer wait that the server named earlier still holds.
        self._until = max(self._until, now + wait)
        self._enter("open", now)
        self.reason = reason

    def _enter(self, state: State, now: float) -> None:
        self.phase = state
        self.changed_at = now
        self.generation += 1
        self._probes.clear()
        self._in_flight.clear()

    def _settle_closed(self, permit: PermitState, verdict: SettleVerdict, now: float, *, by_refusal: bool) -> None:
        if by_refusal:
            self._answered_at = now
            if verdict == "neutral" and permit.key is not None:
                verdict = "failure"
        if verdict == "exhausted":
            self.trip(now, "the provider refuses the account", by_refusal=True)
        elif verdict == "failure":
            # A call without a key counts on its own.
            if permit.key is None:
                self._unnamed += 1
            else:
                self._named.add(permit.key)
            count, threshold = self.failures, self._policy.failure_threshold
            if threshold is not None and count >= threshold:
                self.trip(
                    now, "a call failed" if count == 1 else f"{count} calls in a row failed", by_refusal=by_refusal
                )
            elif self._policy.has_window:
                self._record(permit, now, failed=True)
        else:
            self._answered_at = now
            if verdict == "success":
                if self._unnamed or self._named:
                    self._end_streak()
                if self._policy.has_window:
                    self._record(permit, now, failed=False)
        if self._in_flight:
            self._check_stall(now)

    def _end_streak(self) -> None:
        self._unnamed = 0
        self._named.clear()

    def _record(self, permit: PermitState, now: float, *, failed: bool) -> None:
        slow = self._is_slow(permit, now)
        window, policy = self._window, self._policy
        is_news = window.add(now, permit.key, failed=failed, slow=slow)
        if not (is_news and (failed or slow)) or window.calls < policy.minimum_calls:
            return
        span = f"the last {window.calls} calls" if policy.rate_seconds is None else f"{window.calls} calls"
        within = "" if policy.rate_seconds is None else f" in {policy.rate_seconds:g} s"
        # The quotients, not `failed >= rate * calls`: 0.07 * 100 is above 7.
        if policy.failure_rate is not None and window.failed / window.calls >= policy.failure_rate:
            self.trip(now, f"{window.failed} of {span}{within} failed")
        elif policy.slow_call_rate is not None and window.slow / window.calls >= policy.slow_call_rate:
            self.trip(now, f"{window.slow} of {span}{within} took over {policy.slow_call_duration:g} s")

    def _is_slow(self, permit: PermitState, now: float) -> bool:
        if self._policy.slow_call_rate is None:
            return False
        seconds = now - permit.at if permit.longest_wait is None else permit.longest_wait
        return seconds > self._policy.slow_call_duration

    def _check_stall(self, now: float) -> None:
        """Open if enough callers have overdue calls and no call was answered meanwhile. O(overdue calls)."""
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
                self.trip(now, f"{what} been unanswered for {timeout:g} s")
                return

    def _settle_probe(self, permit: PermitState, verdict: SettleVerdict, now: float) -> None:
        if verdict == "success" and not self._is_slow(permit, now):
            if self._probes.note_success():
                self.close(now)
        elif verdict == "neutral" and not self._by_refusal:
            # The provider answers, though it refused this request; several such answers mean that it works.
            if self._probes.note_neutral():
                self.close(now)
        elif verdict == "throttled":
            self._open(now, self.reason)
        else:
            self._by_refusal = self._by_refusal or verdict == "exhausted"
            if self._probes.note_failure() or verdict == "exhausted":
                self._level += 1
                self._open(now, self.reason)
