"""The breaker's benchmark observes: its situations can be failed, ours passes them, and the tables come out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# A benchmark is a script: Python puts its folder on the path.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import breaker as benchmark
import breaker_field
from breaker_cost import CELLS, Figures
from breaker_findings import Finding, fails, passes
from breaker_goals import goals, leaders
from breaker_peers import OURS, PEERS, BadRequestError, Circuit, Face, Library, OutageError, Setup, called
from breaker_situations import SITUATIONS, observe, observe_face

# Time zones really wait, for an open time in each; children are forked forty times, untraced, as the tracer's own lock
# may be held in one for ever.
situation_marks = {"time zones": [pytest.mark.slow], "forked child": [pytest.mark.slow, pytest.mark.no_cover]}


class ToyError(Exception):
    """The toy refuses."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class ToyBreaker:
    """The least breaker that survives all situations, but for the one fault that it is given."""

    def __init__(self, setup: Setup, fault: str) -> None:
        self.setup = setup
        self.fault = fault
        self.clock: Callable[[], float] = setup.clock or time.monotonic
        if fault == "local time":
            self.clock = lambda: time.time() - time.timezone
        self.lock = threading.Lock()
        self.one_by_one = threading.Lock()
        self.one_by_one_async = asyncio.Lock()
        self.phase = "closed"
        self.generation = self.streak = self.good = self.neutral = 0
        self.until = 0.0
        self.probe: object | None = None
        self.same_error = ToyError(1.0)
        self.window: list[bool] = []
        if fault != "fork":
            os.register_at_fork(after_in_child=self.unlock)

    def unlock(self) -> None:
        self.lock = threading.Lock()

    def state(self) -> str:
        return "half_open" if self.phase == "open" and self.clock() >= self.until else self.phase

    def turn(self, phase: str) -> None:
        self.phase, self.probe = phase, None
        self.generation += 1
        self.streak = self.good = self.neutral = 0
        self.until = self.clock() + self.setup.open_s

    def acquire(self) -> tuple[int, object, float]:
        """The generation, a token that is the probe's while half-open, and when."""
        with self.lock:
            if self.state() == "half_open" and self.phase == "open":
                self.turn("half_open")
                self.until = 0.0
            held = self.probe is not None and (self.clock() < self.until or self.fault == "no lease")
            if self.phase == "open" or (held and self.fault != "everybody"):
                raise self.refusal()
            token = object()
            if self.phase == "half_open":
                self.probe, self.until = token, self.clock() + self.setup.open_s
            return self.generation, token, self.clock()

    def refusal(self) -> ToyError:
        if self.fault == "same error":
            return self.same_error
        error = ToyError(self.until - self.clock())
        if self.fault == "no wait" and self.phase == "half_open":
            error.retry_after = None
        if self.fault == "infinite wait" and self.phase == "half_open":
            error.retry_after = float("inf")
        if self.fault == "no pickle":
            error.lock = self.lock  # type: ignore[attr-defined]
        if self.fault == "cycle":
            error.itself = error  # type: ignore[attr-defined]
        return error

    def settle(self, permit: tuple[int, object, float], error: BaseException | None) -> None:
        generation, token, began = permit
        with self.lock:
            if self.fault == "stale closes" and error is None and self.phase != "closed":
                self.turn("closed")
            if generation != self.generation or self.phase == "open":
                return
            if self.phase == "half_open":
                if token is self.probe or (error is None and self.fault != "lease decides"):
                    self.settle_probe(error)
            elif error is None or self.is_failure(error, self.clock() - began):
                self.count(error is not None)

    def is_failure(self, error: BaseException, seconds: float) -> bool:
        if isinstance(error, concurrent.futures.CancelledError):
            return self.fault == "future"
        if not isinstance(error, Exception):
            return self.setup.stall_s is not None and seconds > self.setup.stall_s and self.fault != "forgotten"
        if self.setup.only_outages:
            cause = error if self.fault == "no causes" else error.__cause__
            return self.fault == "counts all" or isinstance(error, OutageError) or isinstance(cause, OutageError)
        return not isinstance(error, BadRequestError)

    def count(self, failed: bool) -> None:
        if self.setup.rate_calls is not None:
            self.window = [*self.window, failed][-self.setup.rate_calls :]
            looks = failed or self.fault != "no look"
            if looks and len(self.window) == self.setup.rate_calls and sum(self.window) * 2 >= len(self.window):
                self.turn("open")
            return
        self.streak = self.streak + 1 if failed else 0
        if self.streak >= self.setup.failures:
            self.turn("open")

    def settle_probe(self, error: BaseException | None) -> None:
        self.probe = None
        if error is not None and not isinstance(error, Exception):
            if self.fault == "cancelled reopens":
                self.turn("open")
            elif self.fault == "cancelled closes":
                self.turn("closed")
            elif self.fault == "cancelled keeps":
                self.probe, self.until = object(), float("inf")
        elif isinstance(error, BadRequestError):
            self.neutral += 1
            if self.fault == "400 reopens":
                self.turn("open")
            elif self.fault == "400 closes" or (self.neutral >= 3 and self.fault != "400 never"):
                self.turn("closed")
        elif error is not None:
            self.turn("open")
        else:
            self.good += 1
            if self.good >= self.setup.good_probes:
                self.turn("closed")

    def call(self, fn: Callable[..., Any], *args: object) -> Any:
        if inspect.iscoroutinefunction(fn) and self.fault != "coroutine":
            raise TypeError("a coroutine function")
        self.refuse_generators(fn)
        with self.one_by_one if self.fault == "serial" else contextlib.nullcontext(), self.watching():
            return fn(*args)

    def refuse_generators(self, fn: Callable[..., Any]) -> None:
        if (inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)) and self.fault != "generator":
            raise TypeError("a generator function")

    @contextlib.contextmanager
    def stream(self, create: Callable[..., Any]) -> Iterator[Any]:
        """A call that ends with its chunks."""
        permit = self.acquire()
        error: BaseException | None = None if self.fault != "left" else KeyboardInterrupt()
        chunks = create()

        def watched() -> Iterator[Any]:
            nonlocal error
            try:
                yield from chunks
            except Exception as cut:
                error = None if self.fault == "cut" else cut
                raise

        try:
            yield watched()
        finally:
            self.settle(permit, error)

    @contextlib.asynccontextmanager
    async def async_stream(self, create: Callable[..., Awaitable[Any]]) -> Any:
        permit = self.acquire()
        error: BaseException | None = None if self.fault != "left" else KeyboardInterrupt()
        chunks = await create()

        async def watched() -> AsyncIterator[Any]:
            nonlocal error
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception as cut:
                error = None if self.fault == "cut" else cut
                raise

        try:
            yield watched()
        finally:
            self.settle(permit, error)

    async def async_call(self, fn: Callable[..., Awaitable[Any]], *args: object) -> Any:
        self.refuse_generators(fn)
        async with self.one_by_one_async if self.fault == "serial" else contextlib.nullcontext():
            with self.watching():
                return await fn(*args)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        permit = self.acquire()
        try:
            yield
        except BaseException as error:
            self.settle(permit, error)
            raise
        self.settle(permit, None)

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        if self.fault == "open block":
            yield
        else:
            with self.watching():
                yield

    @contextlib.asynccontextmanager
    async def async_block(self) -> Any:
        with self.block():
            yield


