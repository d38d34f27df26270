"""``BatchRunner`` is typed: what mypy and pyright infer is what was meant, and what was not meant is an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmbatch

MEANT = Path(__file__).parent / "typing_batch_runner.py"
ROOT = Path(llmbatch.__file__).parent.parent
CACHE = ROOT / ".mypy_cache" / "users"
"""Shared with test_breaker_typing.py."""

WRONG = """
from typing import assert_type
from llmbatch import BatchRunner

async def ask(row: int) -> str:
    return str(row)

assert_type(BatchRunner(ask), BatchRunner[str, str])
BatchRunner(ask).stream(["text"])
"""

pytestmark = pytest.mark.slow  # each starts a type checker


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    (tmp_path / "wrong.py").write_text(WRONG.lstrip())
    return tmp_path / "wrong.py"


def mypy(path: Path, folder: Path) -> list[int]:
    """The lines of *path* in which ``mypy --strict`` finds an error."""
    flags = ["--strict", "--warn-unreachable", "--config-file", "", "--cache-dir", str(CACHE), "--no-error-summary"]
    flags += ["--no-site-packages"]  # whose types show nowhere in ours, and take half of the time
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        cwd=folder,
    )
    assert done.stderr == ""
    return [
        int(line.split(":")[1]) for line in done.stdout.splitlines() if f"{path.name}:" in line and "error:" in line
    ]


def pyright(path: Path, folder: Path) -> list[int]:
    """The lines of *path* in which pyright, in its strict mode, finds an error that is not about unused names."""
    program = shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or shutil.which("basedpyright")
    if program is None:
        pytest.skip("basedpyright is not installed")
    copy = folder / path.name
    # mypy's remarks are not for pyright, which is to find the errors itself.
    copy.write_text(re.sub(r"  # type: ignore\[[\w-]+\]", "", path.read_text()))
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [program, "--outputjson", "--pythonpath", sys.executable, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=folder)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert all(error["rule"] for error in found if error["severity"] == "error"), found
    return sorted({error["range"]["start"]["line"] + 1 for error in found if error["severity"] == "error"})


def refused_lines() -> list[int]:
    lines = MEANT.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if "# type: ignore[" in line and number > 5]


def test_an_async_function_whose_row_has_a_type_was_rejected_by_mypy(tmp_path: Path) -> None:
    """Rows and values have the function's types, with mypy."""
    assert mypy(MEANT, tmp_path) == []


def test_an_async_function_whose_row_has_a_type_was_rejected_by_pyright(tmp_path: Path) -> None:
    """The same with pyright, which also refuses the lines that mypy refuses."""
    assert pyright(MEANT, tmp_path) == refused_lines()


def test_types_that_are_not_as_meant_are_found(wrong: Path, tmp_path: Path) -> None:
    """The checks above can fail."""
    assert mypy(wrong, tmp_path) == [7, 8]
    assert pyright(wrong, tmp_path) == [7, 8]
