"""Observers given by users, which are objects or plain functions: what each becomes, and what is refused.

:mod:`llmbatch.core.events` has the events and the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from types import CoroutineType
from typing import cast

from llmbatch.core.errors import UsageError
from llmbatch.core.events import Event, Observer

__all__ = ["FunctionObserver", "as_observers"]


class FunctionObserver:
    """Observer that calls a plain function with each event; ``name`` is the function's."""

    __slots__ = ("_function", "name")

    def __init__(self, function: Callable[[Event], object]) -> None:
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self._function = function

    def observe(self, event: Event) -> None:
        """Call the function.

        Raises:
            TypeError: it returned an awaitable, which nothing would await.
            Exception: whatever the function raises.
        """
        returned = self._function(event)
        if returned is not None and hasattr(returned, "__await__"):
            if isinstance(returned, CoroutineType):
                returned.close()
            raise TypeError(f"{self.name} is async, and observers are called without being awaited")


def as_observers(observers: Iterable[Observer | Callable[[Event], object]]) -> list[Observer]:
    """Check *observers*, which are objects with a method ``observe(event)`` or plain functions of an event.

    Raises:
        UsageError: one of them is neither, or is async; or it is a class in place of an instance.
    """
    given: object = observers
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise UsageError(f"observers is {observers!r:.80}, not a list", hint="pass a list: observers=[observer]")
    return [_as_observer(observer) for observer in observers]


def _as_observer(observer: Observer | Callable[[Event], object]) -> Observer:
    shown = f"the observer {observer!r:.80}"
    if isinstance(observer, type):
        raise UsageError(f"{shown} is a class", hint=f"pass an instance: {observer.__name__}()")
    method = getattr(observer, "observe", None)
    called = method if callable(method) else observer
    if not callable(called):
        raise UsageError(
            f"{shown} is neither a function nor an object with a method observe(event)",
            hint="pass a function of an event, such as print",
        )
    if iscoroutinefunction(called) or iscoroutinefunction(type(called).__call__):
        raise UsageError(
            f"{shown} is async, and observers are called without being awaited",
            hint="define it with `def`; to await something, put events into an asyncio.Queue that a task reads",
        )
    return cast("Observer", observer) if called is method else FunctionObserver(called)
