"""The libraries that breaker.py compares, each behind its own documented calls: set up alike, nothing taken out.

What is asked for is said once, in :class:`Setup`; every builder says it in its library's words. It decides nothing:
no outcome of any library is written down here. A library that is not installed has no version and is left out.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

Face = Literal["sync", "async"]
Path = tuple[Callable[..., Any], tuple[Any, ...]]
"""How a function is called through a circuit: the callable and its arguments."""

names = (f"benchmark-{number}" for number in itertools.count())


class OutageError(Exception):
    """The provider is down: counts as a failure."""


class BadRequestError(Exception):
    """A 400: the caller's fault, which every library is told to leave out of its failures."""


class FakeClock:
    """Seconds that pass only when told; callable, and with the method that interlock-cb asks for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One circuit as every library is asked for it. ``open_s``: seconds that it stays open."""

    failures: int = 3
    """Failures in a row that open it."""
    open_s: float = 60.0
    good_probes: int = 1
    """Good probes that close it, where a library has the option; else 1."""
    neutral: str = ""
    """Which of the library's ways says that a 400 is no failure; empty: the first."""
    stall_s: float | None = None
    """Seconds after which calls that do not return count, where a library has such a rule."""
    rate_calls: int | None = None
    """A failure rate of a half, looked at from so many calls on, in place of failures in a row."""
    only_outages: bool = False
    """Only :class:`OutageError` counts as a failure, where a library can be told so."""
    clock: FakeClock | None = None
    """Only for libraries that take one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """One circuit of one library, for threads (face ``sync``) or for tasks (face ``async``)."""

    path: Callable[[Callable[..., Any]], Path]
    """How to call a function through it: the quickest way that the library documents and that refuses."""
    state: Callable[[], str]
    """``closed``, ``open`` or ``half_open``, from the library's own property."""
    rejection: type[Exception]
    wait: Callable[[Any], float | None] | None = None
    """Seconds that the library tells a refused caller to wait, of the rejection."""
    block: Callable[[], Any] | None = None
    """A context manager around a block of code."""
    stream: Callable[[Callable[..., Any]], Any] | None = None
    """A context manager around the chunks of what a function returns, where a library has one."""
    sync_ways: dict[str, Callable[[Callable[..., Any]], Path]] | None = None
    """Every public way to call a plain function; None on the asynchronous face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library under its name in the tables."""

    name: str
    distribution: str
    paths: dict[Face, str]
    """How it is called, for the notes; its keys are the faces that it has."""
    build: Callable[[Face, Setup], Circuit]
    has_clock: bool = False
    has_good_probes: bool = False
    has_rate: bool = False
    has_only: bool = False
    neutral_ways: tuple[str, ...] = ("",)

    @property
    def version(self) -> str | None:
        """The installed version; None: not installed."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


def called(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Path]:
    return lambda fn: (function, (fn,))


def decorated(decorator: Callable[..., Any]) -> Callable[[Callable[..., Any]], Path]:
    return lambda fn: (decorator(fn), ())


def build_ours(face: Face, setup: Setup, *, window: bool = False) -> Circuit:
    from llmbatch.breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError

    policy = BreakerPolicy(
        failure_threshold=None if setup.rate_calls else setup.failures,
        recovery_timeout=setup.open_s,
        success_threshold=setup.good_probes,
        probe_lease=setup.open_s,
        failure_rate=0.5 if window or setup.rate_calls else None,
        minimum_calls=setup.rate_calls or 20,
        stall_timeout=setup.stall_s,
    )
    breaker = CircuitBreaker(
        policy=policy,
        count_error=OutageError if setup.only_outages else lambda error: not isinstance(error, BadRequestError),
        clock=setup.clock or time.monotonic,
    )
    return Circuit(
        path=called(breaker.call if face == "sync" else breaker.async_call),
        state=lambda: breaker.state,
        rejection=CircuitOpenError,
        wait=lambda error: error.retry_after,
        block=breaker.acquire,
        stream=breaker.stream,
        sync_ways={"call": called(breaker.call)} if face == "sync" else None,
    )


class NotBadRequest:
    """interlock-cb's classifier: every exception but a 400 is a failure."""

    def is_failure(self, *, result: object, exception: Exception | None) -> bool:
        return exception is not None and not isinstance(exception, BadRequestError)


