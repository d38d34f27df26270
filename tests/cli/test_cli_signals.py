"""What Ctrl-C, TERM and a closed terminal do to a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run, Silence, TwoLines


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[object]:
    """``start(*arguments)`` starts ``llmbatch run`` and gives the process."""
    started: list[subprocess.Popen[str]] = []

    def launch(*arguments: str, ignoring: signal.Signals | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmbatch", "run", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if ignoring is None else lambda: signal.signal(ignoring, signal.SIG_IGN),
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def wait_until(condition: object, seconds: float = 120.0) -> None:
    """Poll until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def lines_in(path: Path) -> int:
    """How many lines a file has; 0 where it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_first_signal_lets_requests_finish_and_the_run_resumes(
    llmbatch: Run, start: Callable[..., Any], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Requests in flight get their lines after one signal, whose exit code the run has; the same command goes on.

    Slow: a process has to be well under way before the signal.
    """
    (tmp_path / "rows.jsonl").write_text('"x"\n' * 300)
    output = tmp_path / "rows.results.jsonl"
    process = start("rows.jsonl", "-m", "sim/steady", "-c", "10", "--progress", "plain")
    wait_until(lambda: lines_in(output) >= 10)

    process.send_signal(number)
    _, errors = process.communicate(timeout=120)

    assert process.returncode == code
    assert "stops at once" in errors
    assert "Traceback" not in errors
    rows = [json.loads(line)["row"] for line in output.read_text().splitlines()]
    assert len(rows) == len(set(rows))
    assert 10 <= len(rows) < 300
    resumed = llmbatch("run", "rows.jsonl", "-m", "sim/steady", "-n", str(len(rows) + 5), "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout)["already_done"] == len(rows)


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_stops_at_once(
    start: Callable[..., Any], prompts: Path, silence: Silence, number: signal.Signals, code: int
) -> None:
    """A request that hangs holds the run after the first signal, and no longer after the second.

    Slow: the run has to be waiting for an answer.
    """
    process = start("prompts.jsonl", "-m", "m", "--base-url", silence.url, "--progress", "plain")
    wait_until(silence.was_broken)

    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.4)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)

    assert process.returncode == code
    assert "a second" in errors
    assert "stopping at once" in errors
    assert "Traceback" not in errors


@pytest.mark.traced
@pytest.mark.slow
def test_a_closed_terminal_is_ignored_under_nohup(start: Callable[..., Any], prompts: Path, silence: Silence) -> None:
    """A hangup that was ignored when the process started (``nohup``) does not stop the run.

    Slow: proves that nothing happens for a while.
    """
    process = start("prompts.jsonl", "-m", "m", "--base-url", silence.url, ignoring=signal.SIGHUP)
    wait_until(silence.was_broken)

    process.send_signal(signal.SIGHUP)

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)


@pytest.mark.traced
@pytest.mark.slow
def test_a_second_run_on_the_same_output_is_refused(
    llmbatch: Run,
    two_lines: TwoLines,
    start: Callable[..., Any],
    prompts: Path,
    silence: Silence,
) -> None:
    """While a run has the output, another one exits with 2 and says who has it.

    Slow: the first run has to be under way.
    """
    first = start("prompts.jsonl", "-m", "m", "--base-url", silence.url)
    wait_until(silence.was_broken)

    second = llmbatch("run", "prompts.jsonl", "-m", "m", "--base-url", silence.url)

    assert second.returncode == 2
    error, _ = two_lines(second.stderr)
    assert "prompts.results.jsonl" in error
    assert str(first.pid) in error


@pytest.mark.traced
@pytest.mark.slow
def test_status_tells_of_a_run_that_is_going_on(
    llmbatch: Run, start: Callable[..., Any], prompts: Path, silence: Silence
) -> None:
    """``llmbatch status`` calls a run that holds its output running, and does not disturb it.

    Slow: the run has to be under way.
    """
    process = start("prompts.jsonl", "-m", "m", "--base-url", silence.url)
    wait_until(silence.was_broken)

    done = llmbatch("status", "prompts.results.jsonl", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "running"
    assert process.poll() is None
