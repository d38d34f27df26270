"""What carries messages between a process and the board, and the link that uses it from a thread of its own.

The link's thread has an event loop for itself, so that neither a store that hangs nor one that is slow is ever in the
path of a call. It connects again and again, with growing waits, and tells once that the board is gone and once that it
is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from random import Random
from typing import Any, Protocol

from llmbatch.peers.group import Answer, CameBack, Delivery, Heard, WentDown
from llmbatch.peers.member import Message
from llmbatch.peers.messages import CircuitNews, PollReply, Reply, parse_news

__all__ = ["Carrier", "CarrierError", "CarrierRefusedError", "Link", "as_poll_reply", "as_reply", "new_owner"]

POLL_SECONDS = 1.0
"""Seconds between two polls. Subscriptions lose news: a poll finds what they lost."""

PATIENCE = 2.0
"""Seconds that the board may take for an answer before it counts as gone."""

CONNECT_PATIENCE = 10.0
"""Seconds that connecting may take: some seven round trips, to a store that may be a second away."""

STEP_PATIENCE = 3.0
"""Seconds that one step of connecting may take: a store that hangs is not waited for any longer."""

LEAST_WAIT, MOST_WAIT = 0.5, 5.0
"""Seconds between two attempts to connect, at first and at most."""

_WAITING = 10_000
"""Messages that wait for a slow board; beyond it, it counts as gone."""


class CarrierError(Exception):
    """The board cannot be reached, or does not answer as it should. The text names no password."""


class CarrierRefusedError(CarrierError):
    """The store will never do as it is given: it wants a password, or is a cluster. *hint*: what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Carrier(Protocol):
    """Carries messages to one board. Used on one event loop. All methods raise :class:`CarrierError`."""

    @property
    def address(self) -> str:
        """Where the board is, for people; without a password."""
        ...

    async def connect(self) -> None:
        """Connect, anew if need be.

        Raises:
            CarrierRefusedError: it is no use to try again.
        """
        ...

    async def describe(self) -> str:
        """What serves the board, for people; empty if that is not known."""
        ...

    async def call(self, message: Message) -> Any:
        """Send one message and return the answer: a list of texts and numbers."""
        ...

    def news(self) -> AsyncIterator[CircuitNews]:
        """Yield news as they come, until the connection ends."""
        ...

    async def aclose(self) -> None:
        """Close all connections; idempotent."""
        ...


def as_reply(answer: Any) -> Reply:
    """The answer of a circuit's verb.

    Raises:
        CarrierError: it is something else.
    """
    try:
        kind, version, fence, wait = answer
        return Reply(kind, int(version), int(fence), int(wait))
    except (TypeError, ValueError):
        raise CarrierError(f"an answer that means nothing: {answer!r:.80}") from None


def as_poll_reply(answer: Any) -> PollReply:
    """The answer to ``poll``.

    Raises:
        CarrierError: it is something else.
    """
    try:
        seq, members, *news = answer
        return PollReply(int(seq), int(members), tuple(map(parse_news, news)))
    except (TypeError, ValueError):
        raise CarrierError(f"an answer that means nothing: {answer!r:.80}") from None


