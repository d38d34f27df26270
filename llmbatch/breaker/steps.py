"""Run steps of a circuit under its lock, and tell the listeners and waiters what they changed.

Fast path: while the circuit is closed, ``fast_generation`` holds its generation and calls skip the lock; None means
take the lock. A successful call takes the lock only if ``must_record`` is set: it ends a streak of failures, or a
window counts it. While the circuit is open, ``rejection`` has the facts of a refusal, so that calls are refused without
the lock. These attributes are written under the lock and read without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from llmbatch.breaker.core import Circuit, Condition
from llmbatch.breaker.fork import fork_safe_lock, repair_after_fork
from llmbatch.breaker.listeners import Listeners
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.waiting import Waiter, Waiters

if TYPE_CHECKING:
    from llmbatch.breaker.gate import Gate

__all__ = ["Steps"]


class SuccessCounter:
    """Counts successes of a window of calls without a lock, for counting is atomic. Use all but ``add`` under it."""

    __slots__ = ("_before", "_generation", "add")

    def __init__(self) -> None:
        self._generation = 0
        self._start()

    def _start(self) -> None:
        self._before = 0
        self.add: Callable[[], int] = count().__next__

    def take(self) -> int:
        """Return how many were counted since the last time."""
        counted = self.add()
        taken, self._before = counted - self._before, counted + 1  # reading the counter counts too
        return taken

    def enter(self, generation: int) -> None:
        """Count for *generation*: successes of an earlier one, or about to be counted for it, no longer count."""
        if generation != self._generation:
            self._generation = generation
            self._start()


class Steps:
    """Circuit, lock, listeners and waiters of one breaker. Calls no foreign code under the lock except the clock.

    After ``os.fork`` the child has locks of its own and the state that the circuit had.

    *classifies_results*: returned values are classified, so that every call needs a permit. Default: False.
    """

    __slots__ = (
        "__weakref__",
        "_awaits_success",
        "_circuit",
        "_count_success",
        "_deferred_steps",
        "_frees_probe_slot",
        "_in_step",
        "_listeners",
        "_lock",
        "_needs_permit",
        "_successes",
        "_waiters_to_wake",
        "clock",
        "fast_generation",
        "gate",
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
        self._lock = fork_safe_lock()
        self._circuit = Circuit(policy, chance=_draw)
        self._listeners = Listeners()
        self._needs_permit = classifies_results or policy.times_calls
        # Successes in a window of calls need no lock: only failures read the window.
        counts = policy.failure_rate is not None and policy.rate_seconds is None
        self._successes = SuccessCounter() if counts else None
        self._count_success: Callable[[], int] | None = None
        self._in_step = False
        """Whether a step is running; only its own thread can see it true."""
        self._deferred_steps: deque[Callable[[float], None]] = deque()
        self._frees_probe_slot = False
        """Whether the step freed a probe slot."""
        self._waiters_to_wake: deque[Waiter] = deque()
        self._awaits_success = False
        """Whether a success must be recorded at once: it ends a streak of failures, or may complete a rate."""
        self.waiters = Waiters()
        self.fast_generation: int | None = None
        """Generation in which a call may pass without a permit; None: take the lock and get one."""
        self.must_record = True
        """Whether the success of a call that took the fast path must be recorded."""
        self.rejection: tuple[float, str, str] | None = None
        """Open circuit: (until, name, reason), enough to refuse calls without the lock; None: ask the circuit."""
        self.gate: Gate | None = None
        """What other processes share of the circuit; None: nothing."""
        self._refresh()
        repair_after_fork(self, self._lock)

    def _record_counted(self, now: float) -> None:
        """Record the successes that were only counted, before the window is read."""
        if self._successes is not None and (taken := self._successes.take()):
            self._circuit.succeed(self._circuit.generation, now, taken)

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
                # Not as one tuple, which would be built for each call.
                phase, forced, told = circuit.phase, circuit.forced, circuit.would_have_opened
                generation = circuit.generation
                do(now)
                changed = circuit.generation != generation or circuit.would_have_opened != told
                if refresh or changed or self._frees_probe_slot:
                    self._after((phase, forced, told), generation, now)
        finally:
            self._in_step = False

    def _after(self, before: Condition, generation: int, now: float) -> None:
        """After a change of the circuit: queue its event and the waiters to wake."""
        circuit = self._circuit
        changed = circuit.generation != generation
        if circuit.condition != before:
            wait = None if circuit.is_closed else circuit.retry_after(now)
            self._listeners.changed(self.name, now, before, circuit.condition, circuit.reason, wait)
        self._refresh()
        if changed and self.gate is not None:
            wait, by_hand = max(0.0, circuit.until - now), circuit.is_by_hand
            self.gate.moved(before[0], circuit.phase, wait, circuit.reason, by_hand=by_hand)
        if changed or self._frees_probe_slot:
            self._frees_probe_slot = False
            self._waiters_to_wake.extend(self.waiters.take())

    def _refresh(self) -> None:
        circuit = self._circuit
        fast_generation = rejection = None
        if self._listeners.wants_calls:
            pass
        elif circuit.phase == "open":
            rejection = (circuit.until, self.name, circuit.reason)
        elif circuit.is_closed and not self._needs_permit:
            fast_generation = circuit.generation
        if self._successes is not None:
            self._successes.enter(circuit.generation)
        self.must_record = not circuit.is_quiet
        self._awaits_success = circuit.awaits_success
        self.rejection = rejection
        self.fast_generation = fast_generation
        self._count_success = None if self._successes is None or self._awaits_success else self._successes.add

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

    def repair_after_fork(self, *, is_whole: bool) -> None:  # pragma: no cover - in a forked process
        """In a forked process: no other thread is delivering, or within a step. *is_whole*: none was in one."""
        self._listeners.reset_after_fork()
        if not is_whole:
            self._in_step = False
            self._refresh()


def _draw() -> float:
    import random  # imported late: not needed before a call fails

    return random.random()
