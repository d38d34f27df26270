"""What comes in the middle: a signal handler or the garbage collector may use a breaker at any line of its own code.

Each thing that one can do with a breaker is done again and again, with another thing done on the same thread at its
first line, at its second, and so on. Neither may hang, fail or be lost.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, fine, half_opened

import llmbatch.breaker
from llmbatch.breaker import (
    BreakerEvent,
    BreakerMetrics,
    BreakerRegistry,
    CallEnded,
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    StateChanged,
)

PACKAGE = str(Path(llmbatch.breaker.__file__).parent)
EXPECTED = (CircuitOpenError, DownError, TimeoutError)


class Scene:
    """A half-open breaker with two of four probes out, in a registry, with metrics and a listener."""

    def __init__(self) -> None:
        clock = Clock()
        troubled = half_opened(clock, probes=4, success_threshold=2, failure_rate=0.5, minimum_calls=2)
        self.breakers = BreakerRegistry[str](lambda key: troubled if key == "a" else CircuitBreaker(), capacity=1)
        self.breaker: CircuitBreaker = self.breakers["a"]
        self.probe, self.abandoned = self.breaker.acquire(), self.breaker.acquire()
        self.metrics = BreakerMetrics()
        self.told: list[BreakerEvent] = []
        self.breaker.add_listener(self.told.append, calls=True)
        self.breaker.add_listener(self.metrics, calls=True)
        self.let_in = 0

    def call(self) -> None:
        self.breaker.call(self.enter, fine)

    def fail(self) -> None:
        self.breaker.call(self.enter, down)

    def enter(self, fn: Callable[[], str]) -> str:
        self.let_in += 1
        return fn()

    def block(self) -> None:
        with self.breaker.acquire():
            self.let_in += 1

    def settle_the_probe(self) -> None:
        self.let_in += 1
        self.probe.settle()

    def release_the_probe(self) -> None:
        self.let_in += 1
        self.probe.release()

    def release_the_abandoned(self) -> None:
        self.let_in += 1
        self.abandoned.release()

    def wait(self) -> None:
        self.breaker.wait_ready_sync(0.0)

    def look(self) -> None:
        _ = (self.breaker.state, self.breaker.failures, self.breaker.retry_after, repr(self.breaker))
        str(self.breaker.explain())

    def look_at_the_failures(self) -> None:
        _ = self.breaker.failures

    def look_at_the_wait(self) -> None:
        _ = self.breaker.retry_after

    def look_at_the_probe(self) -> None:
        _ = self.probe.is_current

    def sleep(self) -> None:
        self.probe.sleep(0.0)

    def read_the_numbers(self) -> None:
        self.metrics.numbers()

    def ask_the_registry(self) -> None:
        held = self.breakers["a"]
        self.breakers["b"]
        assert self.breakers["a"] is held

    def listen(self) -> None:
        self.breaker.add_listener(lambda _: None)()

    def force_open(self) -> None:
        self.breaker.force_open("maintenance")

    def reset(self) -> None:
        self.breaker.reset()

    def hold(self) -> None:
        self.breaker.hold(1.0)

    def check(self) -> None:
        """Nothing is lost: every call that was let in was told once, in a legal order, and the breaker works on."""
        changes = [event for event in self.told if isinstance(event, StateChanged)]
        ended = [event for event in self.told if isinstance(event, CallEnded)]
        assert len(ended) == self.let_in
        assert self.metrics.numbers().ended == Counter(event.verdict or "ignored" for event in ended)
        assert [event.old for event in changes[1:]] == [event.new for event in changes[:-1]]
        assert self.metrics.numbers().refused == sum(isinstance(event, CallRefused) for event in self.told)
        self.breaker.reset()
        assert self.breaker.call(fine) == "fine"
        assert (self.breaker.state, self.breaker.failures) == ("closed", 0)
        assert not self.breaker._circuit.waiters


OUTER = [
    Scene.call,
    Scene.fail,
    Scene.block,
    Scene.release_the_probe,
    Scene.settle_the_probe,
    Scene.wait,
    Scene.look,
    Scene.look_at_the_failures,
    Scene.look_at_the_wait,
    Scene.look_at_the_probe,
    Scene.sleep,
    Scene.read_the_numbers,
    Scene.ask_the_registry,
    Scene.listen,
    Scene.force_open,
    Scene.reset,
    Scene.hold,
]
INNER = [
    Scene.release_the_abandoned,
    Scene.look,
    Scene.read_the_numbers,
    Scene.ask_the_registry,
    Scene.call,
    Scene.fail,
    Scene.block,
    Scene.force_open,
    Scene.reset,
    Scene.hold,
    Scene.listen,
]
"""What may come in the middle: an abandoned call that the collector closes, and whatever a signal handler does."""


def interrupted_at(line: int, outer: Callable[[Scene], None], inner: Callable[[Scene], None]) -> bool:
    """Do *outer*, and *inner* at its *line* in the package; whether it has so many."""
    scene = Scene()
    lines = itertools.count(1)
    came = False

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal came
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and next(lines) == line:
            came = True
            with contextlib.suppress(*EXPECTED):
                inner(scene)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(*EXPECTED):
            outer(scene)
    finally:
        sys.settrace(before)
    scene.check()
    return came


@pytest.mark.slow
@pytest.mark.parametrize("outer", OUTER, ids=[outer.__name__ for outer in OUTER])
def test_a_breaker_may_be_used_in_the_middle_of_its_own_steps(outer: Callable[[Scene], None]) -> None:
    """Whatever comes at whichever line. Slow, for there are many lines and each is tried with everything."""
    at = ["before the first"]
    errors: list[BaseException] = []

    def work() -> None:
        for inner in INNER:
            for line in itertools.count(1):
                at[:] = [f"{inner.__name__} at line {line} of {outer.__name__}"]
                try:
                    if not interrupted_at(line, outer, inner):
                        break
                except BaseException as error:
                    error.add_note(at[0])
                    errors.append(error)
                    return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    last: list[str] = []
    while thread.is_alive() and at != last:
        last = at.copy()
        thread.join(20)

    assert not thread.is_alive(), f"it hangs: {at[0]}"
    if errors:
        raise errors[0]


def test_a_good_call_that_ends_in_the_middle_of_a_reset_is_in_no_later_window() -> None:
    """Calls that are out decide nothing: at whichever line of its end the reset comes, two failures of two open."""

    def opens_after_a_reset_at(line: int) -> bool:
        """Whether it opens; StopIteration where the end has no such line."""
        breaker = CircuitBreaker(None, failure_rate=1.0, minimum_calls=2)
        lines = itertools.count(1)
        ends = came = False

        def ask() -> None:
            nonlocal ends
            ends = True

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal came
            if event == "line" and ends and frame.f_code.co_filename.startswith(PACKAGE) and next(lines) == line:
                came = True
                breaker.reset()
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            breaker.call(ask)
        finally:
            sys.settrace(before)
        if not came:
            raise StopIteration
        for _ in range(2):
            with pytest.raises(DownError):
                breaker.call(down)
        return breaker.is_open()

    opened: list[bool] = []
    with contextlib.suppress(StopIteration):
        for line in itertools.count(1):
            opened.append(opens_after_a_reset_at(line))

    assert len(opened) > 3
    assert all(opened)
