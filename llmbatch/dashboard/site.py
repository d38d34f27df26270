"""The pages of ``llmbatch view``: a list, and one page for each output in it. What is not in it does not exist."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from llmbatch.dashboard.catalog import Catalog
from llmbatch.dashboard.channel import Channel
from llmbatch.dashboard.overview import ListPainter, page_path
from llmbatch.dashboard.painter import RunPainter
from llmbatch.dashboard.sources import FileSource

__all__ = ["Site"]

_MOST_PAGES: Final = 32
_LISTED_FOR_S: Final = 1.0


class Site:
    """Finds channels by the keys of *catalog*. It belongs to one event loop."""

    def __init__(self, catalog: Catalog, *, version: str) -> None:
        self._catalog = catalog
        self._version = version
        self._list = Channel(ListPainter(catalog, version=version))
        self._pages: dict[Path, Channel] = {}
        self._paths: dict[str, Path] = {}
        self._listed_at: float | None = None
        self._listing = asyncio.Lock()

    async def find(self, key: str) -> Channel | None:
        """The channel of the output *key*, or of the list where it is empty; None if there is no such output."""
        if not key:
            return self._list
        path = await self._path(key)
        if path is None:
            return None
        channel = self._pages.pop(path, None)
        if channel is None:
            events = f"{page_path(key)}events"
            channel = Channel(RunPainter(FileSource(path, version=self._version), events=events, up="/"))
        self._pages[path] = channel  # the last one used is the last to go
        for other, idle in list(self._pages.items()):
            if len(self._pages) > _MOST_PAGES and not idle.watchers and idle is not channel:
                del self._pages[other]
        return channel

    async def _path(self, key: str) -> Path | None:
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if self._listed_at is None or now - self._listed_at >= _LISTED_FOR_S:
                listing = await asyncio.to_thread(self._catalog.listing)
                self._paths = {entry.key: entry.path for entry in listing.entries}
                self._listed_at = now
            return self._paths.get(key)
