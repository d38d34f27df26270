"""The board in a Ray actor, for all processes of a Ray cluster, and the carrier to it. Importing this loads no Ray.

The actor is detached and has a name, so that any process of the cluster finds it, and Ray starts it again when it or
its node dies. It forgets everything then: those who know more tell it. If nobody calls it for a while it ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from llmbatch.core.errors import UsageError
from llmbatch.peers.carrier import CarrierError, CarrierRefusedError
from llmbatch.peers.local import Hub
from llmbatch.peers.member import Message
from llmbatch.peers.messages import CircuitNews, parse_news

__all__ = ["NAMESPACE", "Coordinator", "RayCarrier", "end_coordinator", "load_ray", "start_coordinator"]

NAMESPACE: Final = "llmbatch"
"""Ray's namespace of the coordinators."""

_IDLE_S: Final = 600.0
"""Seconds without a call after which a coordinator ends: its processes poll it once per second."""

_NEWS_S: Final = 10.0
"""Seconds that a request for news waits for some at most."""

_MOST_NEWS: Final = 512
_MOST_CALLS: Final = 10_000
"""Calls at once; each process has one that waits for news."""


def load_ray() -> Any:
    """The package ``ray``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed", hint="pip install 'llmbatch[ray]'") from None
    return ray


class Coordinator:
    """The actor: a :class:`~llmbatch.peers.local.Hub` that answers calls and hands out news. It keeps no file.

    Its methods run on one event loop. *idle_s*: how long it lives without a call, in seconds.
    """

    def __init__(self, idle_s: float = _IDLE_S) -> None:
        self._hub = Hub()
        self._hub.listen(self._put)
        self._news: deque[tuple[int, str]] = deque(maxlen=_MOST_NEWS)
        self._last = time.time_ns()
        """Number of the last news: from the clock, so that those of a coordinator that was started again are higher."""
        self._waiting: list[asyncio.Future[None]] = []
        self._called_at = time.monotonic()
        threading.Thread(target=self._end_when_idle, args=(idle_s,), daemon=True).start()

    def _put(self, news: CircuitNews) -> None:
        self._last += 1
        self._news.append((self._last, news.encode()))
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def call(self, verb: str, args: tuple[Any, ...]) -> list[Any]:
        """Carry out one message.

        Raises:
            CarrierError: it is no message.
        """
        self._called_at = time.monotonic()
        return self._hub.answer(verb, args)

    async def news(self, after: int | None) -> tuple[int, list[str]]:
        """The number of the last news, and the news after number *after*; waits for some. None: those to come."""
        if after is None:
            return self._last, []
        if self._last <= after:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await asyncio.wait([future], timeout=_NEWS_S)
        return self._last, [text for number, text in self._news if number > after]

    def _end_when_idle(self, idle_s: float) -> None:
        while time.monotonic() - self._called_at < idle_s:
            time.sleep(min(idle_s, 5.0))
        ray = load_ray()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def start_coordinator(ray: Any, name: str) -> Any:
    """The coordinator *name*, which is started if there is none; it need not be ready yet."""
    options = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": _MOST_CALLS,
    }
    return ray.remote(Coordinator).options(**options).remote()


def end_coordinator(ray: Any, name: str) -> None:
    """End the coordinator *name*, if there is one."""
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    ray.kill(actor, no_restart=True)


class RayCarrier:
    """Carries messages to the coordinator *name* of the Ray cluster that this process belongs to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._actor: Any = None

    @property
    def address(self) -> str:
        """Where the board is."""
        return f"ray:{self._name}"

    async def connect(self) -> None:
        """Find the coordinator, or start it.

        Raises:
            CarrierRefusedError: this process belongs to no cluster.
            CarrierError: the cluster does not answer.
        """
        ray = load_ray()
        if not ray.is_initialized():
            raise CarrierRefusedError(
                f"{self.address} is in a Ray cluster, and this process belongs to none",
                "start the run by Ray (--ray ADDRESS --workers K), or share through redis://HOST:PORT/0",
            )
        try:
            self._actor = start_coordinator(ray, self._name)
        except Exception as error:  # noqa: BLE001 - Ray raises what it likes, and all of it means the same here
            raise _carrier_error(error) from None

    async def describe(self) -> str:
        """What serves the board."""
        return "a Ray actor"

    async def call(self, message: Message) -> Any:
        """Send one message and return the answer.

        Raises:
            CarrierError: the coordinator was killed, or is being started again.
        """
        try:
            return await self._actor.call.remote(message.verb, message.args)
        except Exception as error:  # noqa: BLE001
            raise _carrier_error(error) from None

    async def news(self) -> AsyncIterator[CircuitNews]:
        """Yield news until the coordinator is killed.

        Raises:
            CarrierError: it was.
        """
        after: int | None = None
        while True:
            try:
                after, texts = await self._actor.news.remote(after)
            except Exception as error:  # noqa: BLE001
                raise _carrier_error(error) from None
            for text in texts:
                yield parse_news(text)

    async def aclose(self) -> None:
        """Forget the coordinator, which goes on for others."""
        self._actor = None


def _carrier_error(error: Exception) -> CarrierError:
    return CarrierError(f"the Ray actor does not answer: {type(error).__name__}")
