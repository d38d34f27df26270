"""Which permit a ``with breaker:`` block holds: one breaker, any number of blocks at once, in any order.

A block begins and ends in one frame, that of the function it is written in, whatever task, thread or context drives
that function. So blocks are told apart by their frames. Where somebody else opens and closes the block (an
``ExitStack``, a class that hands ``__enter__`` and ``__exit__`` on), there are two frames; then it is the youngest such
block of the same task or thread, and failing that the oldest of all. ``breaker.acquire()`` has no such doubts.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

from llmbatch.breaker.permit import Permit

__all__ = ["Entered"]

# The frame's address tells which call of the code it is; frames themselves are not kept, for they hold their data.
Place = tuple[int, CodeType]


class Entered:
    """The permits of the blocks of one breaker. Safe between threads; a block that ends forgets its permit."""

    __slots__ = ("_lock", "_placed", "_places")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._places: dict[Permit, tuple[Place, object]] = {}
        self._placed: dict[Place, list[Permit]] = {}

    def push(self, permit: Permit, frame: FrameType) -> None:
        """A block begins in *frame*."""
        place = (id(frame), frame.f_code)
        with self._lock:
            self._places[permit] = (place, _owner())
            self._placed.setdefault(place, []).append(permit)

    def pop(self, frame: FrameType) -> Permit:
        """The permit of the block that ends in *frame*.

        Raises:
            RuntimeError: no block has begun.
        """
        with self._lock:
            permits = self._placed.get((id(frame), frame.f_code))
            permit = permits[-1] if permits else self._begun_elsewhere(frame)
            place, _ = self._places.pop(permit)
            left = self._placed[place]
            left.remove(permit)
            if not left:
                del self._placed[place]
            return permit

    def _begun_elsewhere(self, frame: FrameType) -> Permit:
        """The first there is: the youngest of this task that is not still at work, its youngest, the oldest of all."""
        owner = _owner()
        own = [(permit, place) for permit, (place, other) in self._places.items() if other == owner]
        at_work = set(_callers(frame))
        for permit, place in reversed(own):
            if place not in at_work:
                return permit
        for permit in (*(permit for permit, _ in reversed(own)), *self._places):
            return permit
        raise RuntimeError("a block of this breaker ends that did not begin")


def _callers(frame: FrameType | None) -> Iterator[Place]:
    while frame is not None:
        yield id(frame), frame.f_code
        frame = frame.f_back


def _owner() -> object:
    """The asyncio task that runs, else the thread."""
    asyncio = sys.modules.get("asyncio")
    task = None
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
    return threading.get_ident() if task is None else id(task)
