"""Keep one circuit breaker per key (route, model, tenant): created on first use, evicted when unused."""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.fork import fork_safe_lock
from llmbatch.breaker.listeners import BreakerListener, check_listener, log_error
from llmbatch.breaker.uncopyable import Uncopyable

if TYPE_CHECKING:
    from llmbatch.breaker.events import StateChanged
    from llmbatch.breaker.gate import CircuitBoard

__all__ = ["BreakerRegistry"]

K = TypeVar("K")

MAX_CANDIDATES = 100
"""How many of the least recently used breakers may be passed over in search of one without failures."""


HEALTHY, CLOSED, NOT_CLOSED, BY_HAND = range(4)
"""What is evicted first, and what last."""


def _rank(breaker: CircuitBreaker) -> int:
    if breaker.is_forced:
        return BY_HAND
    if breaker.state != "closed":
        return NOT_CLOSED
    return CLOSED if breaker.failures else HEALTHY


class BreakerRegistry(Uncopyable, Generic[K]):
    """Circuit breakers by key (hashable). Thread-safe, also in a process that is forked.

    ::

        breakers = BreakerRegistry(lambda model: CircuitBreaker(10 if model == "o3" else 5, 60.0, name=model))
        reply = await breakers[model].async_call(ask, model, prompt)

    At most *capacity* breakers are kept. A new key beyond that evicts another one: of the hundred least recently used,
    the first that is closed and has no failures; else the least recently used one that is closed; only if none is
    closed, the least recently used open one; and only if all are, the least recently used one that is forced or
    disabled by hand. An evicted breaker that is still referenced, for example by a call in flight, is found again under
    its key. Cost of a new key: O(*capacity*) at worst, if all are open.

    When a breaker is evicted and no longer in use, listeners that have a method ``forget(name)`` get its name, unless
    another breaker has the same; :class:`BreakerMetrics` does. This happens with the next new key, or :meth:`items`.

    Args:
        make: creates the breaker of a key, with its options and name. Called once per key, under the registry's lock.
            Default: ``CircuitBreaker(name=str(key))``.
        capacity: maximum breakers kept, at least 1. Default: 1,000.
        shared: a board such as ``llmbatch.RedisBoard``, for the breakers of the default *make*; a *make* of your own
            gives it to :class:`CircuitBreaker` itself.

    Raises:
        ValueError: *capacity* is out of range.
        TypeError: both *make* and *shared* are given.
    """

    INSTEAD = "create another registry with the same arguments"

    def __init__(
        self,
        make: Callable[[K], CircuitBreaker] | None = None,
        *,
        capacity: int = 1000,
        shared: CircuitBoard | None = None,
    ) -> None:
        if make is not None and shared is not None:
            raise TypeError("give shared to the CircuitBreaker that make creates: CircuitBreaker(shared=board, name=…)")
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity is {capacity!r}, must be a whole number of at least 1")
        self.capacity = capacity
        self._make = make or (lambda key: CircuitBreaker(name=str(key), shared=shared))
        self._lock = fork_safe_lock()
        self._kept: OrderedDict[K, CircuitBreaker] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[K, CircuitBreaker] = weakref.WeakValueDictionary()
        self._listeners: tuple[tuple[BreakerListener, bool], ...] = ()
        self._names: Counter[str] = Counter()
        """How many breakers have each name, also evicted ones that are still in use."""
        self._gone: deque[str] = deque()
        """Names of breakers that no longer exist and that listeners have not been told of."""

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
                self._watch(breaker)
                for listener, calls in self._listeners:
                    breaker.add_listener(listener, calls=calls)
            while len(self._kept) >= self.capacity:
                self._kept.pop(self._key_to_evict(), None)
            self._kept[key] = self._alive[key] = breaker
        self._forget_gone()
        return breaker

    def discard(self, key: K) -> None:
        """Remove the breaker of *key*, if there is one; the next use creates a new one."""
        with self._lock:
            self._kept.pop(key, None)
            self._alive.pop(key, None)
        self._forget_gone()

    @overload
    def add_listener(self, listener: Callable[[StateChanged], None], *, calls: Literal[False] = False) -> None: ...
    @overload
    def add_listener(self, listener: BreakerListener, *, calls: bool) -> None: ...
    def add_listener(self, listener: Callable[[Any], None], *, calls: bool = False) -> None:
        """Add *listener* to all present and future breakers; see :meth:`CircuitBreaker.add_listener`.

        Raises:
            TypeError: *listener* is not callable, or async.
        """
        check_listener(listener)
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
        self._forget_gone()
        with self._lock:
            return list(self._kept.items())

    # Eviction.

    def _key_to_evict(self) -> K:
        found: dict[int, K] = {}
        for number, (key, breaker) in enumerate(self._kept.items()):
            if number >= MAX_CANDIDATES and CLOSED in found:
                break
            rank = _rank(breaker)
            found.setdefault(rank, key)
            if rank == HEALTHY:
                break
        return found[min(found)]

    def _watch(self, breaker: CircuitBreaker) -> None:
        name, gone = breaker.name, self._gone
        self._names[name] += 1
        # Appending needs no lock: the garbage collector may run it anywhere.
        weakref.finalize(breaker, gone.append, name).atexit = False

    def _forget_gone(self) -> None:
        """Tell listeners of breakers that no longer exist. Outside the lock: listeners are foreign code."""
        while self._gone:
            with self._lock:
                try:
                    name = self._gone.popleft()
                except IndexError:  # pragma: no cover - a race
                    return  # another thread or a signal handler was faster
                self._names[name] -= 1
                if self._names[name]:
                    continue
                del self._names[name]
                listeners = self._listeners
            for listener, _ in listeners:
                forget = getattr(listener, "forget", None)
                if forget is None:
                    continue
                try:
                    forget(name)
                except Exception:  # noqa: BLE001 - a listener may raise anything and must break nothing
                    log_error(listener, "forget", name)

    def __repr__(self) -> str:
        breakers = self.items()
        troubled = sum(breaker.state != "closed" for _, breaker in breakers)
        return f"<BreakerRegistry {len(breakers)} of at most {self.capacity}, {troubled} not closed>"