class OnlyOutages:
    """interlock-cb's classifier: only an outage is a failure."""

    def is_failure(self, *, result: object, exception: Exception | None) -> bool:
        return isinstance(exception, OutageError)


def build_interlock(face: Face, setup: Setup) -> Circuit:
    from interlock import CircuitBreaker, CircuitOpenError, Config

    config = Config(
        minimum_number_of_calls=setup.rate_calls or setup.failures,
        permitted_calls_in_half_open=setup.good_probes,
        wait_duration_in_open=setup.open_s,
    )
    unreachable = (BadRequestError,) if setup.neutral == "unreachable_exceptions" else ()
    breaker = CircuitBreaker(
        name=next(names),
        config=config,
        clock=setup.clock,
        classifier=OnlyOutages() if setup.only_outages else NotBadRequest(),
        unreachable_exceptions=unreachable,
    )
    return Circuit(
        path=called(breaker.call_sync if face == "sync" else breaker.call_async),
        state=lambda: str(breaker.state),
        rejection=CircuitOpenError,
        wait=lambda error: error.retry_after,
        block=lambda: breaker,
        sync_ways={
            "call": called(breaker.call),
            "call_sync": called(breaker.call_sync),
            "decorator": decorated(breaker),
        }
        if face == "sync"
        else None,
    )


def build_circuitbreaker(face: Face, setup: Setup) -> Circuit:
    from circuitbreaker import CircuitBreaker, CircuitBreakerError

    # The decorator is its shortest way that refuses.
    breaker = CircuitBreaker(
        failure_threshold=setup.failures,
        recovery_timeout=setup.open_s,
        expected_exception=OutageError,
        name=next(names),
    )
    return Circuit(
        path=decorated(breaker),
        state=lambda: breaker.state,
        rejection=CircuitBreakerError,
        wait=lambda _: breaker.open_remaining,
        block=(lambda: breaker) if face == "sync" else None,
        sync_ways={"call": called(breaker.call), "decorator": decorated(breaker)} if face == "sync" else None,
    )


def within(face: Face, block: Any) -> Callable[[Callable[..., Any]], Path]:
    """A block held for good: what one writes where a library has no call, and quicker than its decorator."""

    def path(fn: Callable[..., Any]) -> Path:
        def guarded() -> Any:
            with block:
                return fn()

        async def guarded_async() -> Any:
            async with block:
                return await fn()

        return (guarded if face == "sync" else guarded_async), ()

    return path


def build_purgatory(face: Face, setup: Setup) -> Circuit:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState

    kind = SyncCircuitBreakerFactory if face == "sync" else AsyncCircuitBreakerFactory
    factory = kind(default_threshold=setup.failures, default_ttl=setup.open_s, exclude=[BadRequestError])
    name = next(names)
    # Getting the breaker awaits nothing while it is kept in memory, so no event loop is needed to run it to its end.
    breaker = factory.get_breaker(name) if face == "sync" else run_through(factory.get_breaker(name))
    return Circuit(
        path=within(face, breaker),
        state=lambda: {"opened": "open", "half-opened": "half_open"}.get(breaker.context.state, breaker.context.state),
        rejection=OpenedState,
        block=lambda: breaker,
        sync_ways={"decorator": decorated(factory(name))} if face == "sync" else None,
    )


def run_through(coroutine: Any) -> Any:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("the coroutine suspended")


def build_pybreaker(face: Face, setup: Setup) -> Circuit:
    from pybreaker import CircuitBreaker, CircuitBreakerError

    breaker = CircuitBreaker(
        fail_max=setup.failures,
        reset_timeout=setup.open_s,
        success_threshold=setup.good_probes,
        exclude=[BadRequestError],
    )
    return Circuit(
        path=called(breaker.call),
        state=lambda: breaker.current_state.replace("-", "_"),
        rejection=CircuitBreakerError,
        block=breaker.calling,
        sync_ways={"call": called(breaker.call), "decorator": decorated(breaker)},
    )


def build_aiobreaker(face: Face, setup: Setup) -> Circuit:
    from aiobreaker import CircuitBreaker, CircuitBreakerError

    breaker = CircuitBreaker(
        fail_max=setup.failures, timeout_duration=timedelta(seconds=setup.open_s), exclude=[BadRequestError]
    )
    return Circuit(
        path=called(breaker.call if face == "sync" else breaker.call_async),
        state=lambda: breaker.current_state.name.lower(),
        rejection=CircuitBreakerError,
        wait=lambda error: error.time_remaining.total_seconds(),
        sync_ways={"call": called(breaker.call), "decorator": decorated(breaker)} if face == "sync" else None,
    )


