"""The benchmark of outages, run small: real servers, real processes, and none of them left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "outage_sim.py"

pytest.importorskip("genai_prices", reason="needs the extra bench")


def words(*more: str) -> list[str]:
    return [sys.executable, str(BENCHMARK), *more]


def marked(mark: str, word: str = "") -> list[int]:
    """Processes with *mark*, and *word*, in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in line and word.encode() in line:
                found.append(int(entry.name))
    return found


@pytest.mark.slow  # some seconds of an outage, for two strategies
def test_a_small_benchmark_tells_what_each_strategy_did(tmp_path: Path) -> None:
    """The table names them, the raw figures add up, and llmbatch loses nothing."""
    (tmp_path / "short.toml").write_text("[[phase]]\nseconds = 0.5\n[[phase]]\nseconds = 2\nbehavior = 'down'\n")
    options = ("--scenario", "short.toml", "--requests", "120", "--latency", "0.2", "--strategies", "threads,llmbatch")
    rounds = ("--rounds", "2")

    done = subprocess.run(
        words(*options, *rounds, "--json", "raw.json", "--picture", "all.svg"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "calls while it was down" in done.stdout
    raw = json.loads((tmp_path / "raw.json").read_text())
    naive, ours = raw["runs"]["threads"][0], raw["runs"]["llmbatch"][0]
    for each in raw["runs"]["llmbatch"]:
        assert (each["good"], each["failed"], each["lost"]) == (120, 0, 0)
        assert each["calls"] >= 120, "no round goes on with the lines of another"
    assert naive["good"] + naive["failed"] + naive["lost"] == 120
    assert 0 < ours["calls_down"] < naive["calls_down"]
    assert naive["peak_threads"] > 40
    assert ours["over_oracle"] > 0.9
    assert [state for _, state in ours["circuit"]][-1] == "closed"
    assert "<svg" in (tmp_path / "all.svg").read_text()


@pytest.mark.slow  # real processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_benchmark_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Not the provider, and not the strategy at work; SIGKILL is no exception."""
    scenario = tmp_path / f"kept-{number}.toml"
    scenario.write_text("[[phase]]\nseconds = 60\nbehavior = 'down'\n")
    process = subprocess.Popen(
        words("--scenario", str(scenario), "--strategies", "llmbatch"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (serving := marked(scenario.name, "serve")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert serving, "the provider has started"
    time.sleep(1.0)  # and the strategy too

    process.send_signal(number)
    process.wait(120)

    while marked(scenario.name) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(scenario.name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--scenario", "none"), "scenario 'none' is unknown"),
        (("--requests", "0"), "--requests is 0, must be 1 to 100000"),
        (("--sizes", "10,many"), "--sizes is 0, must be 1 to 100000"),
        (("--strategies", "prayer"), "strategy 'prayer' is unknown"),
        (("--speed", "0"), "--speed is 0, must be 0.001 to 100000"),
    ],
)
def test_what_cannot_be_measured_is_told(options: tuple[str, ...], told: str) -> None:
    """Exit code 2, one line and a hint."""
    done = subprocess.run(words(*options), capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 2
    assert told in done.stderr
    assert "hint: " in done.stderr
