"""Decorate functions with a circuit breaker."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from llmbatch.breaker.awaitables import is_coroutine_function

if TYPE_CHECKING:
    from typing import ParamSpec, Protocol, TypeVar, overload

    from llmbatch.breaker.breaker import CircuitBreaker

    P = ParamSpec("P")
    T = TypeVar("T")
    F = TypeVar("F", covariant=True)

    class Decorator(Protocol[F]):
        """Type of ``@breaker(fallback=…)``: the decorated function returns its own result or the fallback's."""

        @overload
        def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F]]: ...
        @overload
        def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | F]: ...

    class AsyncDecorator(Protocol[F]):
        """Type of ``@breaker(fallback=…)`` with an async fallback: only coroutine functions can be decorated."""

        def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F]]:
            """Decorate *fn*."""
            ...


__all__ = ["decorate"]


def decorate(
    breaker: CircuitBreaker, fallback: Callable[[Exception], Any] | None, fn: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap *fn* so that every call, or every stream of a generator function, goes through *breaker*.

    See :meth:`CircuitBreaker.__call__`.

    Raises:
        TypeError: *fn* is a generator function and *fallback* is given.
    """
    import inspect

    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        if fallback is not None:
            raise TypeError(f"{fn!r} is a generator function, and a stream takes no fallback: catch CircuitOpenError")
        return _decorate_stream(breaker, fn, is_async=inspect.isasyncgenfunction(fn))
    # Bind an argument of fn that is called `fallback` first, or call() would take it as its own.
    if is_coroutine_function(fn):

        @functools.wraps(fn)
        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            if fallback is None and "fallback" not in kwargs:
                return await breaker.async_call(fn, *args, **kwargs)
            return await breaker.async_call(functools.partial(fn, *args, **kwargs), fallback=fallback)

        return guarded_async

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if fallback is None and "fallback" not in kwargs:
            return breaker.call(fn, *args, **kwargs)
        return breaker.call(functools.partial(fn, *args, **kwargs), fallback=fallback)

    return guarded


def _decorate_stream(breaker: CircuitBreaker, fn: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Wrap a generator function: each generator is one stream, admitted when it is first iterated."""
    # Bind the arguments first, or stream() would take those that are called as its options.
    if is_async:

        @functools.wraps(fn)
        async def guarded_async_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with breaker.stream(functools.partial(fn, *args, **kwargs)) as chunks:
                step = anext(chunks)
                while True:
                    try:
                        chunk = await step
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield chunk
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - what the consumer throws into the generator
                        step = chunks.athrow(error)
                    else:
                        step = anext(chunks) if sent is None else chunks.asend(sent)

        return guarded_async_stream

    @functools.wraps(fn)
    def guarded_stream(*args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        with breaker.stream(functools.partial(fn, *args, **kwargs)) as chunks:
            return (yield from chunks)

    return guarded_stream
