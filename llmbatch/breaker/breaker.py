"""Provide :class:`CircuitBreaker`: calls, decorators, permits and fallbacks on top of one locked circuit.

Calls run, and their outcomes are classified, outside the lock. Put retries inside the call, so that exhausted retries
count as one failure (:mod:`llmbatch.breaker.retry`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from llmbatch.breaker.calls import GuardedCalls
from llmbatch.breaker.classify import Classifier, ErrorJudge, ErrorRule, ResultJudge
from llmbatch.breaker.core import State
from llmbatch.breaker.decorating import decorate
from llmbatch.breaker.listeners import BreakerListener
from llmbatch.breaker.locked import LockedCircuit
from llmbatch.breaker.permit import Permit
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.waiting import wait, wait_async

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from llmbatch.breaker.chunks import AsyncChunks, ChunkJudge, Chunks
    from llmbatch.breaker.decorating import AsyncDecorator, Decorator
    from llmbatch.breaker.events import StateChanged
    from llmbatch.breaker.explain import Explanation, WindowCounts
    from llmbatch.breaker.gate import CircuitBoard
    from llmbatch.breaker.policy import BreakerOptions, PolicyOptions
    from llmbatch.breaker.stream import AsyncSource, GuardedStream, Source

__all__ = ["CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")


class CircuitBreaker(GuardedCalls):
    """Stops calling a dependency that fails, and lets single probe calls check whether it has recovered.

    ::

        breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=60.0, name="openai")
        try:
            reply = breaker.call(ask, prompt)  # or: await breaker.async_call(ask, prompt)
        except CircuitOpenError as error:
            ...  # ask was not called; retry in error.retry_after seconds

    Also ``@breaker`` on sync and async functions, and ``with breaker.acquire():`` or ``async with breaker.acquire():``
    around a block of code.

    States: ``closed``: calls pass; ``failure_threshold`` consecutive failures, or another rule of
    :class:`BreakerPolicy`, open the circuit. ``open``: calls are refused for ``recovery_timeout`` seconds.
    ``half_open``: one call at a time passes, the probe; ``success_threshold`` successful probes close the circuit, a
    failed one opens it again.

    Safe to share between threads and event loops. Calls run concurrently; only the bookkeeping is locked. A cancelled
    or interrupted call is not counted and releases its permit. A call that began before the circuit changed state has
    no effect on the new state. A probe that takes longer than ``recovery_timeout`` seconds is replaced, the next one
    after twice that, and so on up to four times; a replaced probe that still succeeds counts, one that fails does not.
    After ``os.fork`` the child has the same state, and locks of its own.

    Only how *fn* ends counts, so make *fn* one complete attempt: retries inside it (exhausted retries are one failure)
    and the timeout inside it (``asyncio.timeout`` inside *fn* is a failure; around ``async_call`` it is a cancellation
    and is not counted). Streams and generators: :meth:`stream`.

    Cost: measured in docs/breaker.md. A failure rate over time, a slow-call rate, a stall rule, ``judge_result``, a
    listener for calls, and ``with`` blocks make every call take the lock; without them only failures do, and the first
    success after a failure.

    Args:
        failure_threshold: consecutive failures that open the circuit, at least 1; None: rule off. Default: 5.
        recovery_timeout: seconds that it stays open before a probe, and that a probe may take, above 0. Default: 60.
        success_threshold: successful probes that close the circuit, at least 1. Default: 1.
        name: shown in messages and events.
        policy: all options at once, instead of the three above and *options*.
        count_error: exception types, or a predicate, that count as failures; other exceptions are neutral: they
            neither end a streak of failures nor add to it, and three probes that end so close the circuit. Default:
            every :class:`Exception`. Types are also looked for among the causes of an exception and the members of a
            group; a predicate gets the exception itself, outside the lock; if it raises, the call is not counted.
        ignore: exception types, or a predicate, that say nothing about the dependency: the call is not counted, as if
            it had never been made. It goes before the others. Types are also looked for among causes; a group is
            ignored if all its members are. Default: none.
        judge_error: classifies an exception, instead of *count_error*: returns a verdict or a :class:`Judgement`, None
            for a failure. ``llmbatch.judge_llm_error`` covers the errors of providers and SDKs.
        judge_result: classifies a returned value likewise; None for a success.
        clock: monotonic clock, in seconds. Default: :func:`time.monotonic`.
        shared: a board, such as ``llmbatch.RedisBoard``: breakers of one *name*, in any process, are one circuit.
        options: those of :class:`BreakerPolicy`.

    The ``retry_after`` attribute of an exception, if it has one, extends the open time, as that of a
    :class:`Judgement` does. A :class:`CircuitOpenError` raised inside *fn* by another breaker is not counted, nor is a
    cancelled future (:class:`concurrent.futures.CancelledError`), wrapped or not.

    Raises:
        ValueError: an option is out of range, or *shared* is given without a *name*.
        TypeError: arguments that exclude each other, or *count_error* or *ignore* of a wrong type.
    """

    __slots__ = ("__weakref__", "policy")

    INSTEAD = (
        "create another one with the same options, CircuitBreaker(policy=breaker.policy, …); "
        "snapshot() and from_snapshot() carry the state over"
    )

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
        ignore: ErrorRule | None = None,
        clock: Callable[[], float] = time.monotonic,
        shared: CircuitBoard | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        if policy is not None and options:
            raise TypeError(f"give either policy or {', '.join(options)}, not both: a policy sets all options")
        classifier = Classifier(count_error, judge_error, judge_result, ignore)
        self.policy = policy or BreakerPolicy(
            failure_threshold=failure_threshold,
            recovery_timeout=recovery_timeout,
            success_threshold=success_threshold,
            **options,
        )
        classifies = classifier.classifies_results
        circuit = LockedCircuit(self.policy, name=name, clock=clock, classifies_results=classifies, shared=shared)
        super().__init__(circuit, classifier)

    # Queries.

    @property
    def name(self) -> str:
        """The name shown in messages and events."""
        return self._circuit.name

    @property
    def state(self) -> State:
        """The state: ``closed``, ``open`` or ``half_open``; an open circuit whose open time has passed is half-open."""
        return self._circuit.state()

    @property
    def failures(self) -> int:
        """Number of consecutive failures; those that opened the circuit count until it closes."""
        return self._circuit.failures()

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may be admitted, at least 0.05; None while closed, infinite if forced open for good."""
        return self._circuit.retry_after()

    @property
    def is_forced(self) -> bool:
        """Whether the circuit is forced open or disabled by hand."""
        return self._circuit.is_forced()

    @property
    def window(self) -> WindowCounts | None:
        """Counts and rates of the calls that ``failure_rate`` and ``slow_call_rate`` look at; None without them."""
        return self._circuit.window()

    def is_open(self) -> bool:
        """Whether calls are refused until the open time has passed."""
        return self.state == "open"

    def explain(self) -> Explanation:
        """Return a readable snapshot: the state, its reason, how long it lasts, recent failures; ``print()`` it."""
        return self._circuit.explain()

    # Permits and decorators.

    def acquire(self, caller: Hashable = None) -> Permit:
        """Acquire a permit for one call: use it in a ``with`` block, or settle or release it exactly once.

        *caller* (hashable) identifies who makes the call, such as a row or a job; repeated failures of one caller count
        once. None: every call counts on its own.

        Raises:
            CircuitOpenError: the call was refused.
            TypeError: *caller* is not hashable.
        """
        hash(caller)  # fail here rather than when its first failure is settled
        return Permit(self, self._circuit, self._circuit.admit(caller))

    # The clients' methods are overloaded, and their first overload is for whole answers: only P picks the right one.
    @overload
    def stream(
        self, create: Callable[P, AsyncSource[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[AsyncChunks[T]]: ...
    @overload
    def stream(
        self, create: Callable[P, Source[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractContextManager[Chunks[T]]: ...
    # With options, which are no parameters of create, the type of the chunks is not known.
    @overload
    def stream(
        self,
        create: Callable[..., Any],
        /,
        *args: object,
        judge_chunk: ChunkJudge | None = None,
        idle_timeout: float | None = None,
        first_timeout: float | None = None,
        **kwargs: object,
    ) -> GuardedStream: ...
    def stream(  # type: ignore[misc]  # the options are no parameters of create
        self,
        create: Callable[..., Any],
        /,
        *args: Any,
        judge_chunk: ChunkJudge | None = None,
        idle_timeout: float | None = None,
        first_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a stream through the circuit: ``async with breaker.stream(create, …) as chunks:``, or ``with`` for sync.

        On entering, ``create(*args, **kwargs)`` is called if the circuit admits it. It may be a function that returns
        or awaits a stream, as the ``create`` of an SDK with ``stream=True``, or a context manager of one, or a
        generator function; ``async with`` takes the async kinds, ``with`` the others. ``chunks`` is an iterator;
        ``chunks.stream`` is the stream itself, and reading from that is not counted. Leaving the block closes the
        stream.

        The stream is one call. Its end is a success, and so is leaving it after a chunk, by ``break``, ``return`` or
        cancellation; before the first chunk, leaving counts nothing. Exceptions of *create* and of the stream are
        classified as those of ``call``. Exceptions of the block itself count nothing. For the slow-call rule the time
        to the first chunk and the longest gap count, not the duration. Nothing is counted before the stream ends; a
        probe keeps its slot as long as chunks come.

        Args:
            create: opens the stream.
            args: its arguments.
            kwargs: its keyword arguments. (Bind those with the names of the options with ``functools.partial``.)
            judge_chunk: classifies each chunk as *judge_result* does a result, None for a good one: for providers that
                send errors as chunks. Any other verdict than ``success`` settles the stream; the chunk is handed on.
            idle_timeout: seconds to wait for a chunk, above 0; ``async with`` only. A longer gap is a failure: the
                stream is closed and :class:`TimeoutError` is raised. Default: no limit.
            first_timeout: the same from the call of *create* to the first chunk. Default: *idle_timeout*.

        Raises:
            TypeError: *create* is not callable.
            ValueError: a timeout is out of range.

        Entering raises:
            CircuitOpenError: the call was refused; *create* was not called.
            TypeError: *create* returned no stream of this kind; nothing was counted.
            RuntimeError: it was entered before.
        """
        from llmbatch.breaker.stream import GuardedStream

        if not callable(create):
            raise TypeError(f"stream() got {create!r}: pass the function that opens the stream, not what it returns")
        create_bound = functools.partial(create, *args, **kwargs)
        return GuardedStream(self.acquire, create_bound, judge_chunk, idle_timeout, first_timeout)

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine is a value too
        self, /, *, fallback: Callable[[Exception], Coroutine[Any, Any, F]]
    ) -> AsyncDecorator[F]: ...
    @overload
    def __call__(self, /, *, fallback: Callable[[Exception], F]) -> Decorator[F]: ...
    def __call__(
        self, fn: Callable[..., object] | None = None, /, *, fallback: Callable[[Exception], object] | None = None
    ) -> object:
        """Decorate *fn* so that every call goes through this circuit: a plain or coroutine function, or a generator's.

        Each generator of a generator function, sync or async, is one stream, as in ``stream``, admitted when it is
        first iterated. What the consumer throws into it closes *fn*'s generator.

        *fallback*: as in ``call``.

        Raises:
            TypeError: *fn* is a generator function and *fallback* is given.
        """
        return functools.partial(decorate, self, fallback) if fn is None else decorate(self, fallback, fn)

    # Waiting.

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its twin
        """Wait until a call would be admitted: the circuit is closed, or a probe is due and none is in flight.

        This reserves nothing: if several tasks wait for a probe slot, the first to call gets it and the others wait
        again. Works on any asyncio loop; a change made by another thread wakes it.

        Raises:
            TimeoutError: *timeout* seconds have passed.
            RuntimeError: no asyncio loop is running. Under trio, run :meth:`wait_ready_sync` in a thread.
        """
        await wait_async(self._circuit.waiters, self._circuit.seconds_until_ready, timeout)

    def wait_ready_sync(self, timeout: float | None = None) -> None:
        """Block this thread until a call would be admitted; see :meth:`wait_ready`.

        Raises:
            TimeoutError: *timeout* seconds have passed.
        """
        wait(self._circuit.waiters, self._circuit.seconds_until_ready, timeout)

    # Manual control.

    def hold(self, seconds: float) -> None:
        """Refuse calls for *seconds*, then probe, as if the server had asked for that wait. Never shortens a wait.

        A closed circuit opens for that time; one that is not closed sends no probe before. Calls in flight are no
        longer counted. Capped at ``longest_hint``; 0 or less does nothing. While disabled, calls still pass.
        """
        self._circuit.pause(min(seconds, self.policy.longest_hint))

    def force_open(self, reason: str = "forced open", *, for_seconds: float | None = None) -> None:
        """Refuse every call until ``reset()`` or ``disable()``; *reason* is part of each refusal.

        *for_seconds* (above 0): only for so long; then the circuit is half-open, and a good probe closes it. A longer
        wait that the server named still holds. Forcing again replaces the time and the reason.

        Raises:
            ValueError: *for_seconds* is out of range.
        """
        seconds = math.inf if for_seconds is None else for_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ValueError(f"for_seconds is {for_seconds!r}, must be a number of seconds above 0")
        self._circuit.force_open(reason, seconds)

    def disable(self) -> None:
        """Admit every call until ``reset()``; the state is ``closed``. Counts start over.

        Calls are counted all the same. When a rule would have opened the circuit, listeners get one event that says so
        (``would_open``), and ``explain()`` shows why.
        """
        self._circuit.disable()

    def reset(self) -> None:
        """Close the circuit; clear failures, windows, waits and manual overrides. Calls in flight are not counted."""
        self._circuit.reset()

    @overload
    def add_listener(
        self, listener: Callable[[StateChanged], None], *, calls: Literal[False] = False
    ) -> Callable[[], None]: ...
    @overload
    def add_listener(self, listener: BreakerListener, *, calls: bool) -> Callable[[], None]: ...
    def add_listener(self, listener: Callable[[Any], None], *, calls: bool = False) -> Callable[[], None]:
        """Add *listener* for state changes, and with *calls* for every call; returns a function that removes it.

        Listeners run outside the lock, get events in order and one at a time, on the thread that caused them, so keep
        them fast: they run within a call. An exception in a listener is logged once and has no other effect.
        """
        return self._circuit.add_listener(listener, calls=calls)

    # State over a restart.

    def snapshot(self) -> dict[str, object]:
        """Return the state as a plain dictionary that JSON can hold, for :meth:`from_snapshot` after a restart.

        Not in it: options, the window of calls, probes in flight, and the last failures.
        """
        from llmbatch.breaker.snapshot import write_snapshot

        return write_snapshot(self._circuit.memory(), self.name, time.time())

    @classmethod
    def from_snapshot(cls, snapshot: Mapping[str, object], **options: Unpack[BreakerOptions]) -> Self:
        """Return a new breaker with *options*, in the state of *snapshot*; its name too, unless *options* has one.

        An open circuit stays open: it is half-open once its wait is over, and only a good probe closes it. Waits are
        shortened by the wall time that has passed since; if that clock was set back, they start again. They are cut to
        ``longest_hint``.

        Raises:
            ValueError: *snapshot* is malformed (the message names the member), or an option is out of range.
        """
        from llmbatch.breaker.snapshot import read_snapshot

        breaker = cls(**options)
        name, memory = read_snapshot(snapshot, breaker.policy, time.time())
        if "name" not in options:
            breaker._circuit.name = name
        breaker._circuit.restore(memory)
        return breaker

    def __repr__(self) -> str:
        explanation = self.explain()
        state = "disabled" if explanation.is_forced and explanation.state == "closed" else explanation.state
        if explanation.retry_after is None:
            failing = f", {explanation.failures} failed in a row" if explanation.failures else ""
            return f"<CircuitBreaker {self.name or 'unnamed'} {state}{failing}>"
        until = "until reset" if math.isinf(explanation.retry_after) else f"retry in {explanation.retry_after:.1f} s"
        return f"<CircuitBreaker {self.name or 'unnamed'} {state}, {until}>"
