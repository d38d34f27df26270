"""CircuitBreaker around calls: synchronous and asynchronous, on one thread."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import re
import signal
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator

import pytest
from breaker_clock import Clock

from llmbatch.breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, Retry


class DownError(Exception):
    """The provider is down."""


class RefusedError(Exception):
    """The provider refused this request."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def down() -> str:
    raise DownError


async def down_later() -> str:
    await asyncio.sleep(0)
    raise DownError


async def fine() -> str:
    await asyncio.sleep(0)
    return "fine"


def trip(breaker: CircuitBreaker) -> None:
    for _ in range(breaker.policy.failure_threshold or 0):
        with pytest.raises(DownError):
            breaker.call(down)
    assert breaker.is_open()


def half_opened(clock: Clock, **options: object) -> CircuitBreaker:
    breaker = CircuitBreaker(2, 60.0, clock=clock, **options)  # type: ignore[arg-type]
    trip(breaker)
    clock.advance(60.0)
    assert breaker.state == "half_open"
    return breaker


# The whole way round.


def test_call_opens_refuses_probes_and_closes(clock: Clock) -> None:
    """Five failures, exactly 60 s, one good probe: the defaults of the contract."""
    breaker = CircuitBreaker(clock=clock)
    made: list[int] = []

    trip(breaker)
    assert (breaker.state, breaker.failures) == ("open", 5)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(made.append, 1)
    assert caught.value.retry_after == 60.0
    clock.advance(59.5)
    with pytest.raises(CircuitOpenError):
        breaker.call(made.append, 2)
    clock.advance(0.5)

    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    assert breaker.call(lambda: "back") == "back"
    assert (breaker.state, breaker.failures, made) == ("closed", 0, [])


async def test_async_call_opens_refuses_probes_and_closes(clock: Clock) -> None:
    """The same on an event loop."""
    breaker = CircuitBreaker(clock=clock)

    for _ in range(5):
        with pytest.raises(DownError):
            await breaker.async_call(down_later)
    assert (breaker.state, breaker.failures) == ("open", 5)
    with pytest.raises(CircuitOpenError) as caught:
        await breaker.async_call(fine)
    assert caught.value.retry_after == 60.0
    clock.advance(60.0)

    assert await breaker.async_call(fine) == "fine"
    assert (breaker.state, breaker.failures) == ("closed", 0)


async def test_arguments_pass_through(clock: Clock) -> None:
    """Positional and keyword, also under the names that the breaker's own parameters have."""
    breaker = CircuitBreaker(clock=clock)

    def echo(*args: object, **kwargs: object) -> object:
        return args, kwargs

    async def echo_later(*args: object, **kwargs: object) -> object:
        return args, kwargs

    assert breaker.call(echo, 1, fn=2, self=3) == ((1,), {"fn": 2, "self": 3})
    assert await breaker.async_call(echo_later, 1, fn=2, self=3) == ((1,), {"fn": 2, "self": 3})


def test_the_exception_reaches_the_caller_as_it_was(clock: Clock) -> None:
    """The very object, with no context added."""
    breaker = CircuitBreaker(clock=clock)
    error = DownError("just so")

    def fails() -> None:
        raise error

    with pytest.raises(DownError) as caught:
        breaker.call(fails)

    assert caught.value is error
    assert caught.value.__context__ is None


def test_a_success_between_failures_keeps_it_closed(clock: Clock) -> None:
    """Consecutive means consecutive."""
    breaker = CircuitBreaker(2, clock=clock)

    for _ in range(10):
        with pytest.raises(DownError):
            breaker.call(down)
        assert breaker.failures == 1
        breaker.call(lambda: None)

    assert (breaker.state, breaker.failures) == ("closed", 0)


def test_retries_inside_the_call_are_one_failure(clock: Clock) -> None:
    """Exhausted retries count once."""
    breaker = CircuitBreaker(2, clock=clock)
    attempts = []

    def patient() -> None:
        for attempt in range(4):
            attempts.append(attempt)
        raise DownError

    with pytest.raises(DownError):
        breaker.call(patient)

    assert (len(attempts), breaker.failures, breaker.state) == (4, 1, "closed")


