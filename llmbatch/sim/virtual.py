"""Run asyncio code in virtual time: the loop's clock jumps to the next timer when no task can run.

Hours of waiting pass in a second, and a seed replays exactly, because nothing depends on how fast this machine is. The
idea is the autojump clock of trio's ``MockClock``.

Threads and other processes are not virtualized: time stands still while a job of ``run_in_executor`` (so
``asyncio.to_thread``) runs, and other threads are ignored. Sockets work, but waiting for one jumps to the next timer as
if the peer were slow.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple
from urllib.parse import urlsplit

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import LlmbatchError, TransportError
from llmbatch.core.exchange import HttpCall
from llmbatch.sim.batches.replies import BatchReply
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.response_plan import ResponsePlan, Stats

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["FinishedCall", "StreamedReply", "VirtualClockLoop", "VirtualTimeError", "VirtualTransport", "run_virtual"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_CALL_SECONDS = 0.05
"""What a call of the batch APIs takes."""

_GRACE = 1.0
"""Real seconds that a socket or another thread gets to move a loop that has nothing else left, before it is stuck."""


class VirtualTimeError(LlmbatchError):
    """The virtual loop cannot continue: no timer or task is left, or its limit has passed."""


class _JumpingSelector(selectors.BaseSelector):
    """A real selector that never waits; the time it would have waited is added to the loop's clock."""

    def __init__(self, jump: Callable[[float], None], is_busy: Callable[[], bool]) -> None:
        self._real = selectors.DefaultSelector()
        self._jump = jump
        self._is_busy = is_busy

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or timeout == 0:
            return events
        if self._is_busy():
            return self._real.select(None)
        if timeout is not None:
            self._jump(timeout)
            return []
        events = self._real.select(_GRACE if len(self.get_map()) > 1 else 0)
        if not events:
            raise VirtualTimeError(
                "deadlock under virtual time: no timer is set and nothing is ready",
                hint="some task waits for an event that can never happen",
            )
        return events

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose :meth:`time` starts at 0 and moves only when every task waits.

    Not safe to share between threads, but for what asyncio allows (``call_soon_threadsafe``). When it raises
    :class:`VirtualTimeError` its tasks are still there, to be cancelled as after any error.
    """

    def __init__(self, *, limit: float | None = None) -> None:
        """Make a loop that raises :class:`VirtualTimeError` once *limit* seconds of virtual time are over."""
        self._now = 0.0
        self._limit = math.inf if limit is None else limit
        self._jobs = 0
        super().__init__(_JumpingSelector(self._jump, lambda: self._jobs > 0))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float) -> None:
        if self._now + seconds > self._limit:
            limit, self._limit = self._limit, math.inf  # what cleans up afterwards may take its time
            self._now = limit
            raise VirtualTimeError(f"still running after {limit:g} s of virtual time")
        self._now += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """As in asyncio; virtual time stands still until the job is done."""
        job = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, job: asyncio.Future[_T]) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, *args: float | None) -> None:
        """As in asyncio; virtual time stands still until the threads have ended."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jobs -= 1


def run_virtual(
    main: Callable[[], Coroutine[object, object, _T]] | Coroutine[object, object, _T], *, limit: float | None = None
) -> _T:
    """Run *main* (a coroutine, or a function that makes one) under virtual time and return its result.

    Raises:
        VirtualTimeError: *limit* virtual seconds have passed, or nothing would ever happen again.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(limit=limit)) as runner:
        return runner.run(main() if callable(main) else main)


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """A finished call: its planned response, and when it began and ended, in seconds since the first call."""

    request: Request
    plan: ResponsePlan
    began: float
    ended: float
    arrived: bool
    """Whether an answer came, good or bad, before the caller gave up."""


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """An answer of the batch APIs, as :class:`llmbatch.core.exchange.StreamedReply`."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes] = field(repr=False)

    def blocks(self) -> AsyncIterator[bytes]:
        """The body, once.

        Raises:
            TransportError: it breaks off.
        """
        return self.body


async def _pieces(reply: BatchReply) -> AsyncIterator[bytes]:
    for piece in reply.pieces():
        await asyncio.sleep(0)
        yield piece
    if reply.kind == "cut":
        raise TransportError("truncated", "the answer ended early", sent=True)


