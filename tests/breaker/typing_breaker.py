"""What a type checker makes of the breaker: checked by mypy (test_breaker_typing.py), never run.

Where a line must be an error it says so with the error's code, and mypy complains where there is none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Literal, assert_type

from llmbatch.breaker import (
    AsyncChunks,
    BreakerEvent,
    BreakerMetrics,
    BreakerPolicy,
    BreakerRegistry,
    CallEnded,
    CallRefused,
    Chunks,
    CircuitBreaker,
    CircuitNumbers,
    CircuitOpenError,
    Explanation,
    Failure,
    Judgement,
    Permit,
    Retry,
    StateChanged,
)

breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=60.0, success_threshold=1)


def ask(prompt: str, *, limit: int = 5) -> int:
    return len(prompt) + limit


async def ask_later(prompt: str, *, limit: int = 5) -> int:
    return len(prompt) + limit


def text_of(error: Exception) -> str:
    return str(error)


async def text_later(error: Exception) -> str:
    return str(error)


# Making one.

CircuitBreaker()
CircuitBreaker(None, 30, 2, name="o", failure_rate=0.5, minimum_calls=20, probes=2, jitter=0.1)
CircuitBreaker(policy=BreakerPolicy(failure_threshold=3, rate_seconds=60.0))
CircuitBreaker(count_error=ValueError)
CircuitBreaker(count_error=(ValueError, OSError))
CircuitBreaker(count_error=lambda error: bool(error.args))
CircuitBreaker(judge_error=lambda error: "neutral" if isinstance(error, ValueError) else None)
CircuitBreaker(judge_error=lambda error: Judgement("failure", retry_after=5.0, status=503, request_id="r"))
CircuitBreaker(judge_result=lambda value: "failure" if value is None else "success")
CircuitBreaker("5")  # type: ignore[arg-type]
CircuitBreaker(5, 60.0, 1, "name")  # type: ignore[call-arg]
CircuitBreaker(failure_rat=0.5)  # type: ignore[call-arg]
CircuitBreaker(probes="2")  # type: ignore[arg-type]
CircuitBreaker(count_error=KeyboardInterrupt)  # type: ignore[arg-type]
CircuitBreaker(judge_error=lambda error: "bad")  # type: ignore[arg-type, return-value]
BreakerPolicy(failure_threshold="3")  # type: ignore[arg-type]
BreakerPolicy(fail=3)  # type: ignore[call-arg]
Judgement("bad")  # type: ignore[arg-type]

# Asking.

assert_type(breaker.state, Literal["closed", "open", "half_open"])
assert_type(breaker.failures, int)
assert_type(breaker.is_open(), bool)
assert_type(breaker.retry_after, float | None)
assert_type(breaker.name, str)
assert_type(breaker.policy, BreakerPolicy)
assert_type(breaker.policy.failure_threshold, int | None)
assert_type(breaker.explain(), Explanation)
assert_type(breaker.explain().last_failures, tuple[Failure, ...])
breaker.state = "open"  # type: ignore[misc]

# call.

assert_type(breaker.call(ask, "hello"), int)
assert_type(breaker.call(ask, "hello", limit=3), int)
assert_type(breaker.call(ask, prompt="hello"), int)
assert_type(breaker.call(partial(ask, "hello")), int)
assert_type(breaker.call(lambda: "text"), str)
assert_type(breaker.call(ask, "hello", fallback=text_of), int | str)
assert_type(breaker.call(ask, "hello", fallback=lambda error: None), int | None)
breaker.call(ask)  # type: ignore[call-overload]
breaker.call(ask, 5)  # type: ignore[call-overload]
breaker.call(ask, "hello", limit="3")  # type: ignore[arg-type]
breaker.call(ask, "hello", unknown=3)  # type: ignore[call-arg]
breaker.call("ask")  # type: ignore[call-overload]
breaker.call(ask, "hello", fallback="text")  # type: ignore[call-arg]
breaker.call(ask, "hello", fallback=lambda: None)  # type: ignore[arg-type, misc]


# async_call.


async def calling() -> None:
    assert_type(await breaker.async_call(ask_later, "hello"), int)
    assert_type(await breaker.async_call(ask_later, "hello", limit=3), int)
    assert_type(await breaker.async_call(ask_later, "hello", fallback=text_of), int | str)
    assert_type(await breaker.async_call(ask_later, "hello", fallback=text_later), int | str)
    await breaker.async_call(ask, "hello")  # type: ignore[call-overload]
    await breaker.async_call(ask_later)  # type: ignore[call-overload]
    await breaker.async_call(ask_later, 5)  # type: ignore[call-overload]
    await breaker.async_call(ask_later, "hello", limit="3")  # type: ignore[arg-type]
    await breaker.async_call(ask_later, "hello", fallback=5)  # type: ignore[call-arg]


# Decorators.


@breaker
def guarded(prompt: str, *, limit: int = 5) -> int:
    return len(prompt) + limit


@breaker
async def guarded_later(prompt: str) -> int:
    return len(prompt)


@breaker(fallback=lambda error: 0)
def with_fallback(prompt: str) -> int:
    return len(prompt)


class Client:
    @breaker
    def ask(self, prompt: str) -> int:
        return len(prompt)

    @breaker
    async def ask_later(self, prompt: str) -> int:
        return len(prompt)

    @staticmethod
    @breaker
    def plain(prompt: str) -> int:
        return len(prompt)

    @classmethod
    @breaker
    def of_class(cls, prompt: str) -> int:
        return len(prompt)


async def decorated() -> None:
    assert_type(guarded("hello", limit=3), int)
    assert_type(await guarded_later("hello"), int)
    assert_type(with_fallback("hello"), int)
    assert_type(Client().ask("hello"), int)
    assert_type(await Client().ask_later("hello"), int)
    assert_type(Client.plain("hello"), int)
    assert_type(Client.of_class("hello"), int)
    again: Callable[[str], Coroutine[Any, Any, int]] = guarded_later
    _ = again
    guarded(5)  # type: ignore[arg-type]
    guarded("hello", limit="3")  # type: ignore[arg-type]
    guarded("hello", unknown=3)  # type: ignore[call-arg]
    await guarded_later()  # type: ignore[call-arg]
    Client().ask(5)  # type: ignore[arg-type]
    breaker("ask")  # type: ignore[call-overload]
    breaker(fallback="text")  # type: ignore[call-overload]


# Blocks and permits.


def blocks() -> None:
    with breaker.acquire() as permit:
        assert_type(permit, Permit)
    with breaker.acquire(caller=("row", 7)) as permit:
        permit.settle("throttled", retry_after=5.0)
    permit = breaker.acquire()
    assert_type(permit.is_probe, bool)
    assert_type(permit.is_current, bool)
    assert_type(permit.is_settled, bool)
    permit.settle()
    permit.settle(Judgement("failure"), error=ValueError())
    permit.release()
    with ExitStack() as stack:
        assert_type(stack.enter_context(breaker.acquire()), Permit)
    permit.settle("bad")  # type: ignore[arg-type]
    permit.settle("failure", retry_after="5")  # type: ignore[arg-type]
    permit.settle("failure", ValueError())  # type: ignore[call-arg]
    breaker.acquire(caller=["row"])  # type: ignore[arg-type]


def reachable() -> int:
    """A block swallows no exception, so that what follows a return in it is known never to come."""
    with breaker.acquire():
        return 1


async def reachable_later() -> int:
    async with breaker.acquire():
        return 1


async def async_blocks() -> None:
    async with breaker.acquire() as permit:
        assert_type(permit, Permit)
    async with breaker.acquire() as permit:
        assert_type(permit, Permit)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(breaker.acquire()), Permit)


def stream() -> Iterator[int]:
    with breaker.acquire():
        yield 1


async def stream_later() -> AsyncIterator[int]:
    async with breaker.acquire():
        yield 1


# Waiting and operating.


async def waiting() -> None:
    await breaker.wait_ready()
    await breaker.wait_ready(timeout=5)
    breaker.wait_ready_sync(5.0)
    breaker.hold(5)
    breaker.force_open("maintenance")
    breaker.reset()
    breaker.disable()
    breaker.force_open(5)  # type: ignore[arg-type]
    breaker.hold("5")  # type: ignore[arg-type]


# Refusals.

try:
    breaker.call(ask, "hello")
except CircuitOpenError as refusal:
    assert_type(refusal.retry_after, float)
    assert_type(refusal.name, str)
    assert_type(refusal.reason, str)


# Listeners.


def listener(event: BreakerEvent) -> None:
    match event:
        case StateChanged():
            assert_type(event.retry_after, float | None)
            assert_type(event.new, Literal["closed", "open", "half_open"])
        case CallEnded():
            assert_type(event.seconds, float)
            assert_type(event.is_stale, bool)
        case CallRefused():
            assert_type(event.retry_after, float)


def on_change(event: StateChanged) -> None:
    assert_type(event.reason, str)


remove = breaker.add_listener(listener, calls=True)
assert_type(remove, Callable[[], None])
remove()
breaker.add_listener(listener)
breaker.add_listener(on_change)
breaker.add_listener(lambda event: None)
breaker.add_listener(on_change, calls=True)  # type: ignore[arg-type]
breaker.add_listener(len)  # type: ignore[arg-type]
metrics = BreakerMetrics()
breaker.add_listener(metrics, calls=True)
assert_type(metrics.numbers("o"), CircuitNumbers)
assert_type(metrics.numbers().ended["success"], int)

# Registries.


def make(key: tuple[str, int]) -> CircuitBreaker:
    return CircuitBreaker(name=key[0])


by_key = BreakerRegistry(make, capacity=10)
assert_type(by_key, BreakerRegistry[tuple[str, int]])
assert_type(by_key["o3", 1], CircuitBreaker)
assert_type(by_key["o3", 1].call(ask, "hello"), int)
assert_type(list(by_key), list[tuple[str, int]])
assert_type(by_key.items(), list[tuple[tuple[str, int], CircuitBreaker]])
by_name: BreakerRegistry[str] = BreakerRegistry()
assert_type(by_name["o3"], CircuitBreaker)
by_name.add_listener(on_change)
by_name.add_listener(listener, calls=True)
by_name[5]  # type: ignore[index]
by_key["o3"]  # type: ignore[index]
by_name.discard(5)  # type: ignore[arg-type]
BreakerRegistry(lambda key: 5)  # type: ignore[arg-type, return-value]

# Retries.

retry = Retry(breaker, attempts=4, first_wait=1, longest_wait=20.0)


async def retrying() -> None:
    assert_type(retry.call(ask, "hello", limit=3), int)
    assert_type(await retry.async_call(ask_later, "hello"), int)
    awaitable: Awaitable[int] = retry.async_call(ask_later, "hello")
    _ = awaitable
    retry.call(ask, 5)  # type: ignore[arg-type]
    retry.call(ask, "hello", limit="3")  # type: ignore[arg-type]
    await retry.async_call(ask, "hello")  # type: ignore[arg-type]
    await retry.async_call(ask_later)  # type: ignore[call-arg]
    Retry("breaker")  # type: ignore[arg-type]
    Retry(breaker, 4)  # type: ignore[call-arg]


# Streams.


def numbers(to: int) -> Iterator[int]:
    yield from range(to)


async def numbers_later(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


async def create_later(to: int) -> AsyncIterator[int]:
    return numbers_later(to)


@asynccontextmanager
async def managed_later() -> AsyncIterator[AsyncIterator[int]]:
    yield numbers_later(1)


@contextmanager
def managed() -> Iterator[Iterator[int]]:
    yield numbers(1)


async def use_streams() -> None:
    async with breaker.stream(create_later, 5) as chunks:
        assert_type(chunks, AsyncChunks[int])
        assert_type([chunk async for chunk in chunks], list[int])
    async with breaker.stream(numbers_later, 5) as chunks:
        assert_type(chunks, AsyncChunks[int])
    async with breaker.stream(managed_later) as chunks:
        assert_type(chunks, AsyncChunks[int])
    async with breaker.stream(numbers_later, 5, idle_timeout=30.0, first_timeout=60.0) as optional:
        assert_type(optional, AsyncChunks[Any])
    with breaker.stream(numbers, judge_chunk=lambda chunk: "failure" if chunk else None) as optional_sync:
        assert_type(optional_sync, Chunks[Any])
    with breaker.stream(numbers, 5) as numbered:
        assert_type(numbered, Chunks[int])
        assert_type(list(numbered), list[int])
    with breaker.stream(managed) as numbered:
        assert_type(numbered, Chunks[int])
    with breaker.stream(numbers_later, 5):  # type: ignore[attr-defined]  # async: `async with`
        pass
    async with breaker.stream(numbers, 5):  # type: ignore[attr-defined]
        pass
    async with AsyncChunks(breaker.acquire(), numbers_later(5)) as chunks:
        assert_type(chunks, AsyncChunks[int])
    with Chunks(breaker.acquire(), numbers(5)) as numbered:
        assert_type(numbered, Chunks[int])


@breaker
def guarded_numbers(to: int) -> Iterator[int]:
    yield from range(to)


@breaker
async def guarded_numbers_later(to: int) -> AsyncIterator[int]:
    yield to


assert_type(guarded_numbers(5), Iterator[int])
assert_type(guarded_numbers_later(5), AsyncIterator[int])
