"""Twenty situations in which circuit breakers go wrong, each run by code against a library's own calls.

Every outcome is an observation of this run. A library with two faces passes where both pass. A situation tests the
breaker alone: a timeout inside the call would also end a hung probe, in every library. Wall clocks that are set while
the program runs are not tried, only time zones. A library whose clock can be replaced gets a fake one, the others
really wait. Situations 1 to 6 stand in breaker_half_open.py, 12 to 20 in
breaker_field.py.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from breaker_field import (
    cancelled_future,
    cut_stream,
    forked_child,
    generator_function,
    hanging_calls,
    left_stream,
    long_good_calls,
    rate_at_success,
    wrapped_error,
)
from breaker_findings import Finding, fails, lacks, passes, wait_told
from breaker_half_open import bad_request, cancelled_probe, fifty_callers, finite_wait, hung_probe, stale_success
from breaker_peers import Face, Library, OutageError
from breaker_stage import BlockedError, Stage

DEADLINE_S = 60.0
"""Seconds after which a situation counts as hanging."""
TRIES = 3
"""How often a situation is begun when this machine was too busy to keep its times."""
REJECTIONS = 1000
# As POSIX rules, which need no time zone data on the machine: UTC, New York, Tokyo.
ZONES = ("UTC0", "EST5EDT,M3.2.0,M11.1.0", "JST-9")


def calls_overlap(stage: Stage) -> Finding:
    """Two slow calls through a closed circuit are in the backend at the same time."""
    stage.build()
    flights = stage.start_many(2)
    if all(flight.outcome == "inside" for flight in flights):
        return passes("both were in the backend at once")
    fact = "the second call waited for the first"
    if stage.circuit.block is not None:
        stage.build()
        blocks = stage.start_many(2, through="block")
        overlap = all(flight.outcome == "inside" for flight in blocks)
        fact += "; its with blocks " + ("do overlap" if overlap else "wait as well")
    return fails("serial", fact)


def coroutine_function(stage: Stage) -> Finding:
    """A coroutine function given to a synchronous call is refused, or guarded; never counted as done unrun."""
    stage.build()
    if stage.circuit.sync_ways is None:
        return lacks("this face has no synchronous call")
    verdicts = {way: guard_of(stage, way) for way in stage.circuit.sync_ways}
    fact = "; ".join(f"{way}: {verdict}" for way, verdict in verdicts.items())
    silent = [verdict == "silent" for verdict in verdicts.values()]
    if not any(silent):
        return passes(fact)
    return fails("silent" if all(silent) else "partly", fact)


def guard_of(stage: Stage, way: str) -> str:
    async def failing() -> None:
        raise OutageError

    async def end(result: Any) -> None:
        await result

    stage.build()
    assert stage.circuit.sync_ways is not None
    for _ in range(stage.setup.failures + 2):
        try:
            function, arguments = stage.circuit.sync_ways[way](failing)
            result = function(*arguments)
            if inspect.isawaitable(result):
                asyncio.run(end(result))
        except TypeError:
            return "TypeError"
        except (OutageError, stage.circuit.rejection):
            continue
    return "guards it" if stage.circuit.state() == "open" else "silent"


def rejections_do_not_grow(stage: Stage) -> Finding:
    """The thousandth refusal is no larger than the first, in traceback, context and pickle, and can be pickled.

    And what was handled is gone: a refusal in a reference cycle keeps its frames, with the caller's arguments in them,
    until the garbage collector comes by.
    """
    stage.build()
    stage.trip()
    sizes: list[tuple[int, int, int | str]] = []
    left: list[int] = []

    def never() -> None: ...

    async def never_async() -> None: ...

    def refuse() -> None:
        function, arguments = stage.circuit.path(never)
        with collector_counting(left):
            for number in range(REJECTIONS):
                try:
                    function(*arguments)
                except stage.circuit.rejection as error:
                    if number in (0, REJECTIONS - 1):
                        sizes.append(weigh_error(error))

    async def refuse_async() -> None:
        function, arguments = stage.circuit.path(never_async)
        with collector_counting(left):
            for number in range(REJECTIONS):
                try:
                    await function(*arguments)
                except stage.circuit.rejection as error:
                    if number in (0, REJECTIONS - 1):
                        sizes.append(weigh_error(error))

    stage.run(refuse, refuse_async, DEADLINE_S)
    if len(sizes) < 2:
        return fails("no refusal", "not every call through the open circuit was refused")
    names = ("traceback entries", "exceptions in the context", "pickled bytes")
    first, last = sizes
    if isinstance(first[2], str):
        return fails("no pickle", first[2])
    fact = ", ".join(f"{a} then {b} {name}" for a, b, name in zip(first, last, names, strict=True))
    # A time that counts down may take a byte more or less.
    if last[0] > first[0] or last[1] > first[1] or isinstance(last[2], str) or last[2] > first[2] + 8:
        return fails("grows", fact)
    if left[0] >= REJECTIONS:
        return fails("cycles", f"{fact}; {REJECTIONS} handled refusals left {left[0]} objects to the garbage collector")
    return passes(fact)


@contextmanager
def collector_counting(left: list[int]) -> Iterator[None]:
    """Keep the garbage collector off, then note how many objects it finds."""
    gc.collect()
    gc.disable()
    try:
        yield
        left.append(gc.collect())
    finally:
        gc.enable()


def weigh_error(error: BaseException) -> tuple[int, int, int | str]:
    """Traceback entries, exceptions in the chain of contexts, and pickled bytes or why there are none."""
    entries, traceback = 0, error.__traceback__
    while traceback is not None:
        entries, traceback = entries + 1, traceback.tb_next
    chain, context = 0, error.__context__
    while context is not None and chain < REJECTIONS * 2:
        chain, context = chain + 1, context.__context__
    try:
        pickled = pickle.dumps(error)
        copy = pickle.loads(pickled)
    except Exception as problem:  # noqa: BLE001 - whatever a foreign class raises is the observation
        return entries, chain, f"pickling the refusal: {type(problem).__name__}: {problem}"
    if type(copy) is not type(error):
        return entries, chain, f"the pickled refusal came back as {type(copy).__name__}"
    return entries, chain, len(pickled)


def time_zones(stage: Stage) -> Finding:
    """The open time, and the wait that is told, hold in any time zone, and when the zone changes meanwhile."""
    open_s = 0.15
    changes = [(zone, zone) for zone in ZONES] + [ZONES[:2], (ZONES[1], ZONES[2])]
    for before, after in changes:
        with time_zone(before):
            stage.build(open_s=open_s, real_time=True)
            started = time.monotonic()
            stage.trip()
            with time_zone(after):
                finding = watch_open_time(stage, open_s, started, f"{before[:3]} then {after[:3]}")
        if finding is not None:
            return finding
    return passes("the open time was kept in UTC, New York and Tokyo, and when the zone changed while open")


def watch_open_time(stage: Stage, open_s: float, started: float, zones: str) -> Finding | None:
    flight = stage.attempt("ok")
    if flight.outcome != "rejected":
        late = time.monotonic() - started > open_s
        return (
            fails("too slow", "this machine was too busy to tell") if late else fails("lets in", f"{zones}: not kept")
        )
    try:
        told = wait_told(stage.circuit, flight.error)
    except Exception as problem:  # noqa: BLE001 - whatever a foreign property raises is the observation
        return fails("breaks", f"{zones}: reading the wait raised {type(problem).__name__}: {problem}")
    # One library rounds up to whole seconds.
    if told is not None and not 0 < told <= open_s + 1:
        return fails(f"{told / 3600:+.0f} h", f"{zones}: told to wait {told:,.1f} s, with an open time of {open_s} s")
    time.sleep(open_s * 1.2)
    if (outcome := stage.call("ok")) != "ok":
        return fails("keeps out", f"{zones}: {outcome} after the open time")
    return None


@contextmanager
def time_zone(rule: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = rule
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def block_refuses(stage: Stage) -> Finding:
    """A ``with`` block (``async with``) does not run its block while the circuit is open."""
    stage.build()
    if stage.circuit.block is None:
        return lacks("this face has no context manager")
    stage.trip()
    if (outcome := stage.call("ok", through="block")) == "rejected":
        return passes("the block was not run")
    return fails("runs" if outcome == "ok" else outcome, "the block was run though the circuit was open")


SITUATIONS: dict[str, Callable[[Stage], Finding]] = {
    "stale success": stale_success,
    "fifty half-open": fifty_callers,
    "cancelled probe": cancelled_probe,
    "hung probe": hung_probe,
    "a 400 half-open": bad_request,
    "finite wait": finite_wait,
    "calls overlap": calls_overlap,
    "coroutine function": coroutine_function,
    "rejections": rejections_do_not_grow,
    "time zones": time_zones,
    "with block": block_refuses,
    "long good calls": long_good_calls,
    "hanging calls": hanging_calls,
    "rate at success": rate_at_success,
    "cancelled future": cancelled_future,
    "forked child": forked_child,
    "generator function": generator_function,
    "cut stream": cut_stream,
    "left stream": left_stream,
    "wrapped error": wrapped_error,
}
CORE = ("stale success", "fifty half-open", "cancelled probe", "calls overlap", "coroutine function")
"""What a breaker must get right before its speed is worth comparing."""


def observe_face(library: Library, face: Face, situation: str) -> Finding:
    """Run one situation on one face, in a thread of its own under a deadline; nothing it raises or hangs on escapes."""
    finding = fails("hangs", f"no end within {DEADLINE_S:.0f} s")
    for _ in range(TRIES):
        found: list[Finding] = []
        stage = Stage(library, face)
        thread = threading.Thread(target=run_situation, args=(stage, situation, found), daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        stage.close()
        if not found:
            return finding
        finding = found[0]
        if finding.word not in ("error", "too slow"):
            break
    return finding


def run_situation(stage: Stage, situation: str, found: list[Finding]) -> None:
    try:
        found.append(SITUATIONS[situation](stage))
    except BlockedError as error:
        found.append(fails("blocks", str(error)))
    except Exception as error:  # noqa: BLE001 - one library's fault must not end the others' turn
        found.append(fails("error", f"{type(error).__name__}: {error}"))


def observe(library: Library, situation: str) -> Finding:
    """One cell of the table; where the faces differ, the sentence tells both."""
    faces = {face: observe_face(library, face, situation) for face in library.paths}
    judged = [finding for finding in faces.values() if finding.passed is not None] or list(faces.values())
    first = next((finding for finding in judged if not finding.passed), judged[0])
    facts = {finding.fact for finding in faces.values()}
    fact = first.fact if len(facts) == 1 else "; ".join(f"{face}: {finding.fact}" for face, finding in faces.items())
    return Finding(first.passed, first.word, fact)
