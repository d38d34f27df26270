"""What a breaker adds to a call, in nanoseconds: libraries side by side, in turn, round after round.

A measurement is a tight loop over one new circuit, with a warm-up, its own copy of the loop's bytecode (so that no
library runs on what the interpreter learnt from another) and the garbage collector settled but on: who leaves cycles
behind pays for them. Closed: added over the bare call of the same round. Open: the whole refused call, raise and except
included. It compares nothing.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from types import FunctionType
from typing import Any

from breaker_peers import Circuit, Face, Library, OutageError, Setup
from breaker_stage import LONG_S

THREADS = 8
THREADS_S_A_CALL = 5e-6
"""Eight threads run for so many seconds a call asked for: they must outlast several of the interpreter's turns of 5 ms
each, or they never meet."""
BATCH = 200
"""Calls that a thread makes between two looks at the clock."""
WARM_UP = 500
FAILURES = 5

BARE = "bare call"
RAISE = "raise + except"


@dataclass(frozen=True, slots=True)
class Cell:
    """One column: a face, a state, and whether threads share the circuit."""

    face: Face
    closed: bool
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.face if self.threads == 1 else f'{self.threads} threads'} {'closed' if self.closed else 'open'}"


CELLS = (
    Cell("sync", True),
    Cell("sync", False),
    Cell("async", True),
    Cell("async", False),
    Cell("sync", True, THREADS),
    Cell("sync", False, THREADS),
)
Figures = dict[str, dict[str, list[float]]]
"""Column, row: nanoseconds a call in every round, the bare call not yet taken off."""


class PlainError(Exception):
    """What the floor of the open columns raises."""


def answer() -> int:
    return 1


async def answer_async() -> int:
    return 1


def refuse() -> int:
    raise PlainError


async def refuse_async() -> int:
    raise PlainError


def outage() -> int:
    raise OutageError


async def outage_async() -> int:
    raise OutageError


# The four loops. In Python 3.11 and later a `try` that catches nothing costs nothing.


def loop(function: Callable[..., Any], fn: object, calls: int, refusal: type[Exception]) -> tuple[int, int]:
    started = perf_counter_ns()
    for _ in itertools.repeat(None, calls):
        try:
            function(fn)
        except refusal:
            continue
    return started, perf_counter_ns()


def loop_bound(function: Callable[..., Any], _: object, calls: int, refusal: type[Exception]) -> tuple[int, int]:
    started = perf_counter_ns()
    for _ in itertools.repeat(None, calls):
        try:
            function()
        except refusal:
            continue
    return started, perf_counter_ns()


async def loop_async(function: Callable[..., Any], fn: object, calls: int, refusal: type[Exception]) -> tuple[int, int]:
    started = perf_counter_ns()
    for _ in itertools.repeat(None, calls):
        try:
            await function(fn)
        except refusal:
            continue
    return started, perf_counter_ns()


async def loop_async_bound(
    function: Callable[..., Any], _: object, calls: int, refusal: type[Exception]
) -> tuple[int, int]:
    started = perf_counter_ns()
    for _ in itertools.repeat(None, calls):
        try:
            await function()
        except refusal:
            continue
    return started, perf_counter_ns()


def copy_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return FunctionType(function.__code__.replace(), function.__globals__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What one measurement calls: a function with its argument, and what it raises when it refuses."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    refusal: type[Exception]
    circuit: Circuit | None = None


def subject(row: str | Library, cell: Cell) -> Subject | None:
    """What *row* does in *cell*; None: it has nothing there."""
    is_async = cell.face == "async"
    if row == BARE:
        return Subject(answer_async if is_async else answer, (), PlainError) if cell.closed else None
    if row == RAISE:
        return None if cell.closed else Subject(refuse_async if is_async else refuse, (), PlainError)
    assert isinstance(row, Library)
    if cell.face not in row.paths:
        return None
    circuit = row.build(cell.face, Setup(failures=FAILURES, open_s=LONG_S))
    if not cell.closed:
        trip(circuit, cell.face)
    function, arguments = circuit.path(answer_async if is_async else answer)
    return Subject(function, arguments, circuit.rejection, circuit)


def trip(circuit: Circuit, face: Face) -> None:
    function, arguments = circuit.path(outage_async if face == "async" else outage)
    for _ in range(FAILURES):
        try:
            if face == "async":
                asyncio.run(function(*arguments))
            else:
                function(*arguments)
        except (OutageError, circuit.rejection):
            continue


def measure(row: str | Library, cell: Cell, calls: int) -> float | None:
    """Nanoseconds a call.

    Raises:
        RuntimeError: the circuit was not in the state that the cell is about.
    """
    start: int
    end: int
    what = subject(row, cell)
    if what is None:
        return None
    fn = what.arguments[0] if what.arguments else None
    with collector_settled():
        if cell.face == "async":
            spin = copy_of(loop_async if what.arguments else loop_async_bound)
            with asyncio.Runner() as runner:
                runner.run(spin(what.function, fn, WARM_UP, what.refusal))
                start, end = runner.run(spin(what.function, fn, calls, what.refusal))
        else:
            spin = copy_of(loop if what.arguments else loop_bound)
            spin(what.function, fn, WARM_UP, what.refusal)
            if cell.threads == 1:
                start, end = spin(what.function, fn, calls, what.refusal)
            else:
                run = functools.partial(spin, what.function, fn, BATCH, what.refusal)
                start, end, calls = in_threads(run, cell.threads, calls * THREADS_S_A_CALL)
    if what.circuit is not None and what.circuit.state() != ("closed" if cell.closed else "open"):
        raise RuntimeError(f"{row} ended {what.circuit.state()} in {cell}")
    return (end - start) / calls


def in_threads(run: Callable[[], tuple[int, int]], threads: int, seconds: float) -> tuple[int, int, int]:
    """Run batches in *threads* threads at once for *seconds*; first start, last end, and calls made."""
    spans: list[tuple[int, int, int]] = []
    barrier = threading.Barrier(threads)

    def work() -> None:
        barrier.wait()
        start = end = perf_counter_ns()
        deadline, batches = start + int(seconds * 1e9), 0
        while end < deadline:
            _, end = run()
            batches += 1
        spans.append((start, end, batches * BATCH))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    starts, ends, counts = zip(*spans, strict=True)
    return min(starts), max(ends), sum(counts)


@contextmanager
def collector_settled() -> Iterator[None]:
    """Collect, and set aside what lives on, so that the collector sees only what the measurement leaves behind."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure_all(
    libraries: list[Library], *, rounds: int, calls: int, progress: Callable[[str], None] = lambda _: None
) -> Figures:
    """Every row in every column, *rounds* times; each round begins with another row."""
    rows: list[str | Library] = [BARE, RAISE, *libraries]
    figures: Figures = {str(cell): {} for cell in CELLS}
    for number in range(rounds):
        progress(f"cost: round {number + 1} of {rounds}")
        turn = number % len(rows)
        for cell in CELLS:
            for row in rows[turn:] + rows[:turn]:
                figure = measure(row, cell, calls)
                if figure is not None:
                    name = row if isinstance(row, str) else row.name
                    figures[str(cell)].setdefault(name, []).append(figure)
    return figures


def added(figures: Figures, cell: Cell, row: str) -> list[float]:
    """The figures of one table cell: closed, less the bare call of the same round; else as measured."""
    own = figures[str(cell)].get(row, [])
    if not own or not cell.closed or row == BARE:
        return own
    return [figure - bare for figure, bare in zip(own, figures[str(cell)][BARE], strict=True)]


def median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles; of fewer than four values half their range."""
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def each(figures: Figures, cell: Cell, names: list[str]) -> Iterator[tuple[str, float]]:
    """Names and medians of those that have a figure in *cell*."""
    for name in names:
        if values := added(figures, cell, name):
            yield name, median(values)