class VirtualTransport:
    """Carries requests to a simulated provider in the same process, sleeping instead of speaking HTTP.

    Under a :class:`VirtualClockLoop` that takes no time at all; under any other loop it takes as long as the provider
    would. For one event loop. A cancelled call is no longer in flight.

    ``log`` holds the start (seconds since the first request) and the status of each call in order of sending, 0 where
    no answer came; it stays empty unless asked for, since it grows with every call. ``watch`` is told of every call
    when it is over.
    """

    def __init__(
        self,
        provider: SimulatedProvider,
        *,
        keep_log: bool = False,
        on_call: Callable[[FinishedCall], None] | None = None,
    ) -> None:
        """Carry requests to *provider*; its clock starts at the first of them."""
        self.provider = provider
        self.log: list[tuple[float, int]] = []
        self._keep_log = keep_log
        self._on_call = on_call
        self._first: float | None = None

    def __repr__(self) -> str:
        return f"<VirtualTransport {self.provider!r}>"

    @property
    def stats(self) -> Stats:
        """Counts of calls: in all, while down, in flight (now and at most), by status and by model."""
        return self.provider.stats

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        """Send once and read the whole answer within *timeout* seconds.

        Raises:
            TransportError: the provider hangs, is too slow, or closes the connection.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._first = now if self._first is None else self._first
        headers = {name.lower(): value for name, value in request.headers.items()}
        plan = self.provider.answer("POST", urlsplit(request.url).path, headers, request.body, now - self._first)
        if self._keep_log:
            self.log.append((now - self._first, plan.status))
        reply: Reply | None = None
        try:
            reply = await self._carry_out(plan, timeout)
            return reply
        finally:
            self.provider.finish(plan)
            if self._on_call is not None:
                ended = loop.time() - self._first
                self._on_call(FinishedCall(request, plan, now - self._first, ended, reply is not None))

    @asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:  # noqa: ASYNC109
        """Send a call of the batch APIs; bodies pass in pieces. Implements :class:`~llmbatch.core.exchange.Exchanger`.

        Raises:
            TransportError: the provider closes the connection without an answer.
        """
        body = call.body if isinstance(call.body, bytes) else call.body.blocks()
        yield await self.send(call.method, call.url, call.headers, body, timeout=timeout)

    def wall(self) -> float:
        """Unix time at the provider."""
        now = asyncio.get_running_loop().time()
        return self.provider.batches.epoch + now - (now if self._first is None else self._first)

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] = b"",
        *,
        timeout: float,  # noqa: ASYNC109 - as for post
    ) -> StreamedReply:
        """Send a call of the batch APIs whose *body* is there or comes in pieces.

        Raises:
            TransportError: the provider closes the connection without an answer.
        """
        loop = asyncio.get_running_loop()
        self._first = loop.time() if self._first is None else self._first
        parts = urlsplit(url)
        lower = {name.lower(): value for name, value in headers.items()}
        taken = self.provider.batches.body(parts.path, lower)
        if isinstance(body, bytes):
            taken.feed(body)
        else:
            async for piece in body:
                taken.feed(piece)
        await asyncio.sleep(_CALL_SECONDS)
        now, origin = loop.time() - self._first, f"{parts.scheme}://{parts.netloc}"
        reply = self.provider.batches.answer(method, parts.path, parts.query, lower, taken, now, origin=origin)
        if self._keep_log:
            self.log.append((now, 0 if reply.kind == "close" else reply.status))
        if reply.kind == "close":
            raise TransportError("reset", "the connection was closed without an answer", sent=True)
        return StreamedReply(reply.status, {name.lower(): text for name, text in reply.headers.items()}, _pieces(reply))

    async def aclose(self) -> None:
        """Do nothing: no resource is held."""

    async def _carry_out(self, plan: ResponsePlan, timeout: float) -> Reply:  # noqa: ASYNC109
        takes = math.inf if plan.kind == "hang" else plan.delay + sum(gap for gap, _ in plan.chunks)
        if takes > timeout:
            await asyncio.sleep(timeout)
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        await asyncio.sleep(takes)
        if plan.kind == "cut":
            raise TransportError("truncated", "the answer ended early", sent=True)
        if plan.kind == "close":
            if plan.sent:
                raise TransportError("reset", "the connection was closed without an answer", sent=True)
            raise TransportError("connect", "the connection was refused", sent=False)
        return Reply(plan.status, plan.headers, b"".join(chunk for _, chunk in plan.chunks) or plan.body)
