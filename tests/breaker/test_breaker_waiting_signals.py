"""Threads that wait for a circuit while signals arrive."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import signal
import time

from llmbatch.breaker.waiting import Waiters, wait

signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 5e-5, 5e-5)
end = time.monotonic() + 2.0
while time.monotonic() < end:
    left = iter((1e-8, 0.0))
    wait(Waiters(), lambda wake: next(left))
signal.setitimer(signal.ITIMER_REAL, 0.0)
"""


@pytest.mark.slow  # two seconds of signals
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_signal_at_the_end_of_a_wait_did_not_let_it_end() -> None:
    """It came once in some thousand waits of a test, and there it hung."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
