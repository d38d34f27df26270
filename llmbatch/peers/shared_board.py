"""``RedisBoard`` and ``LocalBoard``: circuit breakers of several processes share their circuits.

Nothing is in the path of a call while a circuit is closed. News and messages go through a thread of the board's own;
each breaker decides by its own evidence, opens when another one has opened, and probes only with the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, Protocol

from llmbatch.peers.address import SharedAddress, read_address
from llmbatch.peers.carrier import Carrier, CarrierError, CarrierRefusedError, Link, new_owner
from llmbatch.peers.group import Delivery, Group, Heard, WentDown
from llmbatch.peers.local import Hub, LocalCarrier
from llmbatch.peers.member import Effect, Member

__all__ = ["LocalBoard", "RedisBoard", "SharedBoard"]

_log = logging.getLogger("llmbatch.peers")

MOMENT = 0.25
"""Longest wait of a call that may probe for the lease, in seconds."""

UNUSED = 2.0
"""Seconds after which a lease is given back that no call has used."""

_State = Literal["closed", "open", "half_open"]


class _Circuit(Protocol):
    """A circuit breaker's circuit, as the board needs it."""

    @property
    def name(self) -> str: ...

    def hear(self, what: Literal["open", "failed", "close", "hold", "ready"], wait: float, why: str) -> None: ...

    def is_probe_due(self) -> bool: ...


class SharedBoard:
    """Circuits that breakers of several processes share: give it to each as ``CircuitBreaker(shared=board, name=…)``.

    Breakers of one name are one circuit. One board serves all breakers of a process, from any thread and event loop;
    a forked process connects anew. If the store is away, each process goes on with its own circuits; the logger
    ``llmbatch.peers`` says so once, and once when it is back.
    """

    def __init__(self, make: Callable[[], Carrier], where: str) -> None:
        self._make = make
        self._where = where
        self._lock = threading.RLock()
        self._gates: weakref.WeakValueDictionary[str, _Gate] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._told_down = False
        self._link: Link | None = None
        self._group: Group
        if hasattr(os, "register_at_fork"):
            board = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _repair_after_fork(board))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where}, {len(self._gates)} circuits>"

    def attach(self, circuit: _Circuit, lease: float) -> _Gate:
        """Share *circuit*, whose probes take *lease* seconds at most; it is referenced weakly.

        Raises:
            ValueError: it has no name.
        """
        if not circuit.name:
            raise ValueError("a shared circuit breaker needs a name, by which the processes know it: name='openai'")
        with self._lock:
            key = f"{circuit.name}\0{next(self._numbers)}"
            gate = _Gate(self, circuit, key, lease)
            self._gates[key] = gate
            if self._link is None:
                self._start()
            gate.join()
        return gate

    def wait_connected(self, timeout: float = 5.0) -> None:
        """Wait until the store has answered, for a check when a service starts. Nothing else needs it.

        Raises:
            ConnectionError: it has not, within *timeout* seconds; the message says why. The board goes on trying.
        """
        with self._lock:
            if self._link is None:
                self._start()
            link = self._link
        assert link is not None  # noqa: S101 - it was just started
        try:
            link.first.result(timeout)
        except CarrierRefusedError as error:
            raise ConnectionError(f"{error}; {error.hint}") from None
        except (CarrierError, TimeoutError) as error:
            raise ConnectionError(f"{self._where} does not answer: {error or 'no answer'}") from None

    def close(self) -> None:
        """Leave the board. Its breakers go on with their own circuits."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
            self._deliver(link, WentDown("closed"), is_told=False)

    def _start(self) -> None:
        owner = new_owner()
        link: Link
        link = Link(self._make, owner, lambda delivery: self._deliver(link, delivery))
        self._group = Group(owner, link.send, chance=random.random)
        self._link = link
        link.start()

    def repair_after_fork(self) -> None:
        """In a forked process: it has no thread and no connection yet, and another name."""
        self._lock = threading.RLock()
        self._told_down = False
        if self._link is None:
            return
        self._start()
        for gate in list(self._gates.values()):
            gate.join()

    def _deliver(self, link: Link, delivery: Delivery, *, is_told: bool = True) -> None:
        """In the link's thread, outside the locks of breakers: they may hold theirs and want this one."""
        now = time.monotonic()
        with self._lock:
            if is_told and link is not self._link:
                return
            effects = self._group.receive(delivery, now)
            pairs = [(gate, effect) for key, effect in effects if (gate := self._gates.get(key)) is not None]
            if isinstance(delivery, Heard) and delivery.members is not None:
                for gate in list(self._gates.values()):
                    gate.give_back_unused(now)
        if is_told:
            self._tell(delivery)
        for gate, effect in pairs:
            gate.apply(effect)

    def _tell(self, delivery: Delivery) -> None:
        if isinstance(delivery, WentDown) and not self._told_down:
            self._told_down = True
            _log.warning("the shared store %s is gone (%s): own circuits are used", self._where, delivery.why)
        elif isinstance(delivery, Heard) and self._told_down:
            self._told_down = False
            _log.info("the shared store %s is back", self._where)