def toy(fault: str = "") -> Library:
    def build(face: Face, setup: Setup) -> Circuit:
        breaker = ToyBreaker(setup, fault)
        return Circuit(
            path=called(breaker.call if face == "sync" else breaker.async_call),
            state=breaker.state,
            rejection=ToyError,
            wait=lambda error: error.retry_after,
            block=breaker.block if face == "sync" else breaker.async_block,
            stream=breaker.stream if face == "sync" else breaker.async_stream,
            sync_ways={"call": called(breaker.call)} if face == "sync" else None,
        )

    paths: dict[Face, str] = {"sync": "call", "async": "async_call"}
    return Library(
        name="toy",
        distribution="toy",
        paths=paths,
        build=build,
        has_clock=True,
        has_good_probes=True,
        has_rate=True,
        has_only=True,
    )


FAULTS = {
    "stale closes": ("stale success", "closes"),
    "everybody": ("fifty half-open", "50 callers"),
    "cancelled reopens": ("cancelled probe", "reopens"),
    "cancelled closes": ("cancelled probe", "closes"),
    "cancelled keeps": ("cancelled probe", "stuck"),
    "no lease": ("hung probe", "stuck"),
    "400 reopens": ("a 400 half-open", "reopens"),
    "400 closes": ("a 400 half-open", "closes"),
    "400 never": ("a 400 half-open", "never closes"),
    "no wait": ("finite wait", "none"),
    "infinite wait": ("finite wait", "not finite"),
    "serial": ("calls overlap", "serial"),
    "coroutine": ("coroutine function", "silent"),
    "same error": ("rejections", "grows"),
    "no pickle": ("rejections", "no pickle"),
    "cycle": ("rejections", "cycles"),
    "local time": ("time zones", "+5 h"),
    "open block": ("with block", "runs"),
    "lease decides": ("long good calls", "never closes"),
    "forgotten": ("hanging calls", "never opens"),
    "no look": ("rate at success", "unseen"),
    "future": ("cancelled future", "opens"),
    "fork": ("forked child", "deadlock"),
    "generator": ("generator function", "silent"),
    "cut": ("cut stream", "unseen"),
    "left": ("left stream", "never closes"),
    "no causes": ("wrapped error", "unseen"),
    "counts all": ("wrapped error", "counts all"),
}
ONE_FACE: dict[str, Face] = {"coroutine function": "sync", "hanging calls": "async", "forked child": "sync"}
"""Situations that only threads can be in, or only tasks."""