def test_a_failed_probe_costs_another_sixty_seconds(clock: Clock) -> None:
    """By default the open time is constant."""
    breaker = half_opened(clock)

    with pytest.raises(DownError):
        breaker.call(down)
    clock.advance(59.0)
    assert breaker.is_open()
    clock.advance(1.0)

    assert breaker.state == "half_open"


def test_several_good_probes_close_it(clock: Clock) -> None:
    """``success_threshold`` of them, one after another."""
    breaker = half_opened(clock, success_threshold=3)

    states = []
    for _ in range(3):
        breaker.call(lambda: None)
        states.append(breaker.state)

    assert states == ["half_open", "half_open", "closed"]


# repr.


def test_the_repr_says_name_state_and_wait(clock: Clock) -> None:
    """In every state; the wait only where there is one."""
    breaker = CircuitBreaker(1, 60.0, name="openai/gpt-5-mini", clock=clock)

    assert repr(breaker) == "<CircuitBreaker openai/gpt-5-mini closed>"
    with pytest.raises(DownError):
        breaker.call(down)
    clock.advance(55.75)
    assert repr(breaker) == "<CircuitBreaker openai/gpt-5-mini open, retry in 4.2 s>"
    clock.advance(5.0)
    seen = breaker.call(lambda: repr(breaker))

    assert seen == "<CircuitBreaker openai/gpt-5-mini half_open, retry in 60.0 s>"
    assert repr(CircuitBreaker()) == "<CircuitBreaker unnamed closed>"


# count_error.


def test_count_error_says_which_exceptions_count(clock: Clock) -> None:
    """The others are neutral: they neither add to a streak nor end it, and reach the caller all the same."""
    breaker = CircuitBreaker(3, clock=clock, count_error=lambda error: isinstance(error, DownError))

    def refused() -> None:
        raise RefusedError

    for fn in (down, refused, down, refused, refused):
        with pytest.raises((DownError, RefusedError)):
            breaker.call(fn)
    assert (breaker.failures, breaker.state) == (2, "closed")
    with pytest.raises(DownError):
        breaker.call(down)

    assert breaker.is_open()


async def test_three_neutral_probes_close_it(clock: Clock) -> None:
    """An input of nothing but refused requests does not keep it half-open for ever."""
    breaker = half_opened(clock, count_error=lambda error: isinstance(error, DownError))

    async def refused() -> None:
        raise RefusedError

    states = []
    for _ in range(3):
        with pytest.raises(RefusedError):
            await breaker.async_call(refused)
        states.append(breaker.state)

    assert states == ["half_open", "half_open", "closed"]


@pytest.mark.parametrize("broken", [ValueError, KeyboardInterrupt])
def test_a_count_error_that_raises_leaves_no_probe_behind(clock: Clock, broken: type[BaseException]) -> None:
    """Its error reaches the caller, with the first one as context; the next caller may probe."""

    def judge(error: Exception) -> bool:
        if clock.now > 1000.0:
            raise broken("cannot judge")
        return True

    breaker = half_opened(clock, count_error=judge)

    with pytest.raises(broken) as caught:
        breaker.call(down)

    assert isinstance(caught.value.__context__, DownError)
    assert breaker.state == "half_open"
    assert breaker.call(lambda: "next") == "next"


def test_count_error_may_look_at_the_breaker(clock: Clock) -> None:
    """It runs outside the lock, on the caller's thread."""
    seen: list[str] = []

    def judge(_: Exception) -> bool:
        seen.append(breaker.state)
        return True

    breaker = CircuitBreaker(clock=clock, count_error=judge)

    with pytest.raises(DownError):
        breaker.call(down)

    assert seen == ["closed"]


# Trap: a sync breaker around async code protects nothing.


class Client:
    """Asynchronous in the ways that clients are."""

    async def ask(self) -> str:
        return await down_later()

    async def __call__(self) -> str:
        return await down_later()


