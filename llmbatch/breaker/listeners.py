"""Deliver a circuit's events to listeners: outside the lock, in order, isolated from each other's errors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from llmbatch.breaker.core import SettleVerdict, State
from llmbatch.breaker.permit_state import PermitState

if TYPE_CHECKING:
    from llmbatch.breaker.events import BreakerEvent

__all__ = ["BreakerListener", "Listeners", "Subscription"]

BreakerListener = Callable[["BreakerEvent"], None]
Subscription = tuple[BreakerListener, bool]


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
        """Add *listener*; with *calls* it gets call events too. Call under the breaker's lock."""
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

    def changed(self, name: str, now: float, old: State, new: State, reason: str, retry_after: float | None) -> None:
        """Queue :class:`StateChanged`."""
        if self._subscriptions:
            self._queue.append((_events().StateChanged(name, now, old, new, reason, retry_after), False))

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
        while self._queue and self._delivering.acquire(blocking=False):
            try:
                while self._queue:
                    self._deliver_one(*self._queue.popleft())
            finally:
                self._delivering.release()

    def _deliver_one(self, event: BreakerEvent, is_call: bool) -> None:
        for entry in self._subscriptions:
            listener, wants_calls = entry
            if is_call and not wants_calls:
                continue
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener may raise anything and must break nothing
                if id(entry) not in self._already_logged:
                    self._already_logged.add(id(entry))
                    _log(listener, event)


def _events() -> ModuleType:
    from llmbatch.breaker import events  # imported late: most breakers have no listener

    return events


def _log(listener: BreakerListener, event: BreakerEvent) -> None:
    import logging  # imported late: most programs never log

    logging.getLogger("llmbatch.breaker").exception(
        "listener %r raised on %s of circuit %r; it keeps receiving events, but its errors are not logged again",
        listener,
        type(event).__name__,
        event.name,
    )
