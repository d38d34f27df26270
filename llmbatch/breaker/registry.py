"""Keep one circuit breaker per key (route, model, tenant): created on first use, evicted when unused."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload
from weakref import WeakValueDictionary

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.listeners import BreakerListener

if TYPE_CHECKING:
    from llmbatch.breaker.events import StateChanged

__all__ = ["BreakerRegistry"]

K = TypeVar("K")

MAX_CANDIDATES = 100
"""How many of the least recently used breakers are considered for eviction, which bounds the cost of a new key."""


class BreakerRegistry(Generic[K]):
    """Circuit breakers by key (hashable). Thread-safe.

    ::

        breakers = BreakerRegistry(lambda model: CircuitBreaker(10 if model == "o3" else 5, 60.0, name=model))
        reply = await breakers[model].async_call(ask, model, prompt)

    At most *capacity* breakers are kept. A new key beyond that evicts the least recently used breaker that is closed
    and has no failures; if none of the hundred least recently used is, the least recently used one. An evicted breaker
    that is still referenced, for example by a call in flight, is found again under its key.

    Args:
        make: creates the breaker of a key, with its options and name. Called once per key, under the registry's lock.
            Default: ``CircuitBreaker(name=str(key))``.
        capacity: maximum breakers kept, at least 1. Default: 1,000.

    Raises:
        ValueError: *capacity* is out of range.
    """

    def __init__(self, make: Callable[[K], CircuitBreaker] | None = None, *, capacity: int = 1000) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity is {capacity!r}, must be a whole number of at least 1")
        self.capacity = capacity
        self._make = make or (lambda key: CircuitBreaker(name=str(key)))
        self._lock = threading.RLock()
        self._kept: OrderedDict[K, CircuitBreaker] = OrderedDict()
        self._alive: WeakValueDictionary[K, CircuitBreaker] = WeakValueDictionary()
        self._listeners: tuple[tuple[BreakerListener, bool], ...] = ()

    def __getitem__(self, key: K) -> CircuitBreaker:
        """Return the breaker of *key*, created now if there is none. Counts as a use of the key."""
        with self._lock:
            breaker = self._kept.get(key)
            if breaker is not None:
                self._kept.move_to_end(key)
                return breaker
            breaker = self._alive.get(key)
            if breaker is None:
                breaker = self._make(key)
                for listener, calls in self._listeners:
                    breaker.add_listener(listener, calls=calls)
            while len(self._kept) >= self.capacity:
                self._kept.pop(self._key_to_evict(), None)
            self._kept[key] = self._alive[key] = breaker
            return breaker

    def discard(self, key: K) -> None:
        """Remove the breaker of *key*, if there is one; the next use creates a new one."""
        with self._lock:
            self._kept.pop(key, None)
            self._alive.pop(key, None)

    @overload
    def add_listener(self, listener: Callable[[StateChanged], None], *, calls: Literal[False] = False) -> None: ...
    @overload
    def add_listener(self, listener: BreakerListener, *, calls: bool) -> None: ...
    def add_listener(self, listener: Callable[[Any], None], *, calls: bool = False) -> None:
        """Add *listener* to all present and future breakers; see :meth:`CircuitBreaker.add_listener`."""
        with self._lock:
            self._listeners = (*self._listeners, (listener, calls))
            for breaker in list(self._alive.values()):
                breaker.add_listener(listener, calls=calls)

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._kept

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def __iter__(self) -> Iterator[K]:
        """Iterate over the present keys, least recently used first."""
        with self._lock:
            return iter(list(self._kept))

    def items(self) -> list[tuple[K, CircuitBreaker]]:
        """Present keys and breakers, least recently used first. Does not count as a use."""
        with self._lock:
            return list(self._kept.items())

    def _key_to_evict(self) -> K:
        for key, breaker in islice(self._kept.items(), MAX_CANDIDATES):
            if breaker.state == "closed" and not breaker.failures and not breaker.is_forced:
                return key
        return next(iter(self._kept))

    def __repr__(self) -> str:
        breakers = self.items()
        troubled = sum(breaker.state != "closed" for _, breaker in breakers)
        return f"<BreakerRegistry {len(breakers)} of at most {self.capacity}, {troubled} not closed>"
