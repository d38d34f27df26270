"""A message every second or two for everybody who watches a page, made once, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from llmbatch.core.errors import LlmbatchError
from llmbatch.dashboard.painter import Message, Painter

__all__ = ["Channel", "Watcher"]

_log = logging.getLogger("llmbatch.dashboard")
_EVERY_S: Final = 1.0
_SHARE: Final = 0.01
"""Of the CPU that the process uses; messages that take more come half as often: the run does little meanwhile."""
_SLOW_S: Final = 10.0
_OLDEST_PAGE_S: Final = 10.0
_PAGE_SHARE: Final = 0.02
"""The share of the time that making pages may take, however often somebody reloads one."""


class Watcher:
    """One open page: its connection, and what it was sent last. It belongs to the event loop of its server.

    There is no queue: a watcher that is slow gets the newest message next, as a whole if it has missed one.
    """

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool) -> None:
        self._transport = transport
        self._is_chunked = is_chunked
        self._seen = -1
        self._stuck_since: float | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Wait until it has the last message."""
        await self._over

    def give(self, message: Message) -> None:
        """Send *message*, unless an earlier one is on its way; a client that reads nothing for 10 s is dropped."""
        now = time.monotonic()
        if self._transport.get_write_buffer_size() and not message.is_last:
            if self._stuck_since is None:
                self._stuck_since = now
            elif now - self._stuck_since >= _SLOW_S:
                self._transport.abort()  # whoever sleeps connects again when it wakes up
            return
        self._stuck_since = None
        data = message.news if self._seen == message.number - 1 else message.whole()
        self._seen = message.number
        # Straight to the transport: a write through a task and a timeout of its own would cost ten times as much.
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        if message.is_last and not self._over.done():
            self._over.set_result(None)


class Channel:
    """The watchers of one page. It belongs to the event loop of its server.

    *is_quick*: a message is made within some milliseconds, and needs no thread of its own.
    """

    def __init__(self, painter: Painter, *, every_s: float = _EVERY_S, is_quick: bool = False) -> None:
        self._painter = painter
        self._every_s = every_s
        self._is_quick = is_quick
        self._message: Message | None = None
        self._watchers: set[Watcher] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._number = 0
        self._page: str | None = None
        self._page_until = 0.0
        self._making = asyncio.Lock()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    async def page(self) -> str:
        """The document; made anew when it is older than its making allows.

        Raises:
            LlmbatchError: it cannot be made.
        """
        loop = asyncio.get_running_loop()
        async with self._making:
            began = loop.time()
            if self._page is None or began >= self._page_until:
                self._page = await asyncio.to_thread(self._painter.page)
                took = loop.time() - began
                self._page_until = loop.time() + max(self._every_s, min(_OLDEST_PAGE_S, took / _PAGE_SHARE))
            return self._page

    async def watch(self, watcher: Watcher) -> None:
        """Give *watcher* the messages from now on, until the last one; it may be cancelled at any time."""
        self._watchers.add(watcher)
        try:
            if self._ticking is None or self._ticking.done():
                self._message = None
                self._ticking = asyncio.create_task(self._tick())
            elif self._message is not None:
                watcher.give(self._message)
            await watcher.wait()
        finally:
            self._watchers.discard(watcher)
            if not self._watchers and self._ticking is not None:
                self._ticking.cancel()

    async def end(self) -> None:
        """Give everybody who watches the last message."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        if self._watchers:
            await self._publish(is_last=True)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            used, spent = time.process_time(), time.thread_time()
            await self._publish(is_last=False)
            # What takes longer than a second gets as much rest as it took.
            due = max(due + self._every_s, loop.time() + min(self._every_s, loop.time() - due))
            await asyncio.sleep(due - loop.time())
            if self._is_quick and time.thread_time() - spent > _SHARE * (time.process_time() - used):
                due += self._every_s
                await asyncio.sleep(due - loop.time())

    async def _publish(self, *, is_last: bool) -> None:
        self._number += 1
        try:
            if self._is_quick and not is_last:
                message = self._painter.message(self._number)
            else:
                message = await asyncio.to_thread(self._painter.message, self._number, is_last=is_last)
        except LlmbatchError:
            _log.debug("no message could be made", exc_info=True)
            return
        self._message = message
        for watcher in list(self._watchers):
            watcher.give(message)
