"""Processes that fork while other threads use a breaker: the child has the state, and no lock of a thread that is gone.

Each child is a real one. A signal ends it if it hangs.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from breaker_provider import DownError, down, fine, refused, trip

from llmbatch.breaker import BreakerMetrics, BreakerRegistry, CircuitBreaker, fork
from llmbatch.breaker.fork import LONGEST_WAIT

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.no_cover,  # the tracer has a lock of its own, that a child waits for if a thread held it at the fork
    # From Python 3.12 on: forking while threads run is what these tests are about.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PATIENCE_S = 60


def in_child(check: Callable[[], object]) -> bool:
    """Whether *check* is true in a child process that is forked now; a child that hangs is ended."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_S)
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


@contextmanager
def thread(target: Callable[[], object]) -> Iterator[None]:
    runner = threading.Thread(target=target, daemon=True)
    runner.start()
    yield
    runner.join(PATIENCE_S)
    assert not runner.is_alive()


class Gate:
    """A clock in which one thread can be stopped: it then holds the lock of the breaker."""

    def __init__(self) -> None:
        self.stops: int | None = None
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> float:
        if threading.get_ident() == self.stops:
            self.inside.set()
            self.go_on.wait(PATIENCE_S)
        return 1000.0


def works(breaker: CircuitBreaker) -> bool:
    """It refuses, can be asked, and can be reset and used."""
    assert refused(breaker).reason == "2 calls in a row failed"
    assert (breaker.state, breaker.failures) == ("open", 2)
    breaker.reset()
    with breaker.acquire():
        return breaker.call(fine) == "fine"


def test_a_child_hung_that_was_forked_while_a_thread_was_inside_the_lock() -> None:
    """The thread stays inside for longer than a fork waits. The parent goes on too."""
    clock = Gate()
    breaker = CircuitBreaker(2, clock=clock)
    trip(breaker)

    def use() -> None:
        clock.stops = threading.get_ident()
        assert breaker.state == "open"

    with thread(use):
        assert clock.inside.wait(PATIENCE_S)
        assert in_child(lambda: works(breaker))
        clock.go_on.set()

    assert works(breaker)


@pytest.mark.slow
def test_a_child_hung_that_was_forked_while_threads_used_the_breaker() -> None:
    """Forty times, with four threads that fail and succeed all the time: its counts are whole.

    Slow, for each fork and each child shares two cores with the threads.
    """
    breaker = CircuitBreaker(None, failure_rate=1.0, rate_window=50, slow_call_rate=1.0)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            for fn in (fine, down):
                try:
                    breaker.call(fn)
                except DownError:
                    continue

    def is_whole() -> bool:
        before = breaker.window
        assert before is not None
        for _ in range(50):
            breaker.call(fine)
        after = breaker.window
        assert after is not None
        return before.calls <= 50 and (after.calls, after.failed) == (50, 0)

    breaker.call(fine)
    with thread(use), thread(use), thread(use), thread(use):
        try:
            assert all(in_child(is_whole) for _ in range(40))
        finally:
            stop.set()


def test_a_change_that_a_child_saw_half_made_is_completed() -> None:
    """A thread that has opened the circuit, and has not yet told those who look without the lock."""
    clock = Gate()
    breaker = CircuitBreaker(2, clock=clock)
    for _ in range(2):
        breaker._circuit._circuit.settle(breaker.acquire()._state, "failure", 0.0)

    def use() -> None:
        clock.stops = threading.get_ident()
        assert breaker.state == "half_open"

    with thread(use):
        assert clock.inside.wait(PATIENCE_S)
        assert in_child(lambda: breaker._circuit.fast_generation is None)
        clock.go_on.set()

    assert breaker._circuit.fast_generation is not None


