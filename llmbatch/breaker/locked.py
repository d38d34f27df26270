"""Make one circuit thread-safe: what calls, operators and listeners do to it, each as one step under its lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from llmbatch.breaker.classify import COUNTED, IGNORED, Judgement
from llmbatch.breaker.core import MIN_RETRY_AFTER, Memory, State
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.listeners import BreakerListener
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.steps import Steps
from llmbatch.breaker.waiting import Waiter

if TYPE_CHECKING:
    from llmbatch.breaker.classify import Verdict
    from llmbatch.breaker.explain import Explanation, Failure, WindowCounts
    from llmbatch.breaker.gate import CircuitBoard, Heard, ProbeEnd

__all__ = ["LockedCircuit"]

MAX_FAILURES_KEPT = 10
"""Number of last failures kept for ``explain()``."""


class LockedCircuit(Steps):
    """Thread-safe circuit of one breaker. Options: see :class:`~llmbatch.breaker.steps.Steps`."""

    __slots__ = ("_failures",)

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        name: str,
        clock: Callable[[], float],
        classifies_results: bool = False,
        shared: CircuitBoard | None = None,
    ) -> None:
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES_KEPT)
        super().__init__(policy, name=name, clock=clock, classifies_results=classifies_results)
        # The first success is looked at, whatever the rules.
        self.must_record = True
        if shared is not None:
            self.gate = shared.attach(self, policy.lease)

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
        """Whether it is forced open or disabled by hand."""
        with self._lock:
            is_forced = self._circuit.is_forced(self.clock())
        self._notify()
        return is_forced

    def window(self) -> WindowCounts | None:
        """Counts of the window of calls; None if no rule needs one."""
        with self._lock:
            now = self.clock()
            self._record_counted(now)
            counts = self._window_counts(now)
        self._notify()
        return counts

    def _window_counts(self, now: float) -> WindowCounts | None:
        from llmbatch.breaker.explain import WindowCounts

        counts = self._circuit.window(now)
        return None if counts is None else WindowCounts(*counts)

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
            self._record_counted(now)
            explanation = Explanation(
                name=self.name,
                state=circuit.state(now),
                at=now,
                since=circuit.changed_at if circuit.generation else None,
                reason=circuit.reason,
                is_forced=circuit.is_forced(now),
                retry_after=None if circuit.is_closed else circuit.retry_after(now),
                failures=circuit.failures,
                last_failures=tuple(self._failures),
                window=self._window_counts(now),
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
                phase, forced, told = circuit.phase, circuit.forced, circuit.would_have_opened
                generation = circuit.generation
                is_free = self.gate is None or circuit.is_closed or circuit.wait(now) > 0 or self.gate.may_probe()
                permit = circuit.acquire(now, caller) if is_free else None
                changed = circuit.generation != generation or circuit.would_have_opened != told
                is_plain = permit is not None and not changed
                if not is_plain:
                    wait, reason = circuit.retry_after(now), circuit.reason
                    if permit is None:
                        self._listeners.refused(self.name, now, circuit.state(now), wait)
                    self._after((phase, forced, told), generation, now)
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
            was_probing = permit.probe and circuit.is_current(permit)
            if verdict == "ignored":
                counted = circuit.is_current(permit)
                circuit.release(permit, now)
                self._listeners.ended(self.name, now, None, permit, is_stale=not counted)
            else:
                self._record_counted(now)
                counted = circuit.settle(
                    permit, verdict, now, retry_after=judgement.retry_after, by_refusal=judgement.is_refusal
                )
                self._listeners.ended(self.name, now, verdict, permit, is_stale=not counted)
            if failure is not None and counted:
                self._failures.append(failure)
            self._frees_probe_slot = self._frees_probe_slot or permit.probe
            if permit.probe and was_probing and self.gate is not None:
                self.gate.probe_ended(*self._probe_end(verdict, now))

        # A success that ends no streak changes none of the attributes that are read without the lock.
        self._step(settle, refresh=verdict != "success" or self._awaits_success)

    def _probe_end(self, verdict: Verdict, now: float) -> tuple[ProbeEnd, float]:
        """How a probe ended that was just settled, and the seconds until the next one."""
        circuit = self._circuit
        if circuit.is_closed:
            return "success", 0.0
        if circuit.phase == "open":
            return "failure", max(0.0, circuit.until - now)
        return ("release" if verdict == "ignored" else "again"), 0.0

    def succeed(self, fast_generation: int) -> None:
        """Count the success of a call that took the fast path in *fast_generation*."""
        count = self._count_success
        if count is not None and fast_generation == self.fast_generation:
            count()
        else:
            self._step(
                lambda now: self._circuit.succeed(fast_generation, now),
                refresh=self._awaits_success or self._circuit.is_quiet,
            )

    def fail(self, fast_generation: int, judgement: Judgement, error: Exception) -> None:
        """Count by *judgement* a call that took the fast path in *fast_generation* and raised *error*."""
        with self._lock:
            permit = self._circuit.make_permit(fast_generation, self.clock())
        self.settle(permit, judgement, error)

    # Other processes.

    def hear(self, what: Heard, wait: float, why: str) -> None:
        """Do what another process did; a circuit that is set by hand stays as it is."""
        self._step(lambda now: self._hear(what, wait, why, now))

    def _hear(self, what: Heard, wait: float, why: str, now: float) -> None:
        circuit = self._circuit
        if circuit.forced:
            return
        if what == "open" and circuit.is_closed:
            circuit.trip(now, f"in another process, {why}" if why else "another process opened it", wait=wait)
        elif what == "close" and not circuit.is_closed:
            circuit.close(now)
        elif what in ("failed", "hold") and not circuit.probing:
            circuit.hold(now + wait)
        self._frees_probe_slot = True  # so that waiters look again

    def is_probe_due(self) -> bool:
        """Whether the next call would probe. Reads without the lock: it is asked again under it."""
        circuit = self._circuit
        return circuit.phase != "closed" and not circuit.probing and circuit.until <= self.clock()

    # Manual control.

    def pause(self, seconds: float) -> None:
        """Refuse every call for *seconds*, then probe."""
        self._step(lambda now: self._circuit.pause(now, seconds, f"on hold for {seconds:g} s"))

    def force_open(self, reason: str, seconds: float) -> None:
        """Refuse every call for *seconds*. Where it was forced open already, a new end is told as a change."""

        def force(now: float) -> None:
            circuit = self._circuit
            before, until = circuit.condition, circuit.until
            circuit.force_open(now, reason, seconds)
            if circuit.condition == before and circuit.until != until:
                self._listeners.changed(self.name, now, before, before, reason, circuit.retry_after(now))

        self._step(force)

    def disable(self) -> None:
        """Admit every call, and count it."""
        self._step(self._circuit.disable)

    def reset(self) -> None:
        """Close the circuit and forget all failures, waits and overrides."""
        self._step(self._circuit.reset)

    # State over a restart.

    def memory(self) -> Memory:
        """What :meth:`restore` needs."""
        with self._lock:
            memory = self._circuit.memory(self.clock())
        self._notify()
        return memory

    def restore(self, memory: Memory) -> None:
        """Take over *memory*; only for a new circuit."""
        self._step(lambda now: self._circuit.restore(memory, now))

    # Listeners.

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


def _describe(judgement: Judgement, error: BaseException | None, at: float, permit: PermitState) -> Failure:
    from llmbatch.breaker.explain import describe

    return describe(judgement, error, at=at, caller=permit.key)
