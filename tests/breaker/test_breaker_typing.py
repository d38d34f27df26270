"""The breaker is fully typed: what mypy infers is what was meant, and what was not meant is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmbatch

MEANT = Path(__file__).parent / "typing_breaker.py"
ROOT = Path(llmbatch.__file__).parent.parent

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


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What ``mypy --strict`` says about files that use the package: file, line and code of each error."""
    here = tmp_path_factory.mktemp("typing")
    for name, text in (("wrong", WRONG), ("fallbacks", FALLBACKS)):
        (here / f"{name}.py").write_text(text.lstrip())
    flags = ["--strict", "--warn-unreachable", "--config-file", "", "--cache-dir", str(here), "--no-error-summary"]
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
def test_types_are_as_meant(complaints: list[str]) -> None:
    """Every line of typing_breaker.py: types, and errors where errors are meant. Slow, for it starts mypy."""
    assert [complaint for complaint in complaints if "typing_breaker" in complaint] == []


@pytest.mark.slow
def test_types_that_are_not_as_meant_are_found(complaints: list[str]) -> None:
    """The check above can fail: by a wrong type and by an error that is none. Slow, as above."""
    assert [complaint.split(":")[1] for complaint in complaints if complaint.startswith("wrong")] == ["3", "4"]


@pytest.mark.slow
def test_a_decorators_fallback_shows_in_the_type(complaints: list[str]) -> None:
    """As that of ``call`` does. Slow, as above."""
    assert [complaint for complaint in complaints if complaint.startswith("fallbacks")] == []
