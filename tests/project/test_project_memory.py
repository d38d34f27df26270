"""A million rows, for what only shows in so many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow  # a million rows, some 45 s on one processor
@pytest.mark.timeout(400)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read a process's peak")
def test_a_million_rows_take_the_memory_of_ten_thousand(tmp_path: Path) -> None:
    """The peak of a whole run, but for the network, grows by less than a twentieth, and stays under 70 MB."""
    words = [sys.executable, str(MEMORY), "--rows", "10000,1000000", "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=390, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads((tmp_path / "raw.json").read_text())
    assert (few["rows"], many["rows"]) == (10_000, 1_000_000)
    assert many["peak_mb"] <= 1.05 * few["peak_mb"], (few, many)
    assert many["peak_mb"] < 70
