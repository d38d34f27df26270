"""The channel of a run to what it shares with other processes: a link in a thread, and deliveries on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import JSON
from llmbatch.peers.address import read_address
from llmbatch.peers.carrier import (
    CONNECT_PATIENCE,
    Carrier,
    CarrierError,
    CarrierRefusedError,
    Link,
    as_reply,
    new_owner,
)
from llmbatch.peers.group import Delivery
from llmbatch.peers.local import Hub, LocalCarrier
from llmbatch.peers.member import Message
from llmbatch.peers.messages import circuit_id

__all__ = ["LinkChannel", "StoreReport", "look_at_store", "open_channel", "part_of"]

_FIRST_SECONDS = 3.0
"""How long a run waits for the first answer of a store before it begins without."""


class LinkChannel:
    """Carries messages to a board and its deliveries to the running event loop.

    *make* makes the carrier; *shown* is where the board is, for people.
    """

    def __init__(self, make: Callable[[], Carrier], shown: str, *, shares_cost: bool) -> None:
        self.owner = new_owner()
        self.part = self.owner
        self.shares_cost = shares_cost
        self._shown = shown
        self._delivered: deque[Delivery] = deque()
        self._on_delivery: Callable[[], None] | None = None
        self._is_scheduled = False
        self._loop = asyncio.get_running_loop()
        self.link = Link(make, self.owner, self._deliver)
        self.link.start()

    @property
    def address(self) -> str:
        """Where the board is, for people."""
        return self._shown

    def start(self, on_delivery: Callable[[], None]) -> None:
        """Call *on_delivery*, on the event loop, whenever there is something to :meth:`take`."""
        self._on_delivery = on_delivery
        if self._delivered:
            self._loop.call_soon(on_delivery)

    def send(self, message: Message) -> None:
        """Send *message* as soon as that is possible."""
        self.link.send(message)

    def take(self) -> Sequence[Delivery]:
        """Return what was delivered since the last time."""
        self._is_scheduled = False
        taken = []
        while self._delivered:
            taken.append(self._delivered.popleft())
        return taken

    def _deliver(self, delivery: Delivery) -> None:
        """In the link's thread."""
        self._delivered.append(delivery)
        if not self._is_scheduled:
            self._is_scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_scheduled = False
        if self._on_delivery is not None:
            self._on_delivery()

    async def aclose(self) -> None:
        """Leave the board and end the thread."""
        await asyncio.to_thread(self.link.close)


def part_of(output: str | Path) -> str:
    """A name of *output* that each run on it has, on this machine, for claims on a shared cost cap."""
    return circuit_id(f"{socket.gethostname()}:{Path(output).absolute()}")


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What was found at the address of a shared store, which is *shown* without a password."""

    shown: str
    server: str = ""
    """What serves the board, such as ``Valkey 9.1.2``; empty if it does not say."""
    away: str = ""
    """Why it cannot be reached; empty if it can."""

    def to_json(self) -> dict[str, JSON]:
        """The same as JSON values."""
        return {"address": self.shown, "server": self.server or None, "away": self.away or None}


async def look_at_store(text: str, environ: Mapping[str, str]) -> StoreReport:
    """Connect to the store of ``--shared`` as a run does, and change nothing there.

    Raises:
        UsageError: a run would refuse it.
    """
    address = read_address(text, environ)
    address.check_installed()
    carrier = address.carrier()
    try:
        async with asyncio.timeout(CONNECT_PATIENCE):
            await carrier.connect()
            as_reply(await carrier.call(Message("look", (circuit_id(""),))))
            return StoreReport(address.shown, await carrier.describe())
    except CarrierRefusedError as error:
        raise UsageError(f"--shared: {error}", hint=error.hint) from None
    except (CarrierError, TimeoutError) as error:
        return StoreReport(address.shown, away=str(error) or "no answer")
    finally:
        with contextlib.suppress(CarrierError, TimeoutError):
            async with asyncio.timeout(_FIRST_SECONDS):
                await carrier.aclose()


async def open_channel(
    text: str | None,
    environ: Mapping[str, str],
    stack: contextlib.AsyncExitStack,
    *,
    hub: Hub | None = None,
    is_cost_dealt: bool = False,
) -> LinkChannel | None:
    """Open the channel of ``--shared``, else that to the board *hub* of this process, which *stack* closes.

    None without either. *is_cost_dealt*: the cap of the cost is a part that was dealt out before. A store that does not
    answer now may do so later: the run begins without it.

    Raises:
        UsageError: the address is wrong, a package is missing, or the store wants a password or is a cluster.
    """
    if text is not None:
        address = read_address(text, environ)
        address.check_installed()
        is_shared = address.kind != "unix" and not is_cost_dealt  # the parent of --workers deals the cap out
        channel = LinkChannel(address.carrier, address.shown, shares_cost=is_shared)
    elif hub is not None:
        channel = LinkChannel(lambda: LocalCarrier(hub), "in this process", shares_cost=True)
    else:
        return None
    stack.push_async_callback(channel.aclose)
    first = asyncio.wrap_future(channel.link.first)
    first.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # that it failed is no news
    await asyncio.wait([first], timeout=_FIRST_SECONDS)
    error = first.exception() if first.done() else None
    if isinstance(error, CarrierRefusedError):
        raise UsageError(f"--shared: {error}", hint=error.hint)
    return channel
