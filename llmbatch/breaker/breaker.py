"""CircuitBreaker: what a circuit is to whoever makes calls: functions, blocks, decorators, permits, fallbacks.

The call itself always runs outside the lock, and what it came to is judged outside it. Retries belong inside the
call: exhausted retries are one failure (:mod:`llmbatch.breaker.retry`).
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from llmbatch.breaker.awaitables import (
    ASYNC,
    UNSET,
    async_in_sync_error,
    await_if_needed,
    call_sync,
    is_coroutine_function,
    is_unawaitable,
    sync_in_async_error,
)
from llmbatch.breaker.classify import (
    COUNTED,
    IGNORED,
    SUCCESS,
    Classifier,
    ErrorJudge,
    ErrorRule,
    Judgement,
    ResultJudge,
)
from llmbatch.breaker.core import MIN_RETRY_AFTER, PermitState, State
from llmbatch.breaker.decorating import decorate
from llmbatch.breaker.entered import Entered
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.listeners import BreakerListener
from llmbatch.breaker.locked import LockedCircuit
from llmbatch.breaker.permit import Permit
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.waiting import wait, wait_async

if TYPE_CHECKING:
    from llmbatch.breaker.decorating import AsyncDecorator, Decorator
    from llmbatch.breaker.events import StateChanged
    from llmbatch.breaker.explain import Explanation
    from llmbatch.breaker.policy import PolicyOptions

__all__ = ["CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")


class CircuitBreaker:
    """Stops calls to something that fails, and lets single probes find out when it works again.

    ::

        breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=60.0, name="openai")
        try:
            reply = breaker.call(ask, prompt)  # or: await breaker.async_call(ask, prompt)
        except CircuitOpenError as error:
            ...  # ask was not called; come back in error.retry_after seconds

    Also ``with breaker:`` and ``async with breaker:``, ``@breaker`` on a function of either kind, and ``acquire()`` for
    a permit that is settled by hand.

    ``closed``: every call passes; ``failure_threshold`` failures with no success between open it, or another rule of
    :class:`BreakerPolicy`. ``open``: every call is refused for ``recovery_timeout`` seconds. ``half_open``: one call at
    a time passes, the probe; a good one closes the circuit (``success_threshold`` of them), a failed one opens it
    again.

    One instance may be shared between any number of threads and event loops; calls overlap, for only the bookkeeping
    is locked. A cancelled or interrupted call counts as nothing and gives its permit back. A call that began before
    the circuit opened decides nothing when it ends after. A probe that hangs is replaced after ``recovery_timeout``
    seconds, the next one after twice that, and so on up to four times; what the replaced one says is ignored.

    What counts is how the outermost call ends, so put into *fn* what belongs to one attempt: retries (when they are
    exhausted, that is one failure) and the timeout (``asyncio.timeout`` inside *fn* is a failure, around
    ``async_call`` it is a cancellation, which counts as nothing). A generator that *fn* returns counts as a success
    before its first item: consume it inside *fn*.

    Cost: docs/breaker.md has the measurement. A rate over time, a slow-call rate, a stall rule, ``judge_result``, a
    listener to calls, and ``with`` blocks make every call take the lock; without them only failures do, and the first
    success after one.

    Args:
        failure_threshold: consecutive failures that open the circuit, at least 1; None: not used.
        recovery_timeout: seconds that it stays open before a probe may go, and that a probe may take, above 0.
        success_threshold: good probes that close it, at least 1.
        name: for messages and events.
        policy: all options at once, in place of the three above and of *options*.
        count_error: which exceptions are failures, a function or types; the others are neutral: they neither end a
            streak of failures nor add to it, and three probes that end so close the circuit. Default: every
            :class:`Exception`. Runs outside the lock; what it raises goes to the caller, and the call counts as
            nothing.
        judge_error: what an exception means, in place of *count_error*: a verdict or a :class:`Judgement`, None for a
            failure. ``llmbatch.judge_llm_error`` knows the errors of providers and SDKs.
        judge_result: what a returned value means, likewise; None for a success.
        clock: seconds, monotonic.
        options: those of :class:`BreakerPolicy`.

    An exception's ``retry_after``, where it has one, extends the open time, as a :class:`Judgement`'s does. A
    :class:`CircuitOpenError` that passes through (another breaker, inside) counts as nothing.

    Raises:
        ValueError: an option is out of range.
        TypeError: *policy* beside *options*, or *judge_error* beside *count_error*.
    """

    __slots__ = ("__weakref__", "_circuit", "_classifier", "_entered", "policy")

    def __init__(
        self,
        failure_threshold: int | None = 5,
        recovery_timeout: float = 60.0,
        success_threshold: int = 1,
        *,
        name: str = "",
        policy: BreakerPolicy | None = None,
        count_error: ErrorRule | None = None,
        judge_error: ErrorJudge | None = None,
        judge_result: ResultJudge | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Unpack[PolicyOptions],
    ) -> None:
        if policy is not None and options:
            raise TypeError(f"policy holds all options: give it, or {', '.join(options)}, but not both")
        self._classifier = Classifier(count_error, judge_error, judge_result)
        self.policy = policy or BreakerPolicy(
            failure_threshold=failure_threshold,
            recovery_timeout=recovery_timeout,
            success_threshold=success_threshold,
            **options,
        )
        self._circuit = LockedCircuit(
            self.policy, name=name, clock=clock, classifies_results=self._classifier.classifies_results
        )
        self._entered = Entered()

    # What one can ask.

    @property
    def name(self) -> str:
        """For messages and events."""
        return self._circuit.name

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half_open``; an open circuit whose time is over is half-open."""
        return self._circuit.state()

    @property
    def failures(self) -> int:
        """Consecutive failures; those that opened the circuit stand until it closes."""
        return self._circuit.failures()

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may be let in, at least 0.05; None while closed, infinite where forced open."""
        return self._circuit.retry_after()

    @property
    def is_forced(self) -> bool:
        """Whether an operator holds it open, or has disabled it."""
        return self._circuit.is_forced()

    def is_open(self) -> bool:
        """Whether calls are refused until the open time is over."""
        return self.state == "open"

    def explain(self) -> Explanation:
        """Why the circuit is as it is, until when, and the last failures; ``print()`` it."""
        return self._circuit.explain()

    # Calls.

    @overload
    def call(
        self, fn: Callable[..., T], /, *args: object, fallback: Callable[[Exception], F], **kwargs: object
    ) -> T | F: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(  # type: ignore[misc]  # fallback is no parameter of fn
        self, fn: Callable[..., T], /, *args: Any, fallback: Callable[[Exception], F] | None = None, **kwargs: Any
    ) -> T | F:
        """Call *fn* if the circuit lets it through, and count how it ends.

        *fallback*, where given, is called with the exception if the call was refused, or ended in one that is a
        ``failure``, ``throttled`` or ``exhausted``; what it returns is returned. Other errors are raised, and results
        are returned, whatever they are judged. (A function that has a parameter of that name itself is called through
        ``functools.partial``.)

        Raises:
            CircuitOpenError: refused; *fn* was not called.
            TypeError: *fn* is a coroutine function, or returned an awaitable: nothing has happened yet that could be
                counted, and nothing is. Use ``async_call``.
        """
        circuit = self._circuit
        fast_generation = circuit.fast_generation
        if fast_generation is None:
            # Refused here, not by a function beneath: every frame that an exception passes costs a fifth of the call.
            rejection, code = circuit.rejection, getattr(fn, "__code__", None)
            if rejection is not None and fallback is None and code is not None and not code.co_flags & ASYNC:
                wait = rejection[0] - circuit.clock()
                if wait > MIN_RETRY_AFTER:
                    raise CircuitOpenError(wait, rejection[1], rejection[2])
            return self._call_with_permit(fn, fallback, args, kwargs)
        try:
            # An empty dictionary that is passed on costs a tenth of the call.
            result = fn(*args, **kwargs) if kwargs else fn(*args)
        except Exception as error:
            judgement = self.judge(error)
            circuit.fail(fast_generation, judgement, error)
            if fallback is None or judgement.verdict not in COUNTED:
                raise
            return call_sync(fallback, error)
        if hasattr(result, "__await__"):
            raise async_in_sync_error(fn, result)
        if circuit.must_record:
            circuit.succeed(fast_generation)
        return result

    def _call_with_permit(
        self,
        fn: Callable[..., T],
        fallback: Callable[[Exception], F] | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> T | F:
        if is_coroutine_function(fn):
            raise async_in_sync_error(fn)
        try:
            permit = self._circuit.admit()
        except CircuitOpenError as refused:
            if fallback is None:
                raise
            return call_sync(fallback, refused)
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            if self._settle_by(permit, error) and fallback is not None and isinstance(error, Exception):
                return call_sync(fallback, error)
            raise
        if hasattr(result, "__await__"):
            self._circuit.settle(permit, IGNORED, None)
            raise async_in_sync_error(fn, result)
        self._settle_by_result(permit, result)
        return result

    @overload
    async def async_call(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: object,
        fallback: Callable[[Exception], Awaitable[F]],
        **kwargs: object,
    ) -> T | F: ...
    @overload
    async def async_call(
        self, fn: Callable[..., Awaitable[T]], /, *args: object, fallback: Callable[[Exception], F], **kwargs: object
    ) -> T | F: ...
    @overload
    async def async_call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def async_call(  # type: ignore[misc]  # as above
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        fallback: Callable[[Exception], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Await *fn* if the circuit lets it through, and count how it ends. Cancellation counts as nothing.

        *fallback* as in ``call``; it may be a coroutine function.

        Raises:
            CircuitOpenError: refused; *fn* was not called.
            TypeError: *fn* returned nothing to await; that counts as nothing. Use ``call``.
        """
        circuit = self._circuit
        fast_generation = circuit.fast_generation
        if fast_generation is None:
            if fallback is None and (rejection := circuit.rejection) is not None:
                wait = rejection[0] - circuit.clock()
                if wait > MIN_RETRY_AFTER:
                    raise CircuitOpenError(wait, rejection[1], rejection[2])
            return await self._async_call_with_permit(fn, fallback, args, kwargs)
        awaitable: object = UNSET
        try:
            awaitable = fn(*args, **kwargs) if kwargs else fn(*args)
            result = await awaitable
        except Exception as error:
            if is_unawaitable(awaitable):
                raise sync_in_async_error(fn) from None
            judgement = self.judge(error)
            circuit.fail(fast_generation, judgement, error)
            if fallback is None or judgement.verdict not in COUNTED:
                raise
            return await await_if_needed(fallback(error))
        if circuit.must_record:
            circuit.succeed(fast_generation)
        return result

    async def _async_call_with_permit(
        self,
        fn: Callable[..., Awaitable[object]],
        fallback: Callable[[Exception], object] | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        try:
            permit = self._circuit.admit()
        except CircuitOpenError as refused:
            if fallback is None:
                raise
            return await await_if_needed(fallback(refused))
        awaitable: object = UNSET
        try:
            awaitable = fn(*args, **kwargs)
            result = await awaitable
        except BaseException as error:
            if is_unawaitable(awaitable):
                self._circuit.settle(permit, IGNORED, None)
                raise sync_in_async_error(fn) from None
            if self._settle_by(permit, error) and fallback is not None and isinstance(error, Exception):
                return await await_if_needed(fallback(error))
            raise
        self._settle_by_result(permit, result)
        return result

    # Permits, blocks, decorators.

    def acquire(self, caller: Hashable = None) -> Permit:
        """The right to make one call; whoever has it settles or releases it, or uses it in a ``with`` block.

        *caller* names whom the call is for (a row, a job): its repeated failures count once. None: one of its own.

        Raises:
            CircuitOpenError: refused.
            TypeError: *caller* is not hashable.
        """
        hash(caller)  # here, or the settling of its first failure would raise in place of counting it
        return Permit(self, self._circuit.admit(caller))

    def __enter__(self) -> Permit:
        return self._enter(sys._getframe(1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.pop(sys._getframe(1)).__exit__(kind, error, traceback)

    async def __aenter__(self) -> Permit:
        return self._enter(sys._getframe(1))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.pop(sys._getframe(1)).__exit__(kind, error, traceback)

    def _enter(self, frame: FrameType) -> Permit:
        permit = self.acquire()
        self._entered.push(permit, frame)
        return permit

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine is a value too, but nobody wants it
        self, /, *, fallback: Callable[[Exception], Coroutine[Any, Any, F]]
    ) -> AsyncDecorator[F]: ...
    @overload
    def __call__(self, /, *, fallback: Callable[[Exception], F]) -> Decorator[F]: ...
    def __call__(
        self, fn: Callable[..., object] | None = None, /, *, fallback: Callable[[Exception], object] | None = None
    ) -> object:
        """Decorate *fn*, a plain or a coroutine function: every call of it goes through this circuit.

        *fallback*: as in ``call``.

        Raises:
            TypeError: *fn* is a generator function, whose call says nothing yet: use ``with breaker:`` inside it.
        """
        return functools.partial(decorate, self, fallback) if fn is None else decorate(self, fallback, fn)

    # Waiting.

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its twin
        """Wait until a call would be let in: the circuit is closed, or it is time for a probe and none is out.

        Nobody is promised the place: when many wait for a probe, the one that calls first has it, and the others wait
        on. Works on any asyncio loop; a change from another thread wakes it.

        Raises:
            TimeoutError: *timeout* seconds have passed.
        """
        await wait_async(self._circuit.waiters, self._circuit.seconds_until_ready, timeout)

    def wait_ready_sync(self, timeout: float | None = None) -> None:
        """The same for a thread, which it blocks.

        Raises:
            TimeoutError: *timeout* seconds have passed.
        """
        wait(self._circuit.waiters, self._circuit.seconds_until_ready, timeout)

    # For operators.

    def hold(self, seconds: float) -> None:
        """Let no probe go for *seconds*, as when the provider names a wait. It never shortens one.

        While closed it stops nothing: but should the circuit open before they are over, it stays open as long. More
        than ``longest_hint`` is not believed; to keep a circuit open, force it.
        """
        self._circuit.hold(min(seconds, self.policy.longest_hint))

    def force_open(self, reason: str = "forced open") -> None:
        """Refuse every call until ``reset()`` or ``disable()``; *reason* is told to whoever is refused."""
        self._circuit.force_open(reason)

    def disable(self) -> None:
        """Let every call through and count none until ``reset()``; the state is ``closed``."""
        self._circuit.disable()

    def reset(self) -> None:
        """Close, and forget failures, windows, waits and whatever was forced. Calls that are out decide nothing."""
        self._circuit.reset()

    @overload
    def add_listener(
        self, listener: Callable[[StateChanged], None], *, calls: Literal[False] = False
    ) -> Callable[[], None]: ...
    @overload
    def add_listener(self, listener: BreakerListener, *, calls: bool) -> Callable[[], None]: ...
    def add_listener(self, listener: Callable[[Any], None], *, calls: bool = False) -> Callable[[], None]:
        """Tell *listener* of every change of state, with *calls* of every call too; returns what removes it.

        It runs outside the lock, sees events in their order, one at a time, on whichever thread made them, and must be
        quick: it is part of somebody's call. What it raises is logged once and changes nothing.
        """
        return self._circuit.add_listener(listener, calls=calls)

    # Judging.

    def judge(self, error: Exception) -> Judgement:
        """What *error* means to this breaker. Runs the judges, which may raise anything."""
        return self._classifier.of_error(error)

    def judge_result(self, result: object) -> Judgement:
        """What the returned *result* means to this breaker. Runs the judge, which may raise anything."""
        return self._classifier.of_result(result)

    def _settle_by(self, permit: PermitState, error: BaseException | None) -> bool:
        """Settle *permit* by how its call ended, None for well; whether that counts against the circuit."""
        judgement = SUCCESS if error is None else IGNORED
        try:
            if isinstance(error, Exception):
                judgement = self.judge(error)
        finally:
            # A judge that raises is the caller's trouble, and the call counts as nothing.
            self._circuit.settle(permit, judgement, error)
        return judgement.verdict in COUNTED

    def _settle_by_result(self, permit: PermitState, result: object) -> None:
        judgement = IGNORED
        try:
            judgement = self.judge_result(result)
        finally:
            self._circuit.settle(permit, judgement, None)

    def __repr__(self) -> str:
        explanation = self.explain()
        state = "disabled" if explanation.is_forced and explanation.state == "closed" else explanation.state
        if explanation.retry_after is None:
            failing = f", {explanation.failures} failed in a row" if explanation.failures else ""
            return f"<CircuitBreaker {self.name or 'unnamed'} {state}{failing}>"
        until = "until reset" if explanation.is_forced else f"retry in {explanation.retry_after:.1f} s"
        return f"<CircuitBreaker {self.name or 'unnamed'} {state}, {until}>"
