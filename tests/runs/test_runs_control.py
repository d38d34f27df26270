"""Runs of a ``BatchRunner`` are paused, resumed and changed: from tasks, threads, observers, and before they begin."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError
from llmbatch.core.events import CallSent, Event, RunEnded, RunPaused, RunResumed
from llmbatch.report.history import History
from llmbatch.report.stats import RunStats

DEADLINE_S = 60.0


class Gate:
    """A function that answers only while it is open, and knows how many wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0
        self._open = asyncio.Event()

    async def __call__(self, row: object) -> str:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self._open.wait()
            await turns(3)
        finally:
            self.waiting -= 1
        return "fine"

    def open(self) -> None:
        self._open.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_stream_is_paused_and_resumed_by_another_task() -> None:
    """Calls in flight give their results; no other begins before the runner is resumed."""
    sent: list[int] = []
    gate = Gate()
    runner = BatchRunner(gate, concurrency=3, observers=[lambda event: note(event, sent)])

    async def consume() -> int:
        async with runner.stream(range(10)) as stream:
            return len([result async for result in stream])

    task = asyncio.create_task(consume())
    await until(lambda: gate.waiting == 3)
    runner.pause()
    gate.open()
    await until(lambda: gate.waiting == 0)
    await turns()

    assert runner.paused
    assert sent == [1, 2, 3]
    assert not task.done()
    runner.resume()
    assert await task == 10
    assert not runner.paused


def note(event: Event, sent: list[int]) -> None:
    if isinstance(event, CallSent):
        sent.append(event.row)


async def test_an_observer_may_pause_the_run_it_observes() -> None:
    """In the middle of the call that it is told of: that call goes out, and no other."""
    sent: list[int] = []
    paused: list[Event] = []

    def observe(event: Event) -> None:
        note(event, sent)
        if isinstance(event, CallSent) and event.row == 2:
            runner.pause()
        if isinstance(event, RunPaused | RunResumed):
            paused.append(event)

    async def answer(row: object) -> str:
        return "fine"

    runner = BatchRunner(answer, concurrency=1, observers=[observe])
    task = asyncio.create_task(runner.map(range(5)))
    await until(lambda: bool(paused))
    await turns()
    assert sent == [1, 2]

    runner.resume()
    assert len(await task) == 5
    assert [type(event) for event in paused] == [RunPaused, RunResumed]


async def test_a_runner_that_is_paused_first_begins_nothing() -> None:
    """``pause`` holds for the runs to come until ``resume``."""
    gate = Gate()
    gate.open()
    runner = BatchRunner(gate, concurrency=2)
    runner.pause()
    task = asyncio.create_task(runner.map(range(3)))
    await turns(200)
    assert gate.most == 0

    runner.resume()
    assert len(await task) == 3


async def test_concurrency_is_raised_and_lowered_while_a_run_goes_on() -> None:
    """Up by a ramp, as answers come; and the next run begins with what was set."""
    gate = Gate()
    runner = BatchRunner(gate, concurrency=2)
    task = asyncio.create_task(runner.map(range(200)))
    await until(lambda: gate.waiting == 2)

    runner.set(concurrency=20)
    gate.open()
    await task

    assert runner.options.concurrency == 20
    assert 2 < gate.most <= 20
    again = Gate()
    later = BatchRunner(again, concurrency=20)
    later.set(concurrency=4)
    other = asyncio.create_task(later.map(range(50)))
    await until(lambda: again.waiting == 4)
    await turns()
    assert again.most == 4
    again.open()
    assert len(await other) == 50


def test_threads_of_a_plain_function_grow_with_the_concurrency() -> None:
    """Otherwise calls would wait for a thread while their time limit passes."""
    barrier = threading.Barrier(6)
    lock = threading.Lock()
    calls = 0

    def answer(row: int) -> str:
        nonlocal calls
        with lock:
            calls += 1
            number = calls
        if number == 1:
            runner.set(concurrency=6)
        if row >= 100:
            barrier.wait(DEADLINE_S)
        return "fine"

    runner = BatchRunner(answer, concurrency=2)
    results = asyncio.run(runner.map([*range(100), *range(100, 106)]))

    assert [result.status for result in results] == ["success"] * 106


