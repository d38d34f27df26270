"""The dashboard of a run: a server in a thread of its own, from the first look at it to the run's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
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

    Until somebody connects the thread sleeps, and no server is loaded. Nothing here raises: a dashboard that fails is
    gone, and the run goes on.
    """

    def __init__(self, listener: socket.socket, painter: Painter) -> None:
        self._listener = listener
        self._painter = painter
        self._over, self._tell = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="llmbatch-dashboard", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with contextlib.suppress(OSError):
            self._tell.send(b"x")
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            ready, _, _ = select.select([self._listener, self._over], [], [])
            if self._over not in ready:
                asyncio.run(self._serve())
        except Exception:  # noqa: BLE001 - a dashboard may never fail a run
            _log.debug("the dashboard failed", exc_info=True)
        finally:
            for one in (self._listener, self._over, self._tell):
                one.close()

    async def _serve(self) -> None:
        from llmbatch.dashboard.server import PageServer

        channel = Channel(self._painter, is_quick=True)

        async def find(key: str) -> Channel | None:
            return None if key else channel

        server = PageServer(self._listener, find)
        await server.start()
        try:
            self._over.setblocking(False)
            await asyncio.get_running_loop().sock_recv(self._over, 1)
        finally:
            await server.aclose(channel)
