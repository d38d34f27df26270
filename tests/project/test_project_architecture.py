"""docs/architecture.md and its picture say what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"


@pytest.mark.slow  # starts an interpreter that reads all modules
def test_the_picture_shows_the_imports() -> None:
    """It is drawn by a script; a stale one says how to draw it again."""
    done = subprocess.run(
        [sys.executable, "docs/draw_architecture.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_every_path_and_package_of_the_page_exists() -> None:
    """And every package has its line."""
    text = PAGE.read_text()

    named = set(re.findall(r"`((?:llmbatch|examples|docs)/[\w./]+)`", text))
    packages = {
        name
        for cell in re.findall(r"^\| ((?:`\w+/`(?:, )?)+) \|", text, re.M)
        for name in re.findall(r"`(\w+)/`", cell)
    }

    assert not [path for path in named if not (ROOT / path).exists()]
    assert packages == {file.parent.name for file in (ROOT / "llmbatch").glob("*/__init__.py")}


def test_names_of_the_page_are_in_their_files() -> None:
    """A renamed table or class would send readers astray."""
    for name, path in re.findall(
        r"`([A-Za-z_]\w+)`(?: and `\w+`)?(?:,| \()\s*`(llmbatch/[\w./]+\.py)`", PAGE.read_text()
    ):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)
