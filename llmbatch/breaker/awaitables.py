"""Distinguish sync from async functions, and build the errors for using the wrong one.

:mod:`inspect` is imported inside the functions that use it: importing it takes longer than the rest of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import TypeVar

__all__ = [
    "ASYNC",
    "UNSET",
    "async_in_sync_error",
    "await_if_needed",
    "call_sync",
    "is_coroutine_function",
    "is_unawaitable",
    "sync_in_async_error",
]

T = TypeVar("T")

ASYNC = 0x80 | 0x100
"""Flags of code objects that return an awaitable: ``inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE``."""

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


def call_sync(fallback: Callable[[Exception], T], error: Exception) -> T:
    """Call a synchronous *fallback*.

    Raises:
        TypeError: it is a coroutine function, or returned an awaitable.
    """
    value = fallback(error)
    if hasattr(value, "__await__"):
        raise async_in_sync_error(fallback, value)
    return value


def sync_in_async_error(fn: object) -> TypeError:
    """Return the error for ``async_call()`` with a plain function."""
    return TypeError(f"async_call() got {fn!r}, which returned nothing to await: use call()")
