"""Deliver a circuit's events to listeners: outside the lock, in order, isolated from each other's errors."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from types import CoroutineType, ModuleType
from typing import TYPE_CHECKING

from llmbatch.breaker.awaitables import ASYNC, is_coroutine_function
from llmbatch.breaker.core import Condition, SettleVerdict, State
from llmbatch.breaker.permit_state import PermitState

if TYPE_CHECKING:
    from llmbatch.breaker.events import BreakerEvent

__all__ = ["BreakerListener", "Listeners", "Subscription", "check_listener", "log_error"]

BreakerListener = Callable[["BreakerEvent"], None]
Subscription = tuple[BreakerListener, bool]

LAZY = ASYNC | 0x20 | 0x200
"""Flags of code objects that only run when awaited or iterated: also ``CO_GENERATOR`` and ``CO_ASYNC_GENERATOR``."""


class Listeners:
    """Listeners of one breaker, and the queue of events that they have not received.

    Events are queued under the breaker's lock and delivered outside it, by one thread at a time. So every listener gets
    them in order and may use the breaker. An exception in a listener is logged once and has no other effect;
    ``KeyboardInterrupt`` passes through.
    """

    __slots__ = ("_already_logged", "_delivering", "_queue", "_subscriptions", "wants_calls")

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._queue: deque[tuple[BreakerEvent, bool]] = deque()
        self._delivering = threading.Lock()
        self._already_logged: set[int] = set()
        self.wants_calls = False

    def add(self, listener: BreakerListener, *, calls: bool) -> Subscription:
        """Add *listener*; with *calls* it gets call events too. Call under the breaker's lock.

        Raises:
            TypeError: see :func:`check_listener`.
        """
        check_listener(listener)
        entry = (listener, calls)
        self._subscriptions = (*self._subscriptions, entry)
        self.wants_calls = self.wants_calls or calls
        return entry

    def remove(self, entry: Subscription) -> None:
        """Remove a subscription, if it is still there. Call under the breaker's lock."""
        self._subscriptions = tuple(other for other in self._subscriptions if other is not entry)
        self._already_logged.discard(id(entry))
        self.wants_calls = any(wants for _, wants in self._subscriptions)

    @property
    def has_events(self) -> bool:
        """Whether undelivered events are queued."""
        return bool(self._queue)

    # Queue events; call these under the breaker's lock. They cost nothing without listeners.

    def changed(
        self, name: str, now: float, before: Condition, after: Condition, reason: str, retry_after: float | None
    ) -> None:
        """Queue :class:`StateChanged`."""
        if self._subscriptions:
            would_open = after[2] and not before[2]
            event = _events().StateChanged(name, now, before[0], after[0], reason, retry_after, after[1], would_open)
            self._queue.append((event, False))

    def ended(
        self, name: str, now: float, verdict: SettleVerdict | None, permit: PermitState, *, is_stale: bool
    ) -> None:
        """Queue :class:`CallEnded` for the call of *permit*."""
        if self.wants_calls:
            ended = _events().CallEnded(name, now, verdict, now - permit.at, permit.probe, is_stale)
            self._queue.append((ended, True))

    def refused(self, name: str, now: float, state: State, retry_after: float) -> None:
        """Queue :class:`CallRefused`."""
        if self.wants_calls:
            self._queue.append((_events().CallRefused(name, now, state, retry_after), True))

    def deliver(self) -> None:
        """Deliver queued events, outside the breaker's lock. Returns at once if another thread is delivering."""
        # The outer loop checks again after releasing, or events queued in between would wait for the next one.
        delivering = self._delivering  # a child process has another one
        while self._queue and delivering.acquire(blocking=False):
            try:
                while self._queue:
                    self._deliver_one(*self._queue.popleft())
            finally:
                delivering.release()

    def reset_after_fork(self) -> None:  # pragma: no cover - in a forked process
        """In a forked process: no other thread is delivering."""
        self._delivering = threading.Lock()

    def _deliver_one(self, event: BreakerEvent, is_call: bool) -> None:
        for entry in self._subscriptions:
            listener, wants_calls = entry
            if is_call and not wants_calls:
                continue
            try:
                returned: object = listener(event)  # a coroutine, if it wraps an async function
                if returned is not None and hasattr(returned, "__await__"):
                    raise _async_error(listener, returned)
            except Exception:  # noqa: BLE001 - a listener may raise anything and must break nothing
                if id(entry) not in self._already_logged:
                    self._already_logged.add(id(entry))
                    log_error(listener, type(event).__name__, event.name)


def check_listener(listener: object) -> None:
    """Check that *listener* can be called with an event.

    Raises:
        TypeError: it is not callable, or it is async or a generator function: events come on any thread, where nothing
            would await it.
    """
    inner = listener
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not callable(inner):
        raise TypeError(f"listener is {listener!r}, must be a function of one event")
    kinds = [getattr(call, "__code__", None) for call in (inner, type(inner).__call__)]
    if is_coroutine_function(inner) or any(code is not None and code.co_flags & LAZY for code in kinds):
        raise _async_error(listener)


def _async_error(listener: object, returned: object = None) -> TypeError:
    if isinstance(returned, CoroutineType):
        returned.close()
    return TypeError(
        f"listener {listener!r} is async or a generator: events come on any thread, and nothing awaits it; "
        "give a plain function, for example one that calls loop.call_soon_threadsafe or queue.put"
    )


def _events() -> ModuleType:
    from llmbatch.breaker import events  # imported late: most breakers have no listener

    return events


def log_error(listener: BreakerListener, what: str, name: str) -> None:
    """Log the exception that *listener* just raised on *what*, an event of the circuit *name*."""
    import logging  # imported late: most programs never log

    logging.getLogger("llmbatch.breaker").exception(
        "listener %r raised on %s of circuit %r; it keeps receiving events, but its errors are not logged again",
        listener,
        what,
        name,
    )
