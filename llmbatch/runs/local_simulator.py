"""The simulated provider that a run starts for itself when a row names a ``sim/…`` model."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.sim.server import SimServer

__all__ = ["LocalSimulator"]

_MODELS = ("small", "large", "claude", "embed")
"""Models that are no scenario, for inputs that have several; nothing happens to them."""


class LocalSimulator:
    """Starts the server at the first call of :meth:`url`; never, if no row needs it.

    The socket listens at once, so early requests wait in its backlog until the server accepts them.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._starting: asyncio.Task[SimServer] | None = None
        self._url = ""

    def url(self) -> str:
        """The base URL, with ``/v1``."""
        if self._starting is None:
            listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
            self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            self._starting = asyncio.get_running_loop().create_task(self._start(listener))
        return self._url

    @staticmethod
    def scenarios() -> tuple[str, ...]:
        """The names of the built-in scenarios, and those of models that are answered as ``steady``."""
        from llmbatch.sim.scenario_file import built_in_scenarios

        return *built_in_scenarios(), *_MODELS

    async def _start(self, listener: socket.socket) -> SimServer:
        from llmbatch.sim.server import start

        return await start(listener=listener, seed=self._seed)

    async def aclose(self) -> None:
        """Stop the server, if it was started."""
        if self._starting is not None:
            server = await self._starting
            await server.aclose()
