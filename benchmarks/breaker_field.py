"""Situations 12 to 20, from the reports of users: long calls, hanging calls, rates, streams, forks, wrapped errors.

What they ask for is said in :class:`breaker_peers.Setup`. A library that has no such option keeps its usual rule, and
what happens is observed; where the option itself is in question, it has no such call.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from breaker_findings import Finding, fails, lacks, passes
from breaker_peers import OutageError
from breaker_stage import PATIENCE, Order, Stage, act

__all__ = [
    "cancelled_future",
    "cut_stream",
    "forked_child",
    "generator_function",
    "hanging_calls",
    "left_stream",
    "long_good_calls",
    "rate_at_success",
    "wrapped_error",
]

DEADLINE_S = 30.0
CHILD_S = 10


def long_good_calls(stage: Stage) -> Finding:
    """Half-open, and every call is good but lasts four open times: the circuit closes at one of the first answers."""
    lasts, steps = 4, 24
    stage.half_open()
    calls = []
    for step in range(steps):
        flight = stage.start()
        if flight.outcome == "inside":
            calls.append((step, flight))
        stage.pass_time(stage.open_s)
        for _, late in [call for call in calls if call[0] == step - lasts]:
            stage.finish(late, "ok")
            if stage.circuit.state() == "closed":
                return passes(f"the first good answer closed it, {step + 1} open times after the first probe")
    state = stage.circuit.state()
    return fails("never closes", f"{len(calls)} good calls of {lasts} open times each left it {state}")


def hanging_calls(stage: Stage) -> Finding:
    """Twenty callers give up on calls that hang, twice, under a rule for calls that do not return: it opens."""
    if stage.face == "sync":
        return lacks("a caller in a thread cannot give up")
    stage.build(stall_s=stage.open_s / 4)
    for _ in range(2):
        flights = stage.start_many(20)
        stage.pass_time(stage.open_s)
        for flight in flights:
            flight.cancel()
        for flight in flights:
            if not flight.ended.wait(PATIENCE):
                return fails("blocks", "a cancelled call did not end")
    state = stage.circuit.state()
    fact = f"forty calls that hung until their callers gave up left it {state}"
    return passes(fact) if state == "open" else fails("never opens", fact)


def rate_at_success(stage: Stage) -> Finding:
    """A failure rate of a half from five calls on: three failures and two successes are above it."""
    if not stage.peer.has_rate:
        return lacks("this library has no failure rate")
    stage.build(rate_calls=5)
    orders: tuple[Order, ...] = ("down", "down", "down", "ok", "ok")
    for order in orders:
        stage.call(order)
    state = stage.circuit.state()
    fact = f"three failures, then two successes, left it {state}"
    return passes(fact) if state == "open" else fails("unseen", fact)


def cancelled_future(stage: Stage) -> Finding:
    """A call raises the error of a cancelled ``concurrent.futures.Future``: its caller's doing, not the provider's."""
    stage.build()
    for _ in range(stage.setup.failures + 2):
        stage.call("cancelled future")
    state = stage.circuit.state()
    fact = f"{stage.setup.failures + 2} cancelled futures left it {state}"
    return passes(fact) if state == "closed" else fails("opens", fact)


def forked_child(stage: Stage) -> Finding:
    """The process forks while its threads call: the child can call, too."""
    forks, threads = 40, 3
    if stage.face == "async":
        return lacks("an event loop does not outlive a fork")
    stage.build()
    function, arguments = stage.circuit.path(alternating())
    ended, paused = threading.Event(), threading.Event()

    def hammer() -> None:
        while not ended.is_set():
            if paused.is_set():
                time.sleep(0.001)
                continue
            try:
                function(*arguments)
            except Exception:  # noqa: BLE001 - only the lock within matters
                continue

    workers = [threading.Thread(target=hammer, daemon=True) for _ in range(threads)]
    hung = 0
    with switching_often():
        for worker in workers:
            worker.start()
        for made in range(1, forks + 1):  # noqa: B007 - told below
            hung += child_hangs(function, arguments, paused)
            time.sleep(0.003)  # by then all call again
            if hung >= 3:
                break
        ended.set()
        for worker in workers:
            worker.join(PATIENCE)
    fact = f"of {made} children {hung} hung in their first call"
    return fails("deadlock", fact) if hung else passes(fact)


def alternating() -> Callable[[], str]:
    turns = itertools.count()

    def call() -> str:
        if next(turns) % 2:
            raise OutageError
        return "fine"

    return call


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns so often that one of them is nearly always within a call."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def child_hangs(function: Callable[..., Any], arguments: tuple[Any, ...], paused: threading.Event) -> bool:
    """Whether the first call of a forked child did not return within :data:`CHILD_S`, 10 s.

    Until it ends *paused* is set: the parent's threads need not call then.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of what is tried here
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL) if threading.current_thread() is threading.main_thread() else None
        signal.alarm(CHILD_S)
        try:
            function(*arguments)
        finally:
            os._exit(0)
    paused.set()
    _, status = os.waitpid(child, 0)
    paused.clear()
    return os.WIFSIGNALED(status)