@pytest.mark.parametrize(
    "fn",
    [
        down_later,
        functools.partial(down_later),
        functools.partial(functools.partial(down_later)),
        Client().ask,
        functools.partial(Client().ask),
        Client(),
        functools.partial(Client()),
        lambda: down_later(),
        functools.lru_cache(down_later),
    ],
    ids=[
        "function",
        "partial",
        "partial of partial",
        "bound method",
        "partial of method",
        "callable",
        "partial of callable",
        "lambda",
        "wrapped",
    ],
)
@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_call_refuses_async_code(clock: Clock, fn: Callable[[], Coroutine[object, object, str]], state: str) -> None:
    """A TypeError that names the way out; it counts neither as failure nor as success, and leaves no probe behind."""
    breaker = half_opened(clock) if state == "half_open" else CircuitBreaker(1, clock=clock)
    failures = breaker.failures

    for _ in range(5):
        with pytest.raises(TypeError, match=r"use async_call\(\)"):
            breaker.call(fn)  # type: ignore[unused-coroutine]

    assert (breaker.state, breaker.failures) == (state, failures)
    assert breaker.call(lambda: "still free") == "still free"


def test_call_tells_of_a_coroutine_function_even_while_open(clock: Clock) -> None:
    """A mistake in the code is told at once, not after the outage."""
    breaker = CircuitBreaker(1, clock=clock)
    trip(breaker)

    with pytest.raises(TypeError, match="coroutine function"):
        breaker.call(down_later)  # type: ignore[unused-coroutine]


class Cached:
    """A class with methods that are no plain functions."""

    @functools.lru_cache  # noqa: B019 - the point is what it makes of a method
    def ask(self) -> str:
        return "answer"

    def __call__(self, number: int = 0) -> str:
        return "answer"


@pytest.mark.parametrize(
    "fn", [Cached().ask, types.MethodType(Cached(), 3), types.MethodType(functools.partial(len), "abc")]
)
def test_call_refuses_methods_of_every_make_while_open(clock: Clock, fn: Callable[[], object]) -> None:
    """A method may bind something without code to look at: refused like any other."""
    breaker = CircuitBreaker(1, clock=clock)
    breaker.call(fn)
    trip(breaker)

    with pytest.raises(CircuitOpenError):
        breaker.call(fn)


@pytest.mark.parametrize("way", ["call", "call by permit", "retry"])
def test_a_coroutine_that_was_made_in_vain_is_closed(clock: Clock, way: str) -> None:
    """So that nobody is warned of one that was never awaited, beside the error."""
    breaker = half_opened(clock) if way == "call by permit" else CircuitBreaker(clock=clock)
    made: list[Coroutine[object, object, str]] = []

    def ask() -> Coroutine[object, object, str]:
        made.append(fine())
        return made[-1]

    with pytest.raises(TypeError, match="returned an awaitable"):
        Retry(breaker).call(ask) if way == "retry" else breaker.call(ask)  # type: ignore[unused-coroutine]

    assert [inspect.getcoroutinestate(coroutine) for coroutine in made] == ["CORO_CLOSED"]


async def test_call_refuses_a_task(clock: Clock) -> None:
    """Any awaitable is a result still to come; it would be counted as a success before it is one."""
    breaker = CircuitBreaker(1, clock=clock)
    task = asyncio.ensure_future(fine())

    with pytest.raises(TypeError, match="returned an awaitable"):
        breaker.call(lambda: task)

    assert (breaker.state, await task) == ("closed", "fine")


@pytest.mark.parametrize("state", ["closed", "half_open"])
async def test_async_call_refuses_a_plain_function(clock: Clock, state: str) -> None:
    """A TypeError that names the way out, and no failure of the provider."""
    breaker = half_opened(clock) if state == "half_open" else CircuitBreaker(1, clock=clock)
    failures = breaker.failures

    for _ in range(5):
        with pytest.raises(TypeError, match=r"returned nothing to await: use call\(\)"):
            await breaker.async_call(lambda: "done")  # type: ignore[call-overload]

    assert (breaker.state, breaker.failures) == (state, failures)
    assert await breaker.async_call(fine) == "fine"


async def test_async_call_takes_whatever_can_be_awaited(clock: Clock) -> None:
    """Coroutines, futures, async callables, and generators that types.coroutine made awaitable."""
    breaker = CircuitBreaker(1, clock=clock)

    class Later:
        def __await__(self) -> Generator[None, None, str]:
            yield from asyncio.sleep(0).__await__()
            return "later"

    @types.coroutine
    def old_style() -> Generator[None, None, str]:
        yield
        return "old"

    assert await breaker.async_call(functools.partial(fine)) == "fine"
    assert await breaker.async_call(lambda: asyncio.ensure_future(fine())) == "fine"
    assert await breaker.async_call(Later) == "later"
    assert await breaker.async_call(old_style) == "old"


