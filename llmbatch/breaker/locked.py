"""Make one circuit thread-safe: a lock, listeners and waiters around :class:`~llmbatch.breaker.core.Circuit`.

Fast path: while the circuit is closed, ``fast_generation`` holds its generation and calls skip the lock; None means
take the lock. A successful call takes the lock only if ``must_record`` is set: it ends a streak of failures, or a
window counts it. While the circuit is open, ``rejection`` has the facts of a refusal, so that calls are refused without
the lock. These attributes are written under the lock and read without it.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from llmbatch.breaker.classify import COUNTED, IGNORED, Judgement
from llmbatch.breaker.core import MIN_RETRY_AFTER, Circuit, State
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.listeners import BreakerListener, Listeners
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.waiting import Waiter, Waiters

if TYPE_CHECKING:
    from llmbatch.breaker.explain import Explanation, Failure

__all__ = ["LockedCircuit"]

MAX_FAILURES_KEPT = 10
"""Number of last failures kept for ``explain()``."""


class LockedCircuit:
    """Thread-safe circuit. Calls no foreign code under the lock except the clock.

    *classifies_results*: returned values are classified, so that every call needs a permit. Default: False.
    """

    __slots__ = (
        "_circuit",
        "_count_success",
        "_counted_before",
        "_counted_generation",
        "_deferred_steps",
        "_failures",
        "_frees_probe_slot",
        "_in_step",
        "_in_streak",
        "_listeners",
        "_lock",
        "_needs_permit",
        "_success_counter",
        "_waiters_to_wake",
        "clock",
        "fast_generation",
        "must_record",
        "name",
        "rejection",
        "waiters",
    )

    def __init__(
        self, policy: BreakerPolicy, *, name: str, clock: Callable[[], float], classifies_results: bool = False
    ) -> None:
        self.name = name
        self.clock = clock
        # Reentrant: while a thread holds the lock, its garbage collector may close an abandoned async_call, and its
        # signal handlers may read the state.
        self._lock = threading.RLock()
        self._circuit = Circuit(policy, chance=_draw)
        self._listeners = Listeners()
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES_KEPT)
        self._needs_permit = classifies_results or policy.times_calls
        # Successes in a window of calls need no lock: counting is atomic, and only failures read the window.
        self._success_counter = (
            itertools.count() if policy.failure_rate is not None and policy.rate_seconds is None else None
        )
        self._counted_before = self._counted_generation = 0
        self._count_success: Callable[[], int] | None = None
        self._in_step = False
        """Whether a step is running; only its own thread can see it true."""
        self._deferred_steps: deque[Callable[[float], None]] = deque()
        self._frees_probe_slot = False
        """Whether the step freed a probe slot."""
        self._waiters_to_wake: deque[Waiter] = deque()
        self._in_streak = False
        """Whether the last calls failed, so that a success must be recorded at once."""
        self.waiters = Waiters()
        self.fast_generation: int | None = None
        """Generation in which a call may pass without a permit; None: take the lock and get one."""
        self.must_record = True
        """Whether the success of a call that took the fast path must be recorded."""
        self.rejection: tuple[float, str, str] | None = None
        """Open circuit: (until, name, reason), enough to refuse calls without the lock; None: ask the circuit."""
        self._refresh()
        # The first success is looked at, whatever the rules.
        self.must_record = True

    # Queries.

    def state(self) -> State:
        """State of the circuit now."""
        with self._lock:
            state = self._circuit.state(self.clock())
        self._notify()
        return state

    def failures(self) -> int:
        """Number of consecutive failures."""
        with self._lock:
            failures = self._circuit.failures
        self._notify()
        return failures

    def is_forced(self) -> bool:
        """Whether it was forced open or disabled by hand."""
        return bool(self._circuit.forced)

    def retry_after(self) -> float | None:
        """Seconds until a call may be admitted; None while closed."""
        with self._lock:
            seconds = None if self._circuit.is_closed else self._circuit.retry_after(self.clock())
        self._notify()
        return seconds

    def is_current(self, permit: PermitState) -> bool:
        """Whether the state has not changed since *permit* was acquired."""
        with self._lock:
            is_current = self._circuit.is_current(permit)
        self._notify()
        return is_current

    def seconds_until_ready(self, waiter: Waiter) -> float:
        """Seconds until a call may be admitted; the next change wakes *waiter*."""
        with self._lock:
            # Register first, or a change while the wait is computed would wake nobody.
            self.waiters.add(waiter)
            seconds = self._circuit.wait(self.clock())
        self._notify()
        return seconds

    def seconds_left(self, permit: PermitState, until: float, waiter: Waiter) -> float:
        """Seconds until *until*, 0 if *permit* is no longer current; the next change wakes *waiter*."""
        with self._lock:
            self.waiters.add(waiter)
            seconds = until - self.clock() if self._circuit.is_current(permit) else 0.0
        self._notify()
        return seconds

    def explain(self) -> Explanation:
        """Snapshot for ``CircuitBreaker.explain``."""
        from llmbatch.breaker.explain import Explanation

        with self._lock:
            now = self.clock()
            circuit = self._circuit
            explanation = Explanation(
                name=self.name,
                state=circuit.state(now),
                at=now,
                since=circuit.changed_at if circuit.generation else None,
                reason=circuit.reason,
                is_forced=bool(circuit.forced),
                retry_after=None if circuit.is_closed else circuit.retry_after(now),
                failures=circuit.failures,
                last_failures=tuple(self._failures),
            )
        self._notify()
        return explanation

    # Calls.

    def admit(self, caller: Hashable = None) -> PermitState:
        """Admit one call and return its permit.

        Raises:
            CircuitOpenError: the call was refused.
        """
        # The error is never kept in a variable: that would be a reference cycle with its own traceback.
        if (rejection := self.rejection) is not None and (wait := rejection[0] - self.clock()) > 0:
            raise CircuitOpenError(max(wait, MIN_RETRY_AFTER), rejection[1], rejection[2])
        with self._lock:
            circuit = self._circuit
            if self._in_step:
                # Within another step the state must not change: only a closed circuit admits a call.
                if circuit.is_closed:
                    return circuit.make_permit(circuit.generation, self.clock())
                raise CircuitOpenError(MIN_RETRY_AFTER, self.name, circuit.reason)
            self._in_step = True
            try:
                now = self.clock()
                was, generation = circuit.phase, circuit.generation
                permit = circuit.acquire(now, caller)
                is_plain = permit is not None and circuit.generation == generation
                if not is_plain:
                    wait, reason = circuit.retry_after(now), circuit.reason
                    if permit is None:
                        self._listeners.refused(self.name, now, circuit.state(now), wait)
                    self._after(was, generation, now)
            finally:
                self._in_step = False
            if is_plain and permit is not None and not self._deferred_steps:
                return permit
            try:
                self._run_deferred_steps()
            except BaseException:
                if permit is not None:
                    circuit.release(permit)
                raise
        try:
            self._notify()
        except BaseException:
            # Interrupted while events were delivered: the call is not made.
            if permit is not None:
                self.settle(permit, IGNORED, None)
            raise
        if permit is None:
            raise CircuitOpenError(wait, self.name, reason)
        return permit

    def progress(self, permit: PermitState, seconds: float) -> None:
        """Note that a part of the answer came after *seconds*. Takes the lock for the first part, and for probes."""
        if permit.longest_wait is None or permit.probe:
            self._step(lambda now: self._circuit.progress(permit, seconds, now), refresh=False)
        else:
            permit.note_wait(seconds)

    def settle(
        self, permit: PermitState, judgement: Judgement, error: BaseException | None, *, once: bool = False
    ) -> None:
        """Settle *permit* by *judgement*. *error* is described for ``explain()``, not kept.

        *once*: do nothing if the permit was settled or released before, instead of raising.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        verdict = judgement.verdict
        # Outside the lock: the text of an exception comes from foreign code.
        is_failure = verdict in COUNTED or judgement.is_refusal
        failure = _describe(judgement, error, self.clock(), permit) if is_failure else None

        def settle(now: float) -> None:
            if once and permit.spent:
                return
            circuit = self._circuit
            is_stale = not circuit.is_current(permit)
            if verdict == "ignored":
                circuit.release(permit)
                self._listeners.ended(self.name, now, None, permit, is_stale=is_stale)
            else:
                self._record_counted(now)
                circuit.settle(permit, verdict, now, retry_after=judgement.retry_after, by_refusal=judgement.is_refusal)
                self._listeners.ended(self.name, now, verdict, permit, is_stale=is_stale)
            if failure is not None and not circuit.forced and not is_stale:
                self._failures.append(failure)
            self._frees_probe_slot = self._frees_probe_slot or permit.probe

        # A success that ends no streak changes none of the attributes that are read without the lock.
        self._step(settle, refresh=verdict != "success" or self._in_streak)

    def succeed(self, fast_generation: int) -> None:
        """Count the success of a call that took the fast path in *fast_generation*."""
        count = self._count_success
        if count is not None and fast_generation == self.fast_generation:
            count()
        else:
            self._step(
                lambda now: self._circuit.succeed(fast_generation, now),
                refresh=self._in_streak or self._circuit.is_quiet,
            )

    def fail(self, fast_generation: int, judgement: Judgement, error: Exception) -> None:
        """Count by *judgement* a call that took the fast path in *fast_generation* and raised *error*."""
        with self._lock:
            permit = self._circuit.make_permit(fast_generation, self.clock())
        self.settle(permit, judgement, error)

    # Manual control.

    def hold(self, seconds: float) -> None:
        """Send no probe for *seconds*."""
        self._step(lambda now: self._circuit.hold(now + seconds))

    def force_open(self, reason: str) -> None:
        """Refuse every call."""
        self._step(lambda now: self._circuit.force_open(now, reason))

    def disable(self) -> None:
        """Admit every call and count none."""
        self._step(self._circuit.disable)

    def reset(self) -> None:
        """Close the circuit and forget all failures, waits and overrides."""
        self._step(self._circuit.reset)

    def add_listener(self, listener: BreakerListener, *, calls: bool) -> Callable[[], None]:
        """Add *listener*; return a function that removes it."""
        with self._lock:
            subscription = self._listeners.add(listener, calls=calls)
            self._refresh()
        self._notify()

        def remove() -> None:
            with self._lock:
                self._listeners.remove(subscription)
                self._refresh()
            self._notify()

        return remove

    # Under the lock.

    def _record_counted(self, now: float) -> None:
        """Record the successes that were only counted, before the window is read."""
        if self._success_counter is not None:
            counted = next(self._success_counter)
            count, self._counted_before = counted - self._counted_before, counted + 1  # reading the counter counts too
            if count:
                self._circuit.succeed(self._circuit.generation, now, count)

    def _step(self, do: Callable[[float], None], *, refresh: bool = True) -> None:
        """Run one step of the circuit under the lock, then refresh, deliver and wake.

        A signal handler, or a call closed by the garbage collector, may interrupt a step on the same thread, which the
        reentrant lock allows. Its step is deferred until that one has ended.
        """
        with self._lock:
            if self._in_step:
                self._deferred_steps.append(do)
                return
            try:
                self._run_step(do, refresh=refresh)
            finally:
                self._run_deferred_steps()
        self._notify()

    def _run_deferred_steps(self) -> None:
        # Checked again after each step, or one that is deferred just then would be left.
        while self._deferred_steps:
            self._run_step(None, refresh=True)

    def _run_step(self, do: Callable[[float], None] | None, *, refresh: bool) -> None:
        self._in_step = True
        try:
            if do is None and self._deferred_steps:  # it may have run just before this step began
                do = self._deferred_steps.popleft()
            if do is not None:
                now = self.clock()
                circuit = self._circuit
                was, generation = circuit.phase, circuit.generation
                do(now)
                if refresh or self._frees_probe_slot or circuit.generation != generation:
                    self._after(was, generation, now)
        finally:
            self._in_step = False

    def _after(self, was: State, generation: int, now: float) -> None:
        """After a change of the circuit: queue its event and the waiters to wake."""
        circuit = self._circuit
        changed = circuit.generation != generation
        if changed and not was == circuit.phase == "closed":
            wait = None if circuit.is_closed else circuit.retry_after(now)
            self._listeners.changed(self.name, now, was, circuit.phase, circuit.reason, wait)
        self._refresh()
        if changed or self._frees_probe_slot:
            self._frees_probe_slot = False
            self._waiters_to_wake.extend(self.waiters.take())

    def _refresh(self) -> None:
        circuit = self._circuit
        fast_generation = rejection = None
        if self._listeners.wants_calls:
            pass
        elif circuit.phase == "open":
            rejection = (math.inf if circuit.forced else circuit.until, self.name, circuit.reason)
        elif circuit.is_closed and not self._needs_permit:
            fast_generation = circuit.generation
        if self._success_counter is not None and circuit.generation != self._counted_generation:
            # Successes counted before the change, or about to be, no longer count.
            self._counted_generation = circuit.generation
            self._success_counter, self._counted_before = itertools.count(), 0
        self.must_record = not circuit.is_quiet
        self._in_streak = circuit.failures > 0
        self.rejection = rejection
        self.fast_generation = fast_generation
        # A success that ends a streak must be recorded at once.
        self._count_success = (
            self._success_counter.__next__ if self._success_counter is not None and not self._in_streak else None
        )

    def _notify(self) -> None:
        """Outside the lock: wake waiters and deliver events, also those of calls that the garbage collector closed."""
        if self._waiters_to_wake:
            while True:
                try:
                    waiter = self._waiters_to_wake.popleft()
                except IndexError:
                    break  # none is left: other threads take them too
                waiter()
        # An abandoned call is settled under the lock of the step in which it is collected; that step delivers later.
        if self._listeners.has_events and not self._lock._is_owned():  # type: ignore[attr-defined]
            self._listeners.deliver()


def _draw() -> float:
    import random  # imported late, as below: not needed before a call fails

    return random.random()


def _describe(judgement: Judgement, error: BaseException | None, at: float, permit: PermitState) -> Failure:
    from llmbatch.breaker.explain import describe

    return describe(judgement, error, at=at, caller=permit.key)
