"""A run of ``--workers`` that is controlled while it goes on: what is said to it reaches all processes.

Slow: every run starts several interpreters.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = [
    pytest.mark.slow,  # every run starts several interpreters
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc"),
]


@pytest.fixture
def rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt":"row {n}"}}\n' for n in range(1, 1001)))


def say(folder: Path, *words: str) -> str:
    """What a command, which must succeed, says."""
    done = subprocess.run(
        [sys.executable, "-m", "llmbatch", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def refused(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llmbatch", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def status(folder: Path) -> dict[str, object]:
    path = folder / ".out.jsonl.status.json"
    return dict(json.loads(path.read_text())["run"]) if path.exists() else {}


def settle(provider: Provider) -> int:
    """Wait until no request is in flight or on its way; how many have been made."""
    while True:
        before = provider.asked.total()
        time.sleep(0.5)
        if provider.asked.total() == before:
            return before


def rows_in(path: Path) -> Counter[int]:
    return Counter(json.loads(line)["row"] for line in path.read_text().splitlines())


@pytest.mark.usefixtures("rows")
def test_a_run_of_several_processes_is_paused_changed_resumed_and_drained(
    tmp_path: Path, start: Start, provider: Provider
) -> None:
    """No process sends while it is paused, not even one that is killed and started again; all get their shares."""
    process = start("--workers", "2", "-c", "4", "--progress", "json")
    wait_until(lambda: provider.asked.total() > 20)

    assert say(tmp_path, "pause", "out.jsonl").startswith("paused")
    asked = settle(provider)
    os.kill(children(process)[0], signal.SIGKILL)
    wait_until(lambda: status(tmp_path).get("state") == "paused" and len(children(process)) == 2)
    assert say(tmp_path, "pause", "out.jsonl") == "it is paused already\n"
    assert "must be" in refused(tmp_path, "set", "concurrency=0", "out.jsonl")
    assert "less than the 2 processes of this run" in refused(tmp_path, "set", "concurrency=1", "out.jsonl")
    assert "this run has no --max-cost" in refused(tmp_path, "set", "max-cost=5", "out.jsonl")
    assert say(tmp_path, "set", "concurrency=12", "rpm=6000", "out.jsonl") == (
        "concurrency is 12 from now on; rpm is 6000 from now on\n"
    )
    time.sleep(3.0)  # the process that was killed has begun by now, and would have sent
    assert provider.asked.total() == asked
    provider.seconds = 0.2
    assert say(tmp_path, "resume", "out.jsonl") == "resumed\n"
    wait_until(lambda: provider.asked.total() > asked + 100)
    assert "stopping" in say(tmp_path, "drain", "out.jsonl")
    _, errors = process.communicate(timeout=120)

    events = [json.loads(line) for line in errors.splitlines()]
    told = [event for event in events if event["event"] in ("paused", "option_changed", "resumed")]
    assert process.returncode == 130
    assert [event["event"] for event in told] == ["paused", "option_changed", "option_changed", "resumed"]
    assert {event["name"]: (event["old"], event["new"]) for event in told if "name" in event} == {
        "concurrency": ("4", "12"), "rpm": ("none", "6000"),
    }  # fmt: skip
    assert 6 < provider.most_at_once <= 12
    assert rows_in(tmp_path / "out.jsonl").total() >= provider.asked.total() - 2  # but for what the killed one had sent
    assert not list(tmp_path.glob("*.control"))


@pytest.mark.usefixtures("rows")
def test_a_higher_cap_of_the_cost_is_that_of_all_processes(tmp_path: Path, start: Start, provider: Provider) -> None:
    """Raised while the run goes on, it is used but for what one more row could cost, and never exceeded."""
    (tmp_path / "prices.toml").write_text('["openai/m"]\ninput = 100.0\noutput = 200.0\n')  # US$ 0.002 per row
    process = start(
        *("--workers", "3", "-c", "6", "-P", "max_tokens=5", "--prices", "prices.toml", "-q", "--max-cost", "0.3")
    )
    wait_until(lambda: provider.asked.total() > 60)

    assert say(tmp_path, "set", "max-cost=0.6", "out.jsonl") == "max-cost is 0.6 from now on\n"
    _, errors = process.communicate(timeout=120)

    spent = sum(json.loads(line)["cost_usd"] for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert process.returncode == 4, errors
    assert b"--max-cost 0.6 is reached by the processes together" in errors
    assert 0.56 < spent <= 0.6