def test_a_child_hung_that_was_forked_while_a_listener_ran() -> None:
    """Its own events are delivered, also to metrics that a thread was reading."""
    inside, go_on = threading.Event(), threading.Event()
    metrics = BreakerMetrics()
    breaker = CircuitBreaker(1)

    def slow(_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(PATIENCE_S)

    def counts() -> bool:
        breaker.reset()
        trip(breaker)
        return metrics.numbers().openings >= 1

    breaker.add_listener(slow)
    breaker.add_listener(metrics)

    def use() -> None:
        trip(breaker)

    def hold() -> None:
        with metrics._lock:
            inside.wait(PATIENCE_S)
            go_on.wait(PATIENCE_S)

    with thread(hold), thread(use):
        assert inside.wait(PATIENCE_S)
        assert in_child(counts)
        go_on.set()

    assert metrics.numbers().openings == 1


def test_a_child_hung_that_was_forked_while_a_registry_made_a_breaker() -> None:
    """Making one may take any time."""
    inside, go_on = threading.Event(), threading.Event()

    def make(key: str) -> CircuitBreaker:
        if key == "slow":
            inside.set()
            go_on.wait(PATIENCE_S)
        return CircuitBreaker(name=key)

    breakers = BreakerRegistry(make)
    with thread(lambda: breakers["slow"]):
        assert inside.wait(PATIENCE_S)
        assert in_child(lambda: breakers["quick"].call(fine) == "fine")
        go_on.set()

    assert "slow" in breakers


def test_a_process_may_fork_within_a_step() -> None:
    """The clock forks, for example in a signal handler: both processes finish the step."""
    forking = False

    def clock() -> float:
        nonlocal forking
        if forking:
            forking = False
            pids.append(os.fork())
        return 1000.0

    pids: list[int] = []
    breaker = CircuitBreaker(2, clock=clock)
    trip(breaker)
    forking = True

    state = breaker.state
    if not pids[0]:
        try:
            os._exit(0 if state == "open" and works(breaker) else 2)
        finally:
            os._exit(1)

    assert os.WEXITSTATUS(os.waitpid(pids[0], 0)[1]) == 0
    assert works(breaker)


def test_a_lock_that_nobody_releases_is_free_in_the_child() -> None:
    """What a child does, done here: a thread has ended that held each of the locks."""
    subjects: list[Any] = [CircuitBreaker()._circuit, BreakerRegistry(), BreakerMetrics()]
    for subject in subjects:
        with thread(subject._lock.acquire):
            pass

    fork._after_in_child()

    assert all(subject._lock.acquire(timeout=0) for subject in subjects)


def test_what_the_forking_thread_holds_it_holds_in_the_child_too() -> None:
    """It leaves its step there as it does in the parent."""
    subject = CircuitBreaker()._circuit

    with subject._lock:
        fork._before()
        fork._after_in_child()
        assert subject._lock._is_owned()  # type: ignore[attr-defined]

    assert not subject._lock._is_owned()  # type: ignore[attr-defined]


def test_a_fork_waits_for_a_moment_and_no_longer() -> None:
    """All locks together; what it has locked it releases."""
    free, stuck = CircuitBreaker()._circuit, CircuitBreaker()._circuit
    with thread(stuck._lock.acquire):
        pass

    fork._before()
    acquired: list[bool] = []
    with thread(lambda: acquired.append(free._lock.acquire(timeout=0))):
        pass
    fork._after_in_parent()
    with thread(lambda: acquired.append(free._lock.acquire(timeout=0))):
        pass

    assert acquired == [False, True]
    assert LONGEST_WAIT < 1.0


def test_surviving_forks_keeps_no_breaker_alive(small_heap: None) -> None:
    """Breakers, registries and metrics go as soon as nobody holds them."""
    gc.collect()
    before = len(fork._alive(fork._locks)), len(fork._alive(fork._repairable))
    subjects: list[Any] = [CircuitBreaker(), BreakerRegistry(), BreakerMetrics()]
    refs = [weakref.ref(subjects[0]), weakref.ref(subjects[1])]
    assert (len(fork._alive(fork._locks)), len(fork._alive(fork._repairable))) == (before[0] + 3, before[1] + 1)

    subjects.clear()
    gc.collect()

    assert [ref() for ref in refs] == [None, None]
    assert (len(fork._alive(fork._locks)), len(fork._alive(fork._repairable))) == before
