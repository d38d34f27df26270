"""The breaker is fully typed: what mypy infers is what was meant, and what was not meant is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmbatch

MEANT = Path(__file__).parent / "typing_breaker.py"
ROOT = Path(llmbatch.__file__).parent.parent
CACHE = ROOT / ".mypy_cache" / "users"
"""Of what types are for those who use llmbatch: tests share it, and mypy replaces each of its files at once."""

WRONG = """
from typing import assert_type
from llmbatch.breaker import CircuitBreaker
assert_type(CircuitBreaker().call(len, "abc"), str)
CircuitBreaker().call(len, "abc")  # type: ignore[call-overload]
"""

FALLBACKS = """
from typing import assert_type
from llmbatch.breaker import CircuitBreaker
breaker = CircuitBreaker()

@breaker(fallback=lambda error: "text")
def ask() -> int:
    return 5

@breaker(fallback=lambda error: "text")
async def ask_later() -> int:
    return 5

async def use() -> None:
    assert_type(ask(), int | str)
    assert_type(await ask_later(), int | str)
"""


def complaints(here: Path) -> list[str]:
    """What ``mypy --strict`` says about files that use the package: file, line and code of each error."""
    for name, text in (("wrong", WRONG), ("fallbacks", FALLBACKS)):
        (here / f"{name}.py").write_text(text.lstrip())
    flags = ["--strict", "--warn-unreachable", "--config-file", "", "--cache-dir", str(CACHE), "--no-error-summary"]
    flags += ["--no-site-packages"]  # whose types show nowhere in ours, and take half of the time
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, str(MEANT), "wrong.py", "fallbacks.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        cwd=here,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
def test_types_are_as_meant_and_others_are_found(tmp_path: Path) -> None:
    """Types, and errors where errors are meant; a wrong type, and an error that is none, are found.

    Slow, for it starts mypy; once for all.
    """
    found = complaints(tmp_path)

    assert [complaint for complaint in found if "typing_breaker" in complaint] == []
    assert [complaint.split(":")[1] for complaint in found if complaint.startswith("wrong")] == ["3", "4"]
    # A decorator's fallback shows in the type, as that of ``call`` does.
    assert [complaint for complaint in found if complaint.startswith("fallbacks")] == []
