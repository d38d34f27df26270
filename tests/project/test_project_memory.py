"""Peak memory of whole runs: many rows, and rows of 2 MB beside a model that is down.

CONTRIBUTING.md has the command for a million rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY = Path(__file__).parents[2] / "benchmarks" / "memory.py"
LARGE = MEMORY.with_name("memory_large.py")
EXPORT = MEMORY.with_name("export.py")


@pytest.mark.slow  # 210,000 rows take some 12 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rows", [(5_000, 50_000), pytest.param((10_000, 200_000), marks=pytest.mark.long)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read a process's peak")
def test_many_times_the_rows_take_the_same_memory(tmp_path: Path, rows: tuple[int, int]) -> None:
    """The peak of a whole run without its network grows by at most 5 bytes per row (or 1 MB), and stays under 70 MB."""
    words = [sys.executable, str(MEMORY), "--rows", f"{rows[0]},{rows[1]}", "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads((tmp_path / "raw.json").read_text())
    assert (few["rows"], many["rows"]) == rows
    assert (many["peak_mb"] - few["peak_mb"]) * 1e6 <= max(5 * (rows[1] - rows[0]), 1e6), (few, many)
    assert many["peak_mb"] < 70


@pytest.mark.slow  # 400 MB of rows over real HTTP, some 15 s
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to read a process's peak")
def test_large_rows_wait_for_a_model_that_is_down_without_their_bodies(tmp_path: Path) -> None:
    """A hundred rows of 2 MB are deferred, a hundred others answered, in 150 MB at most."""
    words = [sys.executable, str(LARGE), "--json", "raw.json"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=290, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    assert (found["exit_code"], found["lines"]) == (75, 100)
    assert found["peak_mb"] <= 150, found


@pytest.mark.slow  # makes and exports up to 110,000 rows in seven processes, some 20 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.parametrize("few_rows", [4_000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to read a process's peak")
def test_ten_times_the_rows_are_exported_in_the_same_memory(tmp_path: Path, few_rows: int) -> None:
    """An export grows by at most 30 bytes per row, also with the input joined; a million rows stay under 100 MB."""
    words = [
        sys.executable,
        str(EXPORT),
        "--rows",
        f"{few_rows},{10 * few_rows}",
        "--formats",
        "csv,parquet,join",
        "--json",
        "raw.json",
    ]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=590, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    for few, many in zip(found[:3], found[3:], strict=True):
        assert (few["rows"], many["rows"]) == (few_rows, 10 * few_rows)
        assert few["format"] == many["format"]
        assert (many["peak_mb"] - few["peak_mb"]) * 1e6 <= 30 * 9 * few_rows + 1e6, (few, many)
        assert many["peak_mb"] <= (92 if many["format"] == "parquet" else 45), many
