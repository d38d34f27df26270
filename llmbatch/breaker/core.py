"""Implement the circuit as a pure state machine: acquire, settle, release, trip, close, hold.

It has no clock, lock or event loop: the caller passes ``now`` (seconds on a monotonic clock) and prevents concurrent
use. Three concepts:

* **Generation**: number of the current state. A permit of an older generation no longer changes the state.
* **Serial number**: calls are numbered in the order of their admission.
* **Lease**: a probe holds its slot for a bounded time; then the next call may replace it. A replaced probe that still
  succeeds counts, as long as the circuit is half-open: its calls may take longer than a lease.

Failures are classified by the caller. Here the circuit opens by failures in a row; shares of a window are judged in
:mod:`llmbatch.breaker.rates`, calls that nobody answers in :mod:`llmbatch.breaker.stall`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from llmbatch.breaker.circuit_state import (
    MIN_RETRY_AFTER,
    CircuitState,
    Condition,
    Forced,
    Memory,
    SettleVerdict,
    State,
)
from llmbatch.breaker.permit_state import PermitState, spent_error
from llmbatch.breaker.rates import Rates

__all__ = ["MIN_RETRY_AFTER", "Circuit", "Condition", "Forced", "Memory", "SettleVerdict", "State"]


class Circuit(CircuitState):
    """One circuit. Not safe for concurrent use; a canceled caller must release its permit.

    *chance* draws the jitter, 0 to 1. Default: no jitter.
    """

    __slots__ = ()

    def acquire(self, now: float, key: Hashable = None, *, lease: float | None = None) -> PermitState | None:
        """Admit one call and return its permit; None if it is refused.

        *key* names the caller; None: every call counts on its own. *lease* (seconds) replaces the policy's for a probe.
        Settle or release each permit exactly once. A probe that does neither is replaced when its lease ends; each
        replacement gets twice the lease, up to four times.
        """
        stall = self._stall
        if stall is not None and self.phase == "closed" and (why := stall.reason_to_open(now)):
            self.trip(now, why)
        is_probe = self.phase != "closed"
        if is_probe and not self._may_probe(now):
            return None
        self.serial += 1
        permit = PermitState(self.serial, self.generation, key, now, probe=is_probe)
        if is_probe:
            self._probes.add(permit, now, lease)
        elif stall is not None:
            stall.admit(permit, now)
        return permit

    def _may_probe(self, now: float) -> bool:
        """Whether there is room for a probe now; an open circuit becomes half-open for it."""
        if now < self.until:
            return False
        if self.phase == "open":
            self.forced = ""
            self._enter("half_open", now)
            self._probes.start()
        return self._probes.make_room(now)

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
        if generation != self.generation:
            return
        self._end_streak()
        rates = self._rates
        if rates is None or (count > 1 and rates.add_successes(count)):
            return
        for _ in range(count):
            if generation == self.generation and (why := rates.add(now, None, failed=False, slow=False)):
                self.trip(now, why)

    def settle(
        self,
        permit: PermitState,
        verdict: SettleVerdict,
        now: float,
        *,
        retry_after: float | None = None,
        by_refusal: bool = False,
    ) -> bool:
        """Count the outcome of an admitted call; return whether it counted, or came too late.

        *retry_after*: a wait in seconds that the server named. It only ever extends an open time. While closed it stops
        no call, unless the policy has ``open_on_retry_after``, but an opening before its end lasts at least that long.

        *by_refusal*: the server refused the caller's key or model, which may be that caller's own mistake. A neutral
        one then counts as a failure of a caller with a key, once, and no failed one reopens a half-open circuit that
        other failures had opened.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        if permit.spent:
            raise spent_error(permit)
        permit.spent = True
        if self._stall is not None:
            self._stall.remove(permit)
        named = math.nan
        if retry_after is not None:
            named = min(retry_after, self._policy.longest_hint)
            self.hold(now + named)
        if permit.generation != self.generation:
            return False
        if self.phase == "closed":
            self._settle_closed(permit, verdict, now, named, by_refusal=by_refusal)
            return True
        if by_refusal and verdict == "failure":
            verdict = "neutral"
        if self._probes.remove(permit):
            self._settle_probe(permit, verdict, now, named)
            return True
        # A probe that was replaced: a hung one proves nothing when it fails, but a slow one does when it is answered.
        is_answer = verdict == "success" and not self._is_slow(permit, now)
        if is_answer or (verdict == "neutral" and not self._by_refusal):
            self._settle_probe(permit, verdict, now, named)
            return True
        return False

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
        if is_answer and self._stall is not None:
            self._stall.answer(now)
            self._stall.remove(permit)
        self._probes.renew(permit, now)

    def release(self, permit: PermitState, now: float | None = None) -> None:
        """Return a permit without counting its call, which was canceled or never made.

        With a stall rule an overdue call counts all the same: as unanswered while closed, as a failed probe while
        half-open. *now* None: the call is not checked for that.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        if permit.spent:
            raise spent_error(permit)
        permit.spent = True
        was_probing = self._probes.remove(permit)
        if self._stall is None:
            return
        if now is None:
            self._stall.remove(permit)
        elif was_probing and self._stall.is_overdue(permit, now):
            self._settle_probe(permit, "failure", now, math.nan)
        elif not permit.probe and self._stall.give_up(permit, now) and (why := self._stall.reason_to_open(now)):
            self.trip(now, why)

    def hold(self, until: float) -> None:
        """Send no probe before *until*; never shortens a wait.

        While closed, calls still pass, but an opening before *until* lasts at least until then. Infinity and NaN are
        ignored.
        """
        if self._until < until < math.inf:
            self._until = until

    def pause(self, now: float, seconds: float, reason: str) -> None:
        """Refuse all calls for *seconds*, then probe. Never shortens a wait. Disabled: calls still pass."""
        if self.phase == "closed" and not self.forced:
            if seconds > 0:
                self.trip(now, reason, wait=seconds)
                self._by_hand = True
        else:
            self.hold(now + seconds)

    def trip(self, now: float, reason: str, *, by_refusal: bool = False, wait: float | None = None) -> None:
        """Open the circuit, unless it is forced. *by_refusal*: because of refusals, so a refused probe has failed.

        *wait*: seconds that it stays open at least. Default: as the policy says.
        """
        if self.forced:
            if self.forced == "disabled" and not self.would_have_opened:
                self.would_have_opened, self.reason = True, reason
            return
        if self.phase == "closed" and now - self._closed_at >= self._policy.stable_time:
            self._level = 0
        self._by_refusal = by_refusal
        self._by_hand = False
        self._open(now, reason, wait)

    def close(self, now: float, *, start_over: bool = False) -> None:
        """Close the circuit, forced or not. *start_over*: the next opening starts at the shortest open time again."""
        self.forced = self.reason = ""
        self.would_have_opened = False
        self._enter("closed", now)
        self._closed_at = now
        self._end_streak()
        if self._rates is not None:
            self._rates.clear()
        if start_over:
            self._level = 0

    def force_open(self, now: float, reason: str, seconds: float = math.inf) -> None:
        """Refuse every call for *seconds*, then probe. Default: until :meth:`reset`."""
        self._enter("open", now)
        self.forced, self._forced_until = "open", now + seconds
        self.reason = reason
        self._by_hand, self._by_refusal = True, False

    def disable(self, now: float) -> None:
        """Admit every call until :meth:`reset`. They are counted; what a rule would open is only noted."""
        if self.forced != "disabled":
            self.close(now)
            self.forced = "disabled"

    def reset(self, now: float) -> None:
        """Close and forget all failures and waits, also those that the server named."""
        self.close(now, start_over=True)
        self._until = -math.inf

    def restore(self, memory: Memory, now: float) -> None:
        """Take over *memory*; only for a new circuit. Windows, probes and calls in flight start empty."""
        self._unnamed = memory.failures
        self._level = memory.level
        self._by_refusal, self._by_hand = memory.cause == "refusal", memory.cause == "hand"
        self.forced, self._forced_until = memory.forced, now + memory.forced_for
        self.would_have_opened = memory.would_have_opened
        self.reason = memory.reason
        if memory.wait > 0:
            self.hold(now + memory.wait)
        if memory.since is not None:
            # Half-open is an open circuit whose probe is due.
            self._enter("closed" if memory.state == "closed" else "open", now)
            self.changed_at = now - memory.since
            self._closed_at = self.changed_at

    def _open(self, now: float, reason: str, wait: float | None = None) -> None:
        if wait is None:
            wait = self._policy.open_time(self._level, self._chance())
        # A longer wait that the server named earlier still holds.
        self._until = max(self._until, now + wait)
        self._enter("open", now)
        self.reason = reason

    def _open_again(self, now: float, wait: float | None = None) -> None:
        if self._by_hand:
            self.reason, self._by_hand = "a probe failed", False
        self._open(now, self.reason, wait)

    def _enter(self, state: State, now: float) -> None:
        self.phase = state
        self.changed_at = now
        self.generation += 1
        self._probes.clear()
        if self._stall is not None:
            self._stall.clear()

    def _settle_closed(
        self, permit: PermitState, verdict: SettleVerdict, now: float, named: float, *, by_refusal: bool
    ) -> None:
        """Count first, then open by the first rule that applies."""
        why, opens_by_refusal = "", verdict == "exhausted"
        is_answer = by_refusal or verdict != "failure"
        if by_refusal and verdict == "neutral" and permit.key is not None:
            verdict = "failure"
        if verdict == "failure":
            # A call without a key counts on its own.
            if permit.key is None:
                self._unnamed += 1
            else:
                self._named.add(permit.key)
            rate = "" if self._rates is None else self._record(self._rates, permit, now, failed=True)
            count, threshold = self.failures, self._policy.failure_threshold
            if threshold is not None and count >= threshold:
                why = "a call failed" if count == 1 else f"{count} calls in a row failed"
                opens_by_refusal = by_refusal
            else:
                why = rate
        elif verdict == "success":
            self._end_streak()
            if self._rates is not None:
                why = self._record(self._rates, permit, now, failed=False)
        elif verdict == "exhausted":
            why = "the provider refuses the account"
        if self._stall is not None:
            if is_answer:
                self._stall.answer(now)  # so that there is no stall
            elif not why:
                why = self._stall.reason_to_open(now)
        if why:
            self.trip(now, why, by_refusal=opens_by_refusal)
        elif named > 0 and (wait := self._wait_to_open_for(named)) is not None:
            self.trip(now, f"the server asked for a wait of {wait:g} s", wait=wait)

    def _end_streak(self) -> None:
        self._unnamed = 0
        self._named.clear()

    def _record(self, rates: Rates, permit: PermitState, now: float, *, failed: bool) -> str:
        """Record a call in the window; return why the circuit should open."""
        return rates.add(now, permit.key, failed=failed, slow=self._is_slow(permit, now))

    def _is_slow(self, permit: PermitState, now: float) -> bool:
        if self._policy.slow_call_rate is None:
            return False
        seconds = now - permit.at if permit.longest_wait is None else permit.longest_wait
        return seconds > self._policy.slow_call_duration

    def _wait_to_open_for(self, named: float) -> float | None:
        """Seconds to stay open because the server named a wait; None if the policy does not open for it."""
        least = self._policy.open_on_retry_after
        if least is False or not named > 0 or (least is not True and named < least):
            return None
        return named

    def _settle_probe(self, permit: PermitState, verdict: SettleVerdict, now: float, named: float) -> None:
        if verdict == "success" and not self._is_slow(permit, now):
            if self._probes.note_success():
                self.close(now)
        elif verdict == "neutral" and not self._by_refusal:
            # The provider answers, though it refused this request; several such answers mean that it works.
            if self._probes.note_neutral():
                self.close(now)
        elif verdict == "throttled":
            self._open_again(now, self._wait_to_open_for(named))
        else:
            self._by_refusal = self._by_refusal or verdict == "exhausted"
            if self._probes.note_failure() or verdict == "exhausted":
                self._level += 1
                self._open_again(now)
