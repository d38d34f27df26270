"""A board in this process: for several runs of one process, and for tests. Its links need no network.

:class:`Hub` is the board with a clock and with listeners; a server of any kind hands messages to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from threading import Lock
from typing import Any

from llmbatch.peers.board import Board
from llmbatch.peers.carrier import CarrierError
from llmbatch.peers.member import Message
from llmbatch.peers.messages import MICROS, CircuitNews, Reply

__all__ = ["Hub", "LocalCarrier"]

_VERBS = frozenset(("open", "ask", "tell", "hold", "look", "poll", "book", "claim", "leave"))


class Hub:
    """One board with a clock. Safe for concurrent use: listeners are called in the thread of whoever made the news."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._listeners: list[Callable[[CircuitNews], None]] = []
        self._board = Board(self._tell)

    def __repr__(self) -> str:
        return f"<Hub {self._board!r}>"

    def forget(self) -> None:
        """Forget everything, as a store does that is started again."""
        with self._lock:
            self._board = Board(self._tell)

    def listen(self, listener: Callable[[CircuitNews], None]) -> Callable[[], None]:
        """Call *listener* with all news, within the step that makes them; returns a function that ends it."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    def _tell(self, news: CircuitNews) -> None:
        for listener in list(self._listeners):
            listener(news)

    def answer(self, verb: str, args: tuple[Any, ...]) -> list[Any]:
        """Carry out one message; return the answer as texts and numbers.

        Raises:
            CarrierError: it is no message.
        """
        if verb not in _VERBS:
            raise CarrierError(f"no such verb: {verb!r}")
        now = round(self._clock() * MICROS)
        try:
            with self._lock:
                return self._answer(verb, args, now)
        except (TypeError, ValueError, AttributeError) as error:
            raise CarrierError(f"{verb}: wrong arguments ({error})") from None

    def _answer(self, verb: str, args: tuple[Any, ...], now: int) -> list[Any]:
        board = self._board
        match verb:
            case "open":
                *others, is_named = args
                return list(board.open(*others, is_named=bool(is_named), now=now))
            case "tell":
                *others, is_named = args
                return list(board.tell(*others, is_named=bool(is_named), now=now))
            case "poll":
                seq, members, news = board.poll(*args, now=now)
                return [seq, members, *(item.encode() for item in news)]
            case "book":
                return [board.book(*args, now=now)]
            case "claim":
                return [board.claim(*args)]
            case "leave":
                board.leave(*args)
                return [1]
            case "ask":
                reply: Reply = board.ask(*args, now=now)
            case "hold":
                reply = board.hold(*args, now=now)
            case _:
                reply = board.look(*args, now=now)
        return list(reply)


class LocalCarrier:
    """Carries messages to a :class:`Hub` of this process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def address(self) -> str:
        """Where the board is."""
        return "this process"

    async def connect(self) -> None:
        """There is nothing to connect."""

    async def describe(self) -> str:
        """What serves the board."""
        return "this process"

    async def call(self, message: Message) -> list[Any]:
        """Carry out *message*."""
        return self._hub.answer(message.verb, message.args)

    async def news(self) -> AsyncIterator[CircuitNews]:
        """Yield news as they come."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[CircuitNews] = asyncio.Queue()

        def put(news: CircuitNews) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, news)

        remove = self._hub.listen(put)
        try:
            while True:
                yield await queue.get()
        finally:
            remove()

    async def aclose(self) -> None:
        """There is nothing to close."""