async def test_an_error_before_the_first_await_is_a_failure(clock: Clock) -> None:
    """A plain function that raises where it should have returned an awaitable."""
    breaker = CircuitBreaker(1, clock=clock)

    with pytest.raises(DownError):
        await breaker.async_call(down)  # type: ignore[call-overload]

    assert breaker.is_open()


# Trap: admission.


async def test_fifty_tasks_half_open_send_one_probe(clock: Clock) -> None:
    """The permit is taken before the first await: one call is made, 49 are refused with the probe's lease to wait."""
    breaker = half_opened(clock)
    gate = asyncio.Event()
    calls = []

    async def ask(number: int) -> int:
        calls.append(number)
        await gate.wait()
        return number

    tasks = [asyncio.ensure_future(breaker.async_call(ask, number)) for number in range(50)]
    refused, _ = await asyncio.wait(tasks, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert calls == [0]
    assert results[0] == 0
    assert [error.retry_after for error in results[1:] if isinstance(error, CircuitOpenError)] == [60.0] * 49
    assert refused
    assert breaker.state == "closed"


def test_the_permit_is_taken_before_the_first_await(clock: Clock) -> None:
    """Driven by hand: each coroutine's first step decides whether it goes."""
    breaker = half_opened(clock)

    @types.coroutine
    def suspend() -> Generator[None, None, str]:
        yield
        return "done"

    first, second = breaker.async_call(suspend), breaker.async_call(suspend)
    first.send(None)
    with pytest.raises(CircuitOpenError):
        second.send(None)
    with pytest.raises(StopIteration, match="done"):
        first.send(None)

    assert breaker.state == "closed"


# Trap: cancelled and interrupted calls.


async def test_a_cancelled_probe_leaves_it_half_open(clock: Clock) -> None:
    """Cancellation counts as nothing and gives the place back; it is raised on."""
    breaker = half_opened(clock)
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(breaker.async_call(hang))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert breaker.state == "half_open"
    assert await breaker.async_call(fine) == "fine"


async def test_cancelled_calls_open_nothing(clock: Clock) -> None:
    """However many are cancelled while closed."""
    breaker = CircuitBreaker(1, clock=clock)

    tasks = [asyncio.ensure_future(breaker.async_call(asyncio.sleep, 60.0)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert all(task.cancelled() for task in tasks)
    assert (breaker.state, breaker.failures) == ("closed", 0)


async def test_a_timeout_inside_the_call_is_a_failure_and_around_it_is_not(clock: Clock) -> None:
    """As the docstring says: inside it is how the call ended, around it is a cancellation."""
    breaker = CircuitBreaker(5, clock=clock)

    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await breaker.async_call(impatient)
    assert breaker.failures == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await breaker.async_call(asyncio.Event().wait)

    assert breaker.failures == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_probe_leaves_it_half_open(clock: Clock, interruption: type[BaseException]) -> None:
    """Leaving the process is no verdict on the provider."""
    breaker = half_opened(clock)

    def interrupted() -> None:
        raise interruption

    with pytest.raises(interruption):
        breaker.call(interrupted)

    assert breaker.state == "half_open"
    assert breaker.call(lambda: "next") == "next"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interruptions_open_nothing(clock: Clock, interruption: type[BaseException]) -> None:
    """Nor do they end a streak."""
    breaker = CircuitBreaker(2, clock=clock)
    with pytest.raises(DownError):
        breaker.call(down)

    def interrupted() -> None:
        raise interruption

    for _ in range(5):
        with pytest.raises(interruption):
            breaker.call(interrupted)

    assert (breaker.state, breaker.failures) == ("closed", 1)


def test_a_real_ctrl_c_inside_a_call_releases_the_probe(clock: Clock) -> None:
    """SIGINT while the call runs."""
    breaker = half_opened(clock)

    with pytest.raises(KeyboardInterrupt):
        breaker.call(signal.raise_signal, signal.SIGINT)

    assert breaker.state == "half_open"
    assert breaker.call(lambda: "next") == "next"


def test_an_abandoned_coroutine_releases_its_probe(small_heap: None, clock: Clock) -> None:
    """Closed or collected half way, it gives the place back."""
    breaker = half_opened(clock)

    @types.coroutine
    def suspend() -> Generator[None]:
        yield

    abandoned = breaker.async_call(suspend)
    abandoned.send(None)
    del abandoned
    gc.collect()

    assert breaker.call(lambda: "next") == "next"


@pytest.mark.timeout(20)
def test_a_coroutine_collected_inside_the_lock_does_not_deadlock(small_heap: None) -> None:
    """The collector may run anywhere, also where its own thread holds the breaker's lock."""

    @types.coroutine
    def suspend() -> Generator[None]:
        yield

    def collecting_clock() -> float:
        gc.collect()
        return 1.0

    breaker = CircuitBreaker(clock=collecting_clock)
    abandoned: Awaitable[None] = breaker.async_call(suspend)
    abandoned.send(None)  # type: ignore[attr-defined]
    cycle: list[object] = [abandoned]
    cycle.append(cycle)
    del abandoned, cycle

    assert breaker.state == "closed"


@pytest.mark.timeout(20)
def test_a_signal_handler_may_ask_for_the_state() -> None:
    """Also when the signal comes while its thread holds the lock."""
    seen: list[object] = []

    def interrupted_clock() -> float:
        if not seen:
            signal.raise_signal(signal.SIGUSR1)
        return 1.0

    def handler(*_: object) -> None:
        seen.append(1)
        seen.append(breaker.state)

    breaker = CircuitBreaker(clock=interrupted_clock)
    before = signal.signal(signal.SIGUSR1, handler)

    try:
        state = breaker.state
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert (state, seen) == ("closed", [1, "closed"])


# Trap: hung probe, stale results, through the public face.


def test_a_hung_probe_is_taken_over_and_its_answer_ignored(clock: Clock) -> None:
    """After ``recovery_timeout`` another caller probes; the next replacement waits twice as long."""
    breaker = half_opened(clock)
    waits = []

    def refusal() -> float:
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(lambda: None)
        return caught.value.retry_after

    def hang_and_be_replaced() -> str:
        waits.append(refusal())
        clock.advance(60.0)
        with pytest.raises(DownError):
            breaker.call(second)
        return "late"

    def second() -> None:
        waits.append(refusal())
        raise DownError

    assert breaker.call(hang_and_be_replaced) == "late"

    assert waits == [60.0, 120.0]
    assert breaker.is_open()


async def test_an_answer_from_before_the_outage_closes_nothing(clock: Clock) -> None:
    """A call let in while closed succeeds while half-open: the circuit stays half-open."""
    breaker = CircuitBreaker(2, 60.0, clock=clock)
    gate = asyncio.Event()
    old = asyncio.ensure_future(breaker.async_call(gate.wait))
    await asyncio.sleep(0)
    trip(breaker)
    clock.advance(60.0)

    gate.set()
    assert await old is True

    assert breaker.state == "half_open"
    assert breaker.failures == 2


# Options that reach the circuit.


def test_a_policy_replaces_the_three_arguments(clock: Clock) -> None:
    """Growing open times, jitter and a failure rate are had that way."""
    policy = BreakerPolicy(failure_threshold=1, recovery_timeout=60.0, first_recovery_timeout=2.0)
    breaker = CircuitBreaker(policy=policy, clock=clock)
    waits = []

    for _ in range(6):
        with pytest.raises(DownError):
            breaker.call(down)
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(down)
        waits.append(caught.value.retry_after)
        clock.advance(caught.value.retry_after)

    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_jitter_differs_between_breakers(clock: Clock) -> None:
    """So that many processes do not probe together."""
    policy = BreakerPolicy(failure_threshold=1, recovery_timeout=60.0, first_recovery_timeout=10.0, jitter=0.5)
    waits = set()

    for _ in range(20):
        breaker = CircuitBreaker(policy=policy, clock=clock)
        trip(breaker)
        match = re.search(r"retry in ([\d.]+) s", repr(breaker))
        assert match is not None
        waits.add(float(match[1]))

    assert all(10.0 <= wait <= 15.0 for wait in waits)
    assert len(waits) > 5
