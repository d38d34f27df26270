"""Observers of a run: what those given by users become, what is refused, and what becomes of one that raises.

:mod:`llmbatch.core.events` has the events and the protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Set
from inspect import iscoroutinefunction
from types import CoroutineType
from typing import cast

from llmbatch.core.call_details import CallDetails, call_observers
from llmbatch.core.errors import UsageError
from llmbatch.core.events import Event, Observer, ObserverFailed

__all__ = ["FunctionObserver", "Observers", "as_observers"]

_log = logging.getLogger("llmbatch.observers")


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


class Observers:
    """The observers of one run. One that raises is removed, and that is told once; *now* is the event loop's clock."""

    def __init__(self, observers: Iterable[Observer], now: Callable[[], float]) -> None:
        self._all = list(observers)
        self._now = now
        self._of: dict[type[Event], list[Observer]] = {}
        """Those that do not skip events of a kind."""
        self.of_calls = call_observers(self._all)
        """Those that :meth:`observe_call` tells of each call."""

    def observe(self, event: Event) -> None:
        """Pass *event* to the observers."""
        kind = type(event)
        for observer in self._of.get(kind) or self._find(kind):
            try:
                observer.observe(event)
            except Exception as error:  # noqa: BLE001 - an observer cannot fail a run
                self._remove(observer, error)

    def observe_call(self, details: CallDetails) -> None:
        """Pass *details* to the observers that ask for them."""
        for observer, observe_call in self.of_calls:
            try:
                observe_call(details)
            except Exception as error:  # noqa: BLE001 - an observer cannot fail a run
                self._remove(observer, error)

    def _find(self, kind: type[Event]) -> list[Observer]:
        found = self._of[kind] = [one for one in self._all if not _skips(one, kind)]
        return found

    def _remove(self, observer: Observer, error: Exception) -> None:
        rest = [other for other in self._all if other is not observer]
        if len(rest) == len(self._all):
            return  # it raised again, on being told that another did, and was removed then
        self._all = rest
        self._of.clear()
        self.of_calls = call_observers(rest)
        name = observer.name if isinstance(observer, FunctionObserver) else type(observer).__name__
        _log.warning("the observer %s raised and is not called any more in this run", name, exc_info=error)
        self.observe(ObserverFailed(self._now(), "warning", f"the observer {name} failed and is ignored: {error!r}"))


def _skips(observer: Observer, kind: type[Event]) -> bool:
    skips = getattr(observer, "skips", None)
    return isinstance(skips, Set) and kind in skips  # anything else of this name is the user's own


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
