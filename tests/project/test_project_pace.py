"""The benchmark of the pace: run small, to know that it measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pace.py"


def measured(folder: Path, *words: str) -> dict[tuple[str, str, str], float]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "raw.json", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures: list[dict[str, Any]] = json.loads((folder / "raw.json").read_text())["figures"]
    assert done.stdout.count("\n") == len({(each["case"], each["client"]) for each in figures}) + 2
    return {(each["case"], each["client"], each["name"]): each["value"] for each in figures}


@pytest.mark.slow  # starts processes
def test_a_small_benchmark_tells_obeyed_limits_from_exceeded_ones(tmp_path: Path) -> None:
    """With headers nearly all that is allowed and hardly a 429; the naive script is refused most of the time."""
    found = measured(tmp_path, "--parts", "limits", "--rates", "60", "--styles", "groq", "--clients", "auto,naive")

    tokens = "groq, 6,300 tpm"
    assert found[tokens, "auto", "rate"] >= 0.95
    assert found[tokens, "auto", "429"] <= 0.01
    assert found[tokens, "auto", "failed rows"] == 0
    assert found[tokens, "naive", "429"] > 0.5
    assert found["groq, 60 rpm", "auto", "rate"] <= 1.05


@pytest.mark.slow  # thousands of rows in virtual time
def test_a_small_benchmark_measures_knee_fallback_and_pool(tmp_path: Path) -> None:
    """No row fails, the fallback is used at once, and a key without money costs nothing but its share."""
    found = measured(tmp_path, "--parts", "knee,fallback,pool", "--knees", "8", "--rows", "6000")

    assert 0.9 <= found["K = 8", "auto", "throughput"] <= 1.05
    assert 0.5 <= found["K = 8", "auto", "in flight"] <= 1.5
    assert found["down for 60 s", "40", "first call"] <= 1.0
    assert found["down for 60 s", "40", "to oracle"] >= 1.0
    assert found["one key of three without money", "40", "failed rows"] == 0
    assert found["one key of three without money", "40", "by weight"] <= 0.05


@pytest.mark.slow  # a server for each
@pytest.mark.parametrize("words", [("--rates", "0"), ("--knees", "100000"), ("--styles", "mistral")])
def test_values_out_of_range_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    """Before anything is measured."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "must be" in done.stderr
