"""Calls a user's function for each row: on the event loop if it is async, else in threads.

Every call runs in a fresh copy of the context in which the run was started, so that a context variable that is set for
one row is not seen by another. Whether a plain function is a wrapper of an async one shows in what it returns.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import io
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeGuard

from llmbatch.core.errors import UsageError
from llmbatch.providers.threads import Threads

__all__ = ["FunctionCall", "function_name", "is_stream"]

_NO_LOOP = ("no running event loop", "There is no current event loop")
"""How asyncio begins to say that it was called in a thread without a loop."""


MOST_AWAITED = 10
"""Awaitables within each other that are awaited: an async function may return what it has forgotten to await."""


class FunctionCall:
    """Awaits ``call(value)`` for each row. Belongs to one event loop; create it in the context that calls inherit.

    An ``async def`` runs on the event loop. Anything else is called in one of at most *threads* threads; if it returns
    an awaitable, that is awaited on the event loop, and later calls are made there too.

    Raises :class:`~llmbatch.core.errors.UsageError` for what is no function of a row.
    """

    def __init__(self, fn: Callable[[Any], object], *, threads: int) -> None:
        _check(fn)
        self._fn = fn
        self._context = contextvars.copy_context()
        self._is_on_loop = _is_async(fn)
        self._most_threads = threads
        self._threads: Threads | None = None

    async def __call__(self, value: object) -> object:
        """Call the function and await what it returns.

        Raises:
            HangingThreadsError: too many threads hang in earlier calls; the function was not called.
            BaseException: whatever the function raises.
        """
        context = self._context.copy()
        if self._is_on_loop:
            result = context.run(self._fn, value)
        else:
            result = await self._in_thread(context, value)
        for _ in range(MOST_AWAITED):
            if not _is_awaitable(result):
                break
            self._is_on_loop = True
            result = await _InContext(context, result)
        return result

    def allow(self, threads: int) -> None:
        """Use up to *threads* threads, if they are more than before."""
        self._most_threads = max(self._most_threads, threads)
        if self._threads is not None:
            self._threads.allow(threads)

    def close(self) -> None:
        """End the threads; those that hang end when their function returns."""
        if self._threads is not None:
            self._threads.close()

    async def _in_thread(self, context: contextvars.Context, value: object) -> object:
        if self._threads is None:
            self._threads = Threads(self._most_threads, f"llmbatch {function_name(self._fn)}")
        try:
            return await self._threads.run(functools.partial(context.run, self._fn, value))
        except RuntimeError as error:
            if not str(error).startswith(_NO_LOOP):
                raise
        # It starts a task, or the like, and so has to be called on the event loop.
        self._is_on_loop = True
        return context.run(self._fn, value)


class _InContext:
    """Awaits *awaitable* in the running task, each of its steps within *context*.

    A task would do the same, at ten times the cost and with another task to cancel.
    """

    __slots__ = ("_awaitable", "_context")

    def __init__(self, context: contextvars.Context, awaitable: Awaitable[object]) -> None:
        self._context = context
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, object]:
        run = self._context.run
        steps: Any = run(_steps_of, self._awaitable)
        send = getattr(steps, "send", None) or (lambda _: next(steps))
        try:
            step, argument = send, None
            while True:
                pending = run(step, argument)
                try:
                    argument = yield pending
                    step = send
                except GeneratorExit:
                    close = getattr(steps, "close", None)
                    if close is not None:
                        run(close)
                    raise
                except BaseException as error:
                    step, argument = getattr(steps, "throw", None), error
                    if step is None:
                        raise
        except StopIteration as done:
            return done.value


def _is_awaitable(result: object) -> TypeGuard[Awaitable[object]]:
    try:
        return inspect.isawaitable(result)
    except Exception:  # noqa: BLE001 - a proxy without its object, such as Flask's, raises as it is asked for its class
        return False


def _steps_of(awaitable: Any) -> object:
    return awaitable.__await__() if hasattr(awaitable, "__await__") else awaitable


def _check(fn: object) -> None:
    """Refuse what is no function of a row.

    Raises:
        UsageError: not callable, a class, or a generator function.
    """
    inner = _unwrapped(fn)
    if isinstance(fn, type):
        raise UsageError(f"{function_name(fn)} is a class, not a function", hint="pass an instance, or its method")
    if not callable(fn):
        raise UsageError(
            f"{fn!r:.80} is not a function",
            hint="pass `async def call(row)`, or a plain function, which runs in threads",
        )
    candidates: tuple[object, ...] = (inner, type(inner).__call__)
    for candidate in candidates:
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise UsageError(
                f"{function_name(fn)} is a generator, not a function that returns a result",
                hint="collect what it yields and return that: one row has one result",
            )


def _is_async(fn: object) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def _unwrapped(fn: object) -> object:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_stream(result: object) -> bool:
    """Whether what a function returned has its content yet to come: a generator, or an SDK's stream; no file."""
    kind = type(result)
    if hasattr(kind, "__anext__"):
        return True
    return hasattr(kind, "__next__") and hasattr(kind, "close") and not issubclass(kind, io.IOBase)


def function_name(fn: object) -> str:
    """The function's name, or that of its class."""
    fn = _unwrapped(fn)
    return getattr(fn, "__name__", "") or type(fn).__name__
