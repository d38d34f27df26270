"""Threads that are waited for, whose errors are raised, and that interleave more often than they would."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE = 60.0
"""Seconds until a test gives up; nothing takes so long unless it hangs."""


def run_threads(*targets: Callable[[], object]) -> None:
    """Run all, wait for all, and raise what one of them raised."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Let threads interleave a thousand times more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def traced(trace: Callable[[FrameType, str, object], Any]) -> Iterator[None]:
    """Call *trace* on every line of the threads that are started meanwhile."""
    before = threading.gettrace()
    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)


@contextmanager
def switches_inside(*files: str | None) -> Iterator[None]:
    """Let another thread run at any line of *files*, in the threads that are started meanwhile."""
    draw = random.Random(7).random

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if draw() < 0.3:
            time.sleep(0)
        return trace

    with traced(trace):
        yield
