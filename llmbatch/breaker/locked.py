"""One circuit under one lock, with everybody who watches it: listeners, waiters, and those who ask why.

The core decides; here is what makes it safe between threads and loops, and cheap. A call may pass the ``door``
without the lock: that is the circuit's generation while it is closed, and None otherwise. When the call ends well and
the door is still the same, it needs the lock only if ``notes`` says that there is something to note: a streak that it
ends, or a window. A refusal needs no lock either: it reads the ``bar``. These are plain attributes, written under the
lock and read without it.

It makes no calls, and does not know what an exception means.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from llmbatch.breaker.core import LEAST_WAIT, Circuit, State, Ticket
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.judging import COUNTED, IGNORED, Judgement
from llmbatch.breaker.listeners import BreakerListener, Listeners
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.waiting import Waiter, Waiters

if TYPE_CHECKING:
    from llmbatch.breaker.explanation import Explanation, Failure

__all__ = ["LockedCircuit"]

SHOWN_FAILURES = 10
"""How many of the last failures are kept for ``explain()``."""


class LockedCircuit:
    """Any thread may call anything at any time; nobody is called back under the lock but the clock.

    *judges_results*: what a call returns must be judged, so that none passes without a ticket.
    """

    __slots__ = (
        "_busy",
        "_caught_up",
        "_circuit",
        "_count",
        "_failures",
        "_frees",
        "_generation",
        "_late",
        "_listeners",
        "_lock",
        "_streaks",
        "_takes_tickets",
        "_tally",
        "_woken",
        "bar",
        "clock",
        "door",
        "name",
        "notes",
        "waiters",
    )

    def __init__(
        self, policy: BreakerPolicy, *, name: str, clock: Callable[[], float], judges_results: bool = False
    ) -> None:
        self.name = name
        self.clock = clock
        # Reentrant: the garbage collector may close an abandoned async_call while its own thread holds the lock, and a
        # signal handler may ask for the state.
        self._lock = threading.RLock()
        self._circuit = Circuit(policy, chance=_draw)
        self._listeners = Listeners()
        self._failures: deque[Failure] = deque(maxlen=SHOWN_FAILURES)
        self._takes_tickets = judges_results or policy.times_calls
        # Good calls in a window of calls need no lock: counting is atomic, and only failures look at the window.
        self._tally = itertools.count() if policy.failure_rate is not None and policy.rate_seconds is None else None
        self._caught_up = self._generation = 0
        self._count: Callable[[], int] | None = None
        self._busy = False
        """Whether a step is being done; only its own thread can see it true."""
        self._late: deque[Callable[[float], None]] = deque()
        self._frees = False
        """Whether the step gave a probe's place back."""
        self._woken: deque[Waiter] = deque()
        self._streaks = False
        """Whether the last calls failed, so that a success must be told at once."""
        self.waiters = Waiters()
        self.door: int | None = None
        """The generation in which a call may pass without a ticket; None: it needs one."""
        self.notes = True
        """Whether a call that passed the door must be told to end well."""
        self.bar: tuple[float, str, str] | None = None
        """Until when every call is refused beyond doubt, by whom and why; None: ask the circuit."""
        self._refresh()

    # What one can ask.

    def state(self) -> State:
        """The state as of now."""
        with self._lock:
            state = self._circuit.state(self.clock())
        self._spread()
        return state

    def failures(self) -> int:
        """Consecutive failures."""
        with self._lock:
            failures = self._circuit.failures
        self._spread()
        return failures

    def is_forced(self) -> bool:
        """Whether an operator holds it open, or has disabled it."""
        return bool(self._circuit.forced)

    def retry_after(self) -> float | None:
        """Seconds until a call may be let in; None while closed."""
        with self._lock:
            seconds = None if self._circuit.is_closed else self._circuit.retry_after(self.clock())
        self._spread()
        return seconds

    def is_current(self, ticket: Ticket) -> bool:
        """Whether the circuit is as it was when it gave *ticket*."""
        with self._lock:
            is_current = self._circuit.is_current(ticket)
        self._spread()
        return is_current

    def seconds_until_ready(self, waiter: Waiter) -> float:
        """Seconds until a call may be let in; if that is not now, *waiter* is woken by the next change."""
        with self._lock:
            # First, or what changes while the wait is worked out would wake nobody.
            self.waiters.add(waiter)
            seconds = self._circuit.wait(self.clock())
        self._spread()
        return seconds

    def seconds_left(self, ticket: Ticket, until: float, waiter: Waiter) -> float:
        """Seconds until *until*, 0 if *ticket* is no longer current; *waiter* is woken by the next change."""
        with self._lock:
            self.waiters.add(waiter)
            seconds = until - self.clock() if self._circuit.is_current(ticket) else 0.0
        self._spread()
        return seconds

    def explain(self) -> Explanation:
        """Everything at once."""
        from llmbatch.breaker.explanation import Explanation

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
        self._spread()
        return explanation

    # Calls.

    def admit(self, caller: Hashable = None) -> Ticket:
        """The ticket for one call.

        Raises:
            CircuitOpenError: refused. No variable ever holds it here: that would tie it to its own traceback.
        """
        if (bar := self.bar) is not None and (wait := bar[0] - self.clock()) > 0:
            raise CircuitOpenError(max(wait, LEAST_WAIT), bar[1], bar[2])
        with self._lock:
            circuit = self._circuit
            if self._busy:
                # Within another step, nothing may move: only a closed circuit lets a call in.
                if circuit.is_closed:
                    return circuit.let_in(circuit.generation, self.clock())
                raise CircuitOpenError(LEAST_WAIT, self.name, circuit.reason)
            self._busy = True
            try:
                now = self.clock()
                was, generation = circuit.phase, circuit.generation
                ticket = circuit.acquire(now, caller)
                is_plain = ticket is not None and circuit.generation == generation
                if not is_plain:
                    wait, reason = circuit.retry_after(now), circuit.reason
                    if ticket is None:
                        self._listeners.refused(self.name, now, circuit.state(now), wait)
                    self._after(was, generation, now)
            finally:
                self._busy = False
            if is_plain and ticket is not None and not self._late:
                return ticket
            try:
                self._do_late()
            except BaseException:
                if ticket is not None:
                    circuit.release(ticket)
                raise
        try:
            self._spread()
        except BaseException:
            # An interruption came while the news were told: the call is not made.
            if ticket is not None:
                self.settle(ticket, IGNORED, None)
            raise
        if ticket is None:
            raise CircuitOpenError(wait, self.name, reason)
        return ticket

    def settle(self, ticket: Ticket, judgement: Judgement, error: BaseException | None) -> None:
        """Settle *ticket* by *judgement*; *error* is described for ``explain()`` and not kept.

        Raises:
            RuntimeError: the ticket was settled or released before.
        """
        verdict = judgement.verdict
        # Outside the lock, for an exception's text is somebody else's code.
        failure = _describe(judgement, error, self.clock(), ticket) if verdict in COUNTED else None

        def settle(now: float) -> None:
            circuit = self._circuit
            is_stale = not circuit.is_current(ticket)
            if verdict == "ignored":
                circuit.release(ticket)
                self._listeners.ended(self.name, now, None, ticket, is_stale=is_stale)
            else:
                self._catch_up(now)
                circuit.settle(ticket, verdict, now, retry_after=judgement.retry_after)
                self._listeners.ended(self.name, now, verdict, ticket, is_stale=is_stale)
            if failure is not None and not circuit.forced and not is_stale:
                self._failures.append(failure)
            self._frees = self._frees or ticket.probe

        # A success that ends no streak changes nothing that others read without the lock.
        self._step(settle, refresh=verdict != "success" or self._streaks)

    def succeed(self, door: int) -> None:
        """Settle as a success a call that passed the *door*."""
        count = self._count
        if count is not None and door == self.door:
            count()
        else:
            self._step(lambda now: self._circuit.succeed(door, now), refresh=self._streaks)

    def fail(self, door: int, judgement: Judgement, error: Exception) -> None:
        """Settle by *judgement* a call that passed the *door* and raised *error*."""
        with self._lock:
            ticket = self._circuit.let_in(door, self.clock())
        self.settle(ticket, judgement, error)

    # Everything else that changes it.

    def hold(self, seconds: float) -> None:
        """No probe for *seconds*."""
        self._step(lambda now: self._circuit.hold(now + seconds))

    def force_open(self, reason: str) -> None:
        """Refuse everything."""
        self._step(lambda now: self._circuit.force_open(now, reason))

    def disable(self) -> None:
        """Let everything pass."""
        self._step(self._circuit.disable)

    def reset(self) -> None:
        """Start afresh."""
        self._step(self._circuit.reset)

    def add_listener(self, listener: BreakerListener, *, calls: bool) -> Callable[[], None]:
        """Add *listener*; returns what removes it."""
        with self._lock:
            subscription = self._listeners.add(listener, calls=calls)
            self._refresh()
        self._spread()

        def remove() -> None:
            with self._lock:
                self._listeners.remove(subscription)
                self._refresh()
            self._spread()

        return remove

    # Under the lock.

    def _catch_up(self, now: float) -> None:
        """Note the good calls that were only counted, before something looks at the window."""
        if self._tally is not None:
            counted = next(self._tally)
            count, self._caught_up = counted - self._caught_up, counted + 1  # the look itself is counted too
            if count:
                self._circuit.succeed(self._circuit.generation, now, count)

    def _step(self, do: Callable[[float], None], *, refresh: bool = True) -> None:
        """One step of the circuit under the lock, then everything that follows from it.

        A signal handler, or a call that the garbage collector ends, may come in the middle of another step of its own
        thread, which the lock does not keep out. What it wants is done when that step is.
        """
        with self._lock:
            if self._busy:
                self._late.append(do)
                return
            try:
                self._do(do, refresh=refresh)
            finally:
                self._do_late()
        self._spread()

    def _do_late(self) -> None:
        # Asked again when it is no longer busy, or what comes just then would be left.
        while self._late:
            self._do(None, refresh=True)

    def _do(self, do: Callable[[float], None] | None, *, refresh: bool) -> None:
        self._busy = True
        try:
            if do is None and self._late:  # or what was late was done just before this was busy
                do = self._late.popleft()
            if do is not None:
                now = self.clock()
                circuit = self._circuit
                was, generation = circuit.phase, circuit.generation
                do(now)
                if refresh or self._frees or circuit.generation != generation:
                    self._after(was, generation, now)
        finally:
            self._busy = False

    def _after(self, was: State, generation: int, now: float) -> None:
        """After a change of the circuit: queue the news, and whom to wake."""
        circuit = self._circuit
        changed = circuit.generation != generation
        if changed and not was == circuit.phase == "closed":
            wait = None if circuit.is_closed else circuit.retry_after(now)
            self._listeners.changed(self.name, now, was, circuit.phase, circuit.reason, wait)
        self._refresh()
        if changed or self._frees:
            self._frees = False
            self._woken.extend(self.waiters.take())

    def _refresh(self) -> None:
        circuit = self._circuit
        door = bar = None
        if self._listeners.wants_calls:
            pass
        elif circuit.phase == "open":
            bar = (math.inf if circuit.forced else circuit.until, self.name, circuit.reason)
        elif circuit.is_closed and not self._takes_tickets:
            door = circuit.generation
        if self._tally is not None and circuit.generation != self._generation:
            # What was counted before the change is of the past, also by those who are about to count.
            self._generation = circuit.generation
            self._tally, self._caught_up = itertools.count(), 0
        self.notes = not circuit.is_quiet
        self._streaks = circuit.failures > 0
        self.bar = bar
        self.door = door
        # A success that ends a streak must be noted at once.
        self._count = self._tally.__next__ if self._tally is not None and not self._streaks else None

    def _spread(self) -> None:
        """Outside the lock: wake who waits, tell the news, also those of calls that the garbage collector ended."""
        while self._woken:
            try:
                waiter = self._woken.popleft()
            except IndexError:
                break  # another thread has woken it
            waiter()
        # An abandoned call is settled under the lock of whatever step it is collected in, which tells when it is done.
        if self._listeners.has_news and not self._lock._is_owned():  # type: ignore[attr-defined]
            self._listeners.tell()


# Loaded late: nothing of this is needed before something fails.


def _draw() -> float:
    import random

    return random.random()


def _describe(judgement: Judgement, error: BaseException | None, at: float, ticket: Ticket) -> Failure:
    from llmbatch.breaker.explanation import describe

    return describe(judgement, error, at=at, caller=ticket.key)
