"""Signals at drawn moments, and stops: the run ends or goes on, loses nothing, and the same command completes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
from faults_run import KILLED, Job, finish

pytestmark = pytest.mark.slow  # waits for real signals at real moments


def send_after(process: subprocess.Popen[str], seconds: float, *signals: signal.Signals, gap: float = 0.05) -> None:
    time.sleep(seconds)
    for number in signals:
        if process.poll() is None:
            process.send_signal(number)
        time.sleep(gap)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_a_signal_ends_the_run_and_nothing_is_lost(tmp_path: Path, name: str, seed: int) -> None:
    """128 + N; what was in flight has its line, so nothing is sent twice."""
    number = signal.Signals[name]
    moment = Random(f"{name}{seed}").uniform(0.15, 1.2)
    job = Job(tmp_path / "a", rows=60, concurrency=3, delay=0.05)
    try:
        process = job.start()
        send_after(process, moment, number)
        ended = finish(process)
        assert ended.code in (128 + number, 0), ended
        # Before Python listens to signals, the system's own way applies.
        if job.output.exists():
            assert len(job.lines()) == len(job.server.arrivals)
        job.finish_in_peace()
        assert max(job.sent().values()) == 1
    finally:
        job.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_second_signal_ends_the_run_at_once(tmp_path: Path, seed: int) -> None:
    """What was in flight is given up, and is all that is sent again."""
    moment = Random(seed).uniform(0.8, 1.2)
    job = Job(tmp_path / "a", rows=40, concurrency=4, delay=3.0)
    try:
        process = job.start()
        send_after(process, moment, signal.SIGINT, signal.SIGINT, gap=0.3)
        ended = finish(process)
        assert ended.code == 130
        assert len(job.server.arrivals) <= 4
        job.server.delay = 0.01
        job.finish_in_peace()
        assert sum(job.sent().values()) <= 40 + 4
    finally:
        job.close()


def test_a_stopped_process_goes_on_and_fails_no_row(tmp_path: Path) -> None:
    """Stopped (SIGSTOP) for longer than `--timeout`: what timed out meanwhile is no fault of the rows."""
    job = Job(tmp_path / "a", rows=60, concurrency=4, delay=0.05, options=("--timeout", "1", "--recovery-timeout", "1"))
    try:
        process = job.start()
        send_after(process, 0.6, signal.SIGSTOP, gap=2.0)
        send_after(process, 0.0, signal.SIGCONT)
        ended = finish(process)
    finally:
        job.close()

    assert ended.code == 0, ended
    job.check_complete()


def test_a_chain_of_kills_sends_little_twice(tmp_path: Path) -> None:
    """SIGKILL at drawn moments, run after run: every time at most what was in flight is repeated."""
    rng = Random(5)
    kills = 0
    job = Job(tmp_path / "a", rows=240, concurrency=4, delay=0.05)
    try:
        for _ in range(8):
            process = job.start()
            send_after(process, rng.uniform(0.3, 0.9), signal.SIGKILL)
            kills += finish(process).code == KILLED
            job.lines()
        job.finish_in_peace()
        assert kills > 3
        assert sum(job.sent().values()) <= 240 + 4 * kills
    finally:
        job.close()
