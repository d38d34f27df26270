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


@pytest.mark.slow  # 40,000 rows through runner and provider, some 18 s of CPU
@pytest.mark.timeout(600)
def test_a_large_job_is_finished_by_one_command_typed_three_times(tmp_path: Path) -> None:
    """Through an expiry, a full queue, a lost create and two kills: a line a row, each paid for once."""
    words = [sys.executable, str(JOB), "--rows", "40000", "--chunk-rows", "2000", "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "raw.json").read_text())
    assert told["lives"] == 3
    assert told["lines"] == told["paid"] == 40_000
    assert min(told["expired"], told["refused"], told["lost_creates"]) >= 1, told


@pytest.mark.slow  # 70,000 rows over real HTTP, some 20 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to read a process's peak")
def test_six_times_the_rows_go_through_batches_in_the_same_memory(tmp_path: Path) -> None:
    """The peak of the command grows by a tenth at most."""
    words = [sys.executable, str(MEMORY), "--rows", "10000,60000", "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads((tmp_path / "raw.json").read_text())
    assert (few["exit_code"], many["exit_code"]) == (0, 0)
    assert many["peak_mb"] <= 1.1 * few["peak_mb"], (few, many)
