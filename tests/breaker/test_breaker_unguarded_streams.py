"""Streams and generators where they are not protected: ``call``, ``async_call`` and ``Retry`` refuse or say so."""

from __future__ import annotations

import asyncio
import functools
import io
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, fine, fine_later, half_opened, opened

from llmbatch.breaker import CircuitBreaker, CircuitOpenError, Retry, UnguardedStreamWarning
from llmbatch.breaker.awaitables import MAX_WHOLE, WHOLE

ran: list[str] = []


@pytest.fixture
def clock() -> Clock:
    ran.clear()
    return Clock()


def numbers() -> Iterator[int]:
    ran.append("sync")
    yield 1


async def later_numbers() -> AsyncIterator[int]:
    ran.append("async")
    yield 1


def wrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: object) -> object:
        return fn(*args)

    return wrapper


class Source:
    def method(self) -> Iterator[int]:
        yield from numbers()

    async def later_method(self) -> AsyncIterator[int]:
        async for number in later_numbers():
            yield number


class Callable_:  # noqa: N801
    def __call__(self) -> Iterator[int]:
        yield from numbers()


class LaterCallable:
    async def __call__(self) -> AsyncIterator[int]:
        async for number in later_numbers():
            yield number


SYNC = {
    "function": numbers,
    "partial": functools.partial(numbers),
    "partial of a partial": functools.partial(functools.partial(numbers)),
    "method": Source().method,
    "wrapped": wrapped(numbers),
    "wrapped method": wrapped(Source().method),
    "partial of wrapped": functools.partial(wrapped(numbers)),
    "callable": Callable_(),
    "partial of callable": functools.partial(Callable_()),
}
ASYNC = {
    "function": later_numbers,
    "partial": functools.partial(later_numbers),
    "method": Source().later_method,
    "wrapped": wrapped(later_numbers),
    "callable": LaterCallable(),
}
GENERATORS = [pytest.param(fn, "with", id=name) for name, fn in SYNC.items()]
GENERATORS += [pytest.param(fn, "async with", id=f"async {name}") for name, fn in ASYNC.items()]


@pytest.mark.parametrize("state", ["closed", "half_open"])
@pytest.mark.parametrize(("fn", "with_"), GENERATORS)
def test_call_of_a_generator_function_protects_nothing_silently(
    clock: Clock, fn: Callable[[], object], with_: str, state: str
) -> None:
    """It is refused with what to use, in either path, and counts nothing."""
    breaker = CircuitBreaker(1, clock=clock) if state == "closed" else half_opened(clock)

    with pytest.raises(TypeError, match=rf"^call\(\) got the .*generator function .*: use `{with_} breaker\.stream"):
        breaker.call(fn)

    assert ran == []
    assert breaker.state == state
    assert breaker.acquire().is_probe is (state == "half_open")


@pytest.mark.parametrize("state", ["closed", "half_open"])
@pytest.mark.parametrize(("fn", "with_"), GENERATORS)
async def test_async_call_of_a_generator_function_names_stream_and_not_call(
    clock: Clock, fn: Callable[[], Any], with_: str, state: str
) -> None:
    """It said "use call()", which would have protected nothing."""
    breaker = CircuitBreaker(1, clock=clock) if state == "closed" else half_opened(clock)

    with pytest.raises(TypeError, match=rf"^async_call\(\) got the .* function .*: use `{with_} breaker\.stream"):
        await breaker.async_call(fn)

    assert ran == []
    assert breaker.state == state


def test_an_open_circuit_says_that_a_generator_function_is_the_wrong_kind(clock: Clock) -> None:
    """As it does for a coroutine function: the mistake comes before the refusal."""
    breaker = opened(clock)

    with pytest.raises(TypeError, match="generator function"):
        breaker.call(numbers)
    with pytest.raises(CircuitOpenError):
        breaker.call(functools.partial(numbers))


async def test_a_generator_based_coroutine_function_is_still_one(clock: Clock) -> None:
    """``types.coroutine`` marks a generator function that is awaited."""

    @types.coroutine
    def old_style() -> Any:
        yield from asyncio.sleep(0).__await__()
        return "fine"

    breaker = CircuitBreaker(clock=clock)

    with pytest.raises(TypeError, match=r"use async_call\(\)"):
        breaker.call(old_style)
    with pytest.raises(TypeError, match=r"use async_call\(\)"):
        half_opened(clock).call(old_style)
    with pytest.raises(TypeError, match=r"use async_call\(\)"):
        breaker.call(functools.partial(old_style))
    assert await breaker.async_call(old_style) == "fine"


async def test_retry_refuses_generator_functions_too(clock: Clock) -> None:
    """Through the same check, and the permit is given back."""
    breaker = half_opened(clock)
    retry = Retry(breaker)

    with pytest.raises(TypeError, match=r"use `with breaker\.stream"):
        retry.call(numbers)
    with pytest.raises(TypeError, match=r"use `async with breaker\.stream"):
        await retry.async_call(later_numbers)  # type: ignore[arg-type]
    retry.call(fine)

    assert breaker.state == "closed"


class Stream:
    """As that of an SDK."""

    def __init__(self) -> None:
        self.left = 2

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left

    def close(self) -> None: ...


class AsyncStream:
    """The same, async."""

    def __init__(self) -> None:
        self.left = 2

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


