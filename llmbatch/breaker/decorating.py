"""The breaker as a decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from llmbatch.breaker.awaitables import is_coroutine_function

if TYPE_CHECKING:
    from typing import ParamSpec, Protocol, TypeVar, overload

    from llmbatch.breaker.breaker import CircuitBreaker

    P = ParamSpec("P")
    T = TypeVar("T")
    F = TypeVar("F", covariant=True)

    class Decorator(Protocol[F]):
        """``@breaker(fallback=…)``: what it decorates returns what it did, or what the fallback does."""

        @overload
        def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F]]: ...
        @overload
        def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | F]: ...

    class AsyncDecorator(Protocol[F]):
        """The same with a coroutine function for a fallback, so that nothing else can be decorated."""

        def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F]]:
            """*fn* through the breaker."""
            ...


__all__ = ["decorate"]


def decorate(
    breaker: CircuitBreaker, fallback: Callable[[Exception], Any] | None, fn: Callable[..., Any]
) -> Callable[..., Any]:
    """*fn* with every call of it through *breaker*; see :meth:`CircuitBreaker.__call__`."""
    import inspect

    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{fn!r} is a generator function: a call of it says nothing yet; use `with breaker:` in it")
    # A function that has a parameter called fallback itself gets it bound, for call() would take it.
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
