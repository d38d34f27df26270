"""One message a second for everybody who watches a page, made once, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from llmbatch.core.errors import LlmbatchError
from llmbatch.dashboard.painter import Message, Painter

__all__ = ["Channel"]

_log = logging.getLogger("llmbatch.dashboard")
_EVERY_S: Final = 1.0
_OLDEST_PAGE_S: Final = 10.0
_PAGE_SHARE: Final = 0.02
"""The share of the time that making pages may take, however often somebody reloads one."""


class Channel:
    """The watchers of one page. It belongs to the event loop of its server; a watcher may be cancelled at any time.

    There is no queue: a watcher that is slow gets the newest message next, as a whole if it has missed one.
    """

    def __init__(self, painter: Painter, *, every_s: float = _EVERY_S) -> None:
        self._painter = painter
        self._every_s = every_s
        self._message: Message | None = None
        self._news = asyncio.Event()
        self._watchers = 0
        self._ticking: asyncio.Task[None] | None = None
        self._number = 0
        self._page: str | None = None
        self._page_until = 0.0
        self._making = asyncio.Lock()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return self._watchers

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

    async def watch(self) -> AsyncIterator[bytes]:
        """The messages from now on, until the last one."""
        self._watchers += 1
        if self._ticking is None or self._ticking.done():
            self._message = None
            self._ticking = asyncio.create_task(self._tick())
        seen = -1
        try:
            while True:
                message = self._message
                if message is None or message.number == seen:
                    await self._news.wait()
                    continue
                yield message.news if seen == message.number - 1 else await asyncio.to_thread(message.whole)
                seen = message.number
                if message.is_last:
                    return
        finally:
            self._watchers -= 1
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
            await self._publish(is_last=False)
            # What takes longer than a second gets as much rest as it took.
            due = max(due + self._every_s, loop.time() + min(self._every_s, loop.time() - due))
            await asyncio.sleep(due - loop.time())

    async def _publish(self, *, is_last: bool) -> None:
        self._number += 1
        try:
            self._message = await asyncio.to_thread(self._painter.message, self._number, is_last=is_last)
        except LlmbatchError:
            _log.debug("no message could be made", exc_info=True)
            return
        finally:
            self._news.set()
            self._news.clear()