class AsyncManager:
    """What gives a stream when it is entered."""

    async def __aenter__(self) -> AsyncStream:
        return AsyncStream()

    async def __aexit__(self, *exc: object) -> None: ...


def create(*, stream: bool) -> object:
    return Stream() if stream else "answer"


async def create_later(*, stream: bool) -> object:
    return AsyncStream() if stream else "answer"


BREAKERS: list[Any] = [
    pytest.param({}, id="fast path"),
    pytest.param({"judge_result": lambda result: None}, id="with a permit"),
    pytest.param({"failure_rate": 0.5}, id="window"),
]


@pytest.mark.parametrize("options", BREAKERS)
async def test_a_stream_counted_before_its_first_chunk_is_told_once(clock: Clock, options: dict[str, Any]) -> None:
    """Once per breaker, with the caller's line; the call works as before."""
    for is_async in (False, True):
        breaker = CircuitBreaker(clock=clock, **options)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(3):
                if is_async:
                    stream: Any = await breaker.async_call(create_later, stream=True)
                    assert [chunk async for chunk in stream] == [1, 0]
                else:
                    assert list(breaker.call(create, stream=True)) == [1, 0]  # type: ignore[call-overload]
        warning = told.pop()
        assert told == []
        assert warning.category is UnguardedStreamWarning
        assert warning.filename == __file__
        with_, method = ("async with", "async_call()") if is_async else ("with", "call()")
        assert str(warning.message).startswith(f"{method} got a stream from <function create")
        assert str(warning.message).endswith(
            f"which counted as a success before its first chunk: use `{with_} breaker.stream(…) as chunks`"
        )


async def test_a_stream_without_a_keyword_is_told_at_the_first_call(clock: Clock) -> None:
    """Asked for inside the function; later calls without keywords are not looked at, which costs nothing."""
    breaker = CircuitBreaker(clock=clock)

    with pytest.warns(UnguardedStreamWarning):
        await breaker.async_call(functools.partial(create_later, stream=True))


async def test_whole_answers_are_no_streams(clock: Clock) -> None:
    """Nor are iterables, files, lazy sequences without an end to close, and answers of an own type."""

    class Answer:
        def __iter__(self) -> Iterator[int]:
            return iter(())

    def same(value: object) -> object:
        return value

    async def give(value: object, **options: object) -> object:
        return value

    breaker = CircuitBreaker(clock=clock, judge_result=lambda result: None)
    for value in ("text", b"bytes", [1], {"a": 1}, (1,), {1}, None, 1, Answer(), io.BytesIO(b"file"), map(str, [1])):
        assert breaker.call(same, value) is value
        assert await breaker.async_call(give, value, stream=False) is value

    assert await breaker.async_call(create_later, stream=False) == "answer"


def test_the_types_of_whole_answers_are_remembered_up_to_a_bound(clock: Clock) -> None:
    """Of the first 256; a class made at run time is not kept alive for ever by the thousand."""
    breaker = CircuitBreaker(clock=clock)
    before = set(WHOLE)
    try:
        kinds = [type(f"Answer{number}", (), {}) for number in range(2 * MAX_WHOLE)]
        for kind in kinds:
            breaker.call(kind)

        assert kinds[0] in WHOLE
        assert kinds[-1] not in WHOLE
        assert len(WHOLE) == MAX_WHOLE
    finally:
        WHOLE.clear()
        WHOLE.update(before)


def test_a_function_that_returns_a_generator_is_told_and_works(clock: Clock) -> None:
    """It has run, so that it is counted as before; only what it returned is not."""
    breaker = CircuitBreaker(clock=clock)

    def ask() -> Iterator[int]:
        return (number for number in range(2))

    with pytest.warns(UnguardedStreamWarning, match=r"use `with breaker\.stream"):
        assert list(breaker.call(ask)) == [0, 1]


async def test_what_is_entered_to_get_a_stream_is_none_to_await(clock: Clock) -> None:
    """``client.messages.stream`` in ``async_call``: the way out is ``stream``, not ``call``."""
    breaker = CircuitBreaker(1, clock=clock)

    unawaitable: list[Any] = [AsyncManager, AsyncStream]
    for fn in unawaitable:
        with pytest.raises(TypeError, match=r"returned a stream instead .*: use `async with breaker\.stream"):
            await breaker.async_call(fn)
    with pytest.raises(TypeError, match=r"use call\(\)"):
        await breaker.async_call(fine)  # type: ignore[call-overload]

    assert breaker.failures == 0


def test_a_wrapper_that_names_itself_ends_the_search(clock: Clock) -> None:
    """``__wrapped__`` may be anything."""

    def ask() -> Iterator[int]:
        return (number for number in range(2))

    ask.__wrapped__ = ask  # type: ignore[attr-defined]
    with pytest.warns(UnguardedStreamWarning):
        assert list(CircuitBreaker(clock=clock).call(ask)) == [0, 1]


async def test_the_first_success_changes_nothing_else(clock: Clock) -> None:
    """It is looked at and recorded, and ends a streak as any other."""
    breaker = CircuitBreaker(3, clock=clock)
    with pytest.raises(DownError):
        breaker.call(down)
    assert breaker.failures == 1
    await breaker.async_call(fine_later)
    assert breaker.failures == 0
    assert breaker.call(fine) == "fine"