def test_every_situation_has_a_fault() -> None:
    """No situation is left that nothing was seen to fail."""
    assert {situation for situation, _ in FAULTS.values()} == set(SITUATIONS)


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.slow] * (fault in ("serial", "local time", "fork"))) for fault in FAULTS],
)
def test_situation_finds_its_fault(fault: str, face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker with one fault fails the situation that is about it, in the word of the table.

    Slow: one waits for a caller that is blocked, one for a real open time, one for children that hang.
    """
    monkeypatch.setattr(breaker_field, "CHILD_S", 2)  # its children do hang, while threads keep the cores busy
    situation, word = FAULTS[fault]

    finding = observe_face(toy(fault), face, situation)

    if face != ONE_FACE.get(situation, face):
        assert finding.passed is None
    elif fault == "generator" and face == "async":
        assert finding.passed, "Python itself refuses to await an async generator"
    else:
        assert (finding.passed, finding.word) == (False, word), finding.fact


@pytest.mark.parametrize("situation", [pytest.param(name, marks=situation_marks.get(name, ())) for name in SITUATIONS])
def test_toy_without_a_fault_passes(situation: str) -> None:
    """So it is the fault that is found, and nothing else. Slow: time zones wait for real open times."""
    finding = observe(toy(), situation)

    assert finding.passed, finding.fact


@pytest.mark.slow  # whole comparisons
@pytest.mark.parametrize("situation", [pytest.param(name, marks=situation_marks.get(name, ())) for name in SITUATIONS])
def test_llmbatch_passes(situation: str) -> None:
    """Our breaker survives all of them, for threads and for tasks. Slow: time zones wait for real open times."""
    finding = observe(OURS, situation)

    assert finding.passed, finding.fact


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peer_yields_an_observation(peer: Library) -> None:
    """Whatever it does, every cell has a word and a sentence, and nothing hangs. Slow: most clocks are real."""
    if peer.version is None:
        pytest.skip(f"{peer.name} is not installed")

    findings = {situation: observe(peer, situation) for situation in SITUATIONS}

    assert all(finding.word and finding.fact for finding in findings.values())
    assert {finding.word for finding in findings.values()}.isdisjoint({"hangs", "error", "too slow"}), findings


def test_situation_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker that never comes back costs the deadline, not the run."""
    monkeypatch.setattr("breaker_situations.DEADLINE_S", 0.05)

    def build(face: Face, setup: Setup) -> Circuit:
        hanging = threading.Event()
        released.append(hanging)
        hanging.wait()
        raise AssertionError(face, setup)

    released: list[threading.Event] = []
    library = Library(name="hanging", distribution="hanging", paths={"sync": "call"}, build=build)

    finding = observe(library, "calls overlap")
    released[0].set()

    assert (finding.passed, finding.word) == (False, "hangs")


def test_face_that_fails_decides() -> None:
    """A library with two faces passes where both do, and the sentence tells what each did."""

    def build(face: Face, setup: Setup) -> Circuit:
        return toy("everybody" if face == "async" else "").build(face, setup)

    library = Library(name="half", distribution="half", paths={"sync": "", "async": ""}, build=build, has_clock=True)

    finding = observe(library, "fifty half-open")

    assert (finding.passed, finding.word) == (False, "50 callers")
    assert "sync: of 50 callers 1 reached the backend" in finding.fact
    assert "async: of 50 callers 50 reached the backend" in finding.fact


# Costs and tables.


def figures_of(**nanoseconds: float) -> Figures:
    """The same figure in every round and column; the bare call takes 20 ns."""
    rows = {"bare call": 20.0, "raise + except": 200.0}
    rows |= {name.replace("_", "-"): figure for name, figure in nanoseconds.items()}
    return {str(cell): {name: [figure] * 5 for name, figure in rows.items()} for cell in CELLS}


def verdicts(figures: Figures, found: dict[str, dict[str, Finding]]) -> dict[str, str]:
    return {goal.what: f"{goal.shown} {goal.verdict}" for goal in goals(figures, found)}


def findings_of(*failed: str) -> dict[str, Finding]:
    return {name: fails("fails", "") if name in failed else passes("") for name in SITUATIONS}


def test_goals_are_computed() -> None:
    """Closed figures are less the bare call, refusals are not, and each goal is judged by this run's own figures."""
    lines = verdicts(figures_of(llmbatch=220, purgatory=420, circuitbreaker=300), {})

    assert lines["sync closed: added"] == "200 ns missed"
    assert lines["async closed: added"] == "200 ns reached"
    assert lines["sync closed: ÷ cheapest peer"] == "0.71 (200 ÷ 280, circuitbreaker) reached"
    assert lines["sync open: rejection ÷ cheapest peer"] == "0.73 (220 ÷ 300, circuitbreaker) missed"


def test_best_correct_peer_is_computed() -> None:
    """The cheapest of those that fail no core situation in this run; a cheaper one that fails is passed over."""
    figures = figures_of(llmbatch=120, circuitbreaker=70, purgatory=520, interlock_cb=1020)
    found = {
        "circuitbreaker": findings_of("fifty half-open"),
        "purgatory": findings_of("hung probe"),
        "interlock-cb": findings_of(),
    }

    assert verdicts(figures, found)["sync closed: ÷ best correct peer"] == "0.20 (100 ÷ 500, purgatory) "
    assert leaders(found) == "Correct (fails none of situations 1, 2, 3, 7, 8): interlock-cb, purgatory."


def test_nearest_peer_stands_in_when_none_is_correct() -> None:
    """It is named together with what it fails."""
    found = {
        "purgatory": findings_of("fifty half-open", "stale success"),
        "interlock-cb": findings_of("coroutine function"),
    }

    assert leaders(found).endswith("nearest, and so compared with: interlock-cb (coroutine function).")


def test_without_peers_only_the_absolute_goals_are_told() -> None:
    """A run with nobody to compare with still says what a call costs."""
    assert list(verdicts(figures_of(llmbatch=120), {"llmbatch": findings_of()})) == [
        "sync closed: added",
        "async closed: added",
    ]


@pytest.mark.slow
def test_cost_tables_come_out(tmp_path: Path) -> None:
    """All rows and columns, and every round's figure in the file. Slow: the collector is settled before each cell."""
    raw = tmp_path / "raw.json"
    # A process of its own has less for the collector to look at.
    command = [
        sys.executable,
        benchmark.__file__,
        "--only",
        "cost",
        "--rounds",
        "2",
        "--calls",
        "20",
        "--json",
        str(raw),
    ]

    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for name in ("bare call", "raise + except", "llmbatch, rate window", *(peer.name for peer in PEERS)):
        assert f"\n {name} " in out
    assert "sync closed: added" in out
    figures = json.loads(raw.read_text())["cost_ns_a_call"]
    assert list(figures) == [str(cell) for cell in CELLS]
    assert all(len(rounds) == 2 for column in figures.values() for rounds in column.values())


def test_situations_are_printed_as_markdown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer that is not installed is named, with the command that installs it."""
    missing = Library(name="missing", distribution="no-such-distribution", paths={"sync": "call"}, build=toy().build)
    monkeypatch.setattr(benchmark, "PEERS", (missing,))
    monkeypatch.setattr(benchmark, "observe", lambda library, situation: fails("closes", f"{library}{situation}"))

    benchmark.main(["--only", "conformance", "--markdown"])

    captured = capsys.readouterr()
    assert "|  | llmbatch |\n| --- | ---: |\n| 1 stale success | closes |\n" in captured.out
    assert "Not installed: missing (pip install -e '.[peers]')." in captured.out
    assert "missing is not installed: pip install -e '.[peers]'\n" in captured.err


def test_extra_names_every_peer() -> None:
    """What the hint installs is what the tables compare."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text()

    for peer in PEERS:
        assert f'"{peer.distribution}>=' in pyproject
        assert f"{peer.distribution}==" in constraints


def test_streams_are_measured_beside_the_bare_loop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Four ways to stream and two loops; times are not judged."""
    kept = tmp_path / "raw.json"

    benchmark.main(["--only", "streams", "--rounds", "1", "--json", str(kept), "--markdown"])

    shown = capsys.readouterr().out
    raw = json.loads(kept.read_text())
    assert [len(values) for values in raw["cost_ns_a_chunk"].values()] == [1] * 6
    assert all(value > 0 for values in raw["cost_ns_a_chunk"].values() for value in values)
    assert "| async, idle_timeout |" in shown
    assert (raw["conformance"], raw["cost_ns_a_call"]) == ({}, {})