def new_owner() -> str:
    """A name for this process that no other has: host, process, and chance."""
    host = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter in "-.")[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Link:
    """Connects one process with a board, in a thread of its own. *deliver* is called in that thread: keep it short.

    *carrier* is made by *make*, in the thread. :meth:`send` and :meth:`close` may be called from any thread.
    """

    def __init__(
        self, make: Callable[[], Carrier], owner: str, deliver: Callable[[Delivery], None], *, seed: str | None = None
    ) -> None:
        self._make = make
        self._owner = owner
        self._deliver = deliver
        self._random = Random(seed)
        self.first: Future[str] = Future()
        """Set once the first attempt to connect has ended: with the address, or with its error."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[Message] | None = None
        self._ended: asyncio.Event | None = None
        self._is_up = False
        self._since = 0
        self._failed: Message | None = None
        """The message that broke the last connection: tried first on the next one."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmbatch-peers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def send(self, message: Message) -> None:
        """Send *message* as soon as that is possible; dropped while the board is away. Never waits."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._put, message)

    def close(self, timeout: float = PATIENCE) -> None:
        """Say good-bye to the board and end the thread, within *timeout* seconds."""
        self._ready.wait(timeout)
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # In the thread.

    def _put(self, message: Message) -> None:
        if self._queue is not None and self._is_up:
            self._queue.put_nowait(message)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - whoever waits for the first attempt must hear of it
            if not self.first.done():
                self.first.set_exception(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue, self._ended = asyncio.Queue(), asyncio.Event()
        self._ready.set()
        carrier = self._make()
        ending = asyncio.create_task(self._ended.wait())
        wait = LEAST_WAIT
        try:
            while not ending.done():
                why = await self._connect(carrier)
                if why is None:
                    wait = LEAST_WAIT
                    why = await self._carry(carrier, self._queue, ending)
                if ending.done():
                    break
                self._went_down(why)
                await asyncio.wait([ending], timeout=wait * self._random.uniform(0.75, 1.25))
                wait = min(MOST_WAIT, wait * 2)
        finally:
            ending.cancel()
            with contextlib.suppress(CarrierError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await carrier.aclose()

    async def _connect(self, carrier: Carrier) -> str | None:
        """Connect and poll once; return why that failed, None if it did not."""
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                await carrier.connect()
                reply = await self._poll(carrier)
                if self._failed is not None and self._failed.verb in ("open", "ask", "tell", "hold"):
                    await carrier.call(Message("look", (self._failed.args[0],)))
        except (CarrierError, TimeoutError) as error:
            if not self.first.done():
                self.first.set_exception(error if isinstance(error, CarrierError) else CarrierError("no answer"))
            return str(error) or "no answer"
        self._failed = None
        self._is_up = True
        self._deliver(CameBack())
        self._deliver(Heard(reply.news, reply.members))
        if not self.first.done():
            self.first.set_result(carrier.address)
        return None

    def _went_down(self, why: str) -> None:
        self._is_up = False
        while self._queue is not None and not self._queue.empty():
            self._queue.get_nowait()
        self._deliver(WentDown(why))

    async def _carry(self, carrier: Carrier, queue: asyncio.Queue[Message], ending: asyncio.Task[bool]) -> str:
        """Carry messages and news until something fails; return what."""
        jobs: list[Coroutine[Any, Any, None]] = [
            self._send_all(carrier, queue),
            self._poll_on(carrier),
            self._listen(carrier),
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            done, _ = await asyncio.wait([*tasks, ending], return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await self._say_goodbye(carrier, queue)
                return "closed"
            error = next(iter(done - {ending})).exception()
            if error is not None and not isinstance(error, CarrierError | TimeoutError):
                raise error
            return str(error or "") or "no answer"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_goodbye(self, carrier: Carrier, queue: asyncio.Queue[Message]) -> None:
        """Send what waits, such as the end of a probe, and leave."""
        with contextlib.suppress(CarrierError, TimeoutError):
            async with asyncio.timeout(PATIENCE / 2):
                while not queue.empty():
                    await carrier.call(queue.get_nowait())
                await carrier.call(Message("leave", (self._owner,)))

    async def _send_all(self, carrier: Carrier, queue: asyncio.Queue[Message]) -> None:
        while True:
            message = await queue.get()
            if queue.qsize() > _WAITING:
                raise CarrierError("too slow")
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await carrier.call(message)
                if message.verb in ("book", "claim"):
                    self._deliver(Answer(message, int(answer[0])))
                elif message.verb != "leave":
                    self._deliver(Answer(message, as_reply(answer)))
            except (CarrierError, TimeoutError):
                self._failed = message
                raise

    async def _poll_on(self, carrier: Carrier) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS * self._random.uniform(0.9, 1.1))
            async with asyncio.timeout(PATIENCE):
                reply = await self._poll(carrier)
            self._deliver(Heard(reply.news, reply.members))

    async def _poll(self, carrier: Carrier) -> PollReply:
        reply = as_poll_reply(await carrier.call(Message("poll", (self._owner, self._since))))
        self._since = reply.seq
        return reply

    async def _listen(self, carrier: Carrier) -> None:
        async for news in carrier.news():
            self._deliver(Heard((news,)))
        raise CarrierError("the connection for news has ended")