def generator_function(stage: Stage) -> Finding:
    """A generator function in a plain call is refused, or guarded while it is read; never counted as done unrun."""
    stage.build()

    def chunks() -> Iterator[str]:
        yield act("down")

    async def chunks_async() -> AsyncIterator[str]:
        yield act("down")

    def call() -> str:
        function, arguments = stage.circuit.path(chunks)
        for chunk in function(*arguments):
            return f"gave {chunk}"
        return "gave nothing"

    async def call_async() -> str:
        function, arguments = stage.circuit.path(chunks_async)
        given = function(*arguments)
        async for chunk in given if hasattr(given, "__aiter__") else await given:
            return f"gave {chunk}"
        return "gave nothing"

    for _ in range(stage.setup.failures + 2):
        try:
            stage.run(call, call_async, DEADLINE_S)
        except TypeError as error:
            return passes(f"TypeError: {error}")
        except (OutageError, stage.circuit.rejection):
            continue
    if stage.circuit.state() == "open":
        return passes("guards it while it is read")
    return fails("silent", "counted as done before it ran")


def cut_stream(stage: Stage) -> Finding:
    """Answers come in chunks, and each breaks off after the first one: that opens the circuit."""
    stage.build()
    for _ in range(stage.setup.failures):
        try:
            read_stream(stage, cut=True, leave=False)
        except (OutageError, stage.circuit.rejection):
            continue
    state = stage.circuit.state()
    fact = f"{stage.setup.failures} streams that broke off left it {state}"
    return passes(fact) if state == "open" else fails("unseen", fact)


def left_stream(stage: Stage) -> Finding:
    """Half-open, and each reader leaves its good stream after the first chunk: the circuit closes."""
    stage.half_open()
    for number in range(1, 22):
        try:
            read_stream(stage, cut=False, leave=True)
        except stage.circuit.rejection:
            return fails("reopens", f"after stream {number}, left after its first chunk, the next was refused")
        if stage.circuit.state() == "closed":
            return passes(f"stream {number}, left after its first chunk, closed it")
    return fails("never closes", f"21 good streams left it {stage.circuit.state()}")


def read_stream(stage: Stage, *, cut: bool, leave: bool) -> None:
    """Read one stream in the library's own way, or, where it has none, as the result of its call."""

    def chunks() -> Iterator[str]:
        yield "one"
        if cut:
            raise OutageError
        yield "two"

    async def chunks_async() -> AsyncIterator[str]:
        for chunk in chunks():
            yield chunk

    async def create() -> AsyncIterator[str]:
        return chunks_async()

    def read(stream: Iterator[str]) -> None:
        for _ in stream:
            if leave:
                return

    async def read_async(stream: AsyncIterator[str]) -> None:
        async for _ in stream:
            if leave:
                return

    def call() -> None:
        if stage.circuit.stream is not None:
            with stage.circuit.stream(chunks) as stream:
                read(stream)
        else:
            function, arguments = stage.circuit.path(lambda: chunks())
            read(function(*arguments))

    async def call_async() -> None:
        if stage.circuit.stream is not None:
            async with stage.circuit.stream(create) as stream:
                await read_async(stream)
        else:
            function, arguments = stage.circuit.path(create)
            await read_async(await function(*arguments))

    stage.run(call, call_async, DEADLINE_S)


def wrapped_error(stage: Stage) -> Finding:
    """Told that one kind of error counts, it sees that kind also as the cause of another, and counts no others."""
    if not stage.peer.has_only:
        return lacks("this library cannot be told which errors alone count")
    states = []
    orders: tuple[Order, ...] = ("own error", "wrapped")
    for order in orders:
        stage.build(only_outages=True)
        for _ in range(stage.setup.failures + 2):
            stage.call(order)
        states.append(stage.circuit.state())
    fact = f"errors of the caller left it {states[0]}, errors raised from an outage {states[1]}"
    if states[0] != "closed":
        return fails("counts all", fact)
    return passes(fact) if states[1] == "open" else fails("unseen", fact)
