"""Every file of `examples/` that can be run, run as its reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SAID = {
    "batch_runner.py": ["60 rows succeeded, 0 failed, exit code 0", "60 rows were done already, 0 calls sent"],
    "stream.py": ["q7 failed: ", "30 good, 1 bad"],
    "typed.py": [
        "r0: 1",
        "WARNING circuit rate opened: ",
        "INFO circuit rate closed",
        "144 stars, 40 reviews, 0 failed",
    ],
    "plain_loop.py": ["13: {'code': 'value_error', 'message': 'unlucky'}", "39 good, 1 bad, exit code 1"],
    "own_function.py": ["row 1: {'said': 'ROW 0'}", "100 rows, "],
    "own_provider.py": ["row  1  gpu-1  RED", " calls for 20 rows"],
    "circuit_breaker.py": [
        "failed after 6 requests: failure 2, open",
        "an old answer, for CircuitOpenError",
        "open -> half_open",
        "are you there? an answer",
    ],
    "sdk_circuit.py": [" opened: 5 calls in a row failed", "next probe is due in", " closed after ", "40 answers"],
    "observer.py": ["closed -> open", "open -> half_open", "half_open -> closed", "120 rows succeeded, 0 failed"],
}


def test_every_example_is_run_and_listed() -> None:
    """A new example needs a test, and its line in the README."""
    readme = (EXAMPLES / "README.md").read_text()

    assert {path.name for path in EXAMPLES.glob("*.py")} == SAID.keys()
    own = [path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")]
    left_by_a_run = re.compile(r"\..*|.*\.results(\.deferred)?\.jsonl")
    assert [name for name in own if name not in readme and not left_by_a_run.fullmatch(name)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_example_does_what_it_says(name: str, tmp_path: Path) -> None:
    """Without a key, without a warning, within eight seconds. Slow: a process and an outage in real time."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    for words in SAID[name]:
        assert words in done.stdout