def _repair_after_fork(board: weakref.ref[SharedBoard]) -> None:
    found = board()
    if found is not None:
        found.repair_after_fork()


class _Gate:
    """One breaker at a board. Thread-safe by the board's lock, which breakers take within theirs."""

    __slots__ = ("__weakref__", "_board", "_circuit", "_granted_at", "_hearing", "_lease", "_member", "_waiting", "key")

    def __init__(self, board: SharedBoard, circuit: _Circuit, key: str, lease: float) -> None:
        self.key = key
        self._board = board
        self._circuit = weakref.ref(circuit)
        self._lease = lease
        self._member: Member
        self._hearing = 0
        """The thread that applies what was heard, while it does."""
        self._waiting: list[Callable[[], None]] = []
        self._granted_at: float | None = None

    def join(self) -> None:
        """Share the circuit; under the board's lock."""
        board, number = self._board, self.key.rpartition("\0")[2]
        owner = f"{board._group.owner}#{number}"
        name = self.key.rpartition("\0")[0]
        self._member, effects = board._group.join(self.key, time.monotonic(), name=name, owner=owner)
        for effect in effects:
            self.apply(effect)

    # Called by the breaker.

    def prepare(self) -> None:
        """Ask for the lease if the next call would probe, and wait a moment for it, unless this is an event loop."""
        circuit = self._circuit()
        if circuit is None or not circuit.is_probe_due():
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            answered = threading.Event()
            if not self._ask(answered.set):
                answered.wait(MOMENT)
        else:
            self._ask(None)

    async def prepare_async(self) -> None:
        """The same, on an event loop."""
        circuit = self._circuit()
        if circuit is None or not circuit.is_probe_due():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # not asyncio: the next call finds the lease
            self._ask(None)
            return
        answered = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answered.set)

        if not self._ask(wake):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOMENT):
                    await answered.wait()

    def _ask(self, wake: Callable[[], None] | None) -> bool:
        """Whether the circuit may probe; if not, *wake* is called with the answer."""
        with self._board._lock:
            if self._member.may_probe(self._lease, time.monotonic()) or not self._member.is_waiting:
                return True
            if wake is not None:
                self._waiting.append(wake)
            return False

    def may_probe(self) -> bool:
        """Whether this process may probe now."""
        with self._board._lock:
            may_probe = self._member.may_probe(self._lease, time.monotonic())
            if may_probe:
                self._granted_at = None
            return may_probe

    def moved(self, old: _State, new: _State, wait: float, why: str, *, by_hand: bool) -> None:
        """Note that the circuit has changed; what it heard of others is no news."""
        if self._hearing == threading.get_ident():
            return
        with self._board._lock:
            now = time.monotonic()
            if new == "closed":
                self._member.closed_by_hand(now)
            elif old == "closed" and by_hand:
                self._member.opened_privately()
            elif old == "closed":
                self._member.opened(wait, why, now)

    def probe_ended(self, how: Any, wait: float) -> None:
        """Note how a probe ended."""
        with self._board._lock:
            self._member.probe_ended(how, wait, time.monotonic(), is_named=False)

    # Called by the board.

    def give_back_unused(self, now: float) -> None:
        """Release a lease that no call has used; under the board's lock."""
        if self._granted_at is not None and now - self._granted_at >= UNUSED:
            self._granted_at = None
            if self._member.holds_lease:
                self._member.probe_ended("release", 0.0, now, is_named=False)

    def apply(self, effect: Effect) -> None:
        """Tell the circuit; outside the board's lock, but for one that just joins."""
        if effect.kind == "ready" and self._member.holds_lease and self._granted_at is None:
            self._granted_at = time.monotonic()
        circuit = self._circuit()
        if circuit is not None:
            self._hearing = threading.get_ident()
            try:
                circuit.hear(effect.kind, effect.wait, effect.why)
            finally:
                self._hearing = 0
        with self._board._lock:
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()


class RedisBoard(SharedBoard):
    """Circuits shared through Redis or Valkey at *url* (``redis://…``, ``rediss://…``, ``env:NAME``).

    *name* separates fleets that use one store. Needs the extra ``redis``. It connects with the first breaker.

    Raises:
        UsageError: *url* is no such address, or the extra is not installed.
    """

    def __init__(self, url: str, *, name: str = "") -> None:
        address: SharedAddress = read_address(url, os.environ, source="url", name=name)
        address.check_installed()
        super().__init__(address.carrier, address.shown)


class LocalBoard(SharedBoard):
    """Circuits that breakers of this process share among them; for tests of what a shared circuit does.

    Several boards with one *hub* are as several processes.
    """

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub or Hub()
        super().__init__(lambda: LocalCarrier(self.hub), "in this process")
