"""The dashboard of a run: a server in a thread of its own, from the run's start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from types import TracebackType
from typing import Final, Self

from llmbatch.dashboard.channel import Channel
from llmbatch.dashboard.painter import Painter

__all__ = ["Dashboard"]

_log = logging.getLogger("llmbatch.dashboard")
_JOIN_S: Final = 10.0


class Dashboard:
    """Serves the page of *painter* on *listener* until the block ends; open pages are told then how the run ended.

    Nothing here raises: a dashboard that fails is gone, and the run goes on.
    """

    def __init__(self, listener: socket.socket, painter: Painter) -> None:
        self._listener = listener
        self._painter = painter
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmbatch-dashboard", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(_JOIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        loop, over = self._loop, self._over
        if loop is not None and over is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(over.set)
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001 - a dashboard may never fail a run
            _log.debug("the dashboard failed", exc_info=True)
        finally:
            self._ready.set()
            self._listener.close()

    async def _serve(self) -> None:
        from llmbatch.dashboard.server import PageServer

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        channel = Channel(self._painter)

        async def find(key: str) -> Channel | None:
            return None if key else channel

        server = PageServer(self._listener, find)
        await server.start()
        self._ready.set()
        try:
            await self._over.wait()
        finally:
            await server.aclose(channel)
