"""Runs the property tests and state machines with examples of fresh randomness, again and again.

    python tests/property_hunt.py --minutes 20
    python tests/property_hunt.py --minutes 20 tests/route tests/breaker/test_breaker_model.py

The tests of CI draw the same examples each time. These do not, and they also draw the constants of llmbatch's source.
What fails is made as small as possible, printed, and kept in .hypothesis, so that the next hunt begins with it.

Exit code 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("tests", nargs="*", help="files or folders; default: all")
    given = parser.parse_args()
    until = time.monotonic() + given.minutes * 60
    passes = 0
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--hypothesis-profile=hunt",
        "-m",
        "hypothesis",
        "--timeout=0",
        *given.tests,
    ]
    while time.monotonic() < until:
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            return 1
        passes += 1
        print(f"pass {passes}: all held", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
