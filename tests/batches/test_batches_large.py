"""Large jobs over batch APIs, whole: what they pay for, and the memory that they take.

CONTRIBUTING.md has the commands for a million rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).parents[2] / "benchmarks" / "batch_job.py"
MEMORY = JOB.with_name("memory_batch.py")


@pytest.mark.slow  # thousands of rows through runner and provider: 40,000 take some 18 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rows", [4_000, pytest.param(40_000, marks=pytest.mark.long)])
def test_a_large_job_is_finished_by_one_command_typed_three_times(tmp_path: Path, rows: int) -> None:
    """Through an expiry, a full queue, a lost create and two kills: a line a row, each paid for once."""
    words = [sys.executable, str(JOB), "--rows", str(rows), "--chunk-rows", str(rows // 20), "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "raw.json").read_text())
    assert told["lives"] == 3
    assert told["lines"] == told["paid"] == rows
    assert min(told["expired"], told["refused"], told["lost_creates"]) >= 1, told


@pytest.mark.slow  # thousands of rows over real HTTP: 70,000 take some 20 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rows", [(3_000, 18_000), pytest.param((10_000, 60_000), marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to read a process's peak")
def test_six_times_the_rows_go_through_batches_in_the_same_memory(tmp_path: Path, rows: tuple[int, int]) -> None:
    """The peak of the command grows by a tenth at most."""
    words = [sys.executable, str(MEMORY), "--rows", f"{rows[0]},{rows[1]}", "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads((tmp_path / "raw.json").read_text())
    assert (few["exit_code"], many["exit_code"]) == (0, 0)
    assert many["peak_mb"] <= 1.1 * few["peak_mb"], (few, many)
