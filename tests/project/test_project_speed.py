"""The benchmarks of speed, memory and start-up: run small, to know that they measure what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow  # some twenty processes and three servers
@pytest.mark.parametrize("jobs", ["llmbatch,bare aiohttp", pytest.param("script,llmbatch", marks=pytest.mark.long)])
def test_a_small_throughput_benchmark_tells_all_its_tables(tmp_path: Path, jobs: str) -> None:
    """Every part is measured, who is asked for and no one else, and each job left a line a row."""
    parts = ("--parts", "instant,memory,peers", "--jobs", jobs)

    done = benchmark("throughput.py", *parts, "--scale", "0.002", "--rounds", "1", "--json", "raw.json", cwd=tmp_path)

    told = json.loads((tmp_path / "raw.json").read_text())["cells"]
    assert {cell["part"] for cell in told} == {"instant", "memory", "peers"}
    assert {cell["job"] for cell in told} == {*jobs.split(",")}
    assert {cell["rows"] for cell in told if cell["part"] == "memory"} == {20, 200, 2000}
    assert all(one["seconds"] > 0 and one["cpu_s"] > 0 and one["peak_mb"] > 5 for cell in told for one in cell["runs"])
    assert "to bare: rows/s, CPU" in done.stdout


@pytest.mark.slow  # a process that is killed
def test_a_killed_throughput_benchmark_leaves_no_server_behind(tmp_path: Path) -> None:
    """The kernel ends its servers and its jobs with it."""
    words = [sys.executable, str(BENCHMARKS / "throughput.py"), "--parts", "latency", "--jobs", "bare aiohttp"]
    process = subprocess.Popen(
        [*words, "--scale", "0.1"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(children(process.pid)) == 2)
        started = children(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.slow  # some fifteen processes
def test_the_benchmark_of_starting_tells_what_each_command_takes(tmp_path: Path) -> None:
    """Processor time, wall time and memory of each, none of them nothing."""
    benchmark("startup.py", "--rounds", "1", "--json", "raw.json", cwd=tmp_path)

    told = json.loads((tmp_path / "raw.json").read_text())
    assert {"python", "import llmbatch", "llmbatch --help", "llmbatch run, one row"} <= told.keys()
    assert all(one["cpu_s"] > 0 and one["peak_mb"] > 5 for [one] in told.values())


@pytest.mark.slow  # three runs of some seconds
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to read the CPU of threads")
def test_the_benchmark_of_dashboards_tells_what_open_pages_cost(tmp_path: Path) -> None:
    """Nothing where nobody looks; with open pages something, and they have seen the run."""
    words = ("--rows", "400", "--delay", "0.4", "--rounds", "1", "--first", "1", "--json", "raw.json")
    done = benchmark("dashboard_cost.py", *words, cwd=tmp_path)

    told = json.loads((tmp_path / "raw.json").read_text())
    [none], [unwatched], [watched] = told["none"], told["unwatched"], told["watched"]
    assert none["ratio"] == 0
    assert unwatched["first_s"] < 0.05
    assert watched["first_s"] > 0.05
    assert 0 < watched["ratio"] < 1
    assert "ms of each second" in done.stdout


@pytest.mark.slow  # a process that imports pydantic
def test_the_benchmark_of_schemas_tells_each_check(tmp_path: Path) -> None:
    """Each way of checking costs more than parsing, and none of them much more."""
    done = benchmark("schema_check.py", "--rounds", "1", "--json", "raw.json", cwd=tmp_path)

    told = json.loads((tmp_path / "raw.json").read_text())
    assert set(told) == {"review", "order"}
    for figures in told.values():
        assert 0 < figures["parse as JSON"][0] < figures["JSON Schema"][0] < figures["pydantic model"][0] * 10
    assert "review, 885 bytes" in done.stdout


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def wait_until(condition: Callable[[], object], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
