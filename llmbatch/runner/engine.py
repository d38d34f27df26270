"""The asyncio loop of a run: worker tasks that send requests, a pump that starts them, timers, and stopping.

A worker sends a request, passes the outcome to the scheduler and takes the next call; without one it ends. The pump
starts workers when something may be sent again (a timer, a requeue, new rows). A row in backoff occupies no slot, and
no task waits while it holds a permit.

After a cancellation every permit has been released, and the sink has every finished row.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace

from llmbatch.core.call_details import CallDetails
from llmbatch.core.calls import Outcome
from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.events import Event, Notice, Observer, RunEnded, RunStopping
from llmbatch.core.observers import Observers
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.core.rows import Result
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.control import Command
from llmbatch.runner.costs import Costs
from llmbatch.runner.earlier import NOTHING_EARLIER, EarlierRuns
from llmbatch.runner.options import RunOptions
from llmbatch.runner.request_pace import request_pace
from llmbatch.runner.run_outcome import RunOutcome, why_not_read
from llmbatch.runner.schedule import Scheduler
from llmbatch.runner.tasks import Tasks, forget_cancellation
from llmbatch.runner.unshared import Channel

__all__ = ["Engine"]

DRAIN_SECONDS = 30.0
"""Seconds that requests in flight have to finish after the first signal."""

MAX_CALLS_PER_TURN = 64
"""Calls that may end in one turn of the event loop before workers yield to it."""

STOPPED_SECONDS = 5.0
"""Delay of a timer, in seconds, above which the process must have been suspended."""

LOOK_AGAIN_SECONDS = 30.0
"""Seconds after which a run in which nothing is in flight and nothing is due looks again, should a wake be missing."""


LONGEST_WAIT = 86_400.0
"""Seconds that an endless wait of a user's judge or provider stands for: a day, as in a circuit breaker."""


