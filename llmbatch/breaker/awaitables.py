"""Distinguish sync functions, async ones and streams, and build the errors for using the wrong one.

:mod:`inspect` is imported inside the functions that use it: importing it takes longer than the rest of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MethodType
from typing import TypeVar

__all__ = [
    "NOT_PLAIN",
    "UNSET",
    "WHOLE",
    "async_in_sync_error",
    "await_if_needed",
    "call_sync",
    "is_coroutine_function",
    "is_stream",
    "is_unawaitable",
    "sync_in_async_error",
    "wrong_function_error",
    "wrong_result_error",
]

T = TypeVar("T")

ASYNC = 0x80 | 0x100
"""Flags of code objects that return an awaitable: ``inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE``."""

GENERATOR = 0x20 | 0x200
"""Flags of code objects that yield: ``inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR``."""

NOT_PLAIN = ASYNC | GENERATOR
"""Flags of code objects that do nothing when they are called."""

WHOLE: set[type] = {type(None), bool, bytes, dict, float, int, list, str, tuple}
"""Types of results that are whole answers; grows. A look at the type is cheaper than one at the attributes."""

MAX_WHOLE = 256
"""Types kept in :data:`WHOLE`, so that classes made at run time are not all kept alive."""

UNSET = object()
"""Marks a value that a function has not returned yet."""


async def await_if_needed(value: object) -> object:
    """Await *value* if it is awaitable; else return it."""
    import inspect

    return await value if inspect.isawaitable(value) else value


def is_coroutine_function(fn: Callable[..., object]) -> bool:
    """Whether calling *fn* returns an awaitable, as far as that is known without calling it."""
    # The flags answer for most functions, at a tenth of the cost of inspect.
    code = getattr(fn, "__code__", None)
    if code is not None:
        return bool(code.co_flags & ASYNC)
    import inspect

    return inspect.iscoroutinefunction(fn)


def is_stream(value: object) -> bool:
    """Whether *value* brings its content in parts that have not come yet, as what an SDK returns for ``stream=True``.

    Iterables that are no iterators are whole answers, and so are iterators without ``close()``; files are no streams.
    """
    if hasattr(value, "__aiter__"):
        return True
    if not (hasattr(value, "__next__") and hasattr(value, "close")):
        return False
    from io import IOBase

    return not isinstance(value, IOBase)


def _is_generator_function(fn: Callable[..., object]) -> bool:
    """Whether calling *fn* returns a generator that has not begun, also through partials, methods and wrappers."""
    import inspect

    for _ in range(100):  # a wrapper may name itself
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            break
    called = fn if hasattr(fn, "__code__") else type(fn).__call__
    return inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called)


def is_unawaitable(value: object) -> bool:
    """Whether a function has returned *value* and it is not awaitable."""
    import inspect

    return value is not UNSET and not inspect.isawaitable(value)


def async_in_sync_error(fn: Callable[..., object], awaitable: object = None) -> TypeError:
    """Return the error for ``call()`` with an async *fn*; closes *awaitable* if it is a coroutine."""
    if isinstance(awaitable, CoroutineType):
        awaitable.close()
    what = f"the coroutine function {fn!r}, which it cannot watch"
    if awaitable is not None and not is_coroutine_function(fn):
        what = f"{fn!r}, which returned an awaitable"
    return TypeError(f"call() got {what}: use async_call()")


def wrong_function_error(fn: Callable[..., object]) -> TypeError | None:
    """Return the error for ``call()`` with an async *fn* or a generator function, as far as that is known uncalled."""
    if is_coroutine_function(fn):
        return async_in_sync_error(fn)
    if getattr(getattr(fn, "__code__", None), "co_flags", 0) & GENERATOR:
        return _generator_error("call()", fn, is_async=bool(fn.__code__.co_flags & 0x200))
    return None


def wrong_result_error(fn: Callable[..., object], result: object) -> TypeError | None:
    """Return the error for ``call()`` with *fn*, which returned *result*; None if it has run. Closes a coroutine.

    Remembers the types of whole answers in :data:`WHOLE`.
    """
    if hasattr(result, "__await__"):
        return async_in_sync_error(fn, result)
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        if isinstance(result, GeneratorType) and result.gi_code.co_flags & ASYNC:
            return async_in_sync_error(fn, result)  # made by types.coroutine
        if _is_generator_function(fn):
            return _generator_error("call()", fn, is_async=isinstance(result, AsyncGeneratorType))
    elif len(WHOLE) < MAX_WHOLE and not is_stream(result):
        WHOLE.add(type(result))
    return None


def _generator_error(method: str, fn: object, *, is_async: bool) -> TypeError:
    with_ = "async with" if is_async else "with"
    kind = "async generator" if is_async else "generator"
    return TypeError(
        f"{method} got the {kind} function {fn!r}, which does nothing until it is iterated: "
        f"use `{with_} breaker.stream(…) as chunks`"
    )


def call_sync(fallback: Callable[[Exception], T], error: Exception) -> T:
    """Call a synchronous *fallback*.

    Raises:
        TypeError: it is a coroutine function, or returned an awaitable.
    """
    value = fallback(error)
    if hasattr(value, "__await__"):
        raise async_in_sync_error(fallback, value)
    return value


def sync_in_async_error(fn: object, result: object = None) -> TypeError:
    """Return the error for ``async_call()`` with *fn*, which returned *result*: nothing to await."""
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        return _generator_error("async_call()", fn, is_async=isinstance(result, AsyncGeneratorType))
    if hasattr(result, "__aiter__") or hasattr(result, "__aenter__"):
        return TypeError(
            f"async_call() got {fn!r}, which returned a stream instead of awaiting one: "
            "use `async with breaker.stream(…) as chunks`"
        )
    return TypeError(f"async_call() got {fn!r}, which returned nothing to await: use call()")
