"""One circuit on a stage: calls held in the backend until told how to end, and time that passes on demand.

A situation is written once. On the synchronous face its calls are threads, on the asynchronous face tasks of one event
loop. It judges nothing. A caller that is neither let in nor refused within ``PATIENCE`` seconds counts as blocked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from breaker_peers import BadRequestError, Circuit, Face, FakeClock, Library, OutageError, Setup

Order = Literal["ok", "down", "bad request", "interrupt", "cancelled future", "wrapped", "own error"]
Through = Literal["call", "block"]

PATIENCE = 1.0
REAL_OPEN_S = 0.1
"""Open time of a library whose clock cannot be replaced, in seconds."""
FAKE_OPEN_S = 60.0
LONG_S = 3600.0
"""An open time that does not end."""


class BlockedError(Exception):
    """A caller was made to wait, though it had to be let in or refused at once."""


def act(order: Order | None) -> str:
    if order == "down":
        raise OutageError
    if order == "bad request":
        raise BadRequestError
    if order == "interrupt":
        raise KeyboardInterrupt
    if order == "cancelled future":
        raise concurrent.futures.CancelledError
    if order == "wrapped":
        raise RuntimeError("the caller's own") from OutageError()
    if order == "own error":
        raise RuntimeError("the caller's own")
    return "fine"


class Flight:
    """One call on its way through a circuit. *order* None: it hangs in the backend until told."""

    def __init__(self, circuit: Circuit, order: Order | None, through: Through) -> None:
        self.circuit = circuit
        self.order = order
        self.through = through
        self.arrived = False
        self.error: BaseException | None = None
        self.moved = threading.Event()
        self.ended = threading.Event()

    @property
    def outcome(self) -> str:
        """``inside`` the backend, ``blocked`` before it; at the end ``ok``, ``rejected`` or ``raised``."""
        if not self.ended.is_set():
            return "inside" if self.arrived else "blocked"
        if self.error is None:
            return "ok"
        refused = not self.arrived and isinstance(self.error, self.circuit.rejection)
        return "rejected" if refused else "raised"

    def arrive(self) -> None:
        self.arrived = True
        self.moved.set()

    def end(self, error: BaseException | None) -> None:
        self.error = error
        self.ended.set()
        self.moved.set()


class ThreadFlight(Flight):
    """A call in a thread of its own."""

    def __init__(self, circuit: Circuit, order: Order | None, through: Through, go: threading.Event) -> None:
        super().__init__(circuit, order, through)
        self.go = go
        self.told = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def backend(self) -> str:
        self.arrive()
        if self.order is None:
            self.told.wait()
        return act(self.order)

    def run(self) -> None:
        self.go.wait()
        try:
            if self.through == "block":
                assert self.circuit.block is not None
                with self.circuit.block():
                    self.backend()
            else:
                function, arguments = self.circuit.path(self.backend)
                function(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the observation
            self.end(error)
        else:
            self.end(None)

    def tell(self, order: Order) -> None:
        self.order = self.order or order
        self.told.set()

    def cancel(self) -> None:
        """A thread cannot be cancelled; what a Ctrl-C does to the call is nearest to it."""
        self.tell("interrupt")


class TaskFlight(Flight):
    """A call in a task of its own."""

    def __init__(
        self, circuit: Circuit, order: Order | None, through: Through, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(circuit, order, through)
        self.loop = loop
        self.told = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def backend(self) -> str:
        self.arrive()
        if self.order is None:
            await self.told.wait()
        return act(self.order)

    async def run(self) -> None:
        try:
            if self.through == "block":
                assert self.circuit.block is not None
                async with self.circuit.block():
                    await self.backend()
            else:
                function, arguments = self.circuit.path(self.backend)
                await function(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the observation
            self.end(error)
        else:
            self.end(None)

    def tell(self, order: Order) -> None:
        self.order = self.order or order
        self.loop.call_soon_threadsafe(self.told.set)

    def cancel(self) -> None:
        if self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)


class Stage:
    """A library's face and the circuit of the moment. Close it: what still hangs is told to end."""

    circuit: Circuit

    def __init__(self, peer: Library, face: Face) -> None:
        self.peer = peer
        self.face: Face = face
        self.setup = Setup()
        self.clock: FakeClock | None = None
        self.flights: list[ThreadFlight | TaskFlight] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        if face == "async":
            self.loop = asyncio.new_event_loop()
            self.runner = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.runner.start()

    def close(self) -> None:
        for flight in self.flights:
            if not flight.ended.is_set():
                flight.tell("ok")
        if self.loop is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(finish_tasks(), self.loop).result(PATIENCE)
        except TimeoutError:
            # A library that blocks its event loop keeps it, in a thread that dies with the program.
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.runner.join(PATIENCE)
        self.loop.close()

    # The circuit and its time.

    @property
    def open_s(self) -> float:
        return FAKE_OPEN_S if self.peer.has_clock else REAL_OPEN_S

    def build(self, *, open_s: float = LONG_S, real_time: bool = False, **options: Any) -> None:
        """A new circuit; *options* as in :class:`breaker_peers.Setup`."""
        self.clock = FakeClock() if self.peer.has_clock and not real_time else None
        self.setup = Setup(open_s=open_s, clock=self.clock, **options)
        self.circuit = self.peer.build(self.face, self.setup)

    def pass_time(self, seconds: float) -> None:
        if self.clock is not None:
            self.clock.now += seconds
        else:
            time.sleep(seconds)

    def trip(self) -> None:
        """Open the circuit with failures.

        Raises:
            BlockedError: a failing call had to wait.
            RuntimeError: it did not open.
        """
        for _ in range(self.setup.failures):
            self.call("down")
        if (state := self.circuit.state()) != "open":
            raise RuntimeError(f"{self.setup.failures} failures left the circuit {state}")

    def half_open(self, **options: Any) -> None:
        """A new circuit that has opened and whose open time is over."""
        self.build(open_s=self.open_s, **options)
        self.trip()
        self.pass_time(self.open_s * 1.2)

    # Calls.

    def start_many(
        self, count: int, order: Order | None = None, through: Through = "call"
    ) -> Sequence[ThreadFlight | TaskFlight]:
        """Send *count* calls at once; each is inside, refused or blocked when this returns."""
        flights: Sequence[ThreadFlight | TaskFlight]
        if self.loop is not None:
            loop = self.loop
            flights = tasks = [TaskFlight(self.circuit, order, through, loop) for _ in range(count)]

            def send() -> None:
                for flight in tasks:
                    flight.task = loop.create_task(flight.run())

            loop.call_soon_threadsafe(send)
        else:
            go = threading.Event()
            flights = [ThreadFlight(self.circuit, order, through, go) for _ in range(count)]
            go.set()
        self.flights.extend(flights)
        deadline = time.monotonic() + PATIENCE
        for flight in flights:
            flight.moved.wait(max(0.0, deadline - time.monotonic()))
        return flights

    def start(self, through: Through = "call") -> ThreadFlight | TaskFlight:
        """Send a call that hangs in the backend until told."""
        return self.start_many(1, through=through)[0]

    def finish(self, flight: ThreadFlight | TaskFlight, order: Order) -> str:
        flight.tell(order)
        flight.ended.wait(PATIENCE)
        return flight.outcome

    def attempt(self, order: Order, through: Through = "call") -> ThreadFlight | TaskFlight:
        """Make a call that ends as told, and wait for its end.

        Raises:
            BlockedError: it was neither let in nor refused in time.
        """
        flight = self.start_many(1, order, through)[0]
        if not flight.ended.wait(PATIENCE):
            raise BlockedError(f"a call was {flight.outcome} for {PATIENCE} s")
        return flight

    def call(self, order: Order, through: Through = "call") -> str:
        return self.attempt(order, through).outcome

    def run(self, sync: Callable[[], Any], task: Callable[[], Coroutine[Any, Any, Any]], timeout: float) -> Any:
        """Run the one of the two that fits the face."""
        if self.loop is None:
            return sync()
        return asyncio.run_coroutine_threadsafe(task(), self.loop).result(timeout)


async def finish_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
