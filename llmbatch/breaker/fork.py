"""Keep the locks of breakers usable after ``os.fork``: they are free in the child, and the state is that of the parent.

The lock of a thread that does not exist in the child would be held for ever. A fork first waits a moment for steps
that other threads are in, so that the child gets no half-made change. Objects are referenced weakly.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from typing import Protocol, TypeVar

__all__ = ["fork_safe_lock", "repair_after_fork"]

LONGEST_WAIT = 0.1
"""Longest wait in seconds, all locks together, for threads that are within a step when another one forks."""


class Repairable(Protocol):
    """An object with more to repair in a child process than its lock."""

    def repair_after_fork(self, *, is_whole: bool) -> None:
        """In the child. *is_whole*: no other thread held the lock when the process forked."""
        ...


T = TypeVar("T")

_locks: weakref.WeakValueDictionary[int, threading.RLock] = weakref.WeakValueDictionary()
_repairable: weakref.WeakValueDictionary[int, Repairable] = weakref.WeakValueDictionary()
"""By the number of their lock, which lives as long as they do."""
_held: dict[int, list[threading.RLock]] = {}
"""Locks that a forking thread holds meanwhile, by the thread's number."""


def fork_safe_lock() -> threading.RLock:
    """Return a reentrant lock that is free in a forked process, unless the thread that forks is within it."""
    lock = threading.RLock()
    _locks[id(lock)] = lock
    return lock


def repair_after_fork(subject: Repairable, lock: threading.RLock) -> None:
    """Repair *subject*, whose *lock* is from :func:`fork_safe_lock`, in processes that are forked while it lives."""
    _repairable[id(lock)] = subject


def _alive(references: weakref.WeakValueDictionary[int, T]) -> list[T]:
    return [subject for ref in references.valuerefs() if (subject := ref()) is not None]


def _before() -> None:
    deadline = time.monotonic() + LONGEST_WAIT
    held = _held[threading.get_ident()] = []
    for lock in _alive(_locks):
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):  # pragma: no branch - of untraced tests
            held.append(lock)


def _after_in_parent() -> None:
    for lock in _held.pop(threading.get_ident(), ()):
        lock.release()


def _after_in_child() -> None:  # pragma: no cover - tests/breaker/test_breaker_fork.py, in untraced processes
    held = _held.pop(threading.get_ident(), [])
    _held.clear()
    whole = {id(lock) for lock in held}
    for lock in _alive(_locks):
        if id(lock) in whole:
            lock.release()
        else:
            lock._at_fork_reinit()  # type: ignore[attr-defined]  # as the locks of threading and logging are
    for number, ref in list(_repairable.items()):
        ref.repair_after_fork(is_whole=number in whole)


if sys.platform != "win32":
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