def build_hyx(face: Face, setup: Setup) -> Circuit:
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.circuitbreaker.exceptions import BreakerFailing

    breaker = consecutive_breaker(
        exceptions=OutageError,
        failure_threshold=setup.failures,
        recovery_time_secs=setup.open_s,
        recovery_threshold=setup.good_probes,
    )
    states = {"working": "closed", "failing": "open", "recovering": "half_open"}

    def wait(_: Exception) -> float | None:
        remain = getattr(breaker.state, "remain", None)
        return remain.total_seconds() if remain else None

    return Circuit(
        path=decorated(breaker),
        state=lambda: states[breaker.state.name],
        rejection=BreakerFailing,
        wait=wait,
        block=lambda: breaker,
    )


class Passing:
    """llmfuse's provider: its answer is the function's, whose outages and 400s it tells in llmfuse's words."""

    name = "provider"

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn

    def complete(self, prompt: str) -> Any:
        from llmfuse import ProviderError

        try:
            return self.fn()
        except (OutageError, BadRequestError) as error:
            raise ProviderError(str(error), provider=self.name, retryable=isinstance(error, OutageError)) from error


def build_llmfuse(face: Face, setup: Setup) -> Circuit:
    from llmfuse import AllProvidersFailedError, FuseClient, RetryPolicy

    # Its circuits belong to a client, and a client to its providers: so the function is replaced within the provider.
    provider = Passing(lambda: None)
    client = FuseClient(
        providers=[provider],
        retry=RetryPolicy(max_attempts=1),
        failure_threshold=setup.failures,
        reset_timeout=setup.open_s,
        clock=setup.clock or time.monotonic,
    )
    function = threading.local()
    provider.fn = lambda: function.now()

    def path(fn: Callable[..., Any]) -> Path:
        def complete() -> Any:
            function.now = fn
            return client.complete("").text

        return complete, ()

    return Circuit(
        path=path,
        state=lambda: client.circuit_state(provider.name).value,
        rejection=AllProvidersFailedError,
        sync_ways={"complete": path},
    )


OURS = Library(
    name="llmbatch",
    distribution="llmbatch",
    paths={"sync": "call", "async": "async_call"},
    build=build_ours,
    has_clock=True,
    has_good_probes=True,
    has_rate=True,
    has_only=True,
)
WINDOWED = Library(
    name="llmbatch, rate window",
    distribution="llmbatch",
    paths={"sync": "call", "async": "async_call"},
    build=functools.partial(build_ours, window=True),
    has_clock=True,
    has_good_probes=True,
)
PEERS = (
    Library(
        name="interlock-cb",
        distribution="interlock-cb",
        paths={"sync": "call_sync", "async": "call_async"},
        build=build_interlock,
        has_clock=True,
        has_good_probes=True,
        has_rate=True,
        has_only=True,
        neutral_ways=("classifier", "unreachable_exceptions"),
    ),
    Library(
        name="circuitbreaker",
        distribution="circuitbreaker",
        paths={"sync": "decorator", "async": "decorator"},
        build=build_circuitbreaker,
        has_only=True,
    ),
    Library(
        name="purgatory",
        distribution="purgatory",
        paths={"sync": "with, breaker kept", "async": "async with, breaker kept"},
        build=build_purgatory,
    ),
    Library(
        name="pybreaker",
        distribution="pybreaker",
        paths={"sync": "call"},
        build=build_pybreaker,
        has_good_probes=True,
    ),
    Library(
        name="aiobreaker",
        distribution="aiobreaker",
        paths={"sync": "call", "async": "call_async"},
        build=build_aiobreaker,
    ),
    Library(
        name="hyx",
        distribution="hyx",
        paths={"async": "decorator"},
        build=build_hyx,
        has_good_probes=True,
        has_only=True,
    ),
    Library(
        name="llmfuse",
        distribution="llmfuse",
        paths={"sync": "FuseClient.complete"},
        build=build_llmfuse,
        has_clock=True,
    ),
)
