"""Random bytes, pauses and ends from a provider: nothing hangs, nothing is wrongly good, memory stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "e2e_fuzz_hunt.py"


@pytest.mark.slow
@pytest.mark.parametrize("connections", [500, pytest.param(1500, marks=pytest.mark.long)])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_random_connections_leave_no_call_in_flight_and_no_wrong_success(loop: str, connections: int) -> None:
    """500 and 1,500 connections; more by ``python tests/e2e/e2e_fuzz_hunt.py``. Slow for their pauses and time-outs."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")

    done = subprocess.run(
        [sys.executable, SCRIPT, "--connections", str(connections), "--loop", loop, "--seed", "14"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