class Engine:
    """One run. Create it inside the event loop that runs it; call :meth:`stop` from that loop only."""

    def __init__(
        self,
        provider: Provider,
        source: Source,
        sink: Sink,
        options: RunOptions,
        *,
        observers: Iterable[Observer] = (),
        earlier: EarlierRuns = NOTHING_EARLIER,
        costs: Costs | None = None,
        channel: Channel | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._provider = provider
        self._sink = sink
        self._options = options
        self._observers = Observers(observers, self._loop.time)
        self.emit: Callable[[Event], None] = self._observers.observe
        seed = options.seed if options.seed is not None else secrets.randbits(32)
        self._scheduler = Scheduler(
            provider,
            source,
            sink,
            options,
            now=self._loop.time,
            emit=self.emit,
            halt=self._halt,
            earlier=earlier,
            seed=seed,
            costs=costs,
            channel=channel,
        )
        self._wake = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._timer_at = math.inf
        """When the timer is due; a handle of uvloop does not tell if that was immediately."""
        self._active = 0
        self._calls_in_turn = 0
        self._awaiting_input = False
        self._draining = False
        self._ending: RunOutcome | None = None
        self._deadline = math.inf
        self._tasks = Tasks()
        self._requests = request_pace(options.rpm if channel is None else None)
        self._is_pace_new = False
        """Whether the request rate was changed just now: the new one begins without a burst."""
        if channel is not None:
            channel.start(self._hear)

    def _hear(self) -> None:
        """Apply what other processes told; more may be sent now."""
        if self._ending is None:
            self._scheduler.hear()
            self._wake.set()

    def _tell_call(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Pass what is known of a call that has ended to the observers that ask for it."""
        pending, call = attempt.pending, attempt.call
        details = CallDetails(
            attempt.route.state.label,
            call.serial,
            call.row,
            1 if pending is None else pending.attempts,
            call.probe,
            attempt.route.route,
            attempt.request.endpoint,
            attempt.request.max_output_tokens,
            outcome,
        )
        self._observers.observe_call(details)

    # Stopping.

    @property
    def ending(self) -> RunOutcome | None:
        """How the run was told to end; None if it was not."""
        return self._ending

    async def pause(self, seconds: float) -> None:
        """Wait before :meth:`run`; only until the run is told to end."""
        self._wake.clear()
        if self._ending is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    def stop(self, exit_code: int, reason: str, *, hint: str = "", now: bool = False) -> None:
        """Take no new rows, and let requests in flight finish for up to 30 s; *now*: cancel them."""
        self._halt(exit_code, reason, hint)
        self._deadline = min(self._deadline, self._loop.time() + (0.0 if now else DRAIN_SECONDS))
        if now:
            self._tasks.cancel()
        self._wake.set()

    def abort(self, error: WriteError) -> None:
        """Stop at once, because the output cannot be written."""
        self._ending = RunOutcome(error.exit_code, error.message, error.hint, error)
        self._wake.set()
        self._tasks.cancel()

    def control(self, command: Command) -> None:
        """Carry out *command* of a user now: a pause, its end, or other limits."""
        before = self._options
        self._options = self._scheduler.control.apply(command, self._loop.time())
        if self._options.rpm != before.rpm:
            self._requests = request_pace(self._options.rpm if self._scheduler.is_alone else None)
            self._is_pace_new = self._requests is not None
        if self._options.concurrency > before.concurrency and hasattr(self._provider, "allow"):
            self._provider.allow(self._options.concurrency)  # a function that runs in threads
        self._wake.set()

    def fail(self, error: InputError) -> None:
        """End the run before :meth:`run`, as its input cannot be used."""
        if self._ending is None:
            self._ending = RunOutcome(2, str(error), error.hint, error)
            self.emit(RunStopping(self._loop.time(), why_not_read(error)))

    def _halt(self, exit_code: int, reason: str, hint: str, *, told: bool = False) -> None:
        if exit_code in (3, 4) and self._scheduler.is_finished():
            return  # a health check was still on its way when the last row ended
        if self._ending is None:
            self._ending = RunOutcome(exit_code, reason, hint)
            self._scheduler.reading.stop()
            now = self._loop.time()
            if exit_code in (2, 3) and not told:
                self.emit(Notice(now, "error", reason, hint))
            self.emit(RunStopping(now, reason))
            self._wake.set()

    # Running.

    async def run(self) -> RunOutcome:
        """Send rows until all are finished or the run stops. Call :meth:`deferred` and :meth:`ended` afterwards."""
        async with self._tasks:
            await self._pump()
        if self._timer is not None:
            self._timer.cancel()
        return self._conclude()

    async def _pump(self) -> None:
        while not self._tasks.is_cut:
            self._wake.clear()
            # One reading of the clock for both the calls and the timer: loop clocks move in coarse steps and timers may
            # fire early, so with two readings a due time could pass in between and get no timer.
            now = self._loop.time()
            while self._active < self._options.concurrency:
                attempt = await self._next_attempt()
                if attempt is None:
                    break
                self._active += 1
                self._tasks.start(self._work(attempt))
            if self._is_over():
                return
            if self._scheduler.reading.needs_input and not self._awaiting_input:
                self._awaiting_input = True
                self._tasks.start(self._await_input())
            if self._sink.congested and not self._active and not self._draining:
                self._draining = True
                self._tasks.start(self._await_drain())
            self._set_timer(now)
            await self._wake.wait()

    async def _next_attempt(self) -> Attempt | None:
        if self._ending is not None or self._scheduler.control.paused_at is not None:
            return None
        if self._requests is None:
            return self._take()
        if self._is_pace_new:
            self._is_pace_new = False
            await self._requests.acquire(self._requests.max_rate)
        if not self._requests.has_capacity():
            self._call_at(self._loop.time() + self._requests.time_period / self._requests.max_rate / 4)
            return None
        attempt = self._take()
        if attempt is not None:
            await self._requests.acquire()
        return attempt

    def _take(self) -> Attempt | None:
        if self._ending is not None or self._scheduler.control.paused_at is not None:
            return None
        attempt = self._scheduler.take()
        while attempt is None and self._scheduler.reading.bodies.took_failed_row():
            attempt = self._scheduler.take()
        if attempt is None:
            self._check_reading()
        return attempt

    def _check_reading(self) -> None:
        """Stop the run if reading the input has failed."""
        error = self._scheduler.reading.error
        if error is not None and self._ending is None:
            self._ending = RunOutcome(2, str(error), getattr(error, "hint", ""), error)
            self.emit(RunStopping(self._loop.time(), why_not_read(error)))

    async def _work(self, attempt: Attempt | None) -> None:
        call, settle = self._provider.call, self._scheduler.settle
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        try:
            while attempt is not None:
                try:
                    row = None if attempt.pending is None else attempt.pending.row
                    outcome = await call(attempt.request, row, timeout=attempt.call.timeout)
                    if task.cancelling() and not self._tasks.is_cancelled:
                        await forget_cancellation(task)
                except BaseException as error:
                    is_cancellation = isinstance(error, asyncio.CancelledError)
                    if not is_cancellation or self._tasks.is_cancelled:
                        if self._observers.of_calls:
                            self._tell_call(attempt, None)
                        self._scheduler.cancelled(attempt)
                        if not is_cancellation:
                            which = f"row {row.number}" if row is not None else "a health check"
                            error.add_note(f"raised by {type(self._provider).__name__}.call for {which}")
                        raise
                    # A function used as the provider canceled its own task; the run was not canceled.
                    await forget_cancellation(task)
                    outcome = Outcome("failure", retry=True, code="cancelled", message="the call cancelled itself")
                if outcome.retry_after is not None and not math.isfinite(outcome.retry_after):
                    outcome = replace(outcome, retry_after=LONGEST_WAIT if outcome.retry_after > 0 else None)
                if self._observers.of_calls:
                    self._tell_call(attempt, outcome)
                settle(attempt, outcome)
                if task.cancelling():
                    return  # the function has caught the cancellation of the run
                if self._active < self._options.concurrency:
                    self._wake.set()
                if not self._calls_in_turn:
                    self._loop.call_soon(self._start_turn)
                self._calls_in_turn += 1
                if self._calls_in_turn >= MAX_CALLS_PER_TURN:
                    # A function that never suspends would block the loop, and the output with it.
                    await asyncio.sleep(0)
                if self._sink.congested:
                    await self._sink.drained()
                # With a request rate only the pump takes calls, so that they all pass its rate limiter.
                is_free = self._requests is None and self._active <= self._options.concurrency
                attempt = self._take() if is_free else None
        finally:
            self._active -= 1
            self._wake.set()

    def _start_turn(self) -> None:
        self._calls_in_turn = 0

    async def _await_drain(self) -> None:
        try:
            await self._sink.drained()
        finally:
            self._draining = False
            self._wake.set()

    async def _await_input(self) -> None:
        try:
            await self._scheduler.reading.wait()
        finally:
            self._awaiting_input = False
            self._wake.set()

    def _is_over(self) -> bool:
        if self._active:
            return self._loop.time() >= self._deadline
        self._check_reading()  # reading may have failed although a call was found, such as a health check
        if self._ending is not None or self._scheduler.is_finished():
            return True
        if self._scheduler.control.keeps_open or not self._scheduler.is_stuck(self._loop.time()):
            return False
        given_up = self._scheduler.given_up()
        if given_up is not None:
            self._halt(3, *given_up, told=True)
        else:
            self._halt(75, self._scheduler.why_stuck(), "")
        return True

    def _set_timer(self, now: float) -> None:
        wake = self._scheduler.next_wake(now) if self._ending is None else None
        if wake is None and not self._active and math.inf > LOOK_AGAIN_SECONDS:
            wake = now + LOOK_AGAIN_SECONDS
        if self._deadline < math.inf:
            wake = min(wake if wake is not None else math.inf, self._deadline)
        if wake is not None:
            self._call_at(wake)

    def _call_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        # Loops may fire timers a clock tick early; the pump then finds nothing due and sets the same timer again.
        self._timer = None
        if self._loop.time() - self._timer_at > STOPPED_SECONDS:
            self._scheduler.control.ramp()
        self._wake.set()

    def _conclude(self) -> RunOutcome:
        if self._ending is not None:
            return self._ending
        if self._scheduler.is_finished():
            return RunOutcome(0, "finished")
        given_up = self._scheduler.given_up()
        return RunOutcome(75, "stopped before the end") if given_up is None else RunOutcome(3, *given_up)

    def deferred(self) -> list[Result]:
        """Results of the rows that still wait."""
        return list(self._scheduler.deferred())

    def ended(self, exit_code: int, reason: str, deferred: int) -> RunEnded:
        """Emit RunEnded and return it."""
        event = RunEnded(self._loop.time(), exit_code, reason, deferred)
        self.emit(event)
        return event
