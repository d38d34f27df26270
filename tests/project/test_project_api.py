"""The public API changes only on purpose."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys

import pytest
from public_api import GOLDEN, describe

import llmbatch


def test_the_public_api_is_the_one_that_was_reviewed() -> None:
    """``python tests/project/public_api.py --write`` accepts a change; it also needs a line in CHANGELOG.md."""
    now, reviewed = describe().splitlines(), GOLDEN.read_text().splitlines()

    assert now == reviewed, "\n".join(difflib.unified_diff(reviewed, now, "reviewed", "now", lineterm="", n=0))


@pytest.mark.slow  # starts an interpreter
def test_the_description_is_the_same_in_each_process() -> None:
    """No address, no order of a set."""
    code = "from public_api import describe; print(describe(), end='')"
    again = subprocess.run(
        [sys.executable, "-c", code], cwd=GOLDEN.parent, capture_output=True, text=True, check=True, timeout=60
    )

    assert again.stdout == describe()


def test_the_version_is_known_without_an_installed_package() -> None:
    """``llmbatch.__version__`` is what the wheel and ``llmbatch --version`` say."""
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", llmbatch.__version__)