def test_another_thread_pauses_and_resumes_a_run_of_files(tmp_path: Path) -> None:
    """Every row has its line, once, whenever the commands come."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt":"{number}"}}\n' for number in range(400)))
    ended = threading.Event()
    stats = RunStats()

    def observe(event: Event) -> None:
        if isinstance(event, RunEnded):
            ended.set()

    async def answer(row: object) -> str:
        await asyncio.sleep(0.001)
        return "fine"

    runner = BatchRunner(answer, concurrency=8, observers=[stats, observe])

    def meddle() -> None:
        for number in range(10_000):
            if ended.is_set():
                break
            runner.pause()
            runner.set(concurrency=1 + number % 12)
            runner.resume()
            time.sleep(0.001)

    thread = threading.Thread(target=meddle)
    thread.start()
    summary = runner.run_sync(rows, tmp_path / "out.jsonl")
    thread.join(DEADLINE_S)

    assert summary.exit_code == 0
    numbers = [json.loads(line)["row"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(numbers) == list(range(1, 401))


def test_what_cannot_be_changed_is_refused_and_changes_nothing() -> None:
    """In the thread that asks for it, before any run hears of it."""

    async def answer(row: object) -> str:
        return "fine"

    runner = BatchRunner(answer, concurrency=8)

    with pytest.raises(UsageError, match="concurrency is 0"):
        runner.set(rpm=60.0, concurrency=0)
    with pytest.raises(UsageError, match="no --max-cost"):
        runner.set(max_cost=5)
    with pytest.raises(UsageError, match="timeout cannot be changed"):
        runner.set(timeout=5.0)  # type: ignore[call-arg]  # what a user may try

    assert runner.options.rpm is None
    assert runner.options.concurrency == 8


def test_the_numbers_tell_of_a_pause() -> None:
    """Snapshot, summary and history: since when, for how long, and that no time is known that is left."""
    from llmbatch.core.events import RowFinished, RunStarted

    stats = RunStats()
    history = History()
    events: list[Event] = [RunStarted(100.0, "in", "out", 4, 0, 0, 100)]
    events += [RowFinished(100.0 + row / 10, "r", row, "success", "", 1) for row in range(1, 51)]
    events += [RunPaused(106.0)]
    for event in events:
        stats.observe(event)
        if isinstance(event, RunStarted):
            history.begin(event, 1_000_000.0 + event.at, command="", last_seen=None)
        history.observe(event, 1_000_000.0 + event.at, stats)

    paused = stats.snapshot(166.0)
    assert (paused.state, paused.pause_s, paused.paused_s, paused.eta_s) == ("paused", 60.0, 60.0, None)
    assert paused.work_left_s is not None

    for event in (RunResumed(206.0, 100.0), RunPaused(210.0), RunEnded(215.0, 130, "stopped", 0)):
        stats.observe(event)
        history.observe(event, 1_000_000.0 + event.at, stats)
    summary = stats.summary(RunEnded(215.0, 130, "stopped", 0))
    assert summary.paused_s == 105.0
    kept = History(history.lines(stats)).pauses
    assert [(pause.began, pause.ended) for pause in kept] == [(1_000_106.0, 1_000_206.0), (1_000_210.0, 1_000_215.0)]


def test_a_pause_that_a_kill_ended_is_closed_by_the_next_run() -> None:
    """It was last seen with the run; the next run is not paused."""
    from llmbatch.core.events import RunStarted

    stats = RunStats()
    history = History()
    first = RunStarted(0.0, "in", "out", 4, 0, 0, 100)
    history.begin(first, 1000.0, command="", last_seen=None)
    stats.observe(first)
    history.observe(RunPaused(1.0), 1001.0, stats)

    later = History(history.lines(stats))
    later.begin(first, 5000.0, command="", last_seen=2000.0)

    assert [(pause.began, pause.ended) for pause in later.pauses] == [(1001.0, 2000.0)]
